"""What the worker knows of the kinds of operations: how each is opened and withdrawn.

A kind is declared in its own file of `stepwell.operations`, above this package; the runtime hands the worker the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from stepwell.replay.kinds import Kinds, RecordedKind

if TYPE_CHECKING:  # a program that defines workflows loads the kinds, but none of what carries runs on
    from stepwell.model.journal import OpKind
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

#: What is done about an operation of a run. It adds changes to the unit of work under way, and answers the operation:
#: at once (`LoadedRun.deliverable`) where nothing has to be waited for, else after the commit, or when it comes about.
Act: TypeAlias = "Callable[[Runs, LoadedRun, Operation, UnitOfWork], None]"

#: Looks in the store for what has come of operations of a run, and answers them (`LoadedRun.deliverable`).
Look: TypeAlias = "Callable[[Runs, LoadedRun, Sequence[Operation]], object]"


class OperationKind(RecordedKind, frozen=True, kw_only=True):
    """One kind of operation.

    - `open`: what is done when the code has issued one. None for steps, which the activation itself has executed.
    - `withdraw`: what is done when the code does not wait for it any more; None: nothing.
    - `look`: what is done when something may have come for those that are waited for; None: it is told otherwise.
    - `expire`: what is done when the time comes that `open` has set (`LoadedRun.add_timer`).
    """

    open: Act | None = None
    withdraw: Act | None = None
    look: Look | None = None
    expire: Act | None = None


class OperationTable:
    """All kinds of operations, one a row."""

    __slots__ = ("expirations", "kinds", "looks", "openings", "withdrawals")

    def __init__(self, rows: Iterable[OperationKind]) -> None:
        rows = tuple(rows)
        #: For replay.
        self.kinds = Kinds(rows)
        #: By the name of the kind: what opens such an operation, and what withdraws it.
        self.openings: dict[OpKind, Act] = {row.name: row.open for row in rows if row.open is not None}
        self.withdrawals: dict[OpKind, Act] = {row.name: row.withdraw for row in rows if row.withdraw is not None}
        #: The same: what looks for what has come for it, and what is done when its time comes.
        self.looks: dict[OpKind, Look] = {row.name: row.look for row in rows if row.look is not None}
        self.expirations: dict[OpKind, Act] = {row.name: row.expire for row in rows if row.expire is not None}
