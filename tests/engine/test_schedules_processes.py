"""Schedules that two worker processes have, of which one is killed, stopped and replaced: each tick has one run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.processes import child, line

from stepwell import Engine, restore, sync, workflow

COUNT = 10
SECOND = timedelta(seconds=1)

WORKER = """
import sys, time
from stepwell import Engine
from tests.engine.test_schedules_processes import tick
with Engine(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


@workflow(name="schedules.processes.tick")
def tick() -> str:
    return str(sync.scheduled_at())


@contextmanager
def worker(path: Path) -> Iterator[int]:
    with child(WORKER, path) as process:
        assert line(process) == "open"
        yield process.pid


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ticks(engine: Engine, name: str) -> list[datetime]:
    """Return the ticks of a schedule that have a run, each of which says which one it is."""
    found: list[datetime] = []
    for run in engine.list(id_prefix=f"{name}@", limit=1_000):
        moment = datetime.fromisoformat(run.id.partition("@")[2].removesuffix("Z")).replace(tzinfo=UTC)
        assert run.result(timeout=60) == str(moment)
        assert len(run.chapters()) == 1
        found.append(moment)
    return sorted(found)


def assert_each_once(engine: Engine, since: datetime | None = None) -> None:
    """Each schedule has a run for each second between its first and its last one, as many as it says."""
    for schedule in engine.schedules():
        found = ticks(engine, schedule.id)
        info = schedule.info()
        assert (info.started, info.skipped, info.missed) == (len(found), 0, 0)
        late = [each for each in found if since is None or each > since]
        assert late == [late[0] + SECOND * number for number in range(len(late))]


def test_each_tick_of_two_workers_has_one_run_though_they_are_killed_stopped_and_replaced(tmp_path: Path) -> None:
    path, copy, again = (tmp_path / name for name in ("s.db", "copy.db", "again.db"))
    with Engine(path, workflows=[]) as engine:
        handles = [engine.schedule(tick, id=f"s{number}", every=1, overlap="allow") for number in range(COUNT)]
        begun = handles[0].info().started

        def more(count: int) -> None:
            until(lambda: all(each.info().started >= begun + count for each in handles))

        with worker(path) as first, worker(path) as second:
            more(1)
            os.kill(first, signal.SIGKILL)
            more(2)
            engine.backup(copy)
            with worker(path):
                more(3)
                os.kill(second, signal.SIGSTOP)  # it has the file open, and is taken for lost, or is not
                more(4)
                os.kill(second, signal.SIGCONT)
                more(6)
        for handle in handles:
            handle.pause()
        with worker(path):  # whatever was under way comes to its end
            assert_each_once(engine)
    found = restore(copy, again, reason="the disk broke")
    assert found.schedules == COUNT
    with Engine(again, workflows=[]) as engine:
        before = {each.id: each.info().started for each in engine.schedules()}
        since = datetime.now(UTC)
        for each in engine.list(status="paused"):
            each.unpause()
        for name in before:
            engine.get_schedule(name).unpause()
        with worker(again), worker(again) as other:
            until(lambda: all(each.info().started >= before[each.id] + 1 for each in engine.schedules()))
            os.kill(other, signal.SIGKILL)
            until(lambda: all(each.info().started >= before[each.id] + 3 for each in engine.schedules()))
            for name in before:
                engine.get_schedule(name).pause()
            assert_each_once(engine, since)
