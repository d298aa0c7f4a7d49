"""Index a Python source tree durably, through two SIGKILLs, and prove that nothing was lost.

``python examples/index_source.py`` takes the standard library of the running interpreter; ``--source DIR`` any tree.
The workflows are in `indexer/workflows.py`; what the demo checks is in `indexer/verdict.py`.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
import tempfile
from pathlib import Path

from indexer.driver import DemoError, demonstrate

#: Directories inside the standard library's that hold what users have installed.
INSTALLED = ["site-packages", "dist-packages"]


def main() -> int:
    """Run the demo as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="the tree to index; default: the standard library")
    parser.add_argument("--keep", type=Path, help="an empty or new directory that keeps the files of the two runs")
    parser.add_argument("--seed", type=int, help="repeat the random kill points of an earlier demo")
    options = parser.parse_args()
    source: Path | None = options.source
    keep: Path | None = options.keep
    seed: int = random.randrange(10**6) if options.seed is None else options.seed
    root = source if source is not None else Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        parser.error(f"{root} is not a directory")
    if keep is not None and keep.exists() and any(keep.iterdir()):
        parser.error(f"{keep} is not empty; each demo needs a fresh directory")
    without = INSTALLED if source is None else []
    try:
        with tempfile.TemporaryDirectory(prefix="stepwell-demo-") as temporary:
            held = demonstrate(root.resolve(), without, keep or Path(temporary), seed)
    except DemoError as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        held = False
    if not held:
        print(
            f"Repeat it with the same kill points: add --seed {seed} (make demo DEMO_ARGS='--seed {seed}')",
            file=sys.stderr,
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
