"""A process that is killed at any COMMIT while runs are repaired, paused, replaced and acted on loses nothing of that.

As `test_crash_everywhere`, with the program `programs/repairs.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.engine import test_crash_everywhere as crashes

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "repairs.py"
EXPECTED = {
    "borne": [["done", 0], ["done", 1], ["failed", None], ["done", 3]],
    "forked": "elsewhere after",
    "halves": "before after",
    "job": 36,
    "many": [],
    "replaced": 4,
    "settled": 42,
    "triggered": 128,
}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_commit_leaves_each_act_undone_or_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(crashes, "PROGRAM", PROGRAM)
    server = crashes.Server()
    for number in range(1, crashes.TOO_MANY):
        folder = tmp_path / str(number)
        folder.mkdir()
        status = server.run(folder, f"{number}:{moment}")
        if status == 0:  # it has fewer commits than that
            assert number > 15
            break
        assert status == crashes.KILLED, server.close()
        at_death, before_death = crashes.read_journal(folder), crashes.read_log(folder)
        assert server.run(folder) == 0, f"{number}:{moment}\n{server.close()}"
        assert json.loads((folder / "result.json").read_text()) == EXPECTED
        crashes.assert_nothing_was_repeated(at_death, crashes.read_log(folder)[len(before_death) :])
        crashes.assert_history_stands(at_death, crashes.read_journal(folder))
        shutil.rmtree(folder)
    server.close()
