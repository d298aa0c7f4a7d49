"""A step whose task is cancelled by the program, not by the engine, was cut off: it did not fail, and runs again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stepwell import AsyncEngine, Engine, RunCancelled, RunFailed, StepInterrupted, step, workflow
from stepwell.executors import runner as stepwell_runner

began: list[str] = []
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global may_end  # noqa: PLW0603 - an event belongs to one event loop
    began.clear()
    may_end = asyncio.Event()
    monkeypatch.setattr(stepwell_runner, "_AGAIN_AFTER_SECONDS", 0.0)


@step
async def waits(name: str) -> str:
    began.append(name)
    await may_end.wait()
    return name


@step(delivery="at-most-once")
async def waits_once(name: str) -> str:
    began.append(name)
    await may_end.wait()
    return name


@step
async def cancels_itself() -> None:
    began.append("cancels itself")
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@step
async def quick(number: int) -> int:
    await asyncio.sleep(0)
    return number


@workflow
async def calls(name: str) -> str:
    return await waits(name)


@workflow
async def calls_once(name: str) -> str:
    try:
        return await waits_once(name)
    except StepInterrupted as error:
        return type(error).__name__


@workflow
async def calls_quick() -> list[int]:
    return list(await asyncio.gather(*(quick(number) for number in range(5))))


@workflow
async def calls_itself() -> None:
    await cancels_itself()


async def until_begun(times: int = 1) -> None:
    """Let other tasks go on until steps have begun so often."""
    async with asyncio.timeout(30):
        while len(began) < times:  # noqa: ASYNC110 - a step cannot set an event of the test's loop from elsewhere
            await asyncio.sleep(0.001)


def cancel_all_others() -> None:
    """Do what `asyncio.run` does at its end."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        assert task is not None
        task.cancel()


def test_the_end_of_the_loop_cuts_steps_off_and_the_next_engine_executes_them(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leaves_it_open() -> AsyncEngine:
        engine = await AsyncEngine(database).__aenter__()
        await engine.start(calls, "once more", id="a")
        await until_begun()
        return engine

    engine = asyncio.run(leaves_it_open())
    asyncio.run(engine.close(timeout=0))
    monkeypatch.setattr(f"{__name__}.may_end", asyncio.Event())  # nobody of the closed loop waits for this one
    may_end.set()
    with Engine(database) as later:
        assert later.get("a").result(timeout=60) == "once more"
    assert began[0] == began[-1] == "once more"


def test_a_loop_that_goes_on_executes_them_again(database: Path) -> None:
    async def main() -> str:
        async with AsyncEngine(database) as engine:
            run = await engine.start(calls, "again")
            await until_begun()
            cancel_all_others()
            await until_begun(2)
            may_end.set()
            return await run.result(timeout=60)

    assert asyncio.run(main()) == "again"
    assert began == ["again", "again"]


def test_a_step_of_at_most_once_is_not_executed_again_but_interrupted(database: Path) -> None:
    async def main() -> str:
        async with AsyncEngine(database) as engine:
            run = await engine.start(calls_once, "once")
            await until_begun()
            cancel_all_others()
            return await run.result(timeout=60)

    assert asyncio.run(main()) == "StepInterrupted"
    assert began == ["once"]


def test_steps_go_on_after_the_idle_tasks_of_the_engine_were_cancelled(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            for _ in range(3):
                run = await engine.start(calls_quick)
                assert await run.result(timeout=60) == [0, 1, 2, 3, 4]
                cancel_all_others()

    asyncio.run(main())


def test_a_step_that_cancels_its_own_task_fails_in_the_end_and_the_caller_is_not_cancelled(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(calls_itself)
            with pytest.raises(RunFailed, match="CancelledError: the program cancelled its task 4 times"):
                await run.result(timeout=60)

    asyncio.run(main())
    assert len(began) == 4


def test_a_cancel_of_the_run_still_reaches_the_step(database: Path) -> None:
    async def main() -> str:
        async with AsyncEngine(database) as engine:
            run = await engine.start(calls, "cancelled")
            await until_begun()
            await run.cancel()
            with pytest.raises(RunCancelled):
                await run.result(timeout=60)
            return (await run.info()).status

    assert asyncio.run(main()) == "cancelled"
    assert began == ["cancelled"]
