"""A process that is killed at any COMMIT while runs are repaired, paused, replaced and acted on loses nothing of that.

As `test_crash_everywhere`, with the programs `programs/repairs.py` and `programs/going_back.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine import test_crash_everywhere as crashes

PROGRAMS = Path(__file__).parents[1] / "support" / "programs"
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
#: Of each act there is one, whenever the process died.
BACK = {
    "acts": [["retry"], ["retry"], ["retry"], ["retry"], ["rewind"], ["restart"]],
    "anew": "before after",
    "changed": "instead after",
    "chapters": [["started"], ["started", "rewound"], ["started", "restarted"]],
    "deleted": [3, 0],
    "left": [],
    "made up": [[f"yearly@{year}-01-01T00:00:00Z", 32] for year in (2020, 2021, 2022)],
    "many": [[3, 0], [[0, 0], [1, 1], [4, 2]]],
    "one": [4, 2],
    "schedule": [False, 3, ["create", "backfill", "pause", "change", "unpause"]],
    "terminated": [2, 0],
    "told": [["cancelled", ["terminate"]]] * 3,
}


def deaths(
    monkeypatch: pytest.MonkeyPatch, folder: Path, program: str, moment: str
) -> Iterator[tuple[Path, crashes.Journal, list[crashes.Row]]]:
    """Kill the program at each of its commits, and run it again to its end.

    Yields the folder, the journal as the death left it, and what was executed after it.
    """
    monkeypatch.setattr(crashes, "PROGRAM", PROGRAMS / program)
    server = crashes.Server()
    for number in range(1, crashes.TOO_MANY):
        place = folder / str(number)
        place.mkdir()
        status = server.run(place, f"{number}:{moment}")
        if status == 0:  # it has fewer commits than that
            assert number > 15
            break
        assert status == crashes.KILLED, server.close()
        at_death, before_death = crashes.read_journal(place), crashes.read_log(place)
        assert server.run(place) == 0, f"{number}:{moment}\n{server.close()}"
        yield place, at_death, crashes.read_log(place)[len(before_death) :]
        shutil.rmtree(place)
    server.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_commit_leaves_each_act_undone_or_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    for folder, at_death, executions in deaths(monkeypatch, tmp_path, "repairs.py", moment):
        assert json.loads((folder / "result.json").read_text()) == EXPECTED
        crashes.assert_nothing_was_repeated(at_death, executions)
        crashes.assert_history_stands(at_death, crashes.read_journal(folder))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_commit_brings_each_run_back_once_or_not_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    for folder, at_death, executions in deaths(monkeypatch, tmp_path, "going_back.py", moment):
        assert json.loads((folder / "result.json").read_text()) == BACK
        kept = {
            (run, entry[0])
            for run, entries in at_death.items()
            for entry in entries
            if entry[1:3] == ("step", "square")
        }
        assert not kept & {(run, op) for run, op, *_ in executions}  # a retry keeps what was done
