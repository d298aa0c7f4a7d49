"""What callers ask about queues and limits as a whole: to change, to pause, to cancel what waits.

Each method is one event, as in `stepwell.runtime.requests`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from stepwell.definitions.queues import QueueSettings
from stepwell.errors import QueueNotFound
from stepwell.model.acts import Actor
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import CancelRequested, Change
from stepwell.store.inspector import Inspector
from stepwell.store.queues import QueueChanged, QueueFacts, QueueState
from stepwell.worker.unit_of_work import Reply
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")

#: How many waiting runs are cancelled in one commit.
_CANCEL_CHUNK: Final = 200


class QueueRequests:
    """Turns requests about queues into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker, inspector: Inspector, later: Callable[[Callable[[], None]], None]) -> None:
        self._worker = worker
        self._inspector = inspector
        self._later = later

    def change(self, name: str, settings: Callable[[QueueSettings], QueueSettings], reply: Reply) -> None:
        """Change what a queue or limit bounds, given what it bounds now.

        Replies when that is recorded, or with `QueueNotFound`.
        """
        now = self._worker.now
        found: list[QueueState] = []

        def changed() -> None:
            if settings(found[-1].settings) != found[-1].settings:
                text = "%s %r is bounded by %s from now on, as was asked for; until now it was by %s"
                before = found[-1]
                _log.info(text, before.kind, name, settings(before.settings).text, before.settings.text)

        def decide(state: QueueState) -> list[Change]:
            found[:] = [state]
            return [QueueChanged(name, now, settings(state.settings))]

        self._decide(name, decide, [changed], reply)

    def pause(self, name: str, paused: bool, actor: Actor, reply: Reply) -> None:
        """Pause a queue or limit, or let it go on; replies as `change` does."""
        now = self._worker.now
        act = ActRecorded("pause" if paused else "unpause", now, *actor, queue=name)
        self._decide(name, lambda _state: [QueueChanged(name, now, None, paused), act], [], reply)

    def _decide(
        self,
        name: str,
        decide: Callable[[QueueState], list[Change]],
        after: list[Callable[[], None]],
        reply: Reply,
    ) -> None:
        """Have changes of a queue or limit decided on inside the transaction."""
        worker = self._worker
        work = worker.batch.lone_work()
        worker.declare(name, work)

        def decide_if_known(facts: QueueFacts) -> list[Change]:
            state = facts.state(name)
            if state is None:
                raise QueueNotFound(f"the file knows no queue or limit {name!r}; see queues() for those it knows")
            return decide(state)

        work.decide = decide_if_known
        work.answer(reply, None)
        for call in (*after, worker.turns.look):
            work.afterwards(call)

    def cancel_waiting(
        self, name: str, partition: str | None, actor: Actor, reply: Reply, after: int = 0, cancelled: int = 0
    ) -> None:
        """Cancel the runs that wait in a queue; replies with how many there were, once all of that is recorded."""
        worker = self._worker
        rows = self._inspector.queued_runs(name, partition, after, _CANCEL_CHUNK)
        if not rows:
            reply(cancelled, None)
            return
        ended: list[int] = []
        for key, _ in rows:
            record = self._inspector.run_by_key(key)
            if record is None or not record.queued or key in worker.batch.ending:
                continue
            work = worker.batch.lone_work()
            work.changes += [
                CancelRequested(record.id, worker.now, actor.reason),
                ActRecorded("cancel", worker.now, *actor, run_id=record.id),
            ]
            told = replace(record, cancel_reason=record.cancel_reason or actor.reason)
            worker.unstarted.cancel(told, work)
            # A run that is taken at this very moment is not among them: its end is refused.
            work.afterwards(partial(ended.append, key))
        last = worker.batch.lone_work()
        last.afterwards(
            lambda: self._later(
                lambda: self.cancel_waiting(name, partition, actor, reply, rows[-1][0], cancelled + len(ended))
            ),
            partial(reply, None),
        )
