"""Opening an `AsyncEngine` holds up nobody on its loop, happens once, and leaves nothing open that nobody wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    EngineClosed,
    EngineInUse,
    FileNotUsable,
    WorkflowIOError,
    workflow,
)
from stepwell.api.awaited import async_opening
from stepwell.api.session import Session


@workflow
async def answers() -> int:
    return 42


class Door:
    """Stands before each opening of a session, until it may go on."""

    def __init__(self) -> None:
        self.may_open = threading.Event()
        self.sessions: list[Session] = []
        self.reached = 0
        self._reached = threading.Event()

    def session(self, *args: Any) -> Session:
        self.reached += 1
        self._reached.set()
        assert self.may_open.wait(20), "the loop that should let it go on was held up"
        session = Session(*args)
        self.sessions.append(session)
        return session

    async def is_reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 20)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    door = Door()
    monkeypatch.setattr(async_opening, "Session", door.session)
    yield door
    door.may_open.set()


FIRST_CALLS: dict[str, Callable[[AsyncEngine], Awaitable[Any]]] = {
    "async with": AsyncEngine.__aenter__,
    "start": lambda engine: engine.start(answers),
    "list": AsyncEngine.list,
    "workers": AsyncEngine.workers,
    "info": lambda engine: engine.queue("none").info(),
}


@pytest.mark.parametrize("call", FIRST_CALLS.values(), ids=FIRST_CALLS)
def test_the_loop_goes_on_while_an_engine_opens(
    database: Path, door: Door, call: Callable[[AsyncEngine], Awaitable[Any]]
) -> None:
    async def main() -> None:
        engine = AsyncEngine(database)
        opening = asyncio.ensure_future(call(engine))
        await door.is_reached()
        door.may_open.set()  # on the loop
        await asyncio.wait([opening])
        assert await (await engine.start(answers)).result(60) == 42
        await engine.close()

    asyncio.run(main())
    assert door.reached == 1


def test_calls_that_come_while_an_engine_opens_wait_for_the_same_opening(database: Path, door: Door) -> None:
    async def main() -> list[int]:
        engine = AsyncEngine(database)
        calls = [asyncio.ensure_future(engine.start(answers)) for _ in range(3)]
        await door.is_reached()
        calls[0].cancel()
        door.may_open.set()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        found = [await (await call).result(60) for call in calls[1:]]
        await engine.close()
        return found

    assert asyncio.run(main()) == [42, 42]
    assert door.reached == 1


def test_an_opening_that_fails_is_told_to_all_and_the_next_call_tries_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "test.db"

    async def main() -> int:
        engine = AsyncEngine(path)
        for found in await asyncio.gather(engine.list(), engine.start(answers), return_exceptions=True):
            assert isinstance(found, FileNotUsable)
        path.parent.mkdir()
        result = await (await engine.start(answers)).result(60)
        await engine.close()
        return result

    assert asyncio.run(main()) == 42


def test_what_was_opened_for_a_block_that_was_cancelled_is_closed_again(database: Path, door: Door) -> None:
    async def main() -> None:
        engine = AsyncEngine(database)
        entering = asyncio.ensure_future(engine.__aenter__())
        await door.is_reached()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering  # at once, and not when the file is open
        assert door.sessions == []
        with pytest.raises(EngineClosed, match="open another one"):
            await engine.list()
        door.may_open.set()

    asyncio.run(main())
    assert len(door.sessions) == 1
    with Engine(database) as engine:  # nobody of this process has it any more
        assert engine.list() == []


def test_closing_waits_for_an_opening_and_leaves_nothing_open(database: Path, door: Door) -> None:
    async def main() -> None:
        engine = AsyncEngine(database)
        listing = asyncio.ensure_future(engine.list())
        await door.is_reached()
        closing = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        assert not closing.done()
        door.may_open.set()
        await closing
        with pytest.raises(EngineClosed):
            await listing
        with Engine(database) as other:
            assert other.list() == []

    asyncio.run(main())


def test_workflow_code_cannot_open_one(database: Path, tmp_path: Path) -> None:
    seen: list[BaseException] = []

    @workflow
    async def opens() -> None:
        try:
            async with AsyncEngine(tmp_path / "other.db"):
                pass
        except WorkflowIOError as error:
            seen.append(error)

    with Engine(database) as engine:
        engine.start(opens).result(60)
    assert len(seen) == 1
    assert not (tmp_path / "other.db").exists()


async def is_waiting() -> None:
    """Let what was begun on this loop come to where it waits for another thread."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_wait_that_is_cancelled_leaves_no_task_behind(database: Path, timeout: float | None) -> None:
    async def main() -> None:
        async with AsyncEngine(database, workflows=[]) as engine:
            run = await engine.start("opening.nobody")
            before = asyncio.all_tasks()
            waiting = asyncio.create_task(run.result(timeout=timeout))
            await is_waiting()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await is_waiting()
            assert asyncio.all_tasks() == before

    asyncio.run(main())


# --- one block at a time ----------------------------------------------------------------------------------------------


def test_an_async_engine_is_in_one_block_at_a_time(database: Path) -> None:
    async def main() -> None:
        engine = AsyncEngine(database, workflows=[])
        async with engine:
            with pytest.raises(EngineInUse, match=rf"begins at {__file__}:\d+ in .*main\. .*use the engine as it is"):
                async with engine:
                    pytest.fail("it was entered twice")
            assert await engine.list() == []  # the outer block goes on
        with pytest.raises(EngineClosed):
            async with engine:
                pytest.fail("it was entered after its end")

    asyncio.run(main())


def test_two_tasks_do_not_enter_one_async_engine_at_once(database: Path) -> None:
    async def main() -> None:
        engine = AsyncEngine(database, workflows=[])
        left = asyncio.Event()

        async def enters() -> None:
            async with engine:
                await left.wait()
                assert await engine.list() == []

        first, second = asyncio.create_task(enters()), asyncio.create_task(enters())
        with pytest.raises(EngineInUse):
            await second
        left.set()
        await first

    asyncio.run(main())


def test_a_block_whose_opening_failed_can_be_entered_again(tmp_path: Path) -> None:
    async def main() -> None:
        engine = AsyncEngine(tmp_path / "missing" / "orders.db", workflows=[])
        with pytest.raises(FileNotUsable):
            await engine.__aenter__()
        (tmp_path / "missing").mkdir()
        async with engine:
            assert await engine.list() == []

    asyncio.run(main())


def test_an_engine_is_in_one_block_at_a_time(database: Path) -> None:
    with Engine(database, workflows=[]) as engine:
        with pytest.raises(EngineInUse, match=rf"begins at {__file__}:\d+ in test_an_engine_is"), engine:
            pytest.fail("it was entered twice")
        assert engine.list() == []
    with pytest.raises(EngineClosed), engine:
        pytest.fail("it was entered after its end")
    engine.close()  # again: it is closed, and that is all
