"""`poll_until`: a step that is tried until what it returns fits, what that costs, and how it goes on after a crash."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import stepwell
from stepwell import InvalidArgument, PollTimeout, Retry, StepwellError, poll_until, step, sync, transaction, workflow
from stepwell.testing import TestEngine

#: What the step returns next, by the name of the poll; the last one for ever. And how often it was called.
answers: dict[str, list[Any]] = {}
calls: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _nothing_before() -> None:
    answers.clear()
    calls.clear()


def next_answer(name: str) -> str:
    calls[name] = calls.get(name, 0) + 1
    left = answers[name]
    found = left.pop(0) if len(left) > 1 else left[0]
    if isinstance(found, Exception):
        raise found
    return str(found)


@step(name="polls.blocks", retry=Retry(attempts=3, delay=1, backoff=1, jitter=0))
def blocks(name: str) -> str:
    return next_answer(name)


@step(name="polls.awaits", retry=Retry(attempts=3, delay=1, backoff=1, jitter=0))
async def awaits(name: str) -> str:
    await asyncio.sleep(0)
    return next_answer(name)


def is_done(status: str) -> bool:
    return status == "done"


@workflow(name="polls.async")
async def polls_async(name: str, timeout: float | None = None) -> str:
    return await poll_until(awaits, name, until=is_done, every=60, timeout=timeout)


@workflow(name="polls.sync")
def polls_sync(name: str, timeout: float | None = None) -> str:
    return sync.poll_until(blocks, name, until=lambda status: status == "done", every=60, timeout=timeout)


BOTH = pytest.mark.parametrize("code", [polls_async, polls_sync], ids=["async", "sync"])


@BOTH
def test_it_is_tried_in_its_rhythm_until_it_fits_and_costs_one_row(engine: TestEngine, code: Any) -> None:
    answers["r"] = ["queued"] * 50 + ["done"]
    run = engine.start(code, "r", id="r")
    engine.idle()
    (wait,) = run.info().waiting_on
    assert (wait.kind, wait.name, wait.attempt) == ("poll", code_step(code), 1)
    assert wait.until is not None
    assert (wait.until - run.info().created_at).total_seconds() == pytest.approx(60, abs=1)
    assert f"what step {code_step(code)!r} returns, which it polls: 1 try so far, the next one is at" in str(
        run.info().reason
    )
    engine.advance(49 * 60)
    assert calls["r"] == 50
    (progress,) = run.info().progress
    assert (progress.kind, progress.done, progress.words) == ("poll", 50, "50 tries")
    assert progress.next_at == run.info().waiting_on[0].until == run.info().wake_at
    assert run.journal() == []
    engine.advance(60)
    assert run.result(30) == "done"
    assert [(entry.kind, entry.attempt) for entry in run.journal()] == [("step", 51)]
    (row,) = engine._session.reads.details("r").progress
    assert (row.done, row.ended) == (50, True)


def code_step(code: Any) -> str:
    return "polls.awaits" if code is polls_async else "polls.blocks"


def test_what_fits_at_once_writes_no_row(engine: TestEngine) -> None:
    answers["r"] = ["done"]
    assert engine.start(polls_async, "r", id="r").result(30) == "done"
    assert engine._session.reads.details("r").progress == []


@BOTH
@pytest.mark.parametrize("parked", [False, True])
def test_its_rhythm_and_its_tries_survive_crashes(engine: TestEngine, code: Any, parked: bool) -> None:
    answers["r"] = ["queued"] * 4 + ["done"]
    engine.start(code, "r", id="r")
    engine.idle()
    engine.advance(90)  # the second try was at 60
    engine.crash()
    engine.reopen(max_waiting_in_memory=0 if parked else 100)
    engine.idle()
    assert calls["r"] == 2  # nothing was due
    assert engine.get("r").info().progress[0].done == 2
    engine.advance(29)
    assert calls["r"] == 2
    engine.advance(1)  # 120
    assert calls["r"] == 3
    engine.crash()
    engine.reopen()
    engine.advance(120)
    assert engine.get("r").result(30) == "done"
    assert calls["r"] == 5


def test_tries_that_were_missed_are_left_out(engine: TestEngine) -> None:
    answers["r"] = ["queued", "queued", "done"]
    engine.start(polls_async, "r", id="r")
    engine.idle()
    engine.crash()
    engine.clock.advance(60 * 10 + 30)
    engine.reopen()
    engine.idle()
    assert calls["r"] == 2  # at once, since it was due
    engine.advance(29)
    assert calls["r"] == 2
    engine.advance(1)
    assert engine.get("r").result(30) == "done"


@BOTH
def test_at_its_timeout_it_is_tried_once_more_and_raises(engine: TestEngine, code: Any) -> None:
    answers["r"] = ["queued"]
    run = engine.start(code, "r", 150, id="r")
    engine.idle()
    engine.advance(149)
    assert calls["r"] == 3
    engine.crash()
    engine.reopen()
    engine.advance(1)
    with pytest.raises(PollTimeout, match=r"step 'polls\.\w+' \(operation 1\) returned did not fit within 150 s, in 4"):
        engine.get("r").result(30)
    assert [entry.kind for entry in engine.get("r").journal()] == ["step_failed"]
    answers["r"] = ["queued", "done"]
    engine.get("r").retry()  # the poll begins anew
    engine.advance(60)
    assert engine.get("r").result(30) == "done"
    assert isinstance(PollTimeout(), TimeoutError)
    assert run.id == "r"


@BOTH
def test_a_try_that_fails_is_repeated_as_the_policy_says_and_attempts_count_anew(engine: TestEngine, code: Any) -> None:
    down = [ConnectionError("down"), ConnectionError("down")]
    answers["r"] = [*down, "queued", *down, "queued", *down, "done"]
    run = engine.start(code, "r", id="r")
    engine.idle()
    assert run.info().waiting_on[0].kind == "retry"
    engine.advance(62)
    engine.crash()
    engine.reopen()
    engine.advance(70)
    assert engine.get("r").result(30) == "done"
    assert [entry.kind for entry in engine.get("r").journal()] == ["attempt_failed"] * 6 + ["step"]
    answers["s"] = ["queued", *down, ConnectionError("down for good"), "done"]
    run = engine.start(code, "s", id="s")
    engine.idle()
    engine.advance(70)
    with pytest.raises(ConnectionError, match="for good"):
        run.result(30)
    assert run.info().progress == []


def test_failures_until_the_timeout_are_its_cause(engine: TestEngine) -> None:
    @step(name="polls.down", retry=Retry(attempts=100, delay=20, backoff=1, jitter=0))
    def down() -> str:
        raise ConnectionError("down")

    @workflow(name="polls.polls_down")
    async def polls_down() -> str:
        try:
            return await poll_until(down, until=is_done, every=1, timeout=50)
        except PollTimeout as error:
            return f"{error.__cause__}"

    run = engine.start(polls_down)
    engine.idle()
    engine.advance(50)
    assert run.result(30) == "down"


def raises(_value: str) -> bool:
    raise LookupError("not this one")


def is_done_later(status: str) -> object:
    return is_done_async(status)


async def is_done_async(status: str) -> bool:
    return status == "done"


def test_what_the_predicate_raises_is_raised_by_the_poll(engine: TestEngine) -> None:
    answers["r"] = ["queued"]

    @workflow(name="polls.predicate")
    async def predicate(name: str, which: str) -> str:
        until: Callable[[str], object] = raises if which == "raises" else is_done_later
        try:
            return await poll_until(awaits, name, until=until, every=1)
        except (LookupError, TypeError) as error:
            return f"{type(error).__name__}: {error}"

    assert engine.start(predicate, "r", "raises").result(30) == "LookupError: not this one"
    assert "must be a plain function" in engine.start(predicate, "r", "async").result(30)


@transaction(name="polls.transacts")
def transacts(connection: stepwell.Connection) -> str:
    return str(connection)


@step(name="polls.once", delivery="at-most-once")
def once() -> str:
    return "done"


@pytest.mark.parametrize(
    ("poll", "problem"),
    [
        (lambda: poll_until(transacts, until=is_done, every=1), "needs a @step"),
        (lambda: poll_until(next_answer, "r", until=is_done, every=1), "needs a @step"),
        (lambda: poll_until(polls_async, "r", until=is_done, every=1), "needs a @step"),
        (lambda: poll_until(once, until=is_done, every=1), "delivered at most once"),
        (lambda: poll_until(blocks, "r", until=cast("Any", "done"), every=1), "until of"),
        (lambda: poll_until(blocks, "r", until=is_done_async, every=1), "plain function"),
        (lambda: poll_until(blocks, "r", until=is_done, every=0), "every of"),
        (lambda: poll_until(blocks, "r", until=is_done, every=1, timeout=-1), "timeout of"),
        (lambda: poll_until(cast("Any", blocks), until=is_done, every=1), "'name'"),
    ],
)
def test_what_cannot_be_polled_is_refused_before_anything_is_written(
    engine: TestEngine, poll: Callable[[], Any], problem: str
) -> None:
    @workflow(name="polls.wrong", fail_on=Exception)
    async def wrong() -> None:
        await poll()

    run = engine.start(wrong)
    with pytest.raises((InvalidArgument, StepwellError), match=problem):
        run.result(30)
    assert run.journal() == []


def test_a_poll_whose_task_is_cancelled_is_over(engine: TestEngine) -> None:
    answers["r"] = ["queued"]

    @workflow(name="polls.bounded")
    async def bounded() -> str:
        try:
            async with asyncio.timeout(90):
                return await poll_until(functools.partial(awaits, name="r"), until=is_done, every=60)
        except TimeoutError:
            await asyncio.sleep(1000)
            return "gave up"

    run = engine.start(bounded, id="r")
    engine.idle()
    engine.advance(500)
    assert calls["r"] == 2
    assert run.info().progress == []


def test_the_line_shows_the_tries(engine: TestEngine, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers["r"] = ["queued"]
    engine.start(polls_async, "r", id="r")
    engine.idle()
    assert stepwell.cli.main(["show", "r", "--db", str(database)]) == 0
    assert "polls: 1 try so far, the next one is at" in capsys.readouterr().out
