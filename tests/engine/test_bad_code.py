"""Code that misbehaves harms its own run at most: it neither hangs the engine nor acts when it must not."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import stepwell
from stepwell import (
    InvalidArgument,
    ResultNotSerializable,
    Retry,
    RunCancelled,
    SerializationError,
    WorkflowIOError,
    publish,
    receive,
    step,
    transaction,
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


@step
def note_sync(what: Any) -> Any:
    executed.append(what)
    return what


@workflow
async def healthy(value: int) -> int:
    return int(await note(value)) + 1


def assert_alive(engine: TestEngine) -> None:
    """The engine, and the next one on the file, still do their work."""
    assert engine.start(healthy, 1).result(timeout=60) == 2
    engine.reopen()
    assert engine.start(healthy, 2).result(timeout=60) == 3


# --- exceptions that are odd ------------------------------------------------------------------------------------------


class Quit(BaseException):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")

    __repr__ = __str__


class Needy(Exception):
    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()


class Hostile(Exception):
    @property
    def retry_after(self) -> float:
        raise ZeroDivisionError

    def __getattribute__(self, name: str) -> Any:
        if name in ("args", "__dict__", "__notes__"):
            raise ZeroDivisionError
        return super().__getattribute__(name)


def make_local() -> Exception:
    class Local(Exception):
        pass

    return Local("made here")


def chained() -> Exception:
    error = ValueError("outer")
    error.__cause__ = error
    return error


ODD: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration,
    "a BaseException": lambda: Quit("enough"),
    "no text": Mute,
    "needs arguments": lambda: Needy(1, two=2),
    "hostile": Hostile,
    "a local class": make_local,
    "its own cause": chained,
    "a group": lambda: ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [Needy(1, two=2)])]),
    "a group of BaseExceptions": lambda: BaseExceptionGroup("several", [Quit(), KeyboardInterrupt()]),
    "huge": lambda: ValueError("x" * 30_000_000),
    "not Unicode": lambda: ValueError("\ud800"),
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
}


def odd_error(case: str) -> BaseException:
    return ODD[case]()


@pytest.mark.parametrize("kind", ["async", "sync", "transaction"])
@pytest.mark.parametrize("case", ODD)
def test_whatever_a_step_raises_reaches_the_workflow_and_harms_nobody(engine: TestEngine, case: str, kind: str) -> None:
    async def raises_async() -> None:
        await asyncio.sleep(0)
        raise odd_error(case)

    def raises_sync() -> None:
        raise odd_error(case)

    def raises_in_transaction(_tx: Any) -> None:
        raise odd_error(case)

    odd: Any
    match kind:
        case "async":
            odd = step(name="odd")(raises_async)
        case "sync":
            odd = step(name="odd")(raises_sync)
        case _:
            odd = transaction(name="odd")(raises_in_transaction)

    @workflow
    async def catches() -> str:
        caught = ""
        try:
            result = odd()
            if isinstance(result, Coroutine):
                await result
        except Exception as error:  # noqa: BLE001 - whatever it is, but never a BaseException
            caught = type(error).__name__
        await note("after")
        await receive("go")
        return caught

    run = engine.start(catches)
    engine.idle()
    assert executed == ["after"]
    engine.reopen()  # a replay meets the same exception
    run.send("go")
    assert run.result(timeout=60)
    assert executed == ["after"]
    assert [entry.kind for entry in run.journal()] == ["step_failed", "step", "message"]
    assert_alive(engine)


@pytest.mark.parametrize("case", [case for case in ODD if case != "CancelledError"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_whatever_a_workflow_raises_fails_its_run_and_harms_nobody(engine: TestEngine, case: str, kind: str) -> None:
    async def raises_async() -> None:
        await note("before")
        raise odd_error(case)

    def raises_sync() -> None:
        note_sync("before")
        raise odd_error(case)

    odd: Any = workflow(raises_async) if kind == "async" else workflow(raises_sync)
    run = engine.start(odd)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is the codec's business; never a BaseException
        run.result(timeout=60)
    assert not isinstance(raised.value, TimeoutError)
    info = run.info()
    # Python makes a RuntimeError of a StopIteration that leaves a coroutine: a mistake in the code.
    assert info.status == ("halted" if case == "StopIteration" else "failed")
    assert info.error or info.reason
    assert executed == ["before"]
    assert_alive(engine)


def test_a_retry_predicate_that_raises_ends_the_attempts_and_is_named(engine: TestEngine) -> None:
    def broken_predicate(_error: BaseException) -> bool:
        raise ZeroDivisionError("a bug in the predicate")

    @step(retry=Retry(attempts=5, delay=0, when=broken_predicate))
    async def failing() -> None:
        executed.append("attempt")
        raise OSError("no route")

    @workflow
    async def calls() -> None:
        await failing()

    with pytest.raises(OSError, match="no route") as raised:
        engine.start(calls).result(timeout=60)
    assert "a bug in the predicate" in "\n".join(raised.value.__notes__)
    assert executed == ["attempt"]


# --- results that are none --------------------------------------------------------------------------------------------


def test_a_workflow_that_returns_a_coroutine_is_told_what_it_forgot(engine: TestEngine) -> None:
    created: list[Coroutine[Any, Any, Any]] = []

    @workflow(name="forgetful")
    async def forgetful() -> Any:
        created.append(note("forgotten"))
        return created[-1]

    @workflow(name="forgetful sync")
    def forgetful_sync() -> Any:
        created.append(note("forgotten"))
        return created[-1]

    for definition in (forgetful, forgetful_sync):
        with pytest.raises((ResultNotSerializable, SerializationError), match="await"):
            engine.start(definition).result(timeout=60)
    for coroutine in created:
        coroutine.close()
    assert executed == []
    assert_alive(engine)


def test_a_step_that_returns_a_coroutine_is_told_what_it_forgot(engine: TestEngine) -> None:
    async def later() -> int:
        return 1

    coroutine = later()

    @step
    def forgetful() -> Any:
        return coroutine

    @workflow
    async def calls() -> Any:
        return forgetful()

    with pytest.raises(ResultNotSerializable, match="await"):
        engine.start(calls).result(timeout=60)
    coroutine.close()
    assert_alive(engine)


# --- code that outlives its run ---------------------------------------------------------------------------------------


def test_a_task_that_is_left_behind_does_nothing_after_the_end(engine: TestEngine) -> None:
    @workflow
    async def leaves_tasks() -> str:
        async def straggle() -> None:
            await receive("first")
            await note("too late")

        async def cling() -> None:
            while True:
                try:
                    await receive("never")
                except BaseException:  # noqa: BLE001 - the mistake that is tested
                    await note("too late")

        tasks = [asyncio.create_task(straggle()), asyncio.create_task(cling())]
        await asyncio.sleep(0)
        return f"left {len(tasks)}"

    run = engine.start(leaves_tasks)
    assert run.result(timeout=60) == "left 2"
    engine.idle()
    assert executed == []
    assert run.journal() == []
    assert_alive(engine)


def test_a_callback_of_an_ended_run_that_is_kept_elsewhere_can_do_nothing(engine: TestEngine) -> None:
    kept: list[Any] = []

    @workflow
    async def keeps() -> None:
        async def work() -> None:
            await note("too late")

        kept.append(work())
        kept.append(asyncio.get_running_loop())

    engine.start(keeps).result(timeout=60)
    coroutine, loop = kept
    with pytest.raises((stepwell.StepwellError, RuntimeError)):
        loop.run_until_complete(coroutine)
    coroutine.close()
    assert_alive(engine)


def test_a_thread_started_by_a_step_may_call_steps_as_plain_functions_after_the_end(engine: TestEngine) -> None:
    go, found = threading.Event(), []

    def linger() -> None:
        go.wait(60)
        found.append(note_sync("plain"))

    threads = []

    @step
    def starts_thread() -> None:
        threads.append(threading.Thread(target=linger))
        threads[-1].start()

    @workflow
    async def calls() -> None:
        starts_thread()

    run = engine.start(calls)
    run.result(timeout=60)
    journal = run.journal()
    go.set()
    threads[0].join(60)
    assert found == ["plain"]
    assert run.journal() == journal


# --- code that asks the engine from where it cannot answer ------------------------------------------------------------


def test_the_engine_cannot_be_asked_from_its_own_thread_and_says_so_instead_of_hanging(engine: TestEngine) -> None:
    target = engine.start(hang_child, id="target")
    engine.idle()

    def ask() -> str:
        refused = 0
        calls: list[Callable[[], Any]] = [
            lambda: engine.start(healthy, 1),
            lambda: engine.send("target", "x"),
            lambda: target.result(timeout=60),
            target.cancel,
            lambda: target.value("key"),
        ]
        for call in calls:
            try:
                call()
            except WorkflowIOError as error:
                refused += any(way in str(error) for way in ("to_thread", "@step"))
        try:
            with engine.transaction():
                pass
        except WorkflowIOError:
            refused += 1
        return f"{refused} of {len(calls) + 1} refused"

    @step
    async def asks_in_step() -> str:
        return ask()

    @transaction
    def asks_in_transaction(_tx: Any) -> str:
        return ask()

    @step
    def asks_in_thread() -> int:
        return engine.start(healthy, 1).result(timeout=60)

    @workflow
    async def asks() -> list[Any]:
        return [ask(), await asks_in_step(), asks_in_transaction(), asks_in_thread()]

    refused = "6 of 6 refused"
    assert engine.start(asks).result(timeout=60) == [refused, refused, refused, 2]


# --- absurd amounts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [math.nan, 1e12, 1e300], ids=repr)
def test_an_absurd_sleep_or_timeout_raises_at_its_line(engine: TestEngine, seconds: float) -> None:
    @workflow
    async def oversleeps() -> int:
        refused = 0
        try:
            await asyncio.sleep(seconds)
        except (InvalidArgument, ValueError):
            refused += 1
        try:
            async with asyncio.timeout(seconds):
                await note("inside")
        except (InvalidArgument, ValueError):
            refused += 1
        waited_for = note("waited for")
        try:
            await asyncio.wait_for(waited_for, seconds)
        except (InvalidArgument, ValueError):
            refused += 1
        waited_for.close()
        return refused

    assert engine.start(oversleeps).result(timeout=60) == 3
    assert_alive(engine)


def test_a_sleep_of_less_than_nothing_returns_at_once(engine: TestEngine) -> None:
    @workflow
    async def hurries() -> float:
        before = stepwell.now()
        await asyncio.sleep(-5)
        await asyncio.sleep(0)
        return (stepwell.now() - before).total_seconds()

    assert engine.start(hurries).result(timeout=60) == 0


def test_ten_thousand_steps_at_once_come_back_in_order(engine: TestEngine) -> None:
    @workflow
    async def crowd(count: int) -> int:
        results = await asyncio.gather(*(note(number) for number in range(count)))
        assert results == list(range(count))
        return len(results)

    run = engine.start(crowd, 10_000)
    assert run.result(timeout=60) == 10_000
    assert sorted(executed) == list(range(10_000))


def test_thousands_of_operations_without_a_wait_let_others_have_their_turn(engine: TestEngine) -> None:
    @workflow
    async def chatters() -> int:
        for number in range(3000):
            await publish("number", number)
        return 3000

    long = engine.start(chatters)
    assert engine.start(healthy, 1).result(timeout=60) == 2
    assert long.result(timeout=60) == 3000
    assert long.value("number") == 2999


# --- blocking calls where none were expected --------------------------------------------------------------------------

#: Hides a ``def`` step from the guess that decides whether a run begins on greenlets.
HIDDEN = {"step": note_sync}
hanging = threading.Event()


@step
async def hang() -> None:
    hanging.set()
    try:
        await asyncio.Event().wait()
    finally:
        executed.append("let go")


@workflow
async def hang_child() -> None:
    await receive("never")


@pytest.mark.parametrize("what", ["step", "child"])
def test_what_is_cancelled_right_before_an_unexpected_blocking_call_is_cancelled_all_the_same(
    engine: TestEngine, what: str
) -> None:
    @workflow
    async def surprises() -> list[Any]:
        task = asyncio.create_task(hang() if what == "step" else hang_child())
        await asyncio.sleep(0)
        await receive("go")
        task.cancel()
        await asyncio.sleep(0)
        found = HIDDEN["step"]("found")
        await receive("end")
        return [found, task.cancelled()]

    hanging.clear()
    run = engine.start(surprises, id="run", messages=[])
    if what == "step":
        assert hanging.wait(60)
    else:
        engine.idle()
    run.send("go")
    engine.idle()
    if what == "child":
        with pytest.raises(RunCancelled, match="no longer waits"):
            engine.get("run/1").result(timeout=60)
    engine.reopen()
    run.send("end")
    assert run.result(timeout=60) == ["found", True]
    assert sorted(executed) == (["found", "let go"] if what == "step" else ["found"])
