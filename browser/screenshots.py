"""Takes the pictures of the documentation: `make screenshots`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser.conftest import ARGUMENTS, CHROMIUM, fill, served, window
from PIL import Image
from playwright.sync_api import sync_playwright

from stepwell import Engine

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
WIDE = {"width": 1200, "height": 720}
PICTURES: dict[str, tuple[str, dict[str, object]]] = {
    "overview": ("/", {"color_scheme": "light", "viewport": WIDE}),
    "runs": ("/runs?filter=workflow:shop.checkout", {"color_scheme": "light", "viewport": WIDE}),
    "run": ("/run?id=order-1007&op=3", {"color_scheme": "light", "viewport": WIDE}),
    "run-dark": ("/run?id=order-1003", {"color_scheme": "dark", "viewport": WIDE}),
    "run-phone": ("/run?id=order-1007", {"viewport": {"width": 390, "height": 760}, "device_scale_factor": 1}),
}
#: Flat colours: so many are enough for 20 to 60 kB a picture. The rare ones, a red bar, count as much as the paper.
COLOURS = 128


def main() -> int:
    """Take all of them."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(Path(folder) / "orders.db") as engine,
        served(engine) as site,
        sync_playwright() as playwright,
    ):
        fill(engine, is_hostile=False)
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, (path, look) in PICTURES.items():
            with window(chromium, site, **look) as opened:
                page = opened.open(path)
                page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = false; })")  # paths
                page.wait_for_timeout(300)  # for what a page does by itself: times, counts
                target = FOLDER / f"{name}.png"
                page.screenshot(path=target)
                picture = Image.open(target).convert("RGB")
                picture = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
                picture.save(target, optimize=True)
                print(f"{target} {target.stat().st_size // 1000} kB")
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
