"""The files beside a database are those on the page about them, and go together."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs"

PROGRAM = """
import os, signal, sys
from stepwell import Engine, workflow

@workflow
async def add(number: int) -> int:
    return number + 1

with Engine("orders.db") as engine:
    print(engine.start(add, 1, id="one").result(), flush=True)
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def told(state: str) -> set[str]:
    """Return the files that the page has in a state."""
    page = (PAGES / "explanation" / "one-file.md").read_text()
    rows = re.findall(r"^\| `(orders\.db[^`]*)` \|.*\| (.*) \|$", page, re.MULTILINE)
    return {
        name.rstrip("/") for name, when in rows if state in when or when == "always" or when.startswith("as the log")
    }


def test_what_a_killed_process_leaves_is_on_the_page_and_can_be_removed(tmp_path: Path) -> None:
    assert run(tmp_path, "die").stdout == "2\n"
    assert names(tmp_path) == told("killed")
    (tutorial,) = re.findall(
        r"^rm -r orders\.db\*$", (PAGES / "tutorial" / "first-workflow.md").read_text(), re.MULTILINE
    )
    subprocess.run(["sh", "-c", tutorial], cwd=tmp_path, check=True)
    assert names(tmp_path) == set()
    assert run(tmp_path).stdout == "2\n"


def test_a_database_that_was_removed_alone_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "die")
    (tmp_path / "orders.db").unlink()
    assert "was deleted or moved without it" in run(tmp_path).stderr
