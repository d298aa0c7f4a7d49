"""Queues and limits with four processes on one file: no bound is ever exceeded, nothing is lost.

What is judged is what really happened: each job writes down when it began and ended, on the clock of the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.programs import turns
from tests.support.waiting import until

from stepwell import Engine, RunDeadlineExceeded

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "turns.py"
SECOND = 1_000_000_000


class Call(NamedTuple):
    """A line of the file: times in nanoseconds."""

    began: int
    ended: int
    what: str
    pid: int


class Crew:
    """Processes that execute runs of one file."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "turns.db"
        self.folder = folder
        self._processes: list[subprocess.Popen[str]] = []

    def hire(self, count: int) -> None:
        """Start processes, and wait until they have the file open."""
        environment = {**os.environ, "TURNS": str(self.folder)}
        new = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.programs.turns", str(self.database)],
                cwd=PROGRAM.parents[3],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        for process in new:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        self._processes += new

    def kill_one(self) -> None:
        """Kill the process that was started first."""
        process = self._processes.pop(0)
        process.kill()
        process.communicate()

    def close(self) -> None:
        """End the processes in order, and expect them to."""
        for process in self._processes:
            process.communicate("", timeout=30)
            assert process.returncode == 0

    def calls(self, prefix: str = "") -> list[Call]:
        """Return what has happened so far, by the time of its beginning."""
        path = self.folder / "calls.txt"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            what, pid, began, ended = line.split()
            if what.startswith(prefix):
                found.append(Call(int(began), int(ended), what, int(pid)))
        return sorted(found)


@pytest.fixture(name="crew")
def _crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    monkeypatch.setenv("TURNS", str(tmp_path))
    crew = Crew(tmp_path)
    try:
        yield crew
    finally:
        for process in crew._processes:
            process.kill()
            process.communicate()


@contextmanager
def client(crew: Crew) -> Iterator[Engine]:
    with Engine(crew.database, durability="normal", workflows=[]) as engine:
        yield engine


def windows_hold(calls: list[Call], limit: int, seconds: float) -> None:
    """Assert that any `limit` + 1 calls in a row take longer to begin than the window."""
    for first, last in zip(calls, calls[limit:], strict=False):
        assert last.began - first.began >= seconds * SECOND, (first, last)


def test_one_at_a_time_is_one_at_a_time_over_four_processes(crew: Crew) -> None:
    with client(crew) as engine:
        crew.hire(4)
        runs = [engine.start(turns.job, str(number), queue=turns.ONE) for number in range(1000)]
        for run in runs:
            run.result(timeout=60)
    crew.close()
    calls = crew.calls()
    assert Counter(call.what for call in calls) == {str(number): 1 for number in range(1000)}
    assert all(later.began >= earlier.ended for earlier, later in pairwise(calls))
    assert [call.what for call in calls] == [str(number) for number in range(1000)]


def test_partitions_take_turns_over_four_processes(crew: Crew) -> None:
    with client(crew) as engine:
        engine.queue(turns.FAIR).pause()
        starts = [(t, n) for n in range(40) for t in "abcde" if t == "a" or n < 5]
        runs = [engine.start(turns.job, f"{t}-{n}", queue=turns.FAIR, partition=t) for t, n in starts]
        crew.hire(4)
        engine.queue(turns.FAIR).unpause()
        for run in runs:
            run.result(timeout=60)
    crew.close()
    calls = crew.calls()
    assert len(calls) == 60
    for tenant in "abcde":
        own = [call for call in calls if call.what.startswith(tenant)]
        assert all(later.began >= earlier.ended for earlier, later in pairwise(own))
    last_of_the_small = max(index for index, call in enumerate(calls) if call.what[0] != "a")
    assert last_of_the_small < 40  # 25 of five tenants in turn, give or take what was under way


