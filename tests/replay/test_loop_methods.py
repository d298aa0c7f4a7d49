"""The event loop of workflow code answers what libraries ask, and says plainly what it has not, and what to do."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwell
from stepwell import LoopMethodMissing, WorkflowIOError, receive, step, workflow
from stepwell.replay.loop import DeterministicLoop
from stepwell.testing import TestEngine


@step
async def echo(value: Any) -> Any:
    return value


WORK = {
    *("call_soon", "call_soon_threadsafe", "call_later", "call_at", "time", "create_future", "create_task"),
    *("run_in_executor", "is_running", "is_closed", "get_debug", "set_debug", "call_exception_handler"),
    *("default_exception_handler", "get_exception_handler", "set_exception_handler"),
    *("get_task_factory", "set_task_factory"),
}
METHODS = {name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_")}
MISSING = sorted(METHODS - WORK)
#: What would be no better off in a step: it ends, or belongs to, the loop that steps execute on.
NOT_FOR_STEPS = [
    *("close", "stop", "run_forever", "run_until_complete", "shutdown_asyncgens", "shutdown_default_executor"),
    *("set_default_executor", "add_signal_handler", "remove_signal_handler", "create_server"),
]


@workflow
async def calls(method: str) -> list[str]:
    try:
        await getattr(asyncio.get_running_loop(), method)(*([] if method == "close" else [None, None]))
    except NotImplementedError as error:  # as callers of loops check
        return [type(error).__name__, str(error)]
    return []


@pytest.mark.parametrize("method", MISSING)
def test_what_reaches_outside_is_refused_as_what_a_loop_does_not_implement(engine: TestEngine, method: str) -> None:
    name, message = engine.start(calls, method, id="the run").result(timeout=30)
    assert name == "LoopMethodMissing"
    assert f"{method}()" in message
    assert "'the run'" in message
    assert f"{__file__}:" in message
    assert ("step" in message.rpartition(" in calls. ")[2].lower()) == (
        method not in NOT_FOR_STEPS
    ) or "engine" in message


@pytest.mark.parametrize("method", NOT_FOR_STEPS)
def test_advice_does_not_move_into_a_step_what_would_harm_there(engine: TestEngine, method: str) -> None:
    assert "into a step" not in engine.start(calls, method).result(timeout=30)[1]


def test_what_is_refused_is_workflow_io_as_well() -> None:
    assert issubclass(LoopMethodMissing, WorkflowIOError)
    assert issubclass(LoopMethodMissing, NotImplementedError)
    assert stepwell.LoopMethodMissing is LoopMethodMissing


@workflow
async def asks() -> list[Any]:
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    loop.set_task_factory(None)
    loop.set_exception_handler(None)
    return [
        loop.is_running(),
        loop.is_closed(),
        loop.get_debug(),
        loop.get_task_factory(),
        loop.get_exception_handler(),
        isinstance(loop.time(), float),
        isinstance(loop, asyncio.AbstractEventLoop),
    ]


def test_every_question_is_answered(engine: TestEngine) -> None:
    assert engine.start(asks).result(timeout=30) == [True, False, False, None, None, True, True]


@workflow
async def sets_badly(method: str, value: Any) -> str:
    try:
        getattr(asyncio.get_running_loop(), method)(value)
    except (TypeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"
    return "set"


@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        ("set_debug", True, "LoopMethodMissing"),
        ("set_task_factory", 3, "TypeError"),
        ("set_exception_handler", 3, "TypeError"),
    ],
)
def test_a_setting_that_cannot_be_says_why(engine: TestEngine, method: str, value: Any, said: str) -> None:
    assert engine.start(sets_badly, method, value).result(timeout=30).startswith(said)


# --- settings that work -----------------------------------------------------------------------------------------------


def both_ways(engine: TestEngine, flow: Callable[[], Coroutine[Any, Any, Any]], expected: Any) -> None:
    """Run a workflow undisturbed, and so that each wait is replayed."""
    for waiting in (1_000, 0):
        engine.reopen(max_waiting_in_memory=waiting)
        run = engine.start(flow)
        engine.advance(100)
        assert run.result(timeout=30) == expected


def fails_in_a_callback() -> None:
    raise LookupError("in a callback")


@workflow
async def handles_exceptions() -> list[str]:
    found: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(str(context["exception"])))
    loop.call_soon(fails_in_a_callback)
    await asyncio.sleep(1)
    loop.call_exception_handler({"message": "by hand", "exception": LookupError("mine")})
    await echo(found)
    return found


def test_an_exception_handler_gets_what_callbacks_raise_again_in_a_replay(engine: TestEngine) -> None:
    both_ways(engine, handles_exceptions, ["in a callback", "mine"])


@workflow
async def forgets_a_failure() -> int:
    calls: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda *_: calls.append(1))

    async def fails() -> None:
        raise LookupError("nobody asks")

    asyncio.get_running_loop().call_soon(asyncio.ensure_future, fails())  # nobody keeps the task
    await asyncio.sleep(1)
    gc.collect()
    await asyncio.sleep(1)
    return len(calls)


def test_what_only_the_collector_notices_is_never_handed_to_code_of_the_run(engine: TestEngine) -> None:
    both_ways(engine, forgets_a_failure, 0)


@workflow
async def handler_fails() -> str:
    def handler(*_: Any) -> None:
        raise LookupError("the handler")

    asyncio.get_running_loop().set_exception_handler(handler)
    asyncio.get_running_loop().call_soon(fails_in_a_callback)
    await asyncio.sleep(1)
    return "goes on"


def test_a_handler_that_raises_stops_nothing(engine: TestEngine) -> None:
    both_ways(engine, handler_fails, "goes on")


@workflow
async def makes_tasks_by_a_factory() -> list[Any]:
    made: list[str] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")

    def factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__name__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def child(value: int) -> Any:
        await asyncio.sleep(value)
        return await echo(value), variable.get()

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    first, second = loop.create_task(child(2)), loop.create_task(child(1), name="second", context=context)
    names = [first.get_name(), second.get_name()]
    results = [list(await task) for task in (first, second)]
    assert loop.get_task_factory() is factory
    return [made, names, results]


def test_a_task_factory_makes_the_tasks(engine: TestEngine) -> None:
    expected = [["child", "child"], ["task-2", "second"], [[2, ""], [1, "given"]]]
    both_ways(engine, makes_tasks_by_a_factory, expected)


# --- timers -----------------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for a run that sets timers."""

    run_id = "run"
    now = 0
    stopped = False

    def __init__(self) -> None:
        self.due = 0

    def set_timer(self, _handle: Any, due: int) -> None:
        self.due = due


