"""A process that is killed at any COMMIT loses nothing and repeats nothing that was recorded.

The program `programs/everything.py` uses every operation. It is killed with SIGKILL right before and right after its
n-th COMMIT, for every n until it gets through, and then run again to its end. Each time the file as the dead process
left it (a copy: looking must not repair it) is compared with the file at the end, the side log of all executions, and
an undisturbed run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stepwell.operations.table import OPERATIONS

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "everything.py"
#: The commits are dealt to this many tests, which run in parallel.
SHARDS = 4
KILLED = -signal.SIGKILL
#: Never reached: the program has fewer commits than this, however they are grouped.
TOO_MANY = 400

Row = tuple[Any, ...]
Journal = dict[str, list[Row]]


def program_arguments(folder: Path, waiting: int = 1000) -> list[str]:
    return [*(str(folder / name) for name in ("test.db", "log", "result.json")), str(waiting)]


class Server:
    """Runs the program in children of one interpreter that has everything imported already."""

    def __init__(self) -> None:
        self._complaints = tempfile.TemporaryFile("w+")  # a pipe would be full after some tracebacks
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )

    def run(self, folder: Path, kill_at: str = "", *, waiting: int = 1000) -> int:
        """Run the program on the files in `folder`; return its exit status, negative for a signal."""
        arguments = program_arguments(folder, waiting)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, kill_at]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> str:
        """End the interpreter; return what it and its children wrote to standard error."""
        self._process.communicate()
        with self._complaints:
            self._complaints.seek(0)
            return self._complaints.read()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def read_journal(folder: Path) -> Journal:
    """Return the journal of each run, from a copy of the file and its log."""
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        (copy / f"test.db{suffix}").unlink(missing_ok=True)
        if (folder / f"test.db{suffix}").exists():
            shutil.copyfile(folder / f"test.db{suffix}", copy / f"test.db{suffix}")
    journal: Journal = {}
    with closing(sqlite3.connect(copy / "test.db")) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'stepwell_journal'").fetchall():
            return {}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for run_id, *entry in connection.execute(
            "SELECT r.id, op, kind, name, j.fingerprint, at, value, attempt, j.started_at "
            "FROM stepwell_journal j JOIN stepwell_runs r ON r.key = j.run ORDER BY position"
        ):
            journal.setdefault(run_id, []).append(tuple(entry))
    shutil.rmtree(copy)
    return journal


def read_log(folder: Path) -> list[Row]:
    """Return the executions of steps in order, as (run, operation, step, attempt, pid)."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(run, int(op), name, int(attempt), int(pid)) for run, op, name, attempt, pid in map(str.split, lines)]


def ended_steps(journal: Journal) -> set[tuple[str, int]]:
    return {
        (run, entry[0]) for run, entries in journal.items() for entry in entries if entry[1] in ("step", "step_failed")
    }


def failed_attempts(journal: Journal) -> set[tuple[str, int, int]]:
    return {
        (run, entry[0], entry[6])
        for run, entries in journal.items()
        for entry in entries
        if entry[1] == "attempt_failed"
    }


def assert_nothing_was_repeated(before: Journal, executions: list[Row]) -> None:
    """`executions` happened after the file held `before`."""
    repeated = {(run, op) for run, op, *_ in executions} & ended_steps(before)
    assert not repeated, f"recorded steps were executed again: {repeated}"
    attempts = {(run, op, attempt) for run, op, _, attempt, _ in executions} & failed_attempts(before)
    assert not attempts, f"recorded attempts were made again: {attempts}"


def assert_history_stands(before: Journal, after: Journal) -> None:
    for run, entries in before.items():
        assert after[run][: len(entries)] == entries, f"the journal of {run} changed"


def assert_at_most_once(executions: list[Row]) -> None:
    charged = Counter((run, op) for run, op, step, *_ in executions if step == "charge")
    assert set(charged.values()) <= {1}


def assert_each_attempt_belongs_to_the_journal(journal: Journal, executions: list[Row]) -> None:
    """Every recorded end of a step was preceded by an execution (transactional steps keep their own book)."""
    executed = {(run, op) for run, op, *_ in executions}
    for run, entries in journal.items():
        for entry in entries:
            if entry[1] == "step" and entry[2] != "book":
                assert (run, entry[0]) in executed, (run, entry)


