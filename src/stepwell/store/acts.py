"""The change that records an act; part of `stepwell.store.changes.Change`."""

from __future__ import annotations

from typing import Final

import msgspec

from stepwell.model.acts import ActKind

#: So many acts are kept of each run, and of each queue: a program that asks again and again must not fill the file.
KEPT_ACTS: Final = 100


class ActRecorded(msgspec.Struct, frozen=True):
    """Somebody acted on a run, named by its id, or on a queue: one of the two is given.

    It stands beside the change that it is about, in the same unit: after what brings a run back, before what ends it.
    For a run that has ended, or does not exist, nothing is recorded, for nothing was done. Of each run and queue the
    newest `KEPT_ACTS` are kept. They are deleted with their run.
    """

    act: ActKind
    at: int
    by: str
    reason: str | None = None
    run_id: str | None = None
    queue: str | None = None
