"""`map` that bears failures: how many it bears, when it has enough, and what it says of each item."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stepwell
from stepwell import InvalidArgument, MapFailed, receive, step, sync, workflow
from stepwell.testing import TestEngine

ONE_FAILED = "map() of 'maps.check' over 3 items: 1 failed, and 0 are tolerated; those at 1 (1 sub-exception)"


@step(name="maps.check")
async def check(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is too low")
    return number


@workflow(name="maps.bears")
async def bears(numbers: list[int], tolerate: Any, enough: int | None, limit: int | None) -> list[str]:
    try:
        results = await stepwell.map(check, numbers, limit=limit, tolerate=tolerate, enough=enough)
    except MapFailed as failures:
        return [str(failures), *map(str, failures.exceptions)]
    return [f"{each.index} {each.status} {each.item} {each.value} {each.error}" for each in results]


@pytest.mark.parametrize(
    ("tolerate", "enough", "limit", "expected"),
    [
        (1, None, 1, ["0 done 1 1 None", "1 failed -2 None -2 is too low", "2 done 3 3 None"]),
        ("34%", None, None, ["0 done 1 1 None", "1 failed -2 None -2 is too low", "2 done 3 3 None"]),
        (None, 2, 1, ["0 done 1 1 None", "1 failed -2 None -2 is too low", "2 done 3 3 None"]),
        (None, 1, 1, ["0 done 1 1 None", "1 skipped -2 None None", "2 skipped 3 None None"]),
        (0, None, 1, [ONE_FAILED, "-2 is too low"]),
        ("33%", None, None, [ONE_FAILED, "-2 is too low"]),
    ],
)  # fmt: skip
def test_it_bears_as_many_failures_as_it_is_told(
    engine: TestEngine, tolerate: Any, enough: int | None, limit: int | None, expected: list[str]
) -> None:
    assert engine.start(bears, [1, -2, 3], tolerate, enough, limit).result(30) == expected


def test_none_too_early_and_none_too_late(engine: TestEngine) -> None:
    numbers = [-1, 1, -2, 2, -3, 3]
    borne = engine.start(bears, numbers, 3, None, 1).result(30)
    assert [line.split()[1] for line in borne] == ["failed", "done"] * 3
    run = engine.start(bears, numbers, 1, None, 1)
    assert "2 failed, and 1 are tolerated; those at 0, 2" in run.result(30)[0]
    assert [entry.operation for entry in run.journal()] == [1, 2, 3]  # the others were not begun
    none: list[int] = []
    assert engine.start(bears, none, "50%", None, None).result(30) == []


@workflow(name="maps.answers")
async def answers(name: str) -> str:
    return await receive(f"answer {name}", str)


@workflow(name="maps.asks")
async def asks() -> list[str]:
    results = await stepwell.map(answers, ["a", "b", "c"], enough=2)
    await asyncio.sleep(1)
    return [f"{each.item} {each.status}" for each in results]


def test_what_is_not_needed_is_cancelled_also_through_a_crash(engine: TestEngine) -> None:
    run = engine.start(asks, id="asks")
    engine.idle()
    children = {info.id[-1]: info.id for info in engine.list(workflow=answers)}
    engine.send(children["3"], "answer c", "yes")
    engine.idle()
    engine.crash()
    engine.reopen()
    engine.send(children["1"], "answer a", "yes")
    engine.idle()
    engine.crash()
    engine.reopen()
    engine.advance(1)
    run = engine.get("asks")
    assert run.result(30) == ["a done", "b skipped", "c done"]
    assert engine.get(children["2"]).status == "cancelled"


def test_a_def_workflow_has_it_as_well(engine: TestEngine) -> None:
    @workflow(name="maps.blocking")
    def blocking() -> list[str]:
        return [each.status for each in sync.map(check, [1, -2], tolerate="50%")]

    assert engine.start(blocking).result(30) == ["done", "failed"]


@pytest.mark.parametrize(
    "options",
    [{"tolerate": -1}, {"tolerate": "ten"}, {"tolerate": "101%"}, {"tolerate": True}, {"enough": 0}, {"enough": 4}],
    ids=str,
)
def test_wrong_numbers_are_refused_before_anything_is_called(engine: TestEngine, options: dict[str, Any]) -> None:
    @workflow(name=f"maps.wrong {options}")
    async def wrong() -> str:
        try:
            await stepwell.map(check, [1, 2, 3], **options)
        except InvalidArgument as error:
            return str(error)
        return "called"

    run = engine.start(wrong)
    assert "of map()" in run.result(30)
    assert run.journal() == []
