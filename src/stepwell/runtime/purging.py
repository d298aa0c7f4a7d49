"""Deleting runs that ended long ago: some at a time, so that nobody else is held up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from stepwell.errors import ClaimLost, StoreUnavailable
from stepwell.model.run import Claim
from stepwell.runtime.write_turn import WriteTurn
from stepwell.store.store import Store
from stepwell.worker.unit_of_work import Reply

#: How many ended runs are deleted in one transaction.
_PURGE_CHUNK: Final = 500


class Owner(Protocol):
    """The turn loop, as far as deleting needs it."""

    store: Store
    closing: bool
    write_turn: WriteTurn

    def claimed(self) -> Claim:
        """Return the claim of the engine's worker."""
        ...

    def take_turn(self, again: Callable[[], None]) -> bool:
        """Take the writers' lock; else have `again` called in a later turn."""
        ...

    def refuses(self, reply: Reply) -> bool:
        """Tell a caller where nothing can be written now; return whether that is so."""
        ...

    def later(self, call: Callable[[], None]) -> None:
        """Queue an event from within another."""
        ...


def purge(owner: Owner, ended_before: int, reply: Reply, purged: int = 0) -> None:
    """Delete the runs that ended before a time, some at a time; replies with their number; an event."""
    if owner.closing:
        reply(purged, None)
        return
    if owner.refuses(reply):
        return
    if not owner.take_turn(partial(purge, owner, ended_before, reply, purged=purged)):
        return
    try:
        count = owner.store.purge(ended_before, _PURGE_CHUNK, owner.claimed())
    except (StoreUnavailable, ClaimLost) as error:
        reply(None, error)
        return
    finally:
        owner.write_turn.release()
    if count == _PURGE_CHUNK:
        owner.later(partial(purge, owner, ended_before, reply, purged=purged + count))
    else:
        reply(purged + count, None)