@given(now=st.integers(1_600_000_000_000_000, 2_100_000_000_000_000), delay=st.floats(0, 1e7))
def test_a_timer_is_never_early_as_the_loop_shows_its_time(now: int, delay: float) -> None:
    run: Any = Recorder()
    run.now = now
    loop: Any = DeterministicLoop.create(run)
    loop.is_open = True
    when = loop.time() + delay
    loop.call_at(when, print)
    run.now = run.due
    assert loop.time() >= when
    assert run.due - now <= delay * 1e6 + 3


@workflow
async def waits_for_ever() -> str:
    try:
        async with asyncio.timeout(math.inf):
            await asyncio.sleep(math.inf)
    finally:
        handle = asyncio.get_running_loop().call_later(math.inf, print)
        assert handle.when() == math.inf
        handle.cancel()
    return "never"


def test_a_timer_of_infinite_length_waits_to_be_cancelled(engine: TestEngine) -> None:
    run = engine.start(waits_for_ever)
    engine.advance(10)
    assert run.info().status == "waiting"
    run.cancel()
    with pytest.raises(stepwell.RunCancelled):
        run.result(timeout=30)


@workflow
async def gives_up_waiting_for_ever() -> str:
    try:
        await asyncio.wait_for(asyncio.sleep(math.inf), timeout=5)
    except TimeoutError:
        return await receive("afterwards", str, timeout=1, default="late")
    return "never"


def test_a_timeout_ends_an_infinite_sleep(engine: TestEngine) -> None:
    both_ways(engine, gives_up_waiting_for_ever, "late")
