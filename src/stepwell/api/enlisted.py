"""Starts and messages in an open transaction, and what the engine has to do once it has committed.

A start whose id was made up just now finds no run, so nothing need be asked: such starts are gathered, and many are
written in one statement, before anything else is and before the commit. ADR 0070 has the figures: 29 us for 47.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, assert_never

from stepwell.errors import TransactionError
from stepwell.runtime.recorded import Recorded
from stepwell.runtime.serving.promise_requests import change_of, refusal_of, touched
from stepwell.runtime.serving.requests import AnswerPromise, SendMessage, StartRun
from stepwell.store.changes import Change, Created, MessageSent, RunCreated
from stepwell.store.store import StoreTransaction
from stepwell.values.codec import Codec
from stepwell.worker.running.starting import declaration_of, planned, started
from stepwell.worker.state.facts import RunStarted
from stepwell.worker.worker import Worker

#: What became of starts that have something follow, though there was a run of their id.
_BEGINS_ANEW: Final = ("reused", "replaced")


#: How many starts are gathered: four statements of those that the store has for them.
_GATHERED: Final = 256


class Enlisted:
    """What is asked for inside an open transaction: done in it, with the rest of it after its commit."""

    def __init__(self, worker: Worker, codec: Codec, now: Callable[[], int], opened: StoreTransaction) -> None:
        self._worker = worker
        self._codec = codec
        self._now = now
        self._opened = opened
        self._gathered: list[RunCreated] = []
        self._lost: BaseException | None = None  # why starts that somebody counts on could not be written
        self._started: list[tuple[RunCreated, int]] = []
        # Queues: the file knows them; this transaction has put runs into them.
        self._declared: set[str] = set()
        self._entered: set[str] = set()
        self._events: list[Callable[[], None]] = []

    def submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        """Do what is asked for, and return the answer; raises as `Engine.start` and `Engine.send`."""
        match request:
            case StartRun():
                return self.start([request])[0] if request.messages else self._start_one(request)
            case SendMessage(run_id, message):
                change = MessageSent(run_id, message.name, message.value, self._now(), message.key)
                (sent,) = self._apply([change])
                self._arrives(change, sent)
                return None
            case AnswerPromise():
                return self._answer(request)
            case _:
                assert_never(request)

    def _apply(self, changes: Sequence[Change], accept: Callable[[list[Any]], None] | None = None) -> list[Any]:
        """Apply changes behind all that was asked for before."""
        self.write()
        return self._opened.apply(changes, accept)

    def write(self) -> None:
        """Write what is gathered; to be called before the transaction ends, which cannot commit where that fails."""
        if self._lost is not None:
            raise TransactionError(
                f"runs that this transaction has started could not be written: {self._lost}. Nothing of it is "
                "committed: begin it anew"
            ) from self._lost
        if not self._gathered:
            return
        starts, self._gathered = self._gathered, []
        try:
            for start, created in zip(starts, self._opened.apply(starts), strict=True):
                started(self._codec, start, created)
                self._begins(start, created)
        except BaseException as error:
            self._lost = error
            raise

    def _answer(self, request: AnswerPromise) -> None:
        now = self._now()
        (answered,) = self._apply([change_of(request, now)])
        refusal = refusal_of(request, answered, self._codec, now)
        if refusal is not None:
            raise refusal
        if answered.is_done:
            fact = touched(answered.before)
            self._events.append(Recorded(fact.run, partial(self._worker.route, fact)))

    def _start_one(self, request: StartRun) -> str:
        """Start a run without messages: what `start` does, without lists."""
        start = self._planned(request)
        entry = start.entry
        if request.is_new and (
            entry is None or (entry.queue in self._entered and entry.dedup is None and entry.batch_size is None)
        ):
            self._opened.check()
            self._gathered.append(start)
            if len(self._gathered) >= _GATHERED:
                self.write()
            return start.id
        (created,) = self._apply([start])
        run_id = started(self._codec, start, created)  # nothing of a start that is refused was written
        if created.existing is None or created.joined in _BEGINS_ANEW:
            self._begins(start, created)
        return run_id

    def _planned(self, request: StartRun) -> RunCreated:
        """Return a start as it is written, and see to it that the file knows its queue."""
        # It belongs to this engine at once, whatever else the engine has to do.
        runs = self._worker.runs
        start = planned(runs, request.run, admitted=request.run.workflow in runs.workflows)
        if start.entry is not None and start.entry.queue not in self._declared:
            self._declare(start, start.entry.queue)
        return start

    def start(self, requests: Sequence[StartRun]) -> list[str]:
        """Start all of these runs, or raise and start none; return their ids."""
        starts = [self._planned(request) for request in requests]
        messages = [
            MessageSent(one.run.id, message.name, message.value, self._now(), message.key)
            for one in requests
            if one.messages
            for message in one.messages
        ]
        ids: list[str] = []

        def accept(results: list[Any]) -> None:
            # What is refused is refused here, so that nothing of the others stays.
            ids.extend(started(self._codec, *pair) for pair in zip(starts, results, strict=False))

        results = self._apply([*starts, *messages] if messages else starts, accept)
        for start, created in zip(starts, results, strict=False):
            if created.existing is None or created.joined in _BEGINS_ANEW:
                self._begins(start, created)
        for change, sent in zip(messages, results[len(starts) :], strict=True):
            self._arrives(change, sent)
        return ids

    def _declare(self, start: RunCreated, queue: str) -> None:
        """Tell the file of the queue that a run is to enter, once in a transaction."""
        for change in declaration_of(self._worker.runs, start, self._now()):
            (before,) = self._apply([change])
            self._events.append(partial(self._worker.declarations.committed, change, before))
        self._declared.add(queue)

    # --- after the commit --------------------------------------------------------------------------------------------

    def _begins(self, start: RunCreated, created: Created) -> None:
        entry = start.entry
        if created.existing is not None:
            self._events.append(partial(self._worker.route, RunStarted(start, created)))
        elif start.status == "running":
            self._started.append((start, created.key))
        elif entry is None or start.deadline_at is not None or entry.queue not in self._entered:
            self._events.append(partial(self._worker.route, RunStarted(start, created)))
            if entry is not None:
                self._entered.add(entry.queue)

    def _arrives(self, change: MessageSent, sent: Any) -> None:
        act = partial(self._worker.arrivals.message_from_outside, change, sent)
        self._events.append(Recorded(sent.run, act))

    def events(self) -> list[Callable[[], None]]:
        """Return what the engine's thread has to do after the commit."""
        if not self._started:
            return self._events
        # All at once, and first: what the transaction sent them is for runs in memory.
        return [partial(self._worker.started_outside, self._started), *self._events]
