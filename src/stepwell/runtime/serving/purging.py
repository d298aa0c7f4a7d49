"""Deletes runs that ended long ago: some at a time, so that nobody else is held up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from stepwell.errors import ClaimLost, StoreUnavailable
from stepwell.model.run import Claim
from stepwell.runtime.serving.requests import Asked, Purge
from stepwell.runtime.serving.write_turn import WriteTurn
from stepwell.store.store import Store
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.worker import Worker

#: How many ended runs are deleted in one transaction.
_PURGE_CHUNK: Final = 500


class Purging:
    """Serves requests to delete runs; belongs to the worker's thread. It writes by itself, at a turn of its own."""

    def __init__(self, worker: Worker, store: Store, write_turn: WriteTurn, later: Callable[[Asked], None]) -> None:
        self._worker = worker
        self._store = store
        self._write_turn = write_turn
        self._later = later

    def purge(self, request: Purge, reply: Reply) -> None:
        """Serve a `Purge`."""
        if self._worker.runs.draining:
            reply(request.purged, None)
            return
        if not self._write_turn.take_or_postpone(Asked(request, reply)):
            return
        try:
            count = self._store.purge(request.ended_before, _PURGE_CHUNK, Claim(self._worker.runs.epoch))
        except (StoreUnavailable, ClaimLost) as error:  # of the writing: unlike a read that fails, it stops nobody
            reply(None, error)
            return
        finally:
            self._write_turn.release()
        purged = request.purged + count
        if count == _PURGE_CHUNK:
            self._later(Asked(replace(request, purged=purged), reply))
        else:
            reply(purged, None)
