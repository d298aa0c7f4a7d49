"""Continues the runs that wait for the end of another one, in the same unit as that end.

`stepwell.worker.running.activation` carries one run on. Here is what joins several.
"""

from __future__ import annotations

import logging
from typing import Final, assert_never

from stepwell.definitions.step_call import StepCall
from stepwell.errors import StoreError
from stepwell.model.journal import Entry
from stepwell.model.start_policy import REPLACED_REASON
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.letting_go import LettingGo
from stepwell.worker.running.run_endings import RunEndings
from stepwell.worker.state.facts import RunContinues, RunEnded, RunsTaken, RunStopped
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.opening import answer_with_end
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork

_log: Final = logging.getLogger("stepwell")


class Carrier:
    """Carries runs on until they wait. Knows whose ends are still to be told within the unit under way."""

    def __init__(self, runs: Runs, activator: Activator, endings: RunEndings, letting_go: LettingGo) -> None:
        self._runs = runs
        self._activator = activator
        self._endings = endings
        self._letting_go = letting_go
        #: Ends that are to be delivered within the unit under way: to which run, to which operation.
        self.ends: list[tuple[int, int, RunOver]] = []

    def carry_on(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry a run on until it waits, and tell whoever waits for runs that ended on the way."""
        try:
            self.advance(run, work)
        except StoreError:  # of the disk, not of the run: the engine stops, as it does wherever else it cannot read
            raise
        except Exception as error:  # noqa: BLE001 - one run's defect must not stop the others
            fields = run_fields(run.id, run.execution.definition.name)
            _log.critical("run %r: the engine failed to handle it; it is halted", run.id, exc_info=error, extra=fields)
            self._letting_go.halt_broken(run.key, error)
        if self.ends:
            self.deliver_ends(work)

    def advance(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Carry one run on until it waits; `deliver_ends` must follow. Raises what the engine fails with."""
        fact = self._activator.advance(run, work)
        if fact is not None:
            self._over(fact, work)

    def halt(self, run: LoadedRun, reason: BaseException, work: UnitOfWork, step: StepCall) -> None:
        """Halt a run because of the result of one of its steps."""
        self._over(self._endings.halt(run, reason, work, step=step), work)

    def deliver_cancel(self, run: LoadedRun, reason: str | None, work: UnitOfWork) -> None:
        """Tell a run that it is cancelled, once."""
        if run.finished:
            return
        run.was_made_due()
        run.pausing = None  # it is to clean up, and to end
        if not run.cancelling:
            run.cancelling = True
            run.cancel_reason = reason
            self._activator.deliver(run, Entry(run.key, 0, "cancel", reason or "", 0, self._runs.now), work)
        self.carry_on(run, work)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _over(self, fact: RunContinues | RunEnded | RunStopped, work: UnitOfWork) -> None:
        match fact:
            case RunEnded(run, over):
                run.finished = True
                if run.queue is not None:
                    self._runs.queue_touched(run.queue)
                self._runs.batch.ending[run.key] = over
                self._letting_go.forget(run)
                if (
                    run.cancel_reason != REPLACED_REASON
                ):  # else it is told when it is known whether another one follows it
                    self.tell_watchers(run.id, run.parent, over, work)
            case RunStopped(run):
                self._letting_go.forget(run)
            case RunContinues(run):
                self._goes_on_as_new(run, work)
            case _:
                assert_never(fact)

    def _goes_on_as_new(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Have a run read again once its next chapter is in the store, with whatever has come for it by then."""
        run.finished = True  # as far as this code of it is concerned
        self._letting_go.forget(run)
        work.extra.unread.append(run.key)
        self._runs.batch.unread.add(run.key)
        work.afterwards(lambda: self._runs.later(RunsTaken([run.key])))

    def tell_watchers(self, run_id: str, parent: int | None, over: RunOver, work: UnitOfWork) -> None:
        """Note who is to hear of a run's end; `deliver_ends` tells them."""
        memory = self._runs.memory
        watchers = memory.pop_watchers(run_id)
        if parent is not None and parent not in memory:
            self._activator.wake_absent(parent, work)
        elif parent is not None and all(key != parent for key, _ in watchers):
            watchers.append((parent, 0))  # the end makes it due in the store, though it waits for something else
        self.ends += [(key, operation, over) for key, operation in watchers]

    def deliver_ends(self, work: UnitOfWork) -> None:
        """Tell the watchers of runs that ended within this work, and theirs in turn."""
        while self.ends:
            key, number, over = self.ends.pop()
            watcher = self._runs.memory.runs.get(key)
            operation = watcher.execution.pending.get(number) if watcher is not None else None
            if watcher is None or (operation is None and watcher.status != "waiting"):
                continue
            self._runs.batch.join(watcher, work)
            watcher.was_made_due()
            if operation is not None:
                self._activator.deliver(watcher, answer_with_end(self._runs, watcher, operation, over), work)
            self.advance(watcher, work)
