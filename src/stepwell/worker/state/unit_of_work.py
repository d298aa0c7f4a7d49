"""What one event led to: changes that commit together, and what may leave the worker only after that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias, overload

import msgspec

from stepwell.definitions.queues import QueueSettings
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepwellError
from stepwell.model.lifecycle import Status
from stepwell.model.run import RunRecord
from stepwell.store.bulk_acts import BulkAdvanced, BulkBegun, BulksTaken, RunDeleted, RunTerminated, Terminated
from stepwell.store.changes import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    Created,
    MessageSent,
    Paused,
    PauseEnded,
    PauseRequested,
    RunContinued,
    RunCreated,
    RunDescribed,
    RunFinished,
    Sent,
    Succeeded,
    UpdateAnswered,
    UpdateTakenOn,
    WatchAdded,
)
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, WorkTaken
from stepwell.store.forks import RunForked
from stepwell.store.promises import Answered, PromiseAnswered
from stepwell.store.queues import PermitDetached, QueueDeclared, Rescheduled, RunRescheduled
from stepwell.store.store import Unit
from stepwell.store.streams import StreamTruncated
from stepwell.worker.state.facts import Fact
from stepwell.worker.state.failure_log import Line
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.run_over import RunOver


class Reply(Protocol):
    """Where the answer to a request goes; called once, on the engine's thread, after the commit."""

    def __call__(self, value: Any, error: BaseException | None, /) -> None:
        """Deliver `value`, or raise `error` at the caller's."""
        ...


#: What runs where a work is refused; it is given the reason.
Refusal: TypeAlias = Callable[[StepwellError], None]


