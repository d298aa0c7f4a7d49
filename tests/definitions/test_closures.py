"""Steps that are declared inside other functions, and what they enclose, live as long as somebody else holds them."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest

from stepwell import AsyncEngine, Engine, Retry, StepFailed, step, transaction, workflow

seen: list[weakref.ref[Any]] = []


class Enclosed:
    """Stands for something large that a step's code refers to, and for a class in its annotations."""

    def __init__(self, number: int = 0) -> None:
        self.number = number


def watched(definition: Any, *others: Any) -> Any:
    seen.extend(weakref.ref(each) for each in (definition, definition.function, *others))
    return definition


async def calls_local_steps() -> int:
    """Declare steps of every kind, which enclose what nobody else holds, and call them."""
    enclosed = Enclosed(1)

    class Local:
        @step(name="method")
        def method(self, number: int) -> int:
            return number + enclosed.number

        @classmethod
        @step(name="class method")
        def class_method(cls, number: int) -> int:
            return number + enclosed.number

    @step(name="plain")
    def plain(number: int) -> int:
        return number + enclosed.number

    @step(name="later", timeout=30)
    async def later(number: int) -> int:
        await asyncio.sleep(0.001)
        return number + enclosed.number

    @step(name="at once")
    async def at_once(number: int) -> int:
        return number + enclosed.number

    @transaction(name="transaction")
    def in_transaction(_connection: Any, number: int) -> int:
        return number + enclosed.number

    @step(name="fails", retry=Retry(attempts=2, delay=0.001))
    def fails(number: int) -> int:
        raise StepFailed(str(number + enclosed.number))

    @step(name="fails later", retry=Retry(attempts=2, delay=0.001))
    async def fails_later(number: int) -> int:
        raise StepFailed(str(number + enclosed.number))

    for each in (plain, later, at_once, in_transaction, fails, fails_later):
        watched(each)
    seen.append(weakref.ref(enclosed))
    seen.append(weakref.ref(Local))
    local: Any = Local
    total = plain(1) + await later(1) + await at_once(1) + in_transaction(1) + local().method(1) + local.class_method(1)
    total += plain.options(timeout=20)(1) + await asyncio.to_thread(plain, 1)
    for failing in (fails, fails_later):
        try:
            found: Any = failing(1)
            await found
        except StepFailed:
            total += 1
    return int(total)


registered = workflow(name="calls local steps")(calls_local_steps)


def still_there() -> list[Any]:
    gc.collect()
    return [found for each in seen if (found := each()) is not None]


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    # pytest keeps what is logged, and with it the frames of the failures.
    monkeypatch.setattr(logging.getLogger("stepwell"), "disabled", True)


def test_steps_of_a_run_that_ended_are_not_kept(database: Path) -> None:
    with Engine(database) as engine:
        for _ in range(3):
            assert engine.start(registered).result(60) == 18
        assert len(seen) >= 3 * 14  # the code is begun anew where it turns out to need greenlets
        # The last attempt of each thread is held by the thread's own frame until its next one.
        for _ in range(100):
            if not still_there():
                break
            engine.start(nothing).result(60)
        assert still_there() == []


@workflow(name="nothing")
async def nothing() -> int:
    return await one()


@step(name="one")
async def one() -> int:
    return 1


def test_nor_are_they_by_an_async_engine(database: Path) -> None:
    async def main() -> list[Any]:
        async with AsyncEngine(database) as engine:
            run = await engine.start(registered)
            assert await run.result(60) == 18
            del run
            for _ in range(100):
                if not still_there():
                    break
                await (await engine.start(nothing)).result(60)
            return still_there()

    assert asyncio.run(main()) == []


def test_steps_that_are_called_outside_of_runs_are_not_kept() -> None:
    def make() -> Any:
        enclosed = Enclosed()

        @step
        def local(number: int) -> int:
            return number + enclosed.number

        seen.append(weakref.ref(enclosed))
        return watched(local)

    local = make()
    assert local(5) == 5
    assert local.options(timeout=5)(5) == 5
    assert len(still_there()) == 3
    del local
    assert still_there() == []
