"""A retry policy is followed as it is written, or refused where it is written."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from stepwell import Engine, InvalidArgument, PermanentError, Queue, Retry, step, workflow
from stepwell.model.retry import MAX_DURATION_SECONDS, next_delay
from stepwell.testing import TestEngine


def delays(policy: Retry, count: int) -> list[float | None]:
    return [next_delay(policy, attempt, OSError(), 0) for attempt in range(1, count + 1)]


# --- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Retry(attempts=9, delay=3600, jitter=0), [3600, 7200, 14400]),
        (Retry(attempts=9, delay=timedelta(hours=1), backoff=1, jitter=0), [3600, 3600, 3600]),
        (Retry(attempts=9, delay=200, backoff=3, jitter=0), [200, 600, 1800]),
        (Retry(attempts=9, delay=301, jitter=0), [301, 602, 1204]),
        (Retry(attempts=9, delay=0.001, backoff=1000, jitter=0), [0.001, 1, 300]),
        (Retry(attempts=9, delay=1, backoff=100, jitter=0), [1, 100, 300]),
        (Retry(attempts=9, delay=5, backoff=100, jitter=0), [5, 500, 1500]),
        (Retry(attempts=9, delay=0, jitter=0), [0, 0, 0]),
        (Retry(attempts=9, delay=7, max_delay=7, jitter=0), [7, 7, 7]),
        (Retry(attempts=9, delay=MAX_DURATION_SECONDS, jitter=0), [MAX_DURATION_SECONDS] * 3),
    ],
    ids=str,
)
def test_a_delay_is_never_shorter_than_it_was_asked_for(policy: Retry, expected: list[float]) -> None:
    assert delays(policy, 3) == expected


def test_one_attempt_is_a_policy_as_well() -> None:
    assert delays(Retry(attempts=1, delay=1), 1) == [None]


@pytest.mark.parametrize(("delay", "expected"), [(0.5, 300.0), (2, 600.0), (0, 0.0)])
def test_a_delay_that_grew_beyond_every_number_is_the_longest_one_and_none_stays_none(
    delay: float, expected: float
) -> None:
    policy = Retry(attempts=10_000, delay=delay, jitter=0)
    assert next_delay(policy, 5_000, OSError(), 0) == expected


def test_a_delay_of_an_hour_is_waited_for(engine: TestEngine) -> None:
    @step(retry=Retry(attempts=2, delay=3600, jitter=0))
    async def fails() -> None:
        raise ConnectionError

    @workflow
    async def calls() -> None:
        await fails()

    run = engine.start(calls)
    engine.idle()
    info = run.info()
    assert info.wake_at is not None
    assert info.wake_at - info.updated_at == timedelta(hours=1)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 10, "max_delay": 5},
        {"max_delay": 0.5},
        {"delay": timedelta(minutes=1), "max_delay": 59},
        {"delay": 61, "max_delay": timedelta(minutes=1)},
    ],
    ids=repr,
)
def test_a_longest_delay_below_the_first_one_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"max_delay .* must not be below delay"):
        Retry(**options)


def test_a_limit_of_a_debounce_below_the_debounce_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"debounce_limit .* must not be below debounce"):
        Queue("too short", debounce=10, debounce_limit=timedelta(seconds=9))


@pytest.mark.parametrize("size", [10**9 + 1, 2**63, 10**400])
def test_a_payload_that_no_row_can_hold_is_not_allowed(tmp_path: Any, size: int) -> None:
    with pytest.raises(InvalidArgument, match="max_payload_bytes must be at most"):
        Engine(tmp_path / "a.db", max_payload_bytes=size)
    assert not (tmp_path / "a.db").exists()


# --- what an exception asks for ---------------------------------------------------------------------------------------


class Busy(Exception):
    def __init__(self, retry_after: Any) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@pytest.mark.parametrize(("own", "seconds"), [(0, 0), (1.5, 1.5), (timedelta(minutes=2), 120), (86400, 86400)])
def test_an_exception_sets_its_own_delay(own: Any, seconds: float) -> None:
    assert next_delay(Retry(attempts=2, delay=9, max_delay=9), 1, Busy(own), 0) == seconds


@pytest.mark.parametrize(
    "own", [True, -1, float("nan"), float("inf"), 10**400, "120", timedelta(seconds=-1), timedelta.max, [], object()]
)
def test_of_a_delay_that_is_none_the_exception_tells_in_a_note(own: Any) -> None:
    error = Busy(own)
    assert next_delay(Retry(attempts=2, delay=9, jitter=0), 1, error, 0) == 9
    (note,) = error.__notes__
    assert "no duration" in note
    assert (repr(own)[:100] in note) == isinstance(own, (int, float, str, timedelta)), "what may be long is not shown"


def test_an_exception_whose_notes_cannot_be_added_to_is_retried_all_the_same() -> None:
    error = Busy("soon")
    error.__notes__ = 5  # type: ignore[assignment]
    assert next_delay(Retry(attempts=2, delay=9, jitter=0), 1, error, 0) == 9


# --- predicates -------------------------------------------------------------------------------------------------------


async def an_async_function(_error: BaseException) -> bool:
    return False


def a_generator(_error: BaseException) -> Iterator[bool]:
    yield False


async def an_async_generator(_error: BaseException) -> AsyncIterator[bool]:
    yield False


class AsyncCallable:
    async def __call__(self, _error: BaseException) -> bool:
        return False

    async def method(self, _error: BaseException) -> bool:
        return False


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


async def with_more(_more: int, _error: BaseException) -> bool:
    return False


UNFIT: dict[str, Any] = {
    "an async function": an_async_function,
    "a partial of one": functools.partial(with_more, 1),
    "a partial of a partial of one": functools.partial(functools.partial(with_more), 1),
    "an async method": AsyncCallable().method,
    "an object that is called asynchronously": AsyncCallable(),
    "an async function in a wrapper": wrapping(an_async_function),
    "an async step": step(name="a step")(an_async_function),
    "a generator": a_generator,
    "an async generator": an_async_generator,
    "an exception class": ValueError,
    "another class": str,
    "a function of nothing": lambda: True,
    "a function of two": lambda _one, _two: True,
    "a function of a keyword": lambda *, error: bool(error),
    "a truth": True,
    "a name": "ConnectionError",
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_predicate_that_could_only_be_true_is_refused_where_it_is_declared(case: str) -> None:
    with pytest.raises(InvalidArgument, match="when must be a plain function"):
        Retry(when=UNFIT[case])


@pytest.mark.parametrize(
    "when",
    [
        lambda error: bool(error.args),
        functools.partial(lambda code, error: error.args[0] == code, 5),
        functools.partial(lambda error, code: error.args[0] == code, code=5),
        wrapping(lambda error: bool(error.args)),
        {5}.__contains__,
    ],
)
def test_any_plain_callable_of_one_argument_is_a_predicate(when: Any) -> None:
    assert Retry(when=when).when is when


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_a_predicate_returns_that_must_be_awaited_counts_as_no(engine: TestEngine, kind: str) -> None:
    tries: list[int] = []

    def forgets(error: BaseException) -> Any:
        return an_async_function(error)

    policy = Retry(attempts=5, delay=0, when=forgets)

    def fail() -> None:
        tries.append(1)
        raise OSError("no route")

    async def fail_async() -> None:
        fail()

    failing: Any = step(retry=policy, name="failing")(fail_async if kind == "async" else fail)

    @workflow
    async def calls() -> None:
        result = failing()
        if result is not None:
            await result

    with pytest.raises(OSError, match="no route") as raised:
        engine.start(calls).result(60)
    assert "must be awaited" in "\n".join(raised.value.__notes__)
    assert tries == [1]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ZeroDivisionError("oops")])
def test_a_predicate_that_raises_whatever_it_is_ends_the_attempts_and_not_the_engine(
    engine: TestEngine, error: BaseException
) -> None:
    def broken(_error: BaseException) -> bool:
        raise error

    @step(retry=Retry(attempts=5, delay=0, when=broken))
    async def fails() -> None:
        raise OSError("no route")

    @workflow
    async def calls() -> None:
        await fails()

    for _ in range(2):
        with pytest.raises(OSError, match="no route") as raised:
            engine.start(calls).result(60)
        assert f"`when` raised {type(error).__name__}" in "\n".join(raised.value.__notes__)


@pytest.mark.parametrize("on", [(), [OSError], [], None, "OSError", (OSError, ()), len])
def test_classes_that_are_none_are_refused(on: Any) -> None:
    with pytest.raises(InvalidArgument, match="on must be an exception class"):
        Retry(on=on)


def test_a_permanent_error_is_not_retried_whatever_it_asks_for() -> None:
    error = PermanentError("card is blocked")
    error.retry_after = 1  # type: ignore[attr-defined]
    assert next_delay(Retry(attempts=5), 1, error, 0) is None
