"""Moves runs that have ended into an archive: some at a time, so that nobody else is held up for long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from stepwell.errors import ClaimLost, EngineClosed, StepwellError, StoreUnavailable
from stepwell.model.run import Claim
from stepwell.runtime.serving.requests import ArchiveRuns, Asked
from stepwell.runtime.serving.write_turn import WriteTurn
from stepwell.store.store import Store
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")


class Archiving:
    """Serves `ArchiveRuns`; belongs to the worker's thread. It writes by itself, at a turn of its own."""

    def __init__(self, worker: Worker, store: Store, write_turn: WriteTurn, later: Callable[[Asked], None]) -> None:
        self._worker = worker
        self._store = store
        self._write_turn = write_turn
        self._later = later

    def archive(self, request: ArchiveRuns, reply: Reply) -> None:
        """Serve an `ArchiveRuns`: move a part of its runs, and let the rest be a request that follows."""
        if self._worker.runs.draining:
            text = f"{request.moved} of the runs were moved to {request.into.path!r}; the same call goes on"
            reply(None, EngineClosed(f"{self._store.location}: the engine closes: {text}"))
            return
        if not self._write_turn.take_or_postpone(Asked(request, reply)):
            return
        worker = self._worker
        try:
            claim = Claim(worker.runs.epoch)
            done = self._store.archive(request.keys, request.into, request.actor, worker.now, claim)
        except (StoreUnavailable, ClaimLost) as error:  # of the writing: unlike a read that fails, it stops nobody
            reply(None, error)
            return
        finally:
            self._write_turn.release()
        if isinstance(done, StepwellError):
            reply(None, done)
            return
        if done.moved:
            text = "%d runs were moved to the archive %s by %s: %s"
            _log.info(text, done.moved, request.into.path, request.actor.by, request.actor.reason or "no reason given")
        moved, there = request.moved + done.moved, (*request.there, *done.there)
        if done.rest:
            self._later(Asked(replace(request, keys=done.rest, moved=moved, there=there), reply))
        else:
            reply((moved, there), None)
