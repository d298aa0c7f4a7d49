"""What follows from a commit: units of work are released after it, or forgotten if they were refused.

Nothing leaves the worker before the commit that justifies it (the output gate). A work whose unit was refused is
forgotten together with the runs it touched: they are read from the store again.

*The order in which continuations run*, on which much depends; the works of a commit each in turn, as they came:

1. Of all works first: what the commit entered in journals is delivered, then the runs that got it are carried on.
   A journal has that behind what stood in it and before what comes now.
2. Of a work that is committed: its lines go to the log; those who expect the result of a change get it, change by
   change; then who expects the results of what was decided; then callers are answered; then comes what only follows
   from the commit; then whoever waits for runs that ended is told; then attempts that nobody wants are dropped.
3. Of a work that is refused: those who are told only of that, then callers, are told why, and so are those of the works
   that were built upon it. Then whoever waits for ends that did not come about looks again. Then the runs that it
   touched leave memory, and are read again, or halted.
4. When all commits of a turn are done: the steps that they made safe begin.

In 2 and 3 each kind keeps the order in which it was added.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from stepwell.definitions.step_call import StepCall
from stepwell.errors import ClaimLost, StepwellError
from stepwell.model.journal import Entry
from stepwell.store.changes import Change
from stepwell.store.store import Lent, Outcome
from stepwell.worker.arriving.step_outcomes import StepOutcomes
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.letting_go import LettingGo
from stepwell.worker.state.effects import EndsRefused, RunsOver, StepsDropped
from stepwell.worker.state.facts import Fact, RunsTaken, ScheduleTouched, SuccessorBegan
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: After how many refused writes in a row a run is halted instead of read again.
_MAX_REFUSALS: Final = 3


class Outcomes:
    """Releases or takes back the works of one worker, once their commit has succeeded or failed."""

    def __init__(self, runs: Runs, letting_go: LettingGo, carrier: Carrier, steps: StepOutcomes) -> None:
        self._runs = runs
        self._letting_go = letting_go
        self._carrier = carrier
        self._steps = steps
        self._batch = runs.batch
        self._memory = runs.memory
        self._refusals: dict[int, int] = {}  # by run key, in a row

    def prepare(self, work: UnitOfWork) -> None:
        """Make the unit of a work with transactional steps call them, inside the transaction."""

        def body(lent: Lent) -> list[Change]:
            before = work.extra.plain = len(work.changes)
            for run, attempts in work.extra.transactions:
                if attempts.wanted and self._memory.runs.get(run.key) is run:
                    self._batch.join(run, work)
                    with self._runs.loops.left():
                        self._steps.call_transaction(run, attempts, lent, work)
                    self._steps.finished(attempts)
            for run in work.loaded_runs:
                if run.work is work:  # what an earlier commit of this turn led to has a work of its own
                    run.work = None
            return work.changes[before:]

        work.body = body

    # --- after a commit ----------------------------------------------------------------------------------------------

    def told(self, works: Sequence[UnitOfWork], outcomes: Sequence[Outcome]) -> Iterator[Fact]:
        """Yield what commits entered in journals: behind all that came before them, before all that comes now."""
        if self._refusals:
            self._forget_refusals(works, outcomes)
        for work, outcome in zip(works, outcomes, strict=True):
            if work.rare is not None and work.rare.told and isinstance(outcome, list):
                for index, on_commit in work.rare.told:
                    fact = on_commit(outcome[index])
                    if fact is not None:
                        yield fact

    def _forget_refusals(self, works: Sequence[UnitOfWork], outcomes: Sequence[Outcome]) -> None:
        for work, outcome in zip(works, outcomes, strict=True):
            if isinstance(outcome, list):
                for run in work.loaded_runs:
                    if run.finished or any(_is_progress(change, run) for change in work.changes):
                        self._refusals.pop(run.key, None)

    def released(self, work: UnitOfWork, outcome: Outcome) -> Iterator[Fact]:
        """Release what a work led to, or forget it where it was refused; yield the facts that follow, in order."""
        if work.rare is not None:
            self._batch.forget(work)
        if isinstance(outcome, StepwellError):
            self._refused(work, outcome)
            return
        if work.rare is not None:
            yield from self._release(work, outcome)
        self.release_steps(work)

    def release_steps(self, work: UnitOfWork) -> None:
        """Have the steps of a committed work start when all is committed."""
        for attempts in work.steps:
            if attempts.wanted:
                self._batch.steps.append(attempts)

    def _release(self, work: UnitOfWork, outcome: Sequence[Any]) -> Iterator[Fact]:
        extra = work.extra
        for line in extra.lines:
            line.write()
        for index, on_commit in extra.results:
            fact = on_commit(outcome[index])
            if fact is not None:
                if isinstance(fact, SuccessorBegan):  # who waits for the id goes on waiting
                    extra.over = [over for over in extra.over if over.key != fact.succeeded.run]
                yield fact
        if extra.decided is not None:
            extra.decided(list(outcome[len(work.changes) :]))
        for reply, value in extra.replies:
            reply(value, None)
        for call in extra.after:
            fact = call()
            if fact is not None:
                yield fact
        # The ids of a schedule's runs have such a sign; where another's has it as well, a look finds nothing.
        if extra.over and any("@" in over.id for over in extra.over):
            yield ScheduleTouched()
        if extra.over:  # after what the runs published last, which someone may wait for
            self._runs.effects.append(RunsOver(extra.over))
        if extra.drops:
            self._runs.effects.append(StepsDropped(extra.drops))

    def take_steps(self) -> tuple[list[StepCall], list[StepCall]]:
        """Return the steps to start, that the commits since the last call made safe, and those that count as finished.

        What the commit led to has withdrawn the latter.
        """
        if not self._batch.steps:
            return [], []
        steps, self._batch.steps = self._batch.steps, []
        withdrawn = [attempts for attempts in steps if not attempts.wanted]
        if withdrawn:
            steps = [attempts for attempts in steps if attempts.wanted]
        return steps, withdrawn

    # --- where nothing was written -----------------------------------------------------------------------------------

    def _refused(self, work: UnitOfWork, error: StepwellError) -> None:
        lost = [run for run in work.loaded_runs if run.key in self._memory or run.finished]
        refused, unended = self._drop(work, lost, error)
        left = {run.key: self._letting_go.let_go(run, refused) for run in lost}
        if isinstance(error, ClaimLost):
            # One of the runs that it concerned is another worker's; not all need be. And a run that was to end because
            # nobody had begun it may just have been claimed here.
            self._runs.later(RunsTaken([key for key in dict.fromkeys(unended) if key not in left]))
            for run in lost:
                self._letting_go.read_again(run, left[run.key])
            return
        for run in lost:
            fields = run_fields(run.id, run.execution.definition.name)
            _log.error("run %r is read again, because a write was refused: %s", run.id, error, extra=fields)
            self._refusals[run.key] = self._refusals.get(run.key, 0) + 1
            if self._refusals[run.key] < _MAX_REFUSALS:
                self._letting_go.read_again(run, left[run.key], refused)
            else:
                reason = f"{type(error).__name__}: its writes were refused {_MAX_REFUSALS} times: {error}"
                self._letting_go.halt_unread(run.key, error, reason, left[run.key])

    def _drop(
        self, work: UnitOfWork, lost: list[LoadedRun], error: StepwellError
    ) -> tuple[list[UnitOfWork], list[int]]:
        """Drop a work that is not written, and those of the batch under way that build upon it.

        Returns them, and the keys of the runs that they would have ended; `lost` gets the runs that they touch.
        """
        for on_refusal in work.refusals():
            on_refusal(error)
        refused = [work, *self._drop_newer(lost, error)]
        unended = [over.key for one in refused if one.rare is not None for over in one.rare.over]
        if unended:
            self._runs.effects.append(EndsRefused(unended))
        return refused, unended

    def _drop_newer(self, lost: list[LoadedRun], error: StepwellError) -> list[UnitOfWork]:
        """Drop the works of the batch under way that build upon refused ones, and return them.

        `lost` gets the runs that they touch.
        """
        dropped: list[UnitOfWork] = []
        for run in lost:  # which grows
            newer: UnitOfWork | None = run.work
            if newer is None or newer not in self._batch:
                continue
            self._batch.discard(newer)
            if newer.rare is not None:
                self._batch.forget(newer)
            lost += [other for other in newer.loaded_runs if other not in lost]
            dropped.append(newer)
            for on_refusal in newer.refusals():
                on_refusal(error)
        return dropped

    def hold_back(self, works: list[UnitOfWork], error: StepwellError) -> None:
        """Refuse requests that touch no run in memory; keep the rest for another try.

        What neither a run nor a caller waits for (a permit that comes free, say) must be written some time as well. A
        request that cannot be taken out of what its run did is kept, and its caller told so.
        """
        kept: list[UnitOfWork] = []
        for work in works:
            if work.calls_transactions and work.body is not None:
                # Their functions were called, but nothing of it stands: read the runs again when there is space.
                self._batch.forget(work)
                lost = work.loaded_runs
                refused, _ = self._drop(work, lost, error)
                for run in lost:
                    self._letting_go.read_again(run, self._letting_go.let_go(run, refused), refused)
            elif work.loaded_runs or work.extra.unread or not work.refusals():
                kept.append(work)
                self._tell_kept(work, error)
            else:
                self._batch.forget(work)
                self._refused(work, error)
        self._batch.put_back(kept)

    @staticmethod
    def _tell_kept(work: UnitOfWork, error: StepwellError) -> None:
        """Tell callers that their request is written later, if the engine lives so long."""
        if work.rare is not None and work.rare.replies:
            told, work.rare.replies = work.rare.replies, []
            for reply, _ in told:
                reply(None, type(error)(f"{error}. This request is kept, and tried again by itself: do not repeat it"))

    def drop(self, works: Iterable[UnitOfWork], error: ClaimLost) -> list[UnitOfWork]:
        """Drop what concerns runs that are not this worker's any more; return the works that can be written anew."""
        kept: list[UnitOfWork] = []
        for work in (*works, *self._batch.take()):
            of_its_runs = work.rare is not None and bool(work.rare.unread)
            if not work.loaded_runs and not work.calls_transactions and not of_its_runs:
                kept.append(work)
                continue
            if work.rare is not None:
                self._batch.forget(work)
            for on_refusal in work.refusals():
                on_refusal(error)
        self._refusals.clear()
        return kept

    def halt_intruded(self) -> None:
        """Halt the runs that other code has reached into; call it before a commit."""
        intruded, self._runs.loops.intruded = self._runs.loops.intruded, []
        for execution in intruded:
            run = self._memory.by_id(execution.run_id)
            if run is not None and run.execution is execution:
                self._carrier.carry_on(run, self._batch.work_of(run))


def _is_progress(change: Change, run: LoadedRun) -> bool:
    """Tell whether a run comes further with a change; that it was read again, and repeats an attempt, is none.

    The store's `is_progress` says the same of rows.
    """
    return (
        isinstance(change, Entry)
        and change.run == run.key
        and change.kind != "step_started"
        and (change.op > 0 or change.kind != "timer")
    )
