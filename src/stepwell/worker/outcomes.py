"""What becomes of works: released after their commit, or forgotten where they were refused.

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
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from stepwell.definitions.step_call import StepCall
from stepwell.errors import ClaimLost, StepwellError
from stepwell.model.journal import Entry, EntryKind
from stepwell.model.lifecycle import ENDED
from stepwell.replay.loop_thread import LoopThread
from stepwell.store.changes import Change, RunMoved
from stepwell.store.inspector import Inspector
from stepwell.store.queues import PermitDetached
from stepwell.store.store import Lent, Outcome
from stepwell.values.codec import Codec
from stepwell.worker.commit_batch import CommitBatch
from stepwell.worker.failure_log import run_fields, run_halted
from stepwell.worker.loaded_run import LoadedRun
from stepwell.worker.run_cache import RunCache
from stepwell.worker.step_outcomes import StepOutcomes
from stepwell.worker.unit_of_work import Outside, RunOver, UnitOfWork

_log: Final = logging.getLogger("stepwell")

#: After how many refused writes in a row a run is halted instead of read again.
_MAX_REFUSALS: Final = 3
#: The entries that say how attempts of steps ended.
_ENDS_OF_ATTEMPTS: Final[frozenset[EntryKind]] = frozenset({"step", "step_failed", "attempt_failed"})


class Owner(Protocol):
    """The worker, as far as its works need it."""

    now: int
    codec: Codec
    loops: LoopThread
    memory: RunCache
    batch: CommitBatch

    def forget(self, run: LoadedRun, left: UnitOfWork) -> None:
        """Take a run out of memory; `left` takes note of attempts that go on, with their permits."""
        ...

    def load_soon(self, keys: Sequence[int]) -> None:
        """Bring runs of this worker's to memory, in an event of their own."""
        ...

    def settle_run(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits."""
        ...

    def step_finished(self, attempts: StepCall) -> None:
        """Record how an attempt ended, and carry the run on."""
        ...

    def settle_told(self) -> None:
        """Carry on the runs that were told which children they have."""
        ...


class Outcomes:
    """Releases or takes back the works of one worker, once their commit has succeeded or failed."""

    def __init__(self, worker: Owner, inspector: Inspector, steps: StepOutcomes, outside: Outside) -> None:
        self._worker = worker
        self._inspector = inspector
        self._steps = steps
        self._outside = outside
        self._batch = worker.batch
        self._memory = worker.memory
        self._refusals: dict[int, int] = {}  # by run key, in a row

    def prepare(self, work: UnitOfWork) -> None:
        """Make the unit of a work with transactional steps call them, inside the transaction."""

        def body(lent: Lent) -> list[Change]:
            before = work.extra.plain = len(work.changes)
            for run, attempts in work.extra.transactions:
                if attempts.wanted and self._memory.runs.get(run.key) is run:
                    self._batch.join(run, work)
                    with self._worker.loops.left():
                        self._steps.call_transaction(attempts, lent)
                    self._worker.step_finished(attempts)
            for run in work.residents:
                if run.work is work:  # what an earlier commit of this turn led to has a work of its own
                    run.work = None
            return work.changes[before:]

        work.body = body

    def settle(self, works: Sequence[UnitOfWork], outcomes: Sequence[Outcome]) -> None:
        """Release what committed works led to, or forget those that were refused."""
        self._deliver_told(works, outcomes)
        if self._refusals:
            self._forget_refusals(works, outcomes)
        steps = self._batch.steps
        pairs = iter(zip(works, outcomes, strict=True))
        for work, outcome in pairs:
            if work.rare is None and isinstance(outcome, list):
                for attempts in work.steps:
                    if attempts.wanted:
                        steps.append(attempts)
            else:
                try:
                    self.settled(work, outcome)
                except Exception:
                    # The engine stops; whoever waits for these, or for the rest of this one, is told so.
                    self._batch.put_back([work, *(left for left, _ in pairs)])
                    raise

    def _forget_refusals(self, works: Sequence[UnitOfWork], outcomes: Sequence[Outcome]) -> None:
        for work, outcome in zip(works, outcomes, strict=True):
            if isinstance(outcome, list):
                for run in work.residents:
                    self._refusals.pop(run.key, None)

    def _deliver_told(self, works: Sequence[UnitOfWork], outcomes: Sequence[Outcome]) -> None:
        """Deliver what commits entered in journals: behind all that came before them, before all that comes now."""
        for work, outcome in zip(works, outcomes, strict=True):
            if work.rare is not None and work.rare.told and isinstance(outcome, list):
                for index, on_commit in work.rare.told:
                    on_commit(outcome[index])
        self._worker.settle_told()

    def settled(self, work: UnitOfWork, outcome: Outcome) -> None:
        """Release what a work led to, or forget it where it was refused."""
        if work.rare is not None:
            self._batch.forget(work)
        if isinstance(outcome, StepwellError):
            self._refused(work, outcome)
            return
        if work.rare is not None:
            self._release(work, outcome)
        for attempts in work.steps:
            if attempts.wanted:
                self._batch.steps.append(attempts)

    def _release(self, work: UnitOfWork, outcome: Sequence[Any]) -> None:
        extra = work.extra
        for line in extra.lines:
            line.write()
        for index, on_commit in extra.results:
            on_commit(outcome[index])
        if extra.decided is not None:
            extra.decided(list(outcome[len(work.changes) :]))
        for reply, value in extra.replies:
            reply(value, None)
        for call in extra.after:
            call()
        if extra.over:  # after what the runs published last, which someone may wait for
            self._outside.run_over(extra.over)
        if extra.drops:
            self._outside.drop_steps(extra.drops)

    def run_steps(self) -> None:
        """Have the steps executed that the commits since the last call made safe."""
        if not self._batch.steps:
            return
        steps, self._batch.steps = self._batch.steps, []
        withdrawn = [attempts for attempts in steps if not attempts.wanted]  # by what the commit led to
        if withdrawn:
            steps = [attempts for attempts in steps if attempts.wanted]
        if steps:
            self._outside.run_steps(steps)
        for attempts in withdrawn:
            self._worker.step_finished(attempts)

    def _refused(self, work: UnitOfWork, error: StepwellError) -> None:
        lost = [run for run in work.residents if run.key in self._memory or run.finished]
        refused, unended = self._drop(work, lost, error)
        left = {run.key: self._let_go(run, refused) for run in lost}
        if isinstance(error, ClaimLost):
            # One of the runs that it concerned is another worker's; not all need be. And a run that was to end because
            # nobody had begun it may just have been claimed here.
            self._worker.load_soon([key for key in dict.fromkeys(unended) if key not in left])
            for run in lost:
                self._read_again(run, left[run.key])
            return
        for run in lost:
            fields = run_fields(run.id, run.execution.definition.name)
            _log.error("run %r is read again, because a write was refused: %s", run.id, error, extra=fields)
            self._refusals[run.key] = self._refusals.get(run.key, 0) + 1
            if self._refusals[run.key] < _MAX_REFUSALS:
                self._read_again(run, left[run.key], refused)
            else:
                reason = f"{type(error).__name__}: its writes were refused {_MAX_REFUSALS} times: {error}"
                self._halt_unread(run.key, left[run.key], reason, error)

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
            self._outside.not_over(unended)
        return refused, unended

    def _let_go(self, run: LoadedRun, refused: Iterable[UnitOfWork]) -> UnitOfWork:
        """Take a run out of memory; return what leaves its attempts that go on with their permits.

        Written before the run is read again or halted, or the permits would be used twice. Some of these attempts were
        left by the refused works.
        """
        left = UnitOfWork([])
        for work in refused:
            for index, on_commit in () if work.rare is None else work.rare.results:
                change = work.changes[index]
                if isinstance(change, PermitDetached) and change.run == run.key:
                    left.then(change, on_commit)
        self._worker.forget(run, left)
        return left

    def _read_again(self, run: LoadedRun, left: UnitOfWork, refused: Iterable[UnitOfWork] = ()) -> None:
        """Read a run from the store, once the ends of attempts that refused works would have recorded are recorded.

        They have happened, whatever became of what the run made of them. Of transactional steps nothing stands. `left`
        is written with them.
        """
        load = partial(self._worker.load_soon, [run.key])
        ends: list[Change] = []
        for work in refused:
            changes = work.changes if work.rare is None else work.changes[: work.rare.plain]
            entries = (change for change in changes if isinstance(change, Entry) and change.run == run.key)
            ends += [entry for entry in entries if entry.kind in _ENDS_OF_ATTEMPTS]
        if not ends and not left.changes:
            load()
            return
        work = self._batch.lone_work()
        work.changes += ends
        for one in refused:
            lines = () if one.rare is None else one.rare.lines
            work.extra.lines += [line for line in lines if line.of_attempt and line.run == run.key]
        work.absorb(left)
        work.extra.unread.append(run.key)
        self._batch.unread.add(run.key)
        work.afterwards(load, lambda _error: load())

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
            lost += [other for other in newer.residents if other not in lost]
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
                lost = work.residents
                refused, _ = self._drop(work, lost, error)
                for run in lost:
                    self._read_again(run, self._let_go(run, refused), refused)
            elif work.residents or work.extra.unread or not work.refusals():
                kept.append(work)
                self._tell_kept(work, error)
            else:
                self.settled(work, error)
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
            if not work.residents and not work.calls_transactions and not of_its_runs:
                kept.append(work)
                continue
            if work.rare is not None:
                self._batch.forget(work)
            for on_refusal in work.refusals():
                on_refusal(error)
        self._refusals.clear()
        return kept

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run whose event the engine failed to handle; what that event led to is dropped."""
        run = self._memory.runs.get(key)
        work: UnitOfWork | None = None if run is None else run.work
        left = UnitOfWork([])
        if work is not None and work in self._batch:
            self._batch.discard(work)
            if work.rare is not None:
                self._batch.forget(work)
            for other in work.residents:
                if other is not run:
                    self._read_again(other, self._let_go(other, [work]))
            for on_refusal in work.refusals():
                on_refusal(StepwellError(f"nothing was written, because the engine failed to handle the run: {error}"))
        if run is not None:
            left = self._let_go(run, [work] if work is not None else [])
        reason = f"{type(error).__name__}: the engine failed to handle this run: {error}"
        self._halt_unread(key, left, reason, error, logged=True)

    def halt_intruded(self) -> None:
        """Halt the runs that other code has reached into; call it before a commit."""
        intruded, self._worker.loops.intruded = self._worker.loops.intruded, []
        for execution in intruded:
            run = self._memory.by_id(execution.run_id)
            if run is not None and run.execution is execution:
                self._worker.settle_run(run, self._batch.work_of(run))

    def halt_unread(self, key: int, error: Exception) -> None:
        """Halt a run that is not in memory, for an error that says why."""
        self._halt_unread(key, UnitOfWork([]), f"{type(error).__name__}: {error}", error)

    def _halt_unread(
        self, key: int, left: UnitOfWork, reason: str, error: BaseException, *, logged: bool = False
    ) -> None:
        """Halt a run that is not in memory. `logged`: somebody has written to the log already why."""
        record = self._inspector.run_facts_by_key(key)
        if record is None or record.status in ENDED:
            return
        work = self._batch.lone_work()
        work.absorb(left)
        failure = self._worker.codec.encode_failure(error)
        work.changes.append(RunMoved(key, "halted", self._worker.now, None, reason, failure=failure))
        work.extra.over.append(RunOver(key, record.id, "halted", None, None, reason))
        if not logged:
            work.extra.lines.append(run_halted(key, record.id, record.workflow, error))
