"""Steps: how they are called, tried again, timed out, and recorded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.support.waiting import until

import stepwell
from stepwell import (
    InvalidArgument,
    PermanentError,
    Retry,
    RetryLater,
    StepFailed,
    StepInterrupted,
    StepTimeout,
    StepwellError,
    current,
    step,
    workflow,
)
from stepwell.definitions.step_info import StepInfo
from stepwell.executors import dispatch
from stepwell.model.retry import next_delay
from stepwell.testing import TestEngine


@dataclass
class Order:
    id: str
    lines: list[int] = field(default_factory=list)


def entries(engine: TestEngine, run_id: str) -> list[tuple[str, str]]:
    return [(entry.kind, entry.name.rpartition(".")[2]) for entry in engine.get(run_id).journal()]


def info() -> StepInfo:
    found = current()
    assert isinstance(found, StepInfo)
    return found


# --- calling ----------------------------------------------------------------------------------------------------------


@step
def double(number: int) -> int:
    return 2 * number


@step
async def triple(number: int) -> int:
    await asyncio.sleep(0)
    return 3 * number


@workflow
async def both_from_async(number: int) -> int:
    return double(await triple(number)) + await triple(double(number))


@workflow
def both_from_sync(number: int) -> int:
    return double(stepwell.sync.call(triple, number)) + stepwell.sync.call(triple, double(number))


@pytest.mark.parametrize("definition", [both_from_async, both_from_sync])
def test_steps_of_both_kinds_are_called_from_workflows_of_both_kinds(
    engine: TestEngine, definition: stepwell.Workflow[..., Any]
) -> None:
    assert engine.start(definition, 7, id="run").result(60) == 84
    assert entries(engine, "run") == [("step", "triple"), ("step", "double"), ("step", "double"), ("step", "triple")]


def test_outside_of_a_run_a_step_is_the_plain_function() -> None:
    assert double(4) == 8
    assert asyncio.run(triple(4)) == 12
    assert asyncio.run(both_from_async(1)) == 12


def test_a_step_is_recorded_once_and_not_executed_again_after_a_crash(engine: TestEngine) -> None:
    executed = []

    @step
    async def act(number: int) -> int:
        executed.append(number)
        return number

    @workflow
    async def acts() -> int:
        total = 0
        for number in range(5):
            total += await act(number)
            await asyncio.sleep(60)
        return total

    run = engine.start(acts)
    for _ in range(5):
        engine.advance(60)
        engine.crash()
        engine.reopen()
    assert run.result(60) == 10
    assert executed == [0, 1, 2, 3, 4]


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    @step
    async def charge(self, amount: int) -> str:
        return f"{self.name} charged {amount}"

    @step
    def refund(self, amount: int) -> str:
        return f"{self.name} refunded {amount}"


SHOP = Shop("corner")


def test_methods_are_steps_and_their_instance_is_not_recorded(engine: TestEngine) -> None:
    @workflow
    async def trade() -> list[str]:
        return [await SHOP.charge(3), SHOP.refund(2)]

    run = engine.start(trade)
    assert run.result(60) == ["corner charged 3", "corner refunded 2"]
    assert [entry.value for entry in run.journal()] == ["corner charged 3", "corner refunded 2"]


def test_an_instance_with_a_call_method_is_a_step(engine: TestEngine) -> None:
    class Adder:
        def __init__(self, amount: int) -> None:
            self.amount = amount

        def __call__(self, number: int) -> int:
            return number + self.amount

    add = step(name="add five")(Adder(5))

    @workflow
    async def sums() -> int:
        return add(1)

    assert engine.start(sums, id="run").result(60) == 6
    assert entries(engine, "run") == [("step", "add five")]


def test_a_step_gets_a_private_copy_of_its_arguments(engine: TestEngine) -> None:
    seen = []

    @step(retry=Retry(attempts=2, delay=0))
    async def spoil(order: Order) -> int:
        seen.append(list(order.lines))
        order.lines.append(99)
        if len(seen) == 1:
            raise OSError
        return len(order.lines)

    @workflow
    async def keeps() -> list[int]:
        order = Order("a", [1, 2])
        await spoil(order)
        return order.lines

    run = engine.start(keeps)
    engine.idle()
    assert run.result(60) == [1, 2]


def test_what_the_workflow_changes_after_the_call_does_not_reach_the_step(engine: TestEngine) -> None:
    @step
    async def read(order: Order) -> list[int]:
        return order.lines

    @workflow
    async def changes() -> list[int]:
        order = Order("a", [1])
        task = asyncio.create_task(read(order))
        await asyncio.sleep(0)
        order.lines.append(2)
        return await task

    assert engine.start(changes).result(60) == [1]


def test_a_call_with_wrong_arguments_fails_at_the_call_and_executes_nothing(engine: TestEngine) -> None:
    @workflow
    async def wrong() -> str:
        try:
            await triple(1, 2)  # type: ignore[call-arg]
        except TypeError as error:
            return str(error)
        return "accepted"

    run = engine.start(wrong)
    assert "triple" in run.result(60)
    assert run.journal() == []


# --- retries ----------------------------------------------------------------------------------------------------------


class Flaky(Exception):
    pass


class Fatal(Exception):
    pass


def failing(
    executed: list[datetime], failures: int, error: Callable[[], BaseException] = Flaky, **options: Any
) -> stepwell.Workflow[..., Any]:
    """Return a workflow with a step that fails so many times; `executed` gets the time of each attempt."""

    @step(**options)
    async def attempt() -> str:
        executed.append(info().started_at)
        if len(executed) <= failures:
            raise error()
        return f"at attempt {info().attempt}"

    @workflow
    async def tries() -> str:
        return await attempt()

    return tries


def delays(executed: list[datetime]) -> list[float]:
    return [(later - earlier).total_seconds() for earlier, later in pairwise(executed)]


def test_without_a_policy_there_is_one_attempt(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 1))
    with pytest.raises(Flaky):
        run.result(60)
    assert len(executed) == 1


def test_delays_grow_by_the_backoff_up_to_the_maximum(engine: TestEngine) -> None:
    executed: list[datetime] = []
    policy = Retry(attempts=6, delay=2.5, backoff=2, max_delay=12, jitter=0)
    run = engine.start(failing(executed, 5, retry=policy))
    engine.advance(100)
    assert run.result(60) == "at attempt 6"
    assert delays(executed) == [2.5, 5, 10, 12, 12]


def test_attempts_are_counted_across_crashes(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 9, retry=Retry(attempts=4, delay=10, backoff=1, jitter=0)))
    for _ in range(5):
        engine.advance(10)
        engine.crash()
        engine.reopen()
    engine.advance(60)
    with pytest.raises(Flaky):
        run.result(60)
    assert len(executed) == 4


def test_a_retry_that_is_due_while_the_process_is_down_is_not_early(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 1, retry=Retry(attempts=2, delay=100, jitter=0)))
    engine.advance(99.5)
    engine.crash()
    engine.reopen().idle()
    assert len(executed) == 1
    engine.advance(0.5)
    assert run.result(60) == "at attempt 2"
    assert delays(executed) == [100]


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5, 1.0])
def test_jitter_shortens_a_delay_by_at_most_its_share(chance: float) -> None:
    policy = Retry(attempts=9, delay=8, backoff=2, max_delay=100, jitter=0.25)
    assert next_delay(policy, 1, Flaky(), chance) == 8 * (1 - 0.25 * chance)
    assert next_delay(policy, 3, Flaky(), chance) == 32 * (1 - 0.25 * chance)


def test_jitter_is_applied_within_its_bounds_and_is_not_always_the_same(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 20, retry=Retry(attempts=21, delay=10, backoff=1, jitter=0.5)))
    engine.advance(300)
    run.result(60)
    found = delays(executed)
    assert all(5 <= delay <= 10 for delay in found)
    assert len(set(found)) > 1


def test_only_the_named_classes_are_retried(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 9, Fatal, retry=Retry(attempts=5, delay=0, on=(Flaky, OSError))))
    with pytest.raises(Fatal):
        run.result(60)
    assert len(executed) == 1


def test_a_subclass_of_a_named_class_is_retried(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 1, ConnectionError, retry=Retry(attempts=5, delay=0, on=(Flaky, OSError))))
    assert run.result(60) == "at attempt 2"


def test_a_predicate_decides_by_the_error(engine: TestEngine) -> None:
    executed: list[datetime] = []
    codes = iter([503, 429, 400])
    policy = Retry(attempts=9, delay=0, when=lambda error: error.args[0] != 400)
    run = engine.start(failing(executed, 9, lambda: Flaky(next(codes)), retry=policy))
    with pytest.raises(Flaky, match="400"):
        run.result(60)
    assert len(executed) == 3


def test_a_permanent_error_is_never_retried(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 9, lambda: PermanentError("no such card"), retry=Retry(attempts=5, delay=0)))
    with pytest.raises(PermanentError, match="no such card"):
        run.result(60)
    assert len(executed) == 1


def test_an_error_may_carry_its_own_delay(engine: TestEngine) -> None:
    executed: list[datetime] = []

    class TooMany(Exception):
        retry_after = 7.5

    errors = iter([RetryLater("busy", delay=42), TooMany()])
    run = engine.start(failing(executed, 2, lambda: next(errors), retry=Retry(attempts=5, delay=1, jitter=1)))
    engine.advance(60)
    assert run.result(60) == "at attempt 3"
    assert delays(executed) == [42, 7.5]


def test_an_error_that_is_not_imported_here_arrives_as_step_failed_with_its_text(engine: TestEngine) -> None:
    @step
    async def fail() -> None:
        class Hidden(Exception):
            pass

        raise Hidden("the details")

    @workflow
    async def catches() -> list[str]:
        try:
            await fail()
        except StepFailed as error:
            return [str(error), error.type_name, error.traceback_text]
        return []

    message, type_name, traceback_text = engine.start(catches).result(60)
    assert "the details" in message
    assert type_name.endswith("Hidden")
    assert 'raise Hidden("the details")' in traceback_text


def test_a_workflow_catches_what_its_step_raised_with_attributes_and_cause(engine: TestEngine) -> None:
    @step
    async def fail() -> None:
        try:
            raise Flaky("below")
        except Flaky as error:
            raise FileNotFoundError(2, "gone", "a.txt") from error

    @workflow
    async def catches() -> list[str]:
        try:
            await fail()
        except FileNotFoundError as error:
            return [str(error.errno), str(error.filename), repr(error.__cause__)]
        return []

    assert engine.start(catches).result(60) == ["2", "a.txt", "Flaky('below')"]


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"delay": -1},
        {"delay": float("nan")},
        {"backoff": 0.5},
        {"max_delay": float("inf")},
        {"jitter": 1.1},
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        Retry(**options)


# --- time limits ------------------------------------------------------------------------------------------------------


def test_an_attempt_of_an_async_step_is_cancelled_when_its_time_is_up(engine: TestEngine) -> None:
    cleaned = []

    @step(timeout=0.02)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(info().attempt)

    @workflow
    async def waits() -> str:
        try:
            await hang()
        except TimeoutError as error:
            return f"{type(error).__name__}: {error}"
        return "no timeout"

    message = engine.start(waits, id="run").result(60)
    assert message.startswith("StepTimeout: ")
    assert "hang" in message
    assert "'run'" in message
    assert "0.02" in message
    assert cleaned == [1]


def test_an_attempt_of_a_sync_step_is_told_when_its_time_is_up_and_its_late_result_is_ignored(
    engine: TestEngine,
) -> None:
    released, told = threading.Event(), threading.Event()

    @step(timeout=0.02)
    def hang() -> str:
        me = info()
        released.wait(60)
        if me.cancelled:
            with pytest.raises(StepwellError, match="hang"):
                me.check_cancelled()
            told.set()
        return "late"

    @workflow
    async def waits() -> str:
        try:
            return hang()
        except StepTimeout:
            return "timed out"

    run = engine.start(waits)
    assert run.result(60) == "timed out"
    released.set()
    assert told.wait(60)
    engine.idle()
    assert [entry.kind for entry in run.journal()] == ["step_failed"]


def test_a_timeout_is_retried_as_the_policy_says(engine: TestEngine) -> None:
    attempts = []

    @step(timeout=0.02, retry=Retry(attempts=3, delay=1, jitter=0))
    async def slow_twice() -> int:
        attempts.append(info().attempt)
        if len(attempts) < 3:
            await asyncio.Event().wait()
        return info().attempt

    @workflow
    async def waits() -> int:
        return await slow_twice()

    run = engine.start(waits)
    engine.advance(10)
    assert run.result(60) == 3
    assert attempts == [1, 2, 3]


def test_the_deadline_ends_all_attempts_with_their_delays(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 99, retry=Retry(attempts=99, delay=10, backoff=1, jitter=0), deadline=35))
    engine.advance(1000)
    with pytest.raises(Flaky):
        run.result(60)
    assert delays(executed) == [10, 10, 10]


@pytest.mark.parametrize("crash", ["never", "while the attempt is under way", "before the retry"])
@pytest.mark.parametrize("attempt", [1, 2])
def test_the_deadline_counts_from_the_first_start_also_after_attempts_that_are_shown(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, attempt: int, crash: str
) -> None:
    """The attempt takes 8 s, so the journal shows it; a retry 5 s after it would come at the deadline."""
    monkeypatch.setattr(dispatch, "LONG_STEP_SECONDS", 0.01)  # of real time, between two looks
    executed: list[int] = []
    inside, hold = threading.Event(), threading.Event()

    @step(deadline=13 if attempt == 1 else 18, retry=Retry(attempts=9, delay=5, backoff=1, jitter=0))
    def attempts() -> None:
        executed.append(info().attempt)
        if info().attempt == attempt and not hold.is_set():
            inside.set()
            hold.wait(60)
        raise Flaky(f"attempt {info().attempt}")

    @workflow
    async def tries() -> None:
        attempts()

    run = engine.start(tries)
    if attempt == 2:
        engine.idle()
        engine.clock.advance(5)
    assert inside.wait(60)
    engine.clock.advance(8)
    until(lambda: "step_started" in [entry.kind for entry in run.journal()])
    if crash == "while the attempt is under way":
        engine.crash()
        hold.set()
        engine.reopen()
    hold.set()
    engine.idle()
    if crash == "before the retry":
        engine.crash()
        engine.reopen()
    engine.advance(60)
    with pytest.raises(Flaky, match=f"attempt {attempt}"):
        run.result(60)
    assert max(executed) == attempt


def test_the_deadline_bounds_an_attempt_under_way(engine: TestEngine) -> None:
    @step(deadline=0.02, retry=Retry(attempts=5, delay=0))
    async def hang() -> None:
        await asyncio.Event().wait()

    @workflow
    async def waits() -> None:
        await hang()

    with pytest.raises(StepTimeout):
        engine.start(waits).result(60)


@pytest.mark.parametrize("option", ["timeout", "deadline"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), timedelta(days=-1), "5", True])
def test_an_absurd_time_limit_is_refused_at_the_declaration(option: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=option):
        step(**{option: value})
    with pytest.raises(InvalidArgument, match=option):
        double.options(**{option: value})


# --- options for a call -----------------------------------------------------------------------------------------------


def test_options_change_one_call_and_leave_the_step_as_it_is(engine: TestEngine) -> None:
    attempts: list[int] = []

    @step(name="flaky")
    async def flaky() -> int:
        attempts.append(info().attempt)
        if len(attempts) != 3:
            raise Flaky
        return info().attempt

    @workflow
    async def calls() -> list[Any]:
        found: list[Any] = [await flaky.options(retry=Retry(attempts=5, delay=1, jitter=0))()]
        try:
            await flaky()
        except Flaky:
            found.append("once")
        return found

    run = engine.start(calls)
    engine.advance(60)
    assert run.result(60) == [3, "once"]
    assert attempts == [1, 2, 3, 1]
    assert {entry.name for entry in run.journal()} == {"flaky"}


def test_options_that_are_not_given_stay_as_declared() -> None:
    policy = Retry(attempts=7)
    declared = step(name="nothing", retry=policy, timeout=5, deadline=50, delivery="at-most-once")(lambda: None)
    changed = declared.options(timeout=9).step_options
    assert (changed.retry, changed.timeout_seconds, changed.deadline_seconds) == (policy, 9, 50)
    assert changed.delivery == "at-most-once"


# --- what a step knows about itself -----------------------------------------------------------------------------------


def test_a_step_knows_its_run_its_attempt_and_when_it_started(engine: TestEngine) -> None:
    seen: list[StepInfo] = []

    @step(retry=Retry(attempts=2, delay=5, jitter=0), name="curious")
    def look() -> None:
        seen.append(info())
        if len(seen) == 1:
            raise Flaky

    @workflow
    async def looks() -> None:
        look()

    started_at = engine.clock.time
    run = engine.start(looks, id="run-1")
    engine.advance(5)
    run.result(60)
    assert [(found.run_id, found.step, found.operation, found.attempt) for found in seen] == [
        ("run-1", "curious", 1, 1),
        ("run-1", "curious", 1, 2),
    ]
    assert [found.started_at - started_at for found in seen] == [timedelta(0), timedelta(seconds=5)]
    assert seen[0].started_at.tzinfo is UTC


def test_the_idempotency_key_is_the_same_for_all_attempts_and_differs_between_calls(engine: TestEngine) -> None:
    keys: list[str] = []

    @step(retry=Retry(attempts=2, delay=5, jitter=0))
    async def act() -> None:
        keys.append(info().idempotency_key)
        if len(keys) % 2:
            raise Flaky

    @workflow
    async def acts() -> None:
        await act()
        await act()

    run = engine.start(acts)
    engine.idle()
    engine.crash()
    engine.reopen()
    engine.advance(60)
    run.result(60)
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert keys[0] != keys[2]


def test_a_step_called_inside_a_step_is_the_plain_function(engine: TestEngine) -> None:
    @step
    async def outer() -> int:
        return double(await triple(1))

    @workflow
    async def calls() -> int:
        return await outer()

    run = engine.start(calls)
    assert run.result(60) == 6
    assert len(run.journal()) == 1


def test_current_outside_of_workflows_and_steps_is_refused() -> None:
    with pytest.raises(StepwellError, match="outside"):
        current()


# --- delivery ---------------------------------------------------------------------------------------------------------


def crash_inside(engine: TestEngine, delivery: Any) -> tuple[list[int], Any]:
    """Crash while the step is under way; return the attempts that were executed and the run's handle."""
    executed: list[int] = []
    inside = threading.Event()

    @step(delivery=delivery)
    async def act() -> str:
        executed.append(info().attempt)
        if len(executed) == 1:
            inside.set()
            await asyncio.Event().wait()
        return "acted"

    @workflow
    async def acts() -> str:
        try:
            return await act()
        except StepInterrupted as error:
            return f"interrupted: {error}"

    run = engine.start(acts)
    assert inside.wait(60)
    engine.crash()
    engine.reopen()
    return executed, run


