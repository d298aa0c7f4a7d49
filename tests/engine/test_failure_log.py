"""What the log says of failures: one line for each, once it stands in the file, with fields and traceback."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Desk
from tests.support.programs import flows

from stepwell import Engine, PermanentError, Queue, Retry, StepInterrupted, receive, step, sync, transaction, workflow
from stepwell.package import ROOT
from stepwell.testing import TestEngine

three = Retry(attempts=3, delay=1.0, jitter=0)


class Ear(logging.Handler):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


@pytest.fixture
def heard() -> Iterator[list[logging.LogRecord]]:
    """What was logged, as records."""
    logger, ear = logging.getLogger("stepwell"), Ear()
    level = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    yield ear.heard
    logger.removeHandler(ear)
    logger.setLevel(level)


def of_run(heard: list[logging.LogRecord], run_id: str, *, least: int = logging.WARNING) -> list[logging.LogRecord]:
    return [record for record in heard if getattr(record, "run", None) == run_id and record.levelno >= least]


def traceback_of(record: logging.LogRecord) -> str:
    return logging.Formatter().format(record)


@step(name="flaky", retry=three)
def flaky() -> int:
    raise ConnectionError("the api is down")


@step(name="flaky_async", retry=three)
async def flaky_async() -> int:
    raise ConnectionError("the api is down")


@step(name="slow", retry=three, timeout=0.05)
async def slow() -> int:
    await asyncio.sleep(60)
    return 1


@step(name="apart", retry=three, isolate="process")
def apart() -> int:
    raise ConnectionError("the api is down")


@transaction(name="writing", retry=three)
def writing(db: Any) -> int:
    db.execute("SELECT 1")
    raise ConnectionError("the api is down")


@workflow(name="calls a failing step")
def calls(which: str) -> int:
    if which == "flaky_async":
        return sync.call(flaky_async)
    if which == "slow":
        return sync.call(slow)
    return {"flaky": flaky, "apart": apart, "writing": writing}[which]()


@pytest.mark.parametrize("which", ["flaky", "flaky_async", "slow", "apart", "writing"])
def test_each_failed_attempt_is_a_warning_and_the_failed_run_an_error(
    engine: TestEngine, heard: list[logging.LogRecord], which: str
) -> None:
    run = engine.start(calls, which, id="order-1")
    for delay in (0, 1.0, 2.0):
        engine.advance(delay)
    with pytest.raises((ConnectionError, TimeoutError)):
        run.result(timeout=60)
    *attempts, over = of_run(heard, "order-1")
    assert [(record.levelname, record.step, record.attempt) for record in attempts] == [  # type: ignore[attr-defined]
        ("WARNING", which, number) for number in (1, 2, 3)
    ]
    assert [record.retry_at is None for record in attempts] == [False, False, True]  # type: ignore[attr-defined]
    assert "attempt 2 of 3" in attempts[1].getMessage()
    assert "the next one follows in 2 s" in attempts[1].getMessage()
    assert over.levelname == "ERROR"
    assert (over.run, over.run_id, over.workflow) == ("order-1", "order-1", "calls a failing step")  # type: ignore[attr-defined]
    if which != "slow":
        assert all(f"in {which}" in traceback_of(record) for record in [*attempts, over])
        assert "the api is down" in over.getMessage()
    assert not [record for record in [*attempts, over] if ROOT in traceback_of(record)]  # nobody's business


def test_tracebacks_of_children_of_def_workflows_have_the_frames_of_their_code_only(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    @workflow(name="wraps what its child failed with")
    def wraps() -> None:
        try:
            sync.start(calls, "flaky", id="child").result()
        except ConnectionError as error:
            raise ExceptionGroup("several", [RuntimeError("one"), error]) from error

    run = engine.start(wraps, id="order-1")
    engine.advance(10)
    with pytest.raises(ExceptionGroup):
        run.result(timeout=60)
    texts = [traceback_of(record) for record in of_run(heard, "child") + of_run(heard, "order-1")]
    assert len(texts) == 5
    assert all(__file__ in text and ROOT not in text for text in texts)


def test_a_failure_is_not_logged_again_by_a_replay_or_by_another_engine(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    @workflow(name="waits_after_failures")
    async def waits_after_failures() -> None:
        try:
            flaky()
        except ConnectionError:
            await receive("go")
        raise ValueError("in the end")

    run = engine.start(waits_after_failures, id="order-1")
    for delay in (0, 1.0, 2.0):
        engine.advance(delay)
    assert len(of_run(heard, "order-1")) == 3
    for _ in range(2):
        engine.reopen()
        engine.idle()
    assert len(of_run(heard, "order-1")) == 3
    engine.send("order-1", "go")
    run = engine.get("order-1")
    with pytest.raises(ValueError, match="in the end"):
        run.result(timeout=60)
    engine.reopen()
    assert [record.levelname for record in of_run(heard, "order-1")] == ["WARNING"] * 3 + ["ERROR"]


def test_the_failure_of_a_child_is_logged_although_its_parent_handles_it(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    @workflow(name="failing_child")
    async def failing_child() -> None:
        raise ValueError("of the child")

    @workflow(name="handling_parent")
    async def handling_parent() -> str:
        try:
            await failing_child()
        except ValueError:
            return "handled"
        return ""

    assert engine.start(handling_parent, id="p").result(timeout=60) == "handled"
    assert not of_run(heard, "p")
    (line,) = of_run(heard, "p/1")
    assert line.levelname == "ERROR"
    assert "in failing_child" in traceback_of(line)


def test_a_halted_run_is_an_error_and_no_news_when_it_is_halted_again_for_the_same_reason(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    @workflow(name="halts")
    async def halts() -> object:
        return object()

    run = engine.start(halts, id="order-1")
    engine.idle()
    assert run.status == "halted"
    assert [record.levelname for record in of_run(heard, "order-1")] == ["ERROR"]
    engine.reopen()
    engine.idle()
    assert engine.get("order-1").status == "halted"
    assert [record.levelname for record in of_run(heard, "order-1")] == ["ERROR"]
    assert [record.levelname for record in of_run(heard, "order-1", least=logging.DEBUG)] == ["ERROR", "DEBUG"]
    engine.get("order-1").resume()  # that was asked for, so its outcome is news
    engine.idle()
    assert [record.levelname for record in of_run(heard, "order-1")] == ["ERROR", "ERROR"]


def test_a_result_that_cannot_be_recorded_is_logged_with_its_step(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    @step(name="returns_nonsense")
    def returns_nonsense() -> object:
        return object()

    @workflow(name="calls_nonsense")
    async def calls_nonsense() -> None:
        returns_nonsense()

    engine.start(calls_nonsense, id="order-1")
    engine.idle()
    (line,) = of_run(heard, "order-1")
    assert (line.levelname, line.step, line.attempt) == ("ERROR", "returns_nonsense", 1)  # type: ignore[attr-defined]


def test_a_cancelled_run_is_told_at_info_whether_it_had_begun_or_not(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    @workflow(name="waits")
    async def waits() -> None:
        await receive("go")

    paused = Queue("paused")
    begun = engine.start(waits, id="begun")
    engine.start(waits, id="first", queue=paused).cancel()
    engine.queue(paused).pause()
    unbegun = engine.start(waits, id="unbegun", queue=paused)
    engine.idle()
    begun.cancel("enough")
    unbegun.cancel("never mind")
    engine.idle()
    for run_id, reason in (("begun", "enough"), ("unbegun", "never mind")):
        assert not of_run(heard, run_id)
        (line,) = of_run(heard, run_id, least=logging.INFO)
        assert line.levelname == "INFO"
        assert reason in line.getMessage()


def test_a_passed_deadline_is_an_error(engine: TestEngine, heard: list[logging.LogRecord]) -> None:
    @workflow(name="waits_too_long")
    async def waits_too_long() -> None:
        await receive("go")

    queue = Queue("closed")
    engine.start(waits_too_long, id="begun", deadline=5)
    engine.start(waits_too_long, id="first", queue=queue)
    engine.queue(queue).pause()
    engine.start(waits_too_long, id="unbegun", deadline=5, queue=queue)
    engine.advance(6)
    for run_id in ("begun", "unbegun"):
        (line,) = of_run(heard, run_id)
        assert line.levelname == "ERROR"
        assert "deadline" in line.getMessage()


def test_an_interrupted_step_is_logged_when_it_is_found(engine: TestEngine, heard: list[logging.LogRecord]) -> None:
    began = asyncio.Event()

    @step(name="once", delivery="at-most-once")
    async def once() -> None:
        began.set()
        await asyncio.sleep(3600)

    @workflow(name="calls_once")
    async def calls_once() -> str:
        try:
            await once()
        except StepInterrupted:
            return "interrupted"
        return ""

    engine.start(calls_once, id="order-1")
    while not began.is_set():
        engine.get("order-1").info()
    engine.crash()
    engine.reopen()
    assert engine.get("order-1").result(timeout=60) == "interrupted"
    (line,) = of_run(heard, "order-1")
    assert (line.levelname, line.step) == ("WARNING", "once")  # type: ignore[attr-defined]


def test_a_run_that_is_given_up_because_it_kills_its_workers_is_an_error(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    began = asyncio.Event()

    @step(name="kills")
    async def kills() -> None:
        began.set()
        await asyncio.sleep(3600)

    @workflow(name="calls_killer")
    async def calls_killer() -> None:
        await kills()

    engine.start(calls_killer, id="order-1")
    for _ in range(2):
        while not began.is_set():
            engine.get("order-1").info()
        began.clear()
        engine.crash()
        engine.reopen(max_crashes=2)
    engine.idle()
    (line,) = of_run(heard, "order-1")
    assert line.levelname == "ERROR"
    assert "is given up: RunCrashed: " in line.getMessage()


def test_what_fails_when_nobody_waits_for_it_any_more_is_told_at_info(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    began = asyncio.Event()

    @step(name="fails_late")
    async def fails_late() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise OSError("the connection could not be closed") from None

    @workflow(name="loses_interest")
    async def loses_interest() -> None:
        task = asyncio.create_task(fails_late())
        await receive("enough")
        task.cancel()

    run = engine.start(loses_interest, id="order-1")
    while not began.is_set():
        run.info()
    run.send("enough")
    run.result(timeout=60)
    engine.idle()
    (line,) = of_run(heard, "order-1", least=logging.INFO)
    assert (line.levelname, line.step) == ("INFO", "fails_late")  # type: ignore[attr-defined]
    assert "the connection could not be closed" in line.getMessage()


def test_an_attempt_that_is_not_tried_again_says_so(engine: TestEngine, heard: list[logging.LogRecord]) -> None:
    @step(name="permanent", retry=three)
    def permanent() -> None:
        raise PermanentError("no such order")

    @workflow(name="calls_permanent")
    async def calls_permanent() -> None:
        permanent()

    with pytest.raises(PermanentError):
        engine.start(calls_permanent, id="order-1").result(timeout=60)
    assert "attempt 1 of 3" in of_run(heard, "order-1")[0].getMessage()
    assert "no other follows" in of_run(heard, "order-1")[0].getMessage()


def test_a_handler_that_raises_and_an_error_without_a_text_do_not_harm_the_engine(engine: TestEngine) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(f"the log server is gone: {record.levelname}")

    @workflow(name="fails_without_a_word")
    async def fails_without_a_word() -> None:
        raise Mute

    handler = Broken()
    logging.getLogger("stepwell").addHandler(handler)
    try:
        run = engine.start(fails_without_a_word)
        with pytest.raises(Exception, match="cannot be told"):
            run.result(timeout=60)
        assert run.status == "failed"
    finally:
        logging.getLogger("stepwell").removeHandler(handler)


def test_a_failure_whose_commit_is_refused_is_not_logged_before_it_stands(
    database: Path, heard: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepwell.errors import StorageFull

    @workflow(name="fails_on_a_full_disk")
    async def fails_on_a_full_disk() -> None:
        await receive("go")
        raise ValueError("now")

    with Engine(database) as engine:
        run = engine.start(fails_on_a_full_disk, id="order-1")
        while run.status != "waiting":
            pass
        store = engine._session.engine_thread.turn_loop.store
        commit = store.commit
        refusals: list[list[logging.LogRecord]] = []

        def refuse(*arguments: Any) -> Any:
            if len(refusals) < 1:
                refusals.append(of_run(heard, "order-1"))
                raise StorageFull("the disk is full")
            return commit(*arguments)

        engine.send("order-1", "other")
        monkeypatch.setattr(store, "commit", refuse)
        with suppress(StorageFull):  # it is kept, and tried again by itself
            engine.send("order-1", "go")
        with pytest.raises(ValueError, match="now"):
            run.result(timeout=60)
        assert refusals == [[]]
        assert [record.levelname for record in of_run(heard, "order-1")] == ["ERROR"]


def test_a_text_that_no_encoding_has_is_logged_with_escapes(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow(name="says something odd")
    async def odd() -> None:
        raise ValueError("half a character: \ud800")

    run = engine.start(odd)
    engine.idle()
    assert run.status == "failed"
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    said.getMessage().encode()
    assert "half a character: \\ud800" in said.getMessage()
    assert "Traceback" in said.getMessage()
    assert said.exc_info is None


def test_of_several_workers_one_says_it_and_none_says_it_again_after_a_restart(desk: Desk) -> None:
    desk.start_runs(("order-1", flows.failing))
    command = desk.worker("--processes", "2")
    command.expect("ERROR .*run 'order-1' of 'failing' failed: ValueError: no luck")
    command.expect("serves")
    command.signal(signal.SIGTERM)
    assert command.end() == 0
    again = desk.worker()
    again.signal(signal.SIGTERM)
    assert again.end() == 0
    assert "'order-1'" not in again.output
    assert command.output.count("'order-1'") == 1


def stumble() -> None:
    raise ValueError("of nobody's")


@workflow(name="leaves a failing callback")
async def leaves_a_failing_callback() -> str:
    asyncio.get_running_loop().call_soon(stumble)
    return await receive("word", str)


def test_an_exception_that_the_code_leaves_to_its_loop_is_logged_once_and_not_by_a_replay(
    engine: TestEngine, heard: list[logging.LogRecord]
) -> None:
    run = engine.start(leaves_a_failing_callback, id="stray-1")
    engine.idle()
    (said,) = of_run(heard, "stray-1")
    assert said.getMessage() == "run 'stray-1': a callback raised"
    assert "ValueError: of nobody's" in traceback_of(said)
    engine = engine.reopen()
    engine.get(run.id).send("word", "on")
    assert engine.get(run.id).result(timeout=60) == "on"
    assert of_run(heard, "stray-1") == [said]
