"""Starts and messages in an open transaction, and what the engine has to do once it has committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, assert_never

from stepwell.runtime.promise_requests import change_of, refusal_of, touched
from stepwell.runtime.requests import AnswerPromise, SendMessage, StartRun
from stepwell.store.changes import Change, Created, MessageSent, RunCreated
from stepwell.values.codec import Codec
from stepwell.worker.facts import RunStarted
from stepwell.worker.starting import declaration_of, planned, started
from stepwell.worker.worker import Worker

#: What became of starts that have something follow, though there was a run of their id.
_BEGINS_ANEW: Final = ("reused", "replaced")


class Apply(Protocol):
    """`stepwell.store.store.StoreTransaction.apply`."""

    def __call__(self, changes: Sequence[Change], accept: Callable[[list[Any]], None] | None = None, /) -> list[Any]:
        """Apply changes in the transaction, and return their results."""
        ...


class Enlisted:
    """What is asked for inside an open transaction: done in it, with the rest of it after its commit."""

    def __init__(self, worker: Worker, codec: Codec, now: Callable[[], int], apply: Apply) -> None:
        self._worker = worker
        self._codec = codec
        self._now = now
        self._apply = apply
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

    def _answer(self, request: AnswerPromise) -> None:
        now = self._now()
        (answered,) = self._apply([change_of(request, now)])
        refusal = refusal_of(request, answered, self._codec, now)
        if refusal is not None:
            raise refusal
        if answered.is_done:
            self._events.append(partial(self._worker.route, touched(answered.before)))

    def _start_one(self, request: StartRun) -> str:
        """Start a run without messages: what `start` does, without lists."""
        start = self._planned(request)
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
        self._events.append(partial(self._worker.arrivals.message_from_outside, change, sent))

    def events(self) -> list[Callable[[], None]]:
        """Return what the engine's thread has to do after the commit."""
        if not self._started:
            return self._events
        # All at once, and first: what the transaction sent them is for runs in memory.
        return [partial(self._worker.started_outside, self._started), *self._events]
