"""What becomes of a start whose id belongs to a run: a decision, from what the start asks for and the run's state.

It is taken inside the transaction that would create the run, where nobody can change the state any more.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from stepwell.errors import RunConflict
from stepwell.model.lifecycle import ENDED, RETRIABLE, Status

#: What a start does where the run of its id cannot make room for it: it gets that run, it is refused, or it has that
#: run cancelled and begins when it has ended.
OnConflict: TypeAlias = Literal["attach", "reject", "replace"]
#: Whether a start may have the id of a run that has ended: never, only where that failed or was cancelled, always.
Reuse: TypeAlias = Literal["never", "after-failure", "always"]
#: What becomes of it: as `OnConflict`, and ``reuse``, where the run has ended and the id is used again.
Decision: TypeAlias = Literal["attach", "reject", "replace", "reuse"]

#: The reason of the request to cancel a run that another start replaces.
REPLACED_REASON: Final = "another start of its id replaces it"


class StartPolicy(msgspec.Struct, frozen=True):
    """What a start asks for, where it does not just want the run that has its id; `by` says who asks."""

    on_conflict: OnConflict
    reuse: Reuse
    by: str

    def decide(self, status: Status) -> Decision:
        """Return what becomes of the start where the run of its id is in this state."""
        if status not in ENDED:
            return self.on_conflict
        if self.reuse == "always" or (self.reuse == "after-failure" and status in RETRIABLE):
            return "reuse"
        return "reject" if self.on_conflict == "reject" else "attach"


def rejection(run_id: str, workflow: str, status: Status, wanted: str) -> RunConflict:
    """Return the error for a start of workflow `wanted` that gets neither the run of its id nor the id."""
    there_is = f"there is a run {run_id!r} already"
    if workflow != wanted:
        return RunConflict(
            f"{there_is}, of another workflow ({workflow!r}, {status}): an id is used again by runs of one workflow "
            "only. Choose another id, or delete that run"
        )
    return RunConflict(
        f"{there_is} ({workflow!r}, {status}), and the start was to be refused then: nothing was started. Get it with "
        f"get({run_id!r}), choose another id, or say how the id may be used again (on_conflict=, reuse=)"
    )
