"""A mistake in the code of a workflow halts its runs, which go on when it is mended; what was meant fails them."""

from __future__ import annotations

import asyncio
import dataclasses
import http
import importlib
import json
import os
import pickle
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, assert_never

import pytest

import stepwell
from stepwell import (
    Engine,
    InvalidArgument,
    PermanentError,
    RunCancelled,
    RunFailed,
    RunHalted,
    StepwellError,
    WorkflowCodeError,
    WorkflowIOError,
    publish,
    receive,
    send,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

executed: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
async def note(what: Any) -> Any:
    executed.append(what)
    return what


class Declined(Exception):
    """An application's own error."""


class BrokenRule(AssertionError):
    """An application's own word for a fact that is none."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int


def call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call anything with anything, as a type checker would not let us."""
    return function(*args, **kwargs)


def missing() -> int:
    found: dict[str, int] = {}
    return found["x"]


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def slip() -> Any:
    return shipp()  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


def unbound() -> int:
    value = 1
    del value
    return value  # noqa: F821  # pyright: ignore[reportUnboundVariable]


def imports_nothing() -> None:
    importlib.import_module("stepwell_has_no_such_module")


def changed_while_iterated() -> None:
    found = {1: 1}
    for key in found:
        found[key + 1] = 1


#: What breaks code, and what Python says.
MISTAKES: dict[str, tuple[Callable[[], Any], type[BaseException]]] = {
    "a name that is not defined": (slip, NameError),
    "a variable before it has a value": (unbound, UnboundLocalError),
    "an attribute that is not there": (lambda: call(getattr, executed, "lenght"), AttributeError),
    "an attribute of None": (lambda: call(getattr, None, "id"), AttributeError),
    "a missing argument": (lambda: call(dataclasses.replace), TypeError),
    "an operator that does not apply": (lambda: call(lambda a, b: a + b, 1, "a"), TypeError),
    "a call of what is no function": (lambda: call(7), TypeError),
    "a module that is not there": (imports_nothing, ModuleNotFoundError),
    "a key that is not there": (missing, KeyError),
    "a key that the standard library misses": (lambda: os.environ["STEPWELL_NO_SUCH"], KeyError),
    "an index that is not there": (lambda: call(lambda found: found[3], []), IndexError),
    "a division by zero": (lambda: call(lambda a, b: a / b, 1, 0), ZeroDivisionError),
    "a text that is no number": (lambda: int("many"), ValueError),
    "too few values to unpack": (lambda: call(lambda pair: [a + b for a, b in [pair]], (1,)), ValueError),
    "nothing to choose from": (lambda: max([]), ValueError),
    "an enum that has no such member": (lambda: http.HTTPStatus(1), ValueError),
    "bytes that are no text": (b"\xff".decode, UnicodeDecodeError),
    "a dictionary that changes while it is iterated": (changed_while_iterated, RuntimeError),
    "an endless recursion": (recurse, RecursionError),
    "a frozen dataclass that is changed": (lambda: call(setattr, Frozen(1), "x", 2), dataclasses.FrozenInstanceError),
    "code that does not parse": (lambda: compile("a b", "rule", "eval"), SyntaxError),
    "an iterator at its end": (lambda: next(iter([])), StopIteration),
}


def fails_assertion() -> None:
    assert "checked" in executed, "the order is checked"


def is_not_written() -> NoReturn:
    raise NotImplementedError("returns")


def breaks_a_rule() -> NoReturn:
    raise BrokenRule("the total is negative")


#: What says itself that the code is wrong, although somebody raised it.
ALWAYS: dict[str, tuple[Callable[[], Any], type[BaseException]]] = {
    "an assertion": (fails_assertion, AssertionError),
    "what is not written yet": (is_not_written, NotImplementedError),
    "an assertion of a class of the application's": (breaks_a_rule, BrokenRule),
    "what can never be reached": (lambda: call(assert_never, 1), AssertionError),
}


def raises(error: BaseException) -> Callable[[], NoReturn]:
    def run() -> NoReturn:
        raise error

    return run


def raises_from_a_mistake() -> None:
    try:
        missing()
    except KeyError as error:
        raise Declined("no such order") from error


def raises_while_a_mistake_is_handled() -> None:
    try:
        missing()
    except KeyError:
        raise LookupError("no such order")  # noqa: B904 - that is the point


#: What the author, or a library, meant.
MEANT: dict[str, tuple[Callable[[], Any], type[BaseException]]] = {
    "a class of the application's": (raises(Declined("the card")), Declined),
    "a built-in class": (raises(ValueError("not an amount")), ValueError),
    "a class that Python uses for mistakes": (raises(TypeError("wants an order")), TypeError),
    "a KeyError": (raises(KeyError("order-1")), KeyError),
    "a ZeroDivisionError": (raises(ZeroDivisionError("nothing to share")), ZeroDivisionError),
    "a RuntimeError": (raises(RuntimeError("closed")), RuntimeError),
    "an OSError": (raises(OSError("no route")), OSError),
    "a StepwellError": (raises(PermanentError("no")), PermanentError),
    "from a mistake": (raises_from_a_mistake, Declined),
    "while a mistake is handled": (raises_while_a_mistake_is_handled, LookupError),
    "a library's own class": (lambda: json.loads("{"), json.JSONDecodeError),
    "a group": (raises(ExceptionGroup("several", [Declined("a"), ValueError("b")])), ExceptionGroup),
    "a group of what was never raised": (raises(ExceptionGroup("several", [TypeError("b")])), ExceptionGroup),
}


def both_kinds(cause: Callable[[], Any], *, after: bool = False, **options: Any) -> list[Any]:
    """Return workflows that take a step and then do what is given, ``async def`` and ``def``."""

    @workflow(name="breaks", **options)
    async def breaks() -> str:
        await note("before")
        if after:
            await receive("go")
        cause()
        return str(await note("after"))

    @workflow(name="breaks blocking", **options)
    def breaks_blocking() -> str:
        sync.call(note, "before")
        if after:
            sync.receive("go")
        cause()
        return str(sync.call(note, "after"))

    return [breaks, breaks_blocking]


def patched_engine(engine: TestEngine, definition: Any, function: Callable[[], Any]) -> None:
    """Deploy other code of a workflow: a new engine that has it."""
    workflow(name=definition.name)(function)
    engine.reopen()


# --- where the line is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*MISTAKES, *ALWAYS])
def test_a_mistake_halts_the_run_with_its_line_and_its_class(engine: TestEngine, case: str) -> None:
    cause, kind = (MISTAKES | ALWAYS)[case]
    expected = RuntimeError if kind is StopIteration else kind  # what Python makes of it in a coroutine
    for definition in both_kinds(cause):
        run = engine.start(definition)
        with pytest.raises(WorkflowCodeError) as raised:
            run.result(timeout=60)
        assert isinstance(raised.value, expected)
        assert isinstance(raised.value, RunHalted)
        assert raised.value.type_name == expected.__name__
        info = run.info()
        assert info.status == "halted"
        assert expected.__name__ in str(info.reason)
        assert "test_code_errors.py:" in str(info.reason)
        assert [entry.kind for entry in run.journal()] == ["step"]
        executed.clear()


@pytest.mark.parametrize("case", MEANT)
def test_what_was_raised_on_purpose_fails_the_run(engine: TestEngine, case: str) -> None:
    cause, kind = MEANT[case]
    for definition in both_kinds(cause):
        run = engine.start(definition)
        with pytest.raises((kind, RunFailed)) as raised:
            run.result(timeout=60)
        assert not isinstance(raised.value, RunHalted)
        assert run.status == "failed"


@pytest.mark.parametrize("case", [*MISTAKES, *ALWAYS])
def test_what_a_step_raised_fails_the_run_whatever_it_is(engine: TestEngine, case: str) -> None:
    cause, _ = (MISTAKES | ALWAYS)[case]

    @step(name="breaks in a step")
    def breaks() -> None:
        cause()

    @workflow(name="calls")
    async def calls() -> None:
        await asyncio.to_thread(breaks)

    @workflow(name="calls blocking")
    def calls_blocking() -> None:
        breaks()

    @workflow(name="re-raises")
    async def reraises() -> None:
        try:
            await asyncio.to_thread(breaks)
        except Exception as error:
            await note("cleaned up")
            raise error  # noqa: TRY201 - that is the point

    for definition in (calls, calls_blocking, reraises):
        run = engine.start(definition)
        engine.idle()
        assert run.status == "failed", definition


def test_what_a_child_failed_with_fails_its_parent_and_a_mistake_in_a_child_halts_the_child(engine: TestEngine) -> None:
    @workflow
    async def refuses() -> None:
        raise TypeError("on purpose")

    @workflow
    async def broken() -> None:
        missing()

    @workflow
    async def parent() -> None:
        await refuses()

    @workflow
    async def waits() -> None:
        await broken()

    assert_failed(engine, parent, TypeError)
    run = engine.start(waits, id="waits")
    engine.idle()
    assert run.status == "waiting"
    assert engine.get("waits/1").status == "halted"
    assert "waits/1" in str(run.info().reason)


def assert_failed(engine: TestEngine, definition: Any, kind: type[BaseException], *args: Any) -> None:
    run = engine.start(definition, *args)
    with pytest.raises(kind) as raised:
        run.result(timeout=60)
    assert not isinstance(raised.value, RunHalted)
    assert run.status == "failed"


def test_what_the_engine_refuses_in_workflow_code_halts_and_what_it_delivers_fails(engine: TestEngine) -> None:
    lists: Callable[[], Any] = engine.list
    refused: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "opens a file": lambda: as_coroutine(lambda: open("/etc/hostname")),
        "asks an engine": lambda: as_coroutine(lists),
        "bad argument of an operation": lambda: receive("name", timeout=-1),
        "what cannot be recorded": lambda: publish("key", object()),
        "arguments that do not fit": lambda: call(note),
        "a step with an argument that cannot be recorded": lambda: note(object()),
    }

    @workflow
    async def tries(what: str) -> None:
        await refused[what]()

    for what in refused:
        run = engine.start(tries, what)
        with pytest.raises(StepwellError) as raised:
            run.result(timeout=60)
        assert isinstance(raised.value, WorkflowCodeError), what
        assert run.status == "halted"
        assert run.journal() == []

    @workflow
    async def sends() -> None:
        await send("nobody", "hello")

    assert_failed(engine, sends, stepwell.RunNotFound)


