"""Every request is answered once: served, refused while nothing can be written, or told that the engine stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any, get_args

import pytest

from stepwell import Engine, step, workflow
from stepwell.definitions.queues import SettingsChange
from stepwell.definitions.saying import PublishedValue
from stepwell.definitions.step_call import StepCall
from stepwell.errors import (
    EngineClosed,
    InvalidArgument,
    PromiseNotFound,
    QueueNotFound,
    RunEnded,
    RunNotEnded,
    RunNotFound,
    RunNotPaused,
    RunNotQueued,
    StepwellError,
    StorageFull,
)
from stepwell.model.acts import Actor
from stepwell.model.attributes import Description
from stepwell.model.calendar_spec import CalendarSpec
from stepwell.model.schedule import ScheduleDefinition
from stepwell.runtime.serving.requests import (
    AnswerPromise,
    ArchiveRuns,
    CancelRun,
    CancelWaiting,
    ChangeQueue,
    ContinueBulk,
    DeleteRun,
    DescribeRun,
    ForkRun,
    FromStep,
    OutgoingMessage,
    PauseQueue,
    PauseRun,
    Purge,
    Request,
    RescheduleRun,
    ResumeRun,
    RetryRun,
    RetryRuns,
    RewindRun,
    SendMessage,
    SettleStep,
    StartBulk,
    StartRun,
    TerminateRun,
    TruncateStream,
    UpdateRun,
    WaitForIdle,
    WaitForRun,
    WaitForStream,
    WaitForValue,
)
from stepwell.runtime.serving.schedule_requests import (
    BackfillSchedule,
    ChangeSchedule,
    DeleteSchedule,
    PauseSchedule,
    PutSchedule,
    TriggerSchedule,
)
from stepwell.runtime.turn import TurnLoop
from stepwell.store.archives import Archived
from stepwell.store.changes import RunCreated, RunFinished
from stepwell.store.inspector import RunFilter
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Unit
from stepwell.values.codec import Codec
from stepwell.worker.state.runs import Capacity

NOW = 1_700_000_000_000_000


@step
def tells() -> None:
    """Never called."""


MIA = Actor("mia", "asked for")
GONE = StepCall(99, "gone", tells, "tells", 0, (), {}, copy_context())
NEW = RunCreated("new", "anything", None, 0, "running", NOW)


class Nowhere:
    """An archive that no run is moved into."""

    path = "nowhere"

    def close(self) -> None:
        """Nothing is open."""

    def move(self, _keys: object, _execute: object, _actor: Actor, _at: int) -> Archived:
        return Archived(0, [], [])


NOWHERE = Nowhere()
WRITING: list[Request] = [
    StartRun(NEW, (OutgoingMessage("go", None, None),)),
    SendMessage("ended", OutgoingMessage("go", None, None)),
    CancelRun("ended", MIA),
    ResumeRun("ended", MIA),
    RetryRun("ended", MIA),
    RewindRun("waits", 1, MIA),
    ForkRun("waits", 1, "fork", MIA),
    SettleStep("waits", 1, "step", "1", MIA),
    PauseRun("waits", True, False, MIA),
    PutSchedule("daily", ScheduleDefinition("anything", CalendarSpec(crons=("0 0 * * *",))), None, MIA),
    ChangeSchedule("unknown", {}, {}, MIA),
    PauseSchedule("unknown", True, MIA),
    TriggerSchedule("unknown", MIA),
    BackfillSchedule("unknown", NOW, NOW + 1, "skip", MIA),
    DeleteSchedule("unknown", MIA),
    RetryRuns(RunFilter(status=("failed",)), MIA),
    PauseRun("waits", True, False, MIA),
    TerminateRun("waits", MIA),
    DeleteRun("ended", MIA),
    DescribeRun("waits", Description(tags=("vip",)), MIA),
    StartBulk("pause", "id:x", RunFilter(id="x"), MIA),
    ContinueBulk(1),
    ChangeQueue("unknown", SettingsChange({"concurrency": 2})),
    PauseQueue("unknown", True, MIA),
    CancelWaiting("unknown", None, MIA),
    RescheduleRun("waits", 5, None, MIA),
    Purge(NOW),
    ArchiveRuns([99], NOWHERE, MIA),
    TruncateStream("waits", "tokens", 1),
    UpdateRun("ended", OutgoingMessage("add", "[[],{}]", "1"), True),
    AnswerPromise("unknown", "resolved", "1", MIA),
    FromStep(GONE, 1, PublishedValue("total", "1")),
]
WAITING: list[Request] = [
    WaitForRun("ended"),
    WaitForValue("ended", "total"),
    WaitForStream("ended", "tokens", 0),
    WaitForIdle(),
]
REFUSED: list[tuple[Request, type[Exception]]] = [
    (SendMessage("nobody", OutgoingMessage("go", None, None)), RunNotFound),
    (SendMessage("ended", OutgoingMessage("go", None, None)), RunEnded),
    (CancelRun("nobody", MIA), RunNotFound),
    (ResumeRun("nobody", MIA), RunNotFound),
    (ResumeRun("ended", MIA), RunEnded),
    (RetryRun("nobody", MIA), RunNotFound),
    (RewindRun("nobody", 1, MIA), RunNotFound),
    (ForkRun("nobody", 1, "fork", MIA), RunNotFound),
    (SettleStep("nobody", 1, "step", "1", MIA), RunNotFound),
    (SettleStep("ended", 1, "step", "1", MIA), InvalidArgument),
    (RetryRun("waits", MIA), RunNotEnded),
    (PauseRun("nobody", True, False, MIA), RunNotFound),
    (PauseRun("waits", False, False, MIA), RunNotPaused),
    (TerminateRun("ended", MIA), RunEnded),
    (TerminateRun("nobody", MIA), RunNotFound),
    (DeleteRun("nobody", MIA), RunNotFound),
    (ChangeQueue("unknown", SettingsChange({"concurrency": 2})), QueueNotFound),
    (PauseQueue("unknown", False, MIA), QueueNotFound),
    (RescheduleRun("nobody", 5, None, MIA), RunNotFound),
    (RescheduleRun("waits", 5, None, MIA), RunNotQueued),
    (RescheduleRun("ended", 0, NOW, MIA), RunEnded),
    (TruncateStream("nobody", "tokens", 1), RunNotFound),
    (UpdateRun("nobody", OutgoingMessage("add", "[[],{}]", "1"), True), RunNotFound),
    (UpdateRun("ended", OutgoingMessage("add", "[[],{}]", "1"), True), RunEnded),
    (AnswerPromise("unknown", "resolved", "1", MIA), PromiseNotFound),
    (FromStep(GONE, 1, PublishedValue("total", "1")), StepwellError),
    (WaitForStream("nobody", "tokens", 0), RunNotFound),
    (WaitForRun("nobody"), RunNotFound),
    (WaitForValue("nobody", "total"), RunNotFound),
    (WaitForValue("ended", "total"), RunEnded),
]


class Driver:
    """Drives nothing by itself."""

    def time(self) -> int:
        return NOW

    def wake(self) -> None:
        """Nothing waits."""

    def failed(self) -> None:
        """It is to fail."""

    def run_steps(self, attempts: list[Any]) -> None:
        raise NotImplementedError

    drop_steps = run_steps

    def store_unavailable(self) -> None:
        raise NotImplementedError


@pytest.fixture
def loop(database: Path) -> Iterator[TurnLoop]:
    """Return a loop whose file has a run that failed, and one that nobody begins."""
    store = SqliteStore.open(database)
    loop = TurnLoop(store, Codec(), {}, limits=Capacity(10, 10, 5), chance=lambda: 0.5, driver=Driver())
    store.writers.acquire()
    loop.open(NOW)
    waits, ended = (RunCreated(name, "anything", None, 0, "pending", NOW) for name in ("waits", "ended"))
    store.commit([Unit([waits]), Unit([ended])], loop.claimed())
    store.commit([Unit([RunFinished(2, "failed", NOW, error="{}")])], loop.claimed())
    store.writers.release()
    settle(loop)
    yield loop
    store.writers.acquire()
    store.close(loop.claim, NOW)
    store.writers.release()


def settle(loop: TurnLoop) -> None:
    while loop.has_more():
        loop.turn(NOW)


def asked(loop: TurnLoop, request: Request) -> list[tuple[Any, BaseException | None]]:
    answers: list[tuple[Any, BaseException | None]] = []
    loop.submit(request, lambda value, error: answers.append((value, error)))
    return answers


def kind(request: object) -> str:
    return type(request[0] if isinstance(request, tuple) else request).__name__


def test_there_is_a_case_of_each_kind_of_request() -> None:
    assert {type(request) for request in (*WRITING, *WAITING)} == set(get_args(Request))


@pytest.mark.parametrize(("request_", "error"), REFUSED, ids=kind)
def test_what_is_refused_is_answered_with_the_reason_and_the_engine_goes_on(
    loop: TurnLoop, request_: Request, error: type[Exception]
) -> None:
    answers = asked(loop, request_)
    settle(loop)
    ((_, refusal),) = answers
    assert isinstance(refusal, error)
    assert loop.failure is None


@pytest.mark.parametrize("request_", WRITING, ids=kind)
def test_a_request_is_refused_while_nothing_can_be_written(loop: TurnLoop, request_: Request) -> None:
    loop.gate.unavailable = StorageFull("the disk is full")
    answers = asked(loop, request_)
    loop.turn(NOW)
    ((value, error),) = answers
    assert value is None
    assert str(error) == "the disk is full"
    assert error is not loop.gate.unavailable  # whoever raises it adds a traceback
    assert not loop.worker.batch


@pytest.mark.parametrize("request_", WAITING, ids=kind)
def test_who_merely_waits_is_served_while_nothing_can_be_written(loop: TurnLoop, request_: Request) -> None:
    loop.gate.unavailable = StorageFull("the disk is full")
    answers = asked(loop, request_)
    loop.turn(NOW)
    assert not [error for _, error in answers if isinstance(error, StorageFull)]


@pytest.mark.parametrize("request_", [*WRITING, *WAITING], ids=kind)
def test_a_request_that_was_not_served_is_answered_when_the_engine_stops(loop: TurnLoop, request_: Request) -> None:
    answers = asked(loop, request_)
    loop.fail(RuntimeError("over"))
    ((_, error),) = answers
    assert isinstance(error, EngineClosed)


@pytest.mark.parametrize("request_", [RetryRuns(RunFilter(status=("failed",)), MIA), CancelWaiting("line", None, MIA)])
def test_a_request_is_answered_when_the_engine_stops_between_two_pieces_of_it(
    loop: TurnLoop, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.store.reads, "queued_runs", lambda *_: [(1, 0)])
    answers = asked(loop, request_)
    loop.turn(NOW)  # the first piece is committed, and the second is queued
    assert not answers
    assert loop.inbox
    loop.fail(RuntimeError("over"))
    ((_, error),) = answers
    assert isinstance(error, EngineClosed)


@workflow
async def anything() -> None:
    """Do nothing."""


def test_an_engine_and_a_transaction_hand_in_the_same_request(database: Path) -> None:
    with Engine(database) as engine:
        requests = engine._session.requests
        with_message = requests.start(requests.definition(anything, {}), (), {"id": "one", "messages": [("go", 1)]})
        assert with_message.messages == (OutgoingMessage("go", "1", None),)
        request = StartRun(with_message.run)
        assert engine._submit(request) == "one"
        with engine.transaction() as tx:
            assert tx._submit(request) == "one"
