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
from stepwell.store.inspector import Inspector
from stepwell.store.queues import QueueChanged, QueueFacts, QueueState
from stepwell.store.store import CancelRequested, Change
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

    def change(
        self,
        name: str,
        settings: Callable[[QueueSettings], QueueSettings] | None,
        paused: bool | None,
        reply: Reply,
    ) -> None:
        """Change what a queue or limit bounds, given what it bounds now, and pause or resume it.

        Replies when that is recorded, or with `QueueNotFound`.
        """
        worker = self._worker
        work = worker.batch.lone_work()
        worker.declare(name, work)
        now = worker.now
        found: list[QueueState] = []

        def changed() -> None:
            if settings is not None and settings(found[-1].settings) != found[-1].settings:
                text = "%s %r is bounded by %s from now on, as was asked for; until now it was by %s"
                before = found[-1]
                _log.info(text, before.kind, name, settings(before.settings).text, before.settings.text)

        def decide(facts: QueueFacts) -> list[Change]:
            state = facts.state(name)
            if state is None:
                raise QueueNotFound(f"the file knows no queue or limit {name!r}; see queues() for those it knows")
            found[:] = [state]
            return [QueueChanged(name, now, None if settings is None else settings(state.settings), paused)]

        work.decide = decide
        work.extra.replies.append((reply, None))
        work.extra.after += [changed, worker.turns.look]

    def cancel_waiting(
        self, name: str, partition: str | None, reason: str | None, reply: Reply, after: int = 0, cancelled: int = 0
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
            work.changes.append(CancelRequested(record.id, worker.now, reason))
            worker.unstarted.cancel(replace(record, cancel_reason=record.cancel_reason or reason), work)
            # A run that is taken at this very moment is not among them: its end is refused.
            work.extra.after.append(partial(ended.append, key))
        last = worker.batch.lone_work()
        last.extra.failing.append(reply)
        last.extra.after.append(
            lambda: self._later(
                lambda: self.cancel_waiting(name, partition, reason, reply, rows[-1][0], cancelled + len(ended))
            )
        )