async def as_coroutine(function: Callable[[], Any]) -> None:
    function()


def test_the_end_of_a_timeout_was_asked_for(engine: TestEngine) -> None:
    @workflow
    async def waits() -> None:
        async with asyncio.timeout(5):
            await receive("never")

    run = engine.start(waits)
    engine.advance(10)
    with pytest.raises(TimeoutError):
        run.result(timeout=60)
    assert run.status == "failed"


# --- groups -----------------------------------------------------------------------------------------------------------


@step
async def declines() -> None:
    raise Declined("the card")


async def breaks_soon() -> None:
    await asyncio.sleep(0)
    missing()


async def raises_soon() -> None:
    raise ValueError("meant")


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ([breaks_soon], "halted"),
        ([declines], "failed"),
        ([raises_soon], "failed"),
        ([declines, raises_soon], "failed"),
        ([raises_soon, breaks_soon], "halted"),
        ([breaks_soon, declines], "halted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(each.__name__ for each in value),
)
def test_a_group_is_a_mistake_if_one_of_its_members_is(
    engine: TestEngine, members: list[Callable[[], Coroutine[Any, Any, None]]], status: str
) -> None:
    @workflow
    async def together() -> None:
        async def later(member: Callable[[], Coroutine[Any, Any, None]]) -> None:
            try:
                await member()
            finally:
                await asyncio.sleep(0)

        results = await asyncio.gather(*map(later, members), return_exceptions=True)
        raise BaseExceptionGroup("all", [error for error in results if isinstance(error, BaseException)])

    @workflow
    async def in_a_task_group() -> None:
        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(member())

    for definition in (together, in_a_task_group):
        run = engine.start(definition)
        engine.idle()
        if definition is together or len(members) == 1:  # else the first that raises has the others cancelled
            assert run.status == status, run.info()


