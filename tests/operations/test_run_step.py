"""Steps that are written where they are called: any callable, known to the journal by its place and its name."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest

from stepwell import (
    DefinitionError,
    DeterminismError,
    InvalidArgument,
    Limit,
    Retry,
    StepFailed,
    StepTimeout,
    StepwellError,
    current,
    run_step,
    step,
    sync,
    workflow,
)
from stepwell.definitions.step_options import MAX_SUMMARY_LENGTH
from stepwell.testing import TestEngine

calls: Counter[str] = Counter()


@dataclass
class Answer:
    text: str
    tokens: int


class Model:
    """A client such as a program has: its methods are no functions of a module, and it is never recorded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()  # nothing could copy it

    async def ask(self, question: str) -> Answer:
        calls[question] += 1
        return Answer(f"{self.name}: {question}", len(question))

    def look_up(self, word: str, again: str = "") -> Answer:
        calls[word] += 1
        return Answer(word + again, 0)

    def __call__(self, word: str) -> Answer:
        return self.look_up(word)


def of_a_closure(word: str) -> Callable[[], Answer]:
    def inner() -> Answer:
        calls[word] += 1
        return Answer(word, 0)

    return inner


model = Model("m")
CALLABLES: dict[str, tuple[Any, ...]] = {
    "async method": (model.ask, "async method"),
    "method": (model.look_up, "method"),
    "lambda": (lambda: model.look_up("lambda"),),
    "closure": (of_a_closure("closure"),),
    "partial": (functools.partial(model.look_up, again="!"), "partial"),
    "callable object": (model, "callable object"),
    "takes what nobody records": (Model.look_up, model, "takes what nobody records"),
}


@workflow(name="run-step.asks")
async def asks(kind: str) -> Answer:
    function, *arguments = CALLABLES[kind]
    answer = await run_step("ask", function, *arguments, type=Answer)
    await asyncio.sleep(10)
    assert type(answer) is Answer
    return answer


@pytest.mark.parametrize("kind", CALLABLES)
def test_any_callable_is_a_step_that_is_executed_once(engine: TestEngine, kind: str) -> None:
    calls.clear()
    run = engine.start(asks, kind)
    engine.idle()
    engine.crash()
    engine.reopen()
    engine.advance(11)
    assert kind in engine.get(run.id).result(60).text
    assert calls == {kind: 1}
    assert [(entry.kind, entry.name) for entry in engine.get(run.id).journal()] == [("step", "ask"), ("timer", "")]


@workflow(name="run-step.blocking")
def blocking(word: str) -> list[str]:
    first = sync.run_step("first", model.look_up, word)
    return [first.text, sync.run_step("second", lambda: first.text * 2)]


@workflow(name="run-step.beside")
async def beside() -> list[str]:
    found = await asyncio.gather(
        run_step("a", model.ask, "a"),
        asyncio.to_thread(sync.run_step, "b", model.look_up, "b", summary="in a thread"),
        run_step("c", of_a_closure("c")),
    )
    return [answer.text for answer in found]


def test_a_def_workflow_has_the_blocking_form(engine: TestEngine) -> None:
    assert engine.start(blocking, "w").result(60) == ["w", "ww"]


def test_several_go_on_side_by_side(engine: TestEngine) -> None:
    run = engine.start(beside)
    assert run.result(60) == ["m: a", "b", "c"]
    assert sorted(entry.name for entry in run.journal()) == ["a", "b", "c"]


# --- options ----------------------------------------------------------------------------------------------------------


@workflow(name="run-step.tries")
async def tries(failures: int) -> int:
    left = iter(range(failures))

    def flaky() -> int:
        if next(left, None) is not None:
            raise ConnectionError("busy")
        return current().attempt

    return await run_step("flaky", flaky, retry=Retry(attempts=3, delay=1, jitter=0), summary="calls it")


def test_it_is_tried_again_as_its_policy_says(engine: TestEngine) -> None:
    run = engine.start(tries, 2)
    engine.advance(10)
    assert run.result(60) == 3
    hopeless = engine.start(tries, 3)
    engine.advance(10)
    with pytest.raises(ConnectionError, match="busy"):
        hopeless.result(60)


def test_its_summary_stands_in_the_journal(engine: TestEngine) -> None:
    run = engine.start(tries, 1)
    engine.advance(10)
    assert [(entry.kind, entry.summary) for entry in run.journal()] == [
        ("attempt_failed", "calls it"),
        ("step", "calls it"),
    ]


@step(name="run-step.summarised")
def summarised(number: int) -> int:
    return number


@workflow(name="run-step.says-what")
async def says_what() -> None:
    for number in range(2):
        summarised.options(summary=f"number {number}")(number)
    summarised(2)