def test_no_rate_is_exceeded_in_any_window_over_four_processes_and_a_death(crew: Crew) -> None:
    with client(crew) as engine:
        crew.hire(4)
        runs = [engine.start(turns.pair, str(number)) for number in range(80)]
        until(lambda: len(crew.calls("call")) >= 20)
        crew.kill_one()
        for run in runs:
            run.result(timeout=60)
        engine.get(runs[0].id)
        assert engine.queue(turns.RATED).info().running == 0
    crew.close()
    windows_hold(crew.calls("call"), 10, 0.25)
    alone = crew.calls("alone")
    assert all(later.began >= earlier.ended for earlier, later in pairwise(alone))
    assert {call.what for call in alone} == {f"alone-{number}" for number in range(80)}


def test_the_recorded_starts_of_a_queue_keep_its_rate(crew: Crew) -> None:
    with client(crew) as engine:
        crew.hire(3)
        runs = [engine.start(turns.job, str(number), queue=turns.SLOW) for number in range(70)]
        for run in runs:
            run.result(timeout=60)
        starts = sorted(at for run in runs if (at := run.info().started_at) is not None)
    crew.close()
    assert len(crew.calls()) == len(starts) == 70
    for first, last in zip(starts, starts[20:], strict=False):
        assert (last - first).total_seconds() >= 0.5


def test_a_slot_of_a_killed_process_is_used_by_the_one_that_carries_the_run_on(crew: Crew) -> None:
    with client(crew) as engine:
        crew.hire(2)
        runs = [engine.start(turns.job, str(number), queue=turns.ONE) for number in range(300)]
        until(lambda: len(crew.calls()) >= 50)
        crew.kill_one()
        for run in runs:
            run.result(timeout=60)
        info = engine.queue(turns.ONE).info()
        assert (info.waiting, info.running) == (0, 0)
    crew.close()
    assert {call.what for call in crew.calls()} == {str(number) for number in range(300)}


@pytest.mark.parametrize("first", ["the worker", "the deadline"])
def test_a_paused_queue_keeps_a_deadline_over_processes_and_a_death(crew: Crew, first: str) -> None:
    with client(crew) as engine:
        engine.queue(turns.ONE).pause()
        if first == "the worker":
            crew.hire(2)
        late = engine.start(turns.job, "late", queue=turns.ONE, dedup="key", deadline=0.3)
        assert late.info().status == "pending"
        if first == "the deadline":
            crew.hire(2)
        crew.kill_one()
        with pytest.raises(RunDeadlineExceeded, match="did not begin before its deadline"):
            late.result(timeout=30)
        assert engine.queue(turns.ONE).info().waiting == 0
        again = engine.start(turns.job, "again", queue=turns.ONE, dedup="key")
        assert again.id != late.id
        engine.queue(turns.ONE).unpause()
        again.result(timeout=30)
    crew.close()
    assert [call.what for call in crew.calls()] == ["again"]


def test_a_client_leaves_the_deadline_of_a_run_to_a_worker(crew: Crew) -> None:
    with client(crew) as engine:
        engine.queue(turns.ONE).pause()
        late = engine.start(turns.job, "late", queue=turns.ONE, deadline=0)
        with pytest.raises(TimeoutError):
            late.result(timeout=0.2)
        assert late.info().status == "pending"
        crew.hire(1)
        with pytest.raises(RunDeadlineExceeded):
            late.result(timeout=30)
    crew.close()


def test_a_job_belongs_to_an_idle_worker_as_soon_as_its_start_returns(crew: Crew) -> None:
    crew.hire(2)
    with client(crew) as engine:
        for number in range(4):
            run = engine.start(turns.job, f"given-{number}", queue=turns.ONE)
            assert run.info().status != "pending"
            run.result(60)
        crew.close()
    assert len(crew.calls("given-")) == 4
    assert len({call.pid for call in crew.calls("given-")}) == 2  # they take turns


def test_a_worker_that_was_stopped_is_given_no_job(crew: Crew) -> None:
    crew.hire(1)
    (process,) = crew._processes
    with client(crew) as engine:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        run = engine.start(turns.job, "waits", queue=turns.ONE)
        assert run.info().status == "pending"
        process.send_signal(signal.SIGCONT)
        run.result(60)
        crew.close()