def test_a_group_that_a_step_raised_fails_the_run(engine: TestEngine) -> None:
    @step
    def several() -> None:
        raise ExceptionGroup("several", [caught(missing)])

    @workflow
    async def calls() -> None:
        await asyncio.to_thread(several)

    assert_failed(engine, calls, ExceptionGroup)


def caught(function: Callable[[], Any]) -> Exception:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise ValueError


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["a new engine", "resume"])
@pytest.mark.parametrize("case", ["a name that is not defined", "a missing argument", "an assertion"])
def test_a_halted_run_goes_on_from_where_it_broke_when_its_code_is_mended(
    engine: TestEngine, case: str, how: str
) -> None:
    for broken, mended in zip(both_kinds((MISTAKES | ALWAYS)[case][0]), both_kinds_source(lambda: None), strict=True):
        workflow(name=broken.name)(broken.function)
        run = engine.start(broken)
        engine.idle()
        assert run.status == "halted"
        workflow(name=broken.name)(mended)
        if how == "resume":
            run.resume()
            engine.idle()
        else:
            engine.reopen()
        assert run.result(timeout=60) == "after"
        assert executed == ["before", "after"]
        assert [entry.kind for entry in run.journal()] == ["step", "step"]
        executed.clear()


def both_kinds_source(cause: Callable[[], Any]) -> list[Any]:
    """Return the functions of `both_kinds`."""
    return [definition.function for definition in both_kinds(cause)]


def test_what_the_broken_activation_wanted_is_dropped(engine: TestEngine) -> None:
    @workflow
    async def child() -> str:
        return str(await receive("word"))

    async def parent() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(child())
            await receive("go")
            group.create_task(note("too early"))
            group.create_task(publish("key", "too early"))
            missing()
        return [first.result()]

    async def mended() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(child())
            await receive("go")
        return [first.result()]

    run = engine.start(workflow(name="breaks in a group")(parent), id="parent")
    engine.idle()
    run.send("go")
    engine.idle()
    assert run.status == "halted"
    (started,) = engine.list(workflow=child)
    assert started.info().cancel_requested_at is None
    assert executed == []
    workflow(name="breaks in a group")(mended)
    engine.reopen()
    started.send("word", "hello")
    assert run.result(timeout=60) == ["hello"]
    assert "too early" not in executed


