"""A process that is killed at any COMMIT while runs are talked with loses nothing of that, and answers nothing twice.

As `test_crash_everywhere`, with the program `programs/talking.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engine import test_crash_everywhere as crashes
from tests.engine.test_crash_in_repairs import deaths

EXPECTED = {
    "answers": [1, 2, 3],
    "items": [[number, index] for number in range(4) for index in range(3)],
    "left": ["last", "moved"],
    "moved": 9,
    "talked": [[0, 1, 2, 3], 3, 3, [1, 4, 3]],
}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_commit_leaves_each_request_unknown_or_answered_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    for folder, at_death, executions in deaths(monkeypatch, tmp_path, "talking.py", moment):
        assert json.loads((folder / "result.json").read_text()) == EXPECTED
        crashes.assert_nothing_was_repeated(at_death, executions)
        crashes.assert_history_stands(at_death, crashes.read_journal(folder))
