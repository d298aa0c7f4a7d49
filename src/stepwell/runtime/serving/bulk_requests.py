"""Serves acts that pass by a run's code, and acts on all runs that match a filter.

An act on many runs is a row of the file. The worker that carries it out serves a page of runs in one event, and the
commit that does what was asked of them advances the row: so it goes on where it was, here or with another worker,
whatever dies in between. To do the same to a run again does no harm: it is refused, or changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import msgspec
from msgspec.structs import replace

from stepwell.errors import RunEnded, StepwellError, StoreError, StoreUnavailable
from stepwell.model.acts import Actor
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.pause_requests import PauseRequests
from stepwell.runtime.serving.requests import (
    Asked,
    BulkAct,
    CancelRun,
    ContinueBulk,
    DeleteRun,
    PauseRun,
    StartBulk,
    TerminateRun,
)
from stepwell.runtime.serving.retry_requests import RetryRequests
from stepwell.runtime.serving.run_requests import RunRequests
from stepwell.store.bulk_acts import (
    BulkAdvanced,
    BulkBegun,
    BulkRecord,
    BulksTaken,
    RunDeleted,
    RunTerminated,
    Terminated,
)
from stepwell.store.inspector import Inspector, RunFilter
from stepwell.worker.state.facts import TerminationArrived
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")

#: How many runs are looked at in one event, and acted on in one commit, at most: others wait for that long.
_CHUNK: Final = 250
#: After how many entries of journals that a retry has read the page ends, however few runs it has.
_ENTRIES: Final = 5_000


class BulkRequests:
    """Turns such requests into work for a worker; belongs to the worker's thread."""

    def __init__(
        self,
        worker: Worker,
        inspector: Inspector,
        runs: RunRequests,
        retries: RetryRequests,
        pauses: PauseRequests,
        later: Callable[[Asked], None],
    ) -> None:
        self._worker = worker
        self._inspector = inspector
        self._runs = runs
        self._retries = retries
        self._pauses = pauses
        self._later = later

    # --- one run -----------------------------------------------------------------------------------------------------

    def serve(self, request: TerminateRun | DeleteRun | StartBulk | ContinueBulk, reply: Reply) -> None:
        """Serve a request, each by the method that is for its kind."""
        match request:
            case TerminateRun():
                self.terminate(request, reply)
            case DeleteRun():
                self.delete(request, reply)
            case StartBulk():
                self.start(request, reply)
            case ContinueBulk():
                self.go_on(request, reply)

    def terminate(self, request: TerminateRun, reply: Reply) -> None:
        """Serve a `TerminateRun`."""
        actor, worker = request.actor, self._worker
        change = RunTerminated(request.run_id, worker.now, actor.by, actor.reason)
        worker.batch.lone_work().then(change, partial(self._terminated, change, reply), partial(reply, None))

    def _terminated(self, change: RunTerminated, reply: Reply, done: Terminated) -> None:
        run = done.before
        if run.status in ENDED:
            reply(None, RunEnded(f"run {run.id!r} has ended ({run.status}), so it cannot be terminated"))
            return
        self._worker.route(TerminationArrived(change, done))
        reply(None, None)

    def delete(self, request: DeleteRun, reply: Reply) -> None:
        """Serve a `DeleteRun`."""
        actor, run_id, worker = request.actor, request.run_id, self._worker
        change = RunDeleted(run_id, worker.now, actor.by, actor.reason)

        def deleted(done: Terminated) -> None:
            if done.before.status in ENDED:
                _log.info("run %r was deleted by %s: %s", run_id, actor.by, actor.reason or "no reason was given")
            self._worker.route(TerminationArrived(change, done))
            reply(None, None)

        worker.batch.lone_work().then(change, deleted, partial(reply, None))

    # --- many runs ---------------------------------------------------------------------------------------------------

    def start(self, request: StartBulk, reply: Reply) -> None:
        """Serve a `StartBulk`."""
        total = self._inspector.count_runs(request.runs)
        bounds = msgspec.json.encode(request.runs).decode()
        change = BulkBegun(request.act, request.filter, bounds, self._worker.now, total, *request.actor)

        def begun(number: int) -> None:
            reply(number, None)
            self._go_on(number)

        self._worker.batch.lone_work().then(change, begun, partial(reply, None))

    def take_over(self) -> None:
        """Continue acts that no living worker carries out; an event."""

        def taken(numbers: list[int]) -> None:
            for number in numbers:
                self._go_on(number)

        self._worker.batch.lone_work().then(BulksTaken(), taken)

    def _go_on(self, number: int, refused: int = 0) -> None:
        def answered(_value: object, error: BaseException | None) -> None:
            if isinstance(error, StoreUnavailable):  # it is tried again when something can be written
                self._go_on(number, refused)

        self._later(Asked(ContinueBulk(number, refused), answered))

    def go_on(self, request: ContinueBulk, reply: Reply) -> None:
        """Serve a `ContinueBulk`: act on one page of runs."""
        row, worker = self._inspector.bulk(request.bulk), self._worker
        reply(None, None)
        if row is None or row.ended_at is not None or row.worker != worker.runs.epoch or worker.runs.draining:
            return
        wanted = msgspec.json.decode(row.bounds, type=RunFilter)
        found = self._inspector.list_runs(replace(wanted, before_key=row.before_key, limit=_CHUNK))
        page, refusals = list[RunRecord](), list[str]()
        enough = self._retries.entries_read + _ENTRIES
        for record in found:
            if self._retries.entries_read >= enough:
                break
            page.append(record)
            counted = partial(_count, refusals, record.id, row)
            try:
                self._act(row, record.id, counted)
            except StoreError:
                raise
            except StepwellError as error:
                counted(None, error)
        last = worker.batch.lone_work()
        ended_at = None if page else worker.now
        now_at = page[-1].key if page else row.before_key
        change = BulkAdvanced(row.id, row.before_key, now_at, len(page), request.refused, ended_at)

        def advanced(is_so: bool) -> None:
            # Where it is not, somebody else has advanced it and goes on: a worker that was taken for lost and joined
            # again takes its act over while a page of before is still to be written.
            if is_so and page:
                self._go_on(row.id, len(refusals))
            elif is_so:
                text = "%s of all runs that match %r, asked for by %s, is done: %d runs"
                _log.info(text, row.act, row.filter, row.by, row.seen)

        last.then(change, advanced, lambda _error: self._go_on(row.id))

    def _act(self, row: BulkRecord, run_id: str, reply: Reply) -> None:
        actor = Actor(row.by, row.reason)
        match cast("BulkAct", row.act):
            case "pause" | "unpause":
                self._pauses.pause(PauseRun(run_id, row.act == "pause", False, actor), reply)
            case "cancel":
                self._runs.cancel(CancelRun(run_id, actor), reply)
            case "retry":
                self._retries.retry(run_id, actor, reply)
            case "terminate":
                self.terminate(TerminateRun(run_id, actor), reply)
            case "delete":
                self.delete(DeleteRun(run_id, actor), reply)


def _count(refusals: list[str], run_id: str, row: BulkRecord, _value: object, error: BaseException | None) -> None:
    if error is not None:
        refusals.append(run_id)
        _log.warning("%s of run %r, one of those that match %r, is refused: %s", row.act, run_id, row.filter, error)
