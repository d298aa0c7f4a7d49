"""A worker owns its process, and sets the garbage collector for its work, unless one of its modules has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.cli.collector import WORKER_THRESHOLDS

#: Executed as a process of its own: the collector belongs to the process.
_PROGRAM = """\
import gc
from stepwell.cli import collector
{module}
before = gc.get_threshold()
collector.own_the_process()
print(gc.get_threshold() == collector.WORKER_THRESHOLDS, gc.get_threshold() == before, gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("pass", "True False True"),
        ("gc.set_threshold(1234, 5, 6)", "False True False"),
        ("gc.disable()", "False True False"),
    ],
)
def test_the_collector_is_set_unless_a_module_has_set_it(module: str, expected: str) -> None:
    program = _PROGRAM.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_an_engine_in_a_program_leaves_the_collector_alone() -> None:
    program = (
        "import gc, tempfile\n"
        "before = gc.get_threshold()\n"
        "from stepwell import Engine\n"
        "with Engine(tempfile.mkdtemp() + '/runs.db'):\n"
        "    print(gc.get_threshold() == before, gc.isenabled(), gc.get_freeze_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "0"]


def test_the_lines_that_are_documented_set_the_collector_as_a_worker_does() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "run-workers.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    program = f"{block}\nfrom stepwell.cli import collector\nprint(gc.get_threshold(), gc.get_freeze_count() > 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{WORKER_THRESHOLDS} True"