def assert_same_result(folder: Path, expected: str) -> None:
    assert json.loads((folder / "result.json").read_text()) == json.loads(expected)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the program writes when nothing happens to it."""
    server, folder = Server(), tmp_path_factory.mktemp("undisturbed")
    status = server.run(folder)
    complaints = server.close()
    assert status == 0, complaints
    executions = Counter((run, op) for run, op, *_ in read_log(folder))
    assert executions.pop(("main", 2)) == 3  # the step that succeeds at the third attempt
    assert executions.pop(("main", 3)) == 2  # the one that never does
    assert set(executions.values()) == {1}
    return (folder / "result.json").read_text()


def test_the_program_uses_every_kind_of_entry(tmp_path: Path, server: Server) -> None:
    assert server.run(tmp_path) == 0
    kinds = {entry[1] for entries in read_journal(tmp_path).values() for entry in entries}
    unused = {"send_failed", "child_failed"}  # a workflow that makes these mistakes stops at once
    assert kinds == set(OPERATIONS.kinds.entry_kinds) - unused


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_kill_at_any_commit_loses_nothing_and_repeats_nothing(
    tmp_path: Path, server: Server, undisturbed: str, shard: int, moment: str
) -> None:
    for number in range(1 + shard, TOO_MANY, SHARDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        status = server.run(folder, f"{number}:{moment}")
        if status == 0:  # it has fewer commits than that
            assert number > 20
            break
        assert status == KILLED, server.close()
        at_death, before_death = read_journal(folder), read_log(folder)
        assert server.run(folder) == 0, f"{number}:{moment}\n{server.close()}"
        assert_same_result(folder, undisturbed)
        executions, journal = read_log(folder), read_journal(folder)
        assert executions[: len(before_death)] == before_death
        assert_nothing_was_repeated(at_death, executions[len(before_death) :])
        assert_history_stands(at_death, journal)
        assert_at_most_once(executions)
        assert_each_attempt_belongs_to_the_journal(journal, executions)
        shutil.rmtree(folder)
    else:
        pytest.fail("the program never got through")


def test_runs_that_leave_memory_whenever_they_wait_come_to_the_same_end(
    tmp_path: Path, server: Server, undisturbed: str
) -> None:
    assert server.run(tmp_path, waiting=0) == 0, server.close()
    assert_same_result(tmp_path, undisturbed)
    executions = Counter((run, op, attempt) for run, op, _, attempt, _ in read_log(tmp_path))
    assert set(executions.values()) == {1}


@pytest.mark.parametrize(
    ("commits", "moment", "waiting"), [(5, "before", 0), (5, "after", 1000), (9, "before", 1000), (9, "after", 0)]
)
def test_one_kill_after_another_still_leads_to_the_end(
    tmp_path: Path, server: Server, undisturbed: str, commits: int, moment: str, waiting: int
) -> None:
    at_death: Journal = {}
    seen = 0
    for attempt in range(TOO_MANY):
        # A little later each time, so that a start-up of many commits cannot eat all the progress.
        status = server.run(tmp_path, f"{commits + attempt // 4}:{moment}", waiting=waiting)
        executions, journal = read_log(tmp_path), read_journal(tmp_path)
        assert_nothing_was_repeated(at_death, executions[seen:])
        assert_history_stands(at_death, journal)
        assert_at_most_once(executions)
        if status == 0:
            break
        assert status == KILLED, server.close()
        at_death, seen = journal, len(executions)
    assert_same_result(tmp_path, undisturbed)


def test_a_fresh_interpreter_goes_on_where_a_killed_one_stopped(tmp_path: Path, undisturbed: str) -> None:
    arguments = [sys.executable, str(PROGRAM), *program_arguments(tmp_path)]
    for number in (9, 23):
        environment = {**os.environ, "KILL_AT": f"{number}:after"}
        killed = subprocess.run(arguments, env=environment, check=False, capture_output=True)
        assert killed.returncode == KILLED, killed.stderr
    subprocess.run(arguments, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True, capture_output=True)
    assert_same_result(tmp_path, undisturbed)
