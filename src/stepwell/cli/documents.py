"""The documentation that ships inside the package, page by page."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Final

from stepwell.errors import InvalidArgument

#: Where a wheel has the pages, and where a working copy has them.
_HOMES: Final = (Path(__file__).parents[1] / "docs", Path(__file__).parents[3] / "docs")
#: The rooms of the documentation, in the order of the list; decisions are for developers.
_ROOMS: Final = ("tutorial", "how-to", "reference", "explanation")


@cache
def _pages() -> dict[str, Path]:
    home = next((home for home in _HOMES if (home / "index.md").is_file()), None)
    if home is None:
        return {}
    return {path.stem: path for room in _ROOMS for path in sorted((home / room).glob("*.md"))}


def topics() -> dict[str, str]:
    """Return the names of the pages with their titles, in order."""
    return {
        name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()
        for name, path in _pages().items()
    }


def page(topic: str) -> str:
    """Return a page by its name; raises `InvalidArgument` where there is none."""
    pages = _pages()
    if topic not in pages:
        near = difflib.get_close_matches(topic, pages, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidArgument(f"there is no page {topic!r}.{meant} `stepwell docs` lists them")
    return pages[topic].read_text(encoding="utf-8")


def found(words: str) -> dict[str, list[str]]:
    """Return the lines in which a text stands, whatever its case, by page."""
    wanted = re.compile(re.escape(words), re.IGNORECASE)
    hits = {
        name: [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if wanted.search(line)]
        for name, path in _pages().items()
    }
    return {name: lines for name, lines in hits.items() if lines}
