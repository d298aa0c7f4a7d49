"""A `def` step whose result is awaited, or handed to asyncio, leads to an error that says what to write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stepwell import WorkflowIOError, step, workflow
from stepwell.testing import TestEngine


@step(name="shop.weigh")
def weigh(grams: int) -> int:
    return grams


@step
async def weigh_later(grams: int) -> int:
    return grams


@workflow(name="shop.weigh_all")
def weigh_all(grams: int) -> int:
    return grams


async def awaits() -> None:
    await weigh(1)  # type: ignore[misc]


async def awaits_a_child() -> None:
    await weigh_all(1)  # type: ignore[misc]


async def gathers() -> None:
    await asyncio.gather(weigh(1), weigh(2))  # type: ignore[call-overload]


async def gathers_later() -> None:
    await asyncio.gather(awaits(), awaits())


async def makes_a_task() -> None:
    await asyncio.create_task(weigh(1))  # type: ignore[arg-type]


async def makes_a_task_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(weigh(1))  # type: ignore[arg-type]


async def waits_for() -> None:
    await asyncio.wait_for(weigh(1), 5)  # type: ignore[arg-type]


async def waits_for_some() -> None:
    await asyncio.wait([weigh(1)])  # type: ignore[type-var]


async def takes_as_completed() -> None:
    results: Any = [weigh(1), weigh(2)]
    for each in asyncio.as_completed(results):
        await each


async def shields() -> None:
    await asyncio.shield(weigh(1))  # type: ignore[arg-type]


def notes_of(error: BaseException) -> str:
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return "\n".join([*getattr(error, "__notes__", []), *map(notes_of, inner)])


@pytest.mark.parametrize(
    "body",
    [
        awaits, awaits_a_child, gathers, gathers_later, makes_a_task, makes_a_task_in_a_group, waits_for,
        waits_for_some, takes_as_completed, shields,
    ],
    ids=lambda body: body.__name__,
)  # fmt: skip
def test_awaiting_the_result_of_a_def_says_what_to_write(
    engine: TestEngine, body: Callable[[], Awaitable[None]]
) -> None:
    @workflow
    async def careless() -> None:
        await body()

    run = engine.start(careless)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which class is asyncio's business
        run.result(60)
    told = f"{caught.value}{notes_of(caught.value)}{run.info().reason}"
    name = "weigh_all" if body is awaits_a_child else "weigh"
    assert f"'shop.{name}' is a `def`" in told
    assert f"asyncio.to_thread({name}, …)" in told
    assert told.count("is a `def`") <= 2  # in the error and in the reason


def test_other_errors_are_left_as_they_are(engine: TestEngine) -> None:
    @workflow
    async def wrong() -> None:
        weigh(1)
        _ = 1 + "x"  # type: ignore[operator]

    @workflow
    async def awaits_nothing() -> None:
        await None  # type: ignore[misc]

    for definition in (wrong, awaits_nothing):
        run = engine.start(definition)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - as above
            run.result(60)
        assert "is a `def`" not in f"{caught.value}{notes_of(caught.value)}{run.info().reason}"


def test_what_the_advice_says_works(engine: TestEngine) -> None:
    @workflow
    async def careful() -> list[int]:
        return [
            weigh(1),
            await asyncio.to_thread(weigh, 2),
            *await asyncio.gather(asyncio.to_thread(weigh, 3), asyncio.to_thread(weigh_all, 4)),
        ]

    assert engine.start(careful).result(60) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (lambda: weigh(1), "to_thread(step, argument)"),
        (lambda: weigh_later, "write `await weigh_later(…)`"),
        (lambda: len, "decorate the function with @step"),
    ],
    ids=["a result", "an async step", "a plain function"],
)
def test_what_needs_or_bears_no_thread_is_told(engine: TestEngine, given: Callable[[], Any], advice: str) -> None:
    @workflow
    async def careless() -> None:
        await asyncio.to_thread(given(), 1)

    run = engine.start(careless)
    with pytest.raises(WorkflowIOError) as caught:
        run.result(60)
    assert advice in str(caught.value)
    assert "test_advice.py" in str(caught.value)