def test_a_declared_step_can_have_a_summary_for_a_call(engine: TestEngine) -> None:
    run = engine.start(says_what)
    run.result(60)
    assert [entry.summary for entry in run.journal()] == ["number 0", "number 1", None]
    run.delete()
    assert engine.query("SELECT count(*) FROM stepwell_summaries").fetchval() == 0


limit = Limit("run-step.limit", concurrency=1)


@workflow(name="run-step.options")
async def options() -> list[str]:
    one = await run_step("bounded", lambda: "a", limit=limit, deadline=timedelta(hours=1))
    two = await run_step("once", lambda: "b", delivery="at-most-once")
    try:
        await run_step("slow", functools.partial(asyncio.sleep, 3600), timeout=0.01)
    except StepTimeout:
        return [one, two, "too slow"]
    return []


def test_it_has_the_other_options_of_a_step(engine: TestEngine) -> None:
    assert engine.start(options).result(60) == ["a", "b", "too slow"]


@workflow(name="run-step.fails")
async def fails() -> str:
    def fail() -> None:
        raise LookupError("nothing there")

    try:
        await run_step("fail", fail)
    except LookupError as error:
        return str(error)
    return ""


def test_what_it_raises_can_be_caught(engine: TestEngine) -> None:
    assert engine.start(fails).result(60) == "nothing there"
    assert issubclass(StepFailed, StepwellError)


# --- replay -----------------------------------------------------------------------------------------------------------

names = ["one", "two"]


@workflow(name="run-step.named")
async def named() -> None:
    for name in names:
        await run_step(name, lambda: None)
    await asyncio.sleep(10)


@pytest.mark.parametrize("changed", [["two", "one"], ["one", "another"], ["one"]])
def test_a_replay_checks_order_and_names(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, changed: list[str]
) -> None:
    run = engine.start(named)
    engine.idle()
    engine.crash()
    monkeypatch.setitem(globals(), "names", changed)
    engine.reopen()
    engine.advance(11)
    with pytest.raises(DeterminismError):
        engine.get(run.id).result(60)


# --- what is refused --------------------------------------------------------------------------------------------------

given: list[Any] = []


@workflow(name="run-step.given")
async def hands_in() -> str:
    arguments, named_ones = given
    try:
        await run_step(*arguments, **named_ones)
    except (DefinitionError, InvalidArgument) as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        (("s", summarised, 1), {}, r"recorded already: call it, `summarised\(…\)`"),
        (("s", functools.partial(summarised, 1)), {}, "recorded already"),
        (("s", named), {}, r"call it, `await named\(…\)`"),
        (("s", 7), {}, "needs a function and its arguments, not 7"),
        (("s", Answer, "a", 1), {}, "needs a function"),
        (("s", model.look_up), {}, "cannot be called like this"),
        (("", len, "a"), {}, "name of a step"),
        (("s", len, "a"), {"isolate": "process"}, "child process imports a step by its name"),
        (("s", len, "a"), {"retry": 3}, r"retry must be a Retry"),
        (("s", len, "a"), {"timeout": 0}, "more than 0"),
        (("s", len, "a"), {"summary": ""}, "summary of a step"),
        (("s", len, "a"), {"summary": "two\nlines"}, "one line"),
        (("s", len, "a"), {"summary": "x" * (MAX_SUMMARY_LENGTH + 1)}, "one line"),
        (("s", len, "a"), {"summary": 5}, "must be text"),
    ],
)
def test_what_cannot_be_a_step_is_refused_before_anything_is_written(
    engine: TestEngine, arguments: tuple[Any, ...], options: dict[str, Any], what: str
) -> None:
    given[:] = [arguments, options]
    run = engine.start(hands_in)
    assert re.search(what, run.result(60))
    assert run.journal() == []


@workflow(name="run-step.coroutine")
async def hands_in_a_coroutine() -> str:
    try:
        await run_step("s", cast("Any", nothing()))
    except DefinitionError as error:
        return str(error)
    return ""


def test_a_coroutine_is_refused_because_it_could_be_awaited_only_once(engine: TestEngine) -> None:
    assert "pass the function and its arguments" in engine.start(hands_in_a_coroutine).result(60)


def test_outside_of_a_workflow_it_says_so() -> None:
    with pytest.raises(StepwellError, match=r"run_step\(\) was called outside of a workflow"):
        asyncio.run(run_step("s", lambda: 1))
    with pytest.raises(StepwellError, match=r"sync\.run_step\(\) was called outside"):
        sync.run_step("s", lambda: 1)


async def hangs() -> None:
    await asyncio.Event().wait()


def test_a_step_in_place_whose_time_is_up_fails_its_run_and_does_not_halt_it(engine: TestEngine) -> None:
    @workflow(name="run_step.too_late")
    async def too_late() -> None:
        await run_step("hangs", hangs, timeout=0.05)

    run = engine.start(too_late)
    with pytest.raises(StepTimeout):
        run.result(30)
    assert run.status == "failed"
