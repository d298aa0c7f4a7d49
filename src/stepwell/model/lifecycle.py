"""The states of a run and the only legal moves between them.

Everything else that speaks of states is drawn from, or tested against, `MOVES`: the table of states in the schema, what
a store allows, the diagram in the documentation, the filters of `list`.

- ``pending``    recorded; waits for room, or for a worker that has its workflow.
- ``running``    owned by a worker: its code or one of its steps is under way.
- ``waiting``    waits only for timers, messages, children or a retry; takes no memory.
- ``paused``     stopped by somebody, or because a step failed for good, until somebody unpauses it.
- ``halted``     stopped by the engine for the reason in the row; repairable, then resumed.
- ``completed``  ended with a result; until somebody rewinds it.
- ``failed``     ended with an error; until somebody retries it.
- ``cancelled``  ended by a cancellation; until somebody retries it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from stepwell.errors import StepwellError

Status = Literal["pending", "running", "waiting", "paused", "halted", "completed", "failed", "cancelled"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)


class Move(msgspec.Struct, frozen=True):
    """One move of a run: from any of `sources`, by a `change` that a store is told (or its method, in lower case)."""

    change: str
    sources: frozenset[Status]
    target: Status
    meaning: str


def _move(change: str, sources: tuple[Status, ...], target: Status, meaning: str) -> Move:
    return Move(change, frozenset(sources), target, meaning)


_ALIVE: Final[tuple[Status, ...]] = ("pending", "running", "waiting", "halted")
_BEGUN: Final[tuple[Status, ...]] = ("running", "waiting", "halted")

#: The moves of a run, by name.
MOVES: Final[dict[str, Move]] = {
    "claimed": _move("RunsClaimed", ("pending", "halted"), "running", "a worker takes it up"),
    "claimed as a suspect": _move(
        "RunsClaimed", ("waiting",), "running", "it may kill its worker, so it counts as under way from here on"
    ),
    "woken": _move("RunMoved", ("waiting",), "running", "something came that its code goes on with"),
    "parked": _move("RunMoved", ("pending", "running", "halted"), "waiting", "its code waits until something comes"),
    "released": _move("reap", ("running",), "waiting", "its worker is gone"),
    "handed back": _move("RunMoved", ("running", "waiting"), "pending", "its worker has no room, or no code, for it"),
    "halted": _move(
        "RunMoved", ("pending", "running", "waiting"), "halted", "the engine stops it, until somebody mends it"
    ),
    "resumed": _move("RunResumed", ("halted",), "pending", "somebody asks that it be tried again"),
    "paused": _move("PauseRequested", ("pending", "waiting"), "paused", "somebody pauses it while it is in no memory"),
    "paused when at rest": _move(
        "RunMoved", ("pending", "running", "waiting"), "paused", "it was to pause, and its steps under way have ended"
    ),
    "unpaused": _move("PauseEnded", ("paused",), "pending", "somebody lets it go on, or cancels it"),
    "completed": _move("RunFinished", _BEGUN, "completed", "its code returned"),
    "failed": _move("RunFinished", _ALIVE, "failed", "its code raised, or its deadline passed"),
    "cancelled": _move("RunFinished", (*_ALIVE, "paused"), "cancelled", "it was cancelled"),
    "rewound": _move(
        "RunRewound",
        ("waiting", "halted", "completed", "failed", "cancelled"),
        "pending",
        "somebody has it go on from an earlier point, or from the beginning",
    ),
    "started again": _move(
        "RunCreated", ("completed", "failed", "cancelled"), "pending", "another start uses its id, as another chapter"
    ),
    "retried": _move("RunRetried", ("failed", "cancelled"), "pending", "somebody brings it back, without what failed"),
}

#: From each state, the states that a run may move to.
TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    status: frozenset(move.target for move in MOVES.values() if status in move.sources) for status in STATUSES
}

#: States of a run that has not ended.
IN_FLIGHT: Final[tuple[Status, ...]] = (*_ALIVE, "paused")
#: States in which a run has ended. By itself it never leaves them.
ENDED: Final[frozenset[Status]] = frozenset({"completed", "failed", "cancelled"})
#: Ended states out of which a retry can bring a run back.
RETRIABLE: Final[frozenset[Status]] = MOVES["retried"].sources


class IllegalTransition(StepwellError):
    """A move that `TRANSITIONS` does not allow; always a defect of the engine, never of the user."""


def check_transition(run_id: str, source: Status, target: Status) -> None:
    """Raise `IllegalTransition` unless a run may move from `source` to `target` (staying put is allowed)."""
    if target != source and target not in TRANSITIONS[source]:
        raise IllegalTransition(f"run {run_id!r} cannot move from {source!r} to {target!r}")


def mermaid() -> str:
    """Return the state diagram as Mermaid source; the documentation's copy is tested against it."""
    lines = ["stateDiagram-v2", "    [*] --> pending: started", "    [*] --> running: started where there is room"]
    for source in STATUSES:
        for target in STATUSES:
            names = [name for name, move in MOVES.items() if source in move.sources and move.target == target]
            if names:
                lines.append(f"    {source} --> {target}: {', '.join(names)}")
    lines += [f"    {status} --> [*]" for status in STATUSES if status in ENDED]
    return "\n".join(lines)
