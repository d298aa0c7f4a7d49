"""The states of what stands in a queue or waits for a permit of a limit, and the only moves between them.

A run that was started in a queue, and an attempt of a step with a limit, are the same thing to whoever decides whose
turn it is: an *entry* that waits and is then running. A permit has one state more, `DETACHED`: its attempt goes on
although nobody waits for it, so it is in use apart from the run. That the schema, the documentation and any store agree
with these tables is tested.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import msgspec

#: ``delayed``: until its time comes, or its batch is full (queued runs only); ``waiting``: for its turn; ``running``:
#: it was taken, or has its permit; ``paused``: its run is, and had not been taken.
EntryState: TypeAlias = Literal["delayed", "waiting", "running", "paused"]
ENTRY_STATES: Final[tuple[EntryState, ...]] = get_args(EntryState)

#: Where a permit is in the file: nowhere, with an entry, or apart from its run.
PermitPlace: TypeAlias = Literal["none", "waiting", "running", "detached"]
PERMIT_PLACES: Final[tuple[PermitPlace, ...]] = get_args(PermitPlace)

#: What an attempt in a worker's memory has of it: ``asked`` in the commit under way, so that nothing is known yet; then
#: it is ``waiting``, or ``held``; ``left`` is what the file calls detached. None: nothing.
PermitState: TypeAlias = Literal["asked", "waiting", "held", "left"] | None


class PermitMove(msgspec.Struct, frozen=True):
    """One move of a permit: the `change` makes it from any of `sources`, and from others does nothing."""

    change: str
    sources: frozenset[PermitPlace]
    target: PermitPlace
    meaning: str


def _move(change: str, sources: tuple[PermitPlace, ...], target: PermitPlace, meaning: str) -> PermitMove:
    return PermitMove(change, frozenset(sources), target, meaning)


#: The moves of a permit, by name.
PERMIT_MOVES: Final[dict[str, PermitMove]] = {
    "asked": _move("PermitAsked", ("none",), "waiting", "an attempt needs it"),
    "granted": _move("PermitsGranted", ("waiting",), "running", "it is the attempt's turn"),
    "kept": _move("PermitKept", ("running",), "running", "another worker, which took up the run, will use it"),
    "started": _move("PermitStarted", ("running",), "running", "the attempt has begun, and counts for the rate"),
    "returned": _move("PermitReturned", ("waiting", "running"), "none", "the attempt is over, or was given up"),
    "run over": _move("RunFinished", ("waiting", "running"), "none", "the run ended, or was halted"),
    "detached": _move("PermitDetached", ("running",), "detached", "nobody waits for the attempt, which goes on"),
    "freed": _move("PermitFreed", ("detached",), "none", "such an attempt has ended, or its worker has"),
}
