"""Runs that leave memory: at rest, ended, or because what was to be written of them is not.

The file stands as it is. Where a run's uncommitted work is lost, it is read again, or halted; but its attempts that go
on keep their permits, and the ends of those that are over are written down: they have happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stepwell.errors import StepwellError
from stepwell.model.journal import Entry, EntryKind
from stepwell.model.lifecycle import ENDED
from stepwell.store.changes import Change, RunMoved
from stepwell.store.queues import PermitDetached
from stepwell.worker.running.failure_hooks import Failed, tell_of_failure
from stepwell.worker.state.effects import StepsDropped
from stepwell.worker.state.facts import RunsTaken
from stepwell.worker.state.failure_log import run_halted
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.run_over import RunOver, remedy_of
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.permits import Permits

#: The entries that say how attempts of steps ended.
_ENDS_OF_ATTEMPTS: Final[frozenset[EntryKind]] = frozenset({"step", "step_failed", "attempt_failed"})


class LettingGo:
    """Takes runs out of memory. Holds no state of its own."""

    def __init__(self, runs: Runs, permits: Permits) -> None:
        self._runs = runs
        self._permits = permits

    def forget(self, run: LoadedRun, left: UnitOfWork | None = None) -> None:
        """Take a run out of memory; the file stands as it is. In `left`, attempts that go on keep their permits."""
        self._runs.memory.remove(run)
        dropped = [attempts for attempts in run.calls.values() if attempts.retry_at is None]
        for attempts in dropped:
            attempts.wanted = False
            if left is not None:
                self._permits.leave(attempts, left)
            attempts.permit = "left" if attempts.permit == "left" else None
        if dropped:
            self._runs.effects.append(StepsDropped(dropped))
        run.execution.close()

    def let_go(self, run: LoadedRun, refused: Iterable[UnitOfWork]) -> UnitOfWork:
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
        self.forget(run, left)
        return left

    def read_again(self, run: LoadedRun, left: UnitOfWork, refused: Iterable[UnitOfWork] = ()) -> None:
        """Read a run from the store, once the ends of attempts that refused works would have recorded are recorded.

        They have happened, whatever became of what the run made of them. Of transactional steps nothing stands. `left`
        is written with them.
        """
        taken = RunsTaken([run.key])
        ends: list[Change] = []
        for work in refused:
            changes = work.changes if work.rare is None else work.changes[: work.rare.plain]
            entries = (change for change in changes if isinstance(change, Entry) and change.run == run.key)
            ends += [entry for entry in entries if entry.kind in _ENDS_OF_ATTEMPTS]
        if not ends and not left.changes:
            self._runs.later(taken)
            return
        work = self._runs.batch.lone_work()
        work.changes += ends
        for one in refused:
            lines = () if one.rare is None else one.rare.lines
            work.extra.lines += [line for line in lines if line.of_attempt and line.run == run.key]
        work.absorb(left)
        work.extra.unread.append(run.key)
        self._runs.batch.unread.add(run.key)
        work.afterwards(lambda: self._runs.later(taken), lambda _error: self._runs.later(taken))

    # --- halting -----------------------------------------------------------------------------------------------------

    def halt_broken(self, key: int, error: Exception) -> None:
        """Halt a run whose event the engine failed to handle; what that event led to is dropped."""
        batch = self._runs.batch
        run = self._runs.memory.runs.get(key)
        work: UnitOfWork | None = None if run is None else run.work
        left = UnitOfWork([])
        if work is not None and work in batch:
            batch.discard(work)
            if work.rare is not None:
                batch.forget(work)
            for other in work.loaded_runs:
                if other is not run:
                    self.read_again(other, self.let_go(other, [work]))
            for on_refusal in work.refusals():
                on_refusal(StepwellError(f"nothing was written, because the engine failed to handle the run: {error}"))
        if run is not None:
            left = self.let_go(run, [work] if work is not None else [])
        reason = f"{type(error).__name__}: the engine failed to handle this run: {error}"
        self.halt_unread(key, error, reason, left, logged=True)

    def halt_unread(
        self,
        key: int,
        error: BaseException,
        reason: str | None = None,
        left: UnitOfWork | None = None,
        *,
        logged: bool = False,
    ) -> None:
        """Halt a run that is not in memory, for an error that says why.

        `left`: see `let_go`. `logged`: somebody has written to the log already why.
        """
        record = next(iter(self._runs.reads.facts([key])), None)
        if record is None or record.status in ENDED:
            return
        if reason is None:
            reason = f"{type(error).__name__}: {error}"
        work = self._runs.batch.lone_work()
        if left is not None:
            work.absorb(left)
        failure = self._runs.codec.encode_failure(error)
        work.changes.append(RunMoved.halted(key, self._runs.now, reason, failure, remedy_of(error)))
        work.extra.over.append(RunOver.halted(key, record.id, reason))
        if not logged:
            work.extra.lines.append(run_halted(key, record.id, record.workflow, error))
        if record.status != "halted" or record.reason != reason:
            failed = Failed(key, record.id, record.workflow, record.parent, "halted", failure, None, record.version)
            tell_of_failure(self._runs, failed, work)