def test_a_step_that_was_cut_off_is_executed_again(engine: TestEngine) -> None:
    executed, run = crash_inside(engine, "at-least-once")
    assert run.result(60) == "acted"
    assert len(executed) == 2


def test_an_at_most_once_step_that_was_cut_off_is_not_repeated(engine: TestEngine) -> None:
    executed, run = crash_inside(engine, "at-most-once")
    message = run.result(60)
    assert message.startswith("interrupted: ")
    assert "act" in message
    assert len(executed) == 1
    assert [entry.kind for entry in run.journal()] == ["step_started", "step_failed"]


def test_an_at_most_once_step_is_visible_before_it_acts(engine: TestEngine) -> None:
    seen: list[list[str]] = []

    @step(delivery="at-most-once")
    def act() -> None:
        seen.append([entry.kind for entry in engine.get("run").journal()])

    @workflow
    async def acts() -> None:
        act()

    engine.start(acts, id="run").result(60)
    assert seen == [["step_started"]]


def test_an_at_most_once_step_may_fail_and_be_retried_by_its_policy(engine: TestEngine) -> None:
    executed: list[datetime] = []
    policy = Retry(attempts=3, delay=1, jitter=0)
    run = engine.start(failing(executed, 1, retry=policy, delivery="at-most-once"))
    engine.advance(0)
    engine.crash()
    engine.reopen()
    engine.advance(1)
    assert run.result(60) == "at attempt 2"


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("on", "attempts"), [(Exception, 1), (TimeoutError, 1), (StepTimeout, 3), ((Flaky, StepTimeout), 3)]
)
def test_an_at_most_once_step_that_ran_out_of_time_is_repeated_only_by_a_policy_that_names_that(
    engine: TestEngine, kind: str, on: Any, attempts: int
) -> None:
    executed: list[int] = []
    options: dict[str, Any] = {"delivery": "at-most-once", "timeout": 0.02}

    @step(retry=Retry(attempts=3, delay=0, on=on), **options)
    def act() -> None:
        executed.append(info().attempt)
        while not info().cancelled:
            time.sleep(0.001)

    @step(retry=Retry(attempts=3, delay=0, on=on), **options)
    async def act_async() -> None:
        executed.append(info().attempt)
        await asyncio.Event().wait()

    @workflow
    async def acts() -> None:
        if kind == "def":
            act()
        else:
            await act_async()

    with pytest.raises(StepTimeout, match=f"attempt {attempts} "):
        engine.start(acts).result(60)
    assert executed == list(range(1, attempts + 1))


