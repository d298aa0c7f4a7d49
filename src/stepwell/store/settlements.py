"""The changes by which somebody sets the outcome of a step by hand; part of `stepwell.store.changes.Change`."""

from __future__ import annotations

import msgspec

from stepwell.model.journal import EntryKind, Payload


class StepSettled(msgspec.Struct, frozen=True):
    """Somebody says how a step of a run ended: with an entry of `kind` and `value`, for whoever has the run next.

    Raises `InvalidArgument` where the step has an outcome by now, `RunEnded` where the run has ended.

    It is kept until the run's worker takes it (`SettlementTaken`), in place of another one for the same operation. It
    is forgotten where the run is retried, rewound or restarted: whoever has that done puts it behind.
    """

    run: int
    op: int
    kind: EntryKind
    value: Payload
    at: int


class SettlementTaken(msgspec.Struct, frozen=True):
    """What somebody said of a step stands in the journal now, or does not fit any more."""

    run: int
    op: int
