"""The promises of `tests/typing/api.py` hold in both type checkers, strict."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISES = "tests/typing/api.py"

#: A type checker with a cold cache on a busy machine needs more than the usual limit.
pytestmark = pytest.mark.timeout(240)


def test_mypy_strict_accepts_the_promised_types_and_needs_every_ignore() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mypy", PROMISES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_pyright_strict_accepts_the_promised_types_and_needs_every_ignore() -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, PROMISES]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
