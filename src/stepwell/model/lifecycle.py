"""The states of a run and the only legal moves between them.

Everything else that speaks of states is drawn from, or tested against, `TRANSITIONS`: the CHECK in the
schema, the diagram in the documentation, the filters of `list`.

- ``pending``    recorded; waits for room, or for a worker that has its workflow.
- ``running``    owned by a worker: its code or one of its steps is under way.
- ``waiting``    waits only for timers, messages, children or a retry; takes no memory.
- ``halted``     stopped by the engine for the reason in the row; repairable, then resumed.
- ``completed``  ended with a result.
- ``failed``     ended with an error; until somebody retries it.
- ``cancelled``  ended by a cancellation; until somebody retries it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from stepwell.errors import StepwellError

Status = Literal["pending", "running", "waiting", "halted", "completed", "failed", "cancelled"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)

#: From each state, the states that a run may move to.
TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    "pending": frozenset({"running", "waiting", "halted", "cancelled", "failed"}),
    "running": frozenset({"pending", "waiting", "halted", "completed", "failed", "cancelled"}),
    "waiting": frozenset({"pending", "running", "halted", "completed", "failed", "cancelled"}),
    "halted": frozenset({"pending", "running", "waiting", "completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset({"pending"}),
    "cancelled": frozenset({"pending"}),
}

#: States in which a run has ended. By itself it never leaves them.
ENDED: Final[frozenset[Status]] = frozenset({"completed", "failed", "cancelled"})
#: Ended states out of which somebody can bring a run back: a retry makes it ``pending``.
RETRIABLE: Final[frozenset[Status]] = frozenset(status for status in ENDED if TRANSITIONS[status])


class IllegalTransition(StepwellError):
    """A move that `TRANSITIONS` does not allow; always a defect of the engine, never of the user."""


def check_transition(run_id: str, source: Status, target: Status) -> None:
    """Raise `IllegalTransition` unless a run may move from `source` to `target` (staying put is allowed)."""
    if target != source and target not in TRANSITIONS[source]:
        raise IllegalTransition(f"run {run_id!r} cannot move from {source!r} to {target!r}")


def mermaid() -> str:
    """Return the state diagram as Mermaid source; the documentation's copy is tested against it."""
    lines = ["stateDiagram-v2", "    [*] --> pending", "    [*] --> running"]
    for source in STATUSES:
        lines += [f"    {source} --> {target}" for target in STATUSES if target in TRANSITIONS[source]]
    lines += [f"    {status} --> [*]" for status in STATUSES if status in ENDED]
    return "\n".join(lines)