class UnitOfWork(Unit, eq=False):
    """A unit for the store, and what follows from its commit.

    There is one for every step of every run, so what most works do not have is made when it is needed. `run` is the
    first run that the work touches, None where it touches none in memory; `others` are those that joined it.
    """

    run: LoadedRun | None = None
    others: list[LoadedRun] | tuple[()] = ()  # a list, once there is one
    steps: list[StepCall] | tuple[()] = ()  # the same; a list more for the collector in each work that has none
    rare: RareEffects | None = None

    @property
    def extra(self) -> RareEffects:
        """What only some works have, made at first use."""
        if self.rare is None:
            self.rare = RareEffects()
        return self.rare

    @property
    def is_written(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.changes) or self.body is not None or self.decide is not None

    @property
    def loaded_runs(self) -> list[LoadedRun]:
        """The runs in memory that the work touches."""
        return [] if self.run is None else [self.run, *self.others]

    @property
    def calls_transactions(self) -> bool:
        """Tell whether the unit calls transactional steps."""
        return self.rare is not None and bool(self.rare.transactions)

    def refusals(self) -> list[Refusal]:
        """Return what must be called when the work is refused."""
        if self.rare is None:
            return []
        return [*self.rare.refusals, *(partial(reply, None) for reply, _ in self.rare.replies)]

    # --- continuations; `arriving.outcomes` says in which order they run ----------------------------------------------

    @overload
    def then(
        self, change: RunCreated, on_commit: Callable[[Created], Fact | None], on_refusal: Refusal | None = None
    ) -> None: ...
    @overload
    def then(
        self, change: MessageSent, on_commit: Callable[[Sent], Fact | None], on_refusal: Refusal | None = None
    ) -> None: ...
    @overload
    def then(
        self,
        change: UpdateAnswered,
        on_commit: Callable[[str | None], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self, change: CancelRequested, on_commit: Callable[[RunRecord], Fact | None], on_refusal: Refusal | None = None
    ) -> None: ...
    @overload
    def then(
        self,
        change: BulksTaken | RunsClaimed | WorkTaken | RunsReleased | ChildrenCancelled,
        on_commit: Callable[[list[int]], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self,
        change: RunFinished,
        on_commit: Callable[[list[int] | Succeeded], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self,
        change: RunContinued,
        on_commit: Callable[[Succeeded | None], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self, change: WatchAdded, on_commit: Callable[[Status], Fact | None], on_refusal: Refusal | None = None
    ) -> None: ...
    @overload
    def then(
        self,
        change: QueueDeclared,
        on_commit: Callable[[QueueSettings | None], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self,
        change: PauseRequested | PauseEnded,
        on_commit: Callable[[Paused], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self,
        change: RunRescheduled,
        on_commit: Callable[[Rescheduled], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self,
        change: RunTerminated | RunDeleted,
        on_commit: Callable[[Terminated], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self, change: PromiseAnswered, on_commit: Callable[[Answered], Fact | None], on_refusal: Refusal | None = None
    ) -> None: ...
    @overload
    def then(
        self,
        change: BulkBegun | RunForked | StreamTruncated,
        on_commit: Callable[[int], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    @overload
    def then(
        self, change: BulkAdvanced, on_commit: Callable[[bool], Fact | None], on_refusal: Refusal | None = None
    ) -> None: ...
    @overload
    def then(
        self,
        change: NotesTaken | PermitDetached | RunDescribed | UpdateTakenOn,
        on_commit: Callable[[None], Fact | None],
        on_refusal: Refusal | None = None,
    ) -> None: ...
    def then(self, change: Change, on_commit: Callable[[Any], Fact | None], on_refusal: Refusal | None = None) -> None:
        """Add a change; `on_commit` gets its result after the commit, `on_refusal` the reason where there is none.

        What `on_commit` returns is routed at once: see `stepwell.worker.state.facts`.
        """
        extra = self.extra
        extra.results.append((len(self.changes), on_commit))
        self.changes.append(change)
        if on_refusal is not None:
            extra.refusals.append(on_refusal)

    def told(self, change: RunCreated, on_commit: Callable[[Created], Fact | None]) -> None:
        """Add a change that enters something in a journal; `on_commit` delivers it, ahead of all else."""
        self.extra.told.append((len(self.changes), on_commit))
        self.changes.append(change)

    def afterwards(self, on_commit: Callable[[], Fact | None], on_refusal: Refusal | None = None) -> None:
        """Have `on_commit` called after the commit, `on_refusal` where there is none."""
        self.extra.after.append(on_commit)
        if on_refusal is not None:
            self.extra.refusals.append(on_refusal)

    def if_refused(self, on_refusal: Refusal) -> None:
        """Have `on_refusal` called where there is no commit."""
        self.extra.refusals.append(on_refusal)

    def answer(self, reply: Reply, value: Any) -> None:
        """Answer a caller with `value` after the commit, with the reason where there is none."""
        self.extra.replies.append((reply, value))

    def add_run(self, run: LoadedRun) -> None:
        """Make `run` part of the work."""
        run.work = self
        if self.run is None:
            self.run = run
        else:
            if not self.others:
                self.others = []
            self.others.append(run)

    def absorb(self, other: UnitOfWork) -> None:
        """Take over another work, because one run is touched by both."""
        already = len(self.changes)
        self.changes += other.changes
        self.steps = [*self.steps, *other.steps]
        for run in other.loaded_runs:
            self.add_run(run)
        if other.rare is not None:
            self.extra.absorb(other.rare, already)


class RareEffects(msgspec.Struct, eq=False):
    """The rarer consequences of a work.

    `results` want the result of a change, which is named by its index; `refusals` are called only where the work is
    refused; `transactions` are the steps to call inside the unit's transaction. `told` are like `results`, and deliver
    what the commit has entered in a journal: they come before anything else that follows from the commit. `decided`
    gets the results of the changes that the unit decided on. `unread` are the keys of runs of this worker's that the
    work writes about although they are not in memory: they are read after it, and it is worth nothing to another claim.
    `plain` is how many changes stood before the transactional steps were called. `lines` go to the log.
    """

    results: list[tuple[int, Callable[[Any], Fact | None]]] = []
    drops: list[StepCall] = []
    over: list[RunOver] = []
    after: list[Callable[[], Fact | None]] = []
    replies: list[tuple[Reply, Any]] = []
    refusals: list[Refusal] = []
    told: list[tuple[int, Callable[[Any], Fact | None]]] = []
    decided: Callable[[list[Any]], None] | None = None
    transactions: list[tuple[LoadedRun, StepCall]] = []
    unread: list[int] = []
    plain: int | None = None
    lines: list[Line] = []

    def absorb(self, other: RareEffects, already: int) -> None:
        """Take over what another work leads to, whose changes stand behind `already` others now."""
        self.results += [(index + already, on_commit) for index, on_commit in other.results]
        self.drops += other.drops
        self.over += other.over
        self.after += other.after
        self.replies += other.replies
        self.refusals += other.refusals
        self.told += [(index + already, on_commit) for index, on_commit in other.told]
        self.transactions += other.transactions
        self.lines += other.lines
