"""The change by which a run begins with a part of another one's journal; part of `stepwell.store.changes.Change`."""

from __future__ import annotations

import msgspec

from stepwell.model.journal import Payload
from stepwell.store.replacements import Replacement


class Origin(msgspec.Struct, frozen=True):
    """Where a run was forked from: an operation of the run that had `run_id` then, and with what.

    `checksum` is of all that was given in place of what that run had, so that the same fork is known again.
    """

    run_id: str
    op: int
    checksum: int


class RunForked(msgspec.Struct, frozen=True):
    """A run is created, ``pending``, that begins with entries of the present chapter of run `source`.

    Those at the positions `kept` are told to its code in their order, `replaced` in place of some; clock and random
    numbers are those of the chapter that they are from. It gets copies of the messages of `source`: those that nobody
    received, and before them those in `returned`, which can be received again (see `RunRetried`); the keys of all stay
    known. And of what `source` published under `published`. It waits in the queue of `source`, and has no parent.

    The result is the key of the new run. Raises `RunConflict` where its id is taken, `RunNotEnded` where an entry that
    is to be kept is not there any more, `RunNotFound` where `source` is not.
    """

    id: str
    source: int
    origin: Origin
    at: int
    input: Payload
    fingerprint: int
    kept: list[int] = []
    replaced: list[Replacement] = []
    returned: list[tuple[str, Payload, int]] = []
    published: list[str] = []
    deadline_at: int | None = None
    stays_cancelled: bool = False
    reason: str | None = None