def test_an_unknown_delivery_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="exactly-once"):
        step(delivery="exactly-once")  # type: ignore[call-overload]


# --- the journal ------------------------------------------------------------------------------------------------------


def test_failed_attempts_are_visible_in_the_journal(engine: TestEngine) -> None:
    executed: list[datetime] = []
    run = engine.start(failing(executed, 2, lambda: Flaky("no luck"), retry=Retry(attempts=5, delay=1, jitter=0)))
    engine.advance(60)
    run.result(60)
    journal = run.journal()
    assert [(entry.kind, entry.attempt) for entry in journal] == [
        ("attempt_failed", 1),
        ("attempt_failed", 2),
        ("step", 3),
    ]
    assert "no luck" in str(journal[0].error)
    assert journal[2].value == "at attempt 3"
    assert [entry.started_at for entry in journal] == executed


def test_a_long_step_becomes_visible_while_it_runs_and_a_short_one_costs_no_entry(engine: TestEngine) -> None:
    started, release = threading.Event(), threading.Event()

    @step
    def short() -> None:
        return

    @step
    def long() -> None:
        started.set()
        release.wait(60)

    @workflow
    async def works() -> None:
        short()
        long()

    run = engine.start(works)
    assert started.wait(60)
    engine.clock.advance(2)
    until(lambda: len(run.journal()) == 2)
    entry = run.journal()[-1]
    assert (entry.kind, entry.attempt) == ("step_started", 1)
    assert entry.started_at is not None
    assert entry.at - entry.started_at == timedelta(seconds=2)
    assert run.status == "running"
    release.set()
    run.result(60)
    assert [found.kind for found in run.journal()] == ["step", "step_started", "step"]


def test_a_step_whose_result_cannot_be_recorded_halts_the_run_and_is_repairable(engine: TestEngine) -> None:
    results: list[Any] = [object(), 5]

    @step
    async def act() -> Any:
        return results.pop(0)

    @workflow
    async def acts() -> Any:
        return await act()

    run = engine.start(acts, id="run")
    with pytest.raises(stepwell.ResultNotSerializable, match="act"):
        run.result(60)
    assert run.status == "halted"
    run.resume()
    assert run.result(60) == 5


def test_a_step_that_returns_another_type_than_annotated_halts_the_run(engine: TestEngine) -> None:
    @step
    async def lie() -> int:
        return "text"  # type: ignore[return-value]

    @workflow
    async def believes() -> int:
        return await lie()

    run = engine.start(believes)
    with pytest.raises(stepwell.ResultNotSerializable, match="lie"):
        run.result(60)
