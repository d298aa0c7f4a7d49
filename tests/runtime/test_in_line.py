"""An async engine takes its turns on the caller's loop where they are light, and on its own thread where not."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from heapq import heappop
from pathlib import Path
from typing import Any

import pytest

from stepwell import AsyncEngine, AsyncRun, StorageFull, receive, start, step, sync, transaction, workflow
from stepwell.executors import runner
from stepwell.runtime import recent_times
from stepwell.runtime.recent_times import REMEMBERED, SLOW_ALLOWED, TOO_SLOW_SECONDS, RecentTimes
from stepwell.store.sqlite.store import SqliteStore

COMMITS: list[str] = []
CODE: list[str] = []


def in_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def here() -> str:
    return threading.current_thread().name


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note on which thread each commit is made, and each piece of workflow code executes."""
    commit = SqliteStore.commit

    def noted(self: SqliteStore, units: Sequence[Any], claim: Any) -> list[Any]:
        COMMITS.append(here())
        return commit(self, units, claim)

    monkeypatch.setattr(SqliteStore, "commit", noted)
    COMMITS.clear()
    CODE.clear()


@pytest.fixture
def always_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no turn count as slow, however busy this machine is."""
    monkeypatch.setattr(recent_times, "SLOW_ALLOWED", 10**9)
    monkeypatch.setattr(recent_times, "TOO_SLOW_SECONDS", 10**9)


@step(name="in_line.add")
async def add(number: int) -> int:
    return number + 1


@step(name="in_line.add_plainly")
def add_plainly(number: int) -> int:
    return number + 1


@step(name="in_line.fail")
async def fail() -> None:
    raise ValueError("no")


@workflow(name="in_line.sequence")
async def sequence(steps: int) -> int:
    number = 0
    for _ in range(steps):
        CODE.append(here())
        number = await add(number)
    return number


@workflow(name="in_line.plain")
def plain(steps: int) -> int:
    number = 0
    for _ in range(steps):
        CODE.append(here())
        number = add_plainly(number)
    return number


_hidden: dict[str, Callable[[int], int]] = {"step": add_plainly}


@workflow(name="in_line.hidden")
async def hidden(steps: int) -> int:
    number = 0
    for _ in range(steps):
        number = await add(number)
        number = _hidden["step"](number)
        CODE.append(here())
    return number


@workflow(name="in_line.parent")
async def parent(steps: int) -> int:
    number = await add(0)
    child = await start(plain, steps, id="child")
    return number + await child.result()


@workflow(name="in_line.asking")
async def asking() -> int:
    return await receive("question", int) + 1


@workflow(name="in_line.sync_asking")
def sync_asking() -> int:
    return sync.receive("question", int) + 1


@transaction(name="in_line.write")
def write(_connection: Any, number: int) -> int:
    CODE.append(here())
    return number + 1


@workflow(name="in_line.writing")
async def writing() -> int:
    return await asyncio.to_thread(write, await add(0))


@workflow(name="in_line.failing")
async def failing() -> None:
    await fail()


OWN = "stepwell"


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_steps_in_sequence_are_committed_on_the_callers_loop(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        assert await (await engine.start(sequence, 100)).result() == 100
    # The thread has a turn now and then: at the beginning, or when something else happens to wake it.
    assert here() in CODE
    assert here() in COMMITS


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_runs_that_are_started_at_once_share_their_commits(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        runs = await asyncio.gather(*(engine.start(sequence, 3, id=f"run-{number}") for number in range(10)))
        assert await asyncio.gather(*(run.result() for run in runs)) == [3] * 10
    assert len(COMMITS) < 30


@in_asyncio
async def test_while_commits_are_slow_they_are_made_by_the_engines_thread_and_the_loop_goes_on(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = SqliteStore.commit

    def slow(self: SqliteStore, units: Sequence[Any], claim: Any) -> list[Any]:
        time.sleep(3 * recent_times.SLOW_SECONDS)
        return commit(self, units, claim)

    monkeypatch.setattr(SqliteStore, "commit", slow)
    async with AsyncEngine(database) as engine:
        assert await (await engine.start(sequence, SLOW_ALLOWED + 30)).result() == SLOW_ALLOWED + 30
    assert set(COMMITS[SLOW_ALLOWED + 10 :]) == {OWN}


@pytest.mark.usefixtures("always_short")
@pytest.mark.parametrize("flow", [plain, hidden])
@in_asyncio
async def test_code_that_blocks_executes_on_the_engines_thread(database: Path, flow: Callable[[int], Any]) -> None:
    async with AsyncEngine(database) as engine:
        result: int = await (await engine.start(flow, 5)).result()
    assert result == (5 if flow is plain else 10)
    assert set(CODE) == {OWN}


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_a_blocking_child_of_a_run_on_the_callers_loop_executes_on_the_engines_thread(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        assert await (await engine.start(parent, 4)).result() == 5
    assert set(CODE) == {OWN}


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_a_transactional_step_executes_on_the_engines_thread(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        assert await (await engine.start(writing)).result() == 2
    assert CODE == [OWN]


@pytest.mark.usefixtures("always_short")
@pytest.mark.parametrize("flow", [asking, sync_asking])
@in_asyncio
async def test_a_message_is_answered_whichever_thread_the_code_belongs_to(
    database: Path, flow: Callable[[], Any]
) -> None:
    async with AsyncEngine(database) as engine:
        for number in range(5):
            run = await engine.start(flow, id=f"run-{number}")
            await run.send("question", number)
            assert await run.result() == number + 1


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_a_failure_on_the_callers_loop_is_the_runs_own(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        with pytest.raises(ValueError, match="no"):
            await (await engine.start(failing)).result()


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_a_timer_that_was_set_on_the_callers_loop_wakes_the_run(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        assert await (await engine.start(napping)).result() == 3


@workflow(name="in_line.napping")
async def napping() -> int:
    number = 0
    for _ in range(3):
        number = await add(number)
        await asyncio.sleep(0.001)
    return number


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_engines_of_one_loop_do_not_hinder_each_other(tmp_path: Path) -> None:
    async with AsyncEngine(tmp_path / "one.db") as one, AsyncEngine(tmp_path / "other.db") as other:
        runs = [await engine.start(sequence, 10, id=f"{number}") for number, engine in enumerate([one, other] * 5)]
        assert await asyncio.gather(*(run.result() for run in runs)) == [10] * 10


@pytest.mark.usefixtures("always_short")
def test_each_loop_of_a_process_has_its_own_engine(tmp_path: Path) -> None:
    results: list[int] = []

    async def use(number: int) -> None:
        async with AsyncEngine(tmp_path / f"{number}.db") as engine:
            results.append(await (await engine.start(sequence, 10, id=f"{number}")).result())

    threads = [threading.Thread(target=lambda number=number: asyncio.run(use(number))) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [10] * 3


async def begin(engine: AsyncEngine) -> None:
    await engine.start(sequence, 1000, id="left")


@pytest.mark.usefixtures("always_short")
def test_what_the_closed_loop_left_is_carried_on_by_the_next_engine(database: Path) -> None:
    engine = AsyncEngine(database)
    asyncio.run(begin(engine))
    engine._session.open_one().close(0)

    async def go_on() -> int:
        async with AsyncEngine(database) as engine:
            result: int = await (await engine.get("left")).result(timeout=60)
            return result

    assert asyncio.run(go_on()) == 1000


# --- how long turns may take -----------------------------------------------------------------------------------------


def test_turns_are_short_until_too_many_of_the_last_hundred_waited_long() -> None:
    times = RecentTimes()
    for _ in range(SLOW_ALLOWED):
        times.took(0.02, 0.02, in_line=False)
        assert times.are_short
    times.took(0.02, 0.02, in_line=False)
    assert not times.are_short
    for _ in range(REMEMBERED):
        times.took(0.0003, 0.0002, in_line=False)
    assert times.are_short


def test_a_turn_that_computes_long_is_slow_on_a_callers_loop_only() -> None:
    times = RecentTimes()
    for _ in range(REMEMBERED):
        times.took(0.02, 0.0, in_line=False)
    assert times.are_short
    for _ in range(SLOW_ALLOWED + 1):
        times.took(0.02, 0.0, in_line=True)
    assert not times.are_short


def test_one_turn_that_stops_a_loop_very_long_is_enough() -> None:
    times = RecentTimes()
    times.took(2 * TOO_SLOW_SECONDS, 0.0, in_line=True)
    for _ in range(REMEMBERED):
        assert not times.are_short
        times.took(0.0003, 0.0002, in_line=False)
    assert times.are_short


# --- what else lives on the loop -------------------------------------------------------------------------------------


class NestingLoop(asyncio.SelectorEventLoop):
    """A loop that may be gone on with from within one of its callbacks, as `nest_asyncio` makes it."""

    _ready: Any
    _scheduled: Any
    _selector: Any

    def _run_once(self) -> None:
        loop: Any = self
        loop._process_events(self._selector.select(0 if self._ready else 0.001))
        while self._scheduled and self._scheduled[0].when() <= self.time():
            self._ready.append(heappop(self._scheduled))
        for _ in range(len(self._ready)):
            if self._ready:  # a callback may have called those behind it
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()


@step(name="in_line.nested")
async def nested(engine_id: str) -> int:
    """Go on with the loop from within a step, as `nest_asyncio` does, until the engine has answered."""
    loop: Any = asyncio.get_running_loop()
    engine = ENGINES[engine_id]
    asked = asyncio.ensure_future(engine.start(sequence, 1, id="inner"))
    task = asyncio.current_task()
    assert task is not None
    asyncio.tasks._leave_task(loop, task)
    try:
        while not asked.done():
            loop._run_once()
    finally:
        asyncio.tasks._enter_task(loop, task)
    return 1


ENGINES: dict[str, AsyncEngine] = {}


@workflow(name="in_line.nesting")
async def nesting(engine_id: str) -> int:
    return await nested(engine_id)


@pytest.mark.usefixtures("always_short")
def test_a_step_that_goes_on_with_the_loop_itself_is_answered(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            ENGINES["this"] = engine
            assert await (await engine.start(nesting, "this")).result(timeout=20) == 1
            assert await (await engine.get("inner")).result(timeout=20) == 1

    with asyncio.Runner(loop_factory=NestingLoop) as runner:
        runner.run(main())


@pytest.mark.usefixtures("always_short")
def test_asyncios_debug_mode_has_nothing_to_say(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        asyncio.get_running_loop().slow_callback_duration = 3600
        async with AsyncEngine(database) as engine:
            return await (await engine.start(sequence, 30)).result(timeout=20)

    assert asyncio.run(main(), debug=True) == 30
    assert [record for record in caplog.records if record.levelno > 20] == []


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_a_caller_that_is_cancelled_hinders_nobody(database: Path) -> None:
    async with AsyncEngine(database) as engine:
        run = await engine.start(asking, id="run")
        waiting = asyncio.ensure_future(run.result())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await run.send("question", 1)
        assert await run.result(timeout=20) == 2


@pytest.mark.usefixtures("always_short")
@in_asyncio
async def test_a_full_disk_is_told_at_once_on_the_loop_as_well(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqliteStore.commit
    full = [True]

    def fails(self: SqliteStore, units: Sequence[Any], claim: Any) -> list[Any]:
        if full[0]:
            raise StorageFull("no room, for the test")
        return commit(self, units, claim)

    async with AsyncEngine(database) as engine:
        assert await (await engine.start(sequence, 1)).result(timeout=20) == 1
        monkeypatch.setattr(SqliteStore, "commit", fails)
        for number in range(3):
            with pytest.raises(StorageFull):
                await asyncio.wait_for(engine.start(sequence, 1, id=f"refused-{number}"), 20)
        full[0] = False
        assert await (await started_at_last(engine)).result(timeout=20) == 2


async def started_at_last(engine: AsyncEngine) -> AsyncRun[int]:
    while True:
        try:
            return await engine.start(sequence, 2, id="later")
        except StorageFull:
            await asyncio.sleep(0.01)


SEEN: list[str] = []


@step(name="in_line.noted")
async def noted() -> None:
    if not SEEN:
        asyncio.get_running_loop().call_soon(SEEN.append, "other")
    SEEN.append("step")


@workflow(name="in_line.many")
async def many(number: int) -> int:
    return len(await asyncio.gather(*(noted() for _ in range(number))))


@in_asyncio
async def test_many_steps_that_begin_at_once_let_the_loop_look_at_other_things(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_STRETCH_SECONDS", 0.0)
    SEEN.clear()
    async with AsyncEngine(database) as engine:
        assert await (await engine.start(many, 100)).result(timeout=20) == 100
    assert SEEN.count("step") == 100
    assert SEEN.index("other") < 50