def test_a_mistake_in_clean_up_halts_a_cancelled_run_which_a_second_cancel_ends(engine: TestEngine) -> None:
    async def broken() -> None:
        try:
            await receive("never")
        finally:
            await note("cleaning up")
            missing()

    async def mended() -> None:
        try:
            await receive("never")
        finally:
            await note("cleaning up")
            await note("cleaned up")

    definition = workflow(name="cleans up")(broken)
    runs = [engine.start(definition, id=name) for name in ("mended", "given up")]
    engine.idle()
    for run in runs:
        run.cancel("enough")
    engine.idle()
    assert [run.status for run in runs] == ["halted", "halted"]
    assert runs[1].cancel()
    engine.idle()
    assert runs[1].status == "cancelled"
    workflow(name="cleans up")(mended)
    engine.reopen()
    with pytest.raises(RunCancelled, match="enough"):
        runs[0].result(timeout=60)
    assert executed == ["cleaning up", "cleaning up", "cleaned up"]


def test_a_run_that_is_halted_again_has_executed_nothing_again(engine: TestEngine) -> None:
    run = engine.start(both_kinds(missing)[0])
    engine.idle()
    reason = run.info().reason
    for _ in range(3):
        engine.reopen()
        engine.idle()
    assert run.status == "halted"
    assert run.info().reason == reason
    assert executed == ["before"]


def test_a_mistake_in_code_that_was_changed_under_a_run_halts_it(engine: TestEngine) -> None:
    working, _ = both_kinds(lambda: None, after=True)
    run = engine.start(working)
    engine.idle()
    broken, _ = both_kinds(missing, after=True)
    engine.reopen()
    run.send("go")
    engine.idle()
    assert run.status == "halted"
    workflow(name=working.name)(working.function)
    engine.reopen()
    assert run.result(timeout=60) == "after"
    del broken


def test_the_error_of_a_halted_run_can_be_pickled_and_has_the_text_of_the_reason(engine: TestEngine) -> None:
    run = engine.start(both_kinds(missing)[0])
    with pytest.raises(KeyError) as raised:
        run.result(timeout=60)
    assert str(raised.value).startswith("KeyError: 'x'\n")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert type(copy) is WorkflowCodeError
    assert str(copy) == str(raised.value)
    assert copy.type_name == "KeyError"


# --- the other choice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail_on", "status"),
    [
        (KeyError, "failed"),
        (LookupError, "failed"),
        (Exception, "failed"),
        ((TypeError, KeyError), "failed"),
        (TypeError, "halted"),
        ((), "halted"),
    ],
    ids=repr,
)
def test_a_workflow_says_which_mistakes_fail_its_runs(engine: TestEngine, fail_on: Any, status: str) -> None:
    for definition in both_kinds(missing, fail_on=fail_on):
        run = engine.start(definition)
        with pytest.raises(KeyError):
            run.result(timeout=60)
        assert run.status == status

    @workflow(name="breaks in a group", fail_on=fail_on)
    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(breaks_soon())

    run = engine.start(in_a_group)
    engine.idle()
    assert run.status == status


def test_what_a_workflow_lets_fail_may_be_an_assertion_or_io(engine: TestEngine) -> None:
    for cause, kind in ((ALWAYS["an assertion"][0], AssertionError), (engine.list, WorkflowIOError)):
        for definition in both_kinds(cause, fail_on=kind):
            assert_failed(engine, definition, kind)


@pytest.mark.parametrize(
    "fail_on",
    ["KeyError", KeyError("x"), [KeyError], None, int, BaseException, KeyboardInterrupt, (KeyError, 3), object()],
)
def test_a_fail_on_that_names_no_exceptions_is_refused(fail_on: Any) -> None:
    with pytest.raises(InvalidArgument, match="fail_on"):
        workflow(name="refused", fail_on=fail_on)(lambda: None)


def test_a_mistake_without_an_engine_is_just_raised() -> None:
    with pytest.raises(KeyError) as raised:
        asyncio.run(both_kinds(missing)[0]())
    assert type(raised.value) is KeyError


def test_the_result_of_a_halted_run_is_the_same_in_another_program(engine: TestEngine, database: Any) -> None:
    engine.start(both_kinds(missing)[0], id="run")
    engine.idle()
    engine.close()
    with Engine(database, workflows=[]) as client, pytest.raises(KeyError, match="halted"):
        client.get("run").result(timeout=60)
