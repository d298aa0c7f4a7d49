"""Permits of limits, as attempts of steps ask for them, use them and return them.

An attempt asks in the commit of the activation that issued it, and the decision is part of that commit; until it is
known the run counts as running, so that a permit that is free costs no further commit. The permit goes back in the
commit that records how the attempt ended.

An attempt that nobody waits for any more may go on: a function in a thread that timed out, or whose run has ended or is
read again. What it calls still bears its load, so it keeps its permit, apart from its run, until its execution is
really over.
"""

from __future__ import annotations

from functools import partial

from stepwell.definitions.queues import used
from stepwell.definitions.step_call import StepCall
from stepwell.store.queues import PermitAsked, PermitDetached, PermitFreed, PermitKept, PermitReturned
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork


class Permits:
    """Asks for permits and returns them, on behalf of attempts. Holds no state of its own."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def held(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork) -> bool:
        """Tell whether an attempt has its permit from an earlier worker; else ask for one."""
        limit = attempts.definition.step_options.limit
        assert limit is not None
        now, number = self._runs.now, attempts.operation
        known = run.permits.pop(number, None)
        if known is not None and known.granted and known.limit == limit.name:
            if known.holder is None or not limit.may_be_rated:
                attempts.permit = "held"
                work.changes.append(PermitKept(run.key, number))
                return True
            # An attempt may have started with it, so this one is another start; not in the same microsecond, though,
            # because the store takes two starts of one operation at one time for the same.
            work.changes.append(PermitReturned(run.key, number, now, now - 1))
        elif known is not None and known.limit != limit.name:
            work.changes.append(PermitReturned(run.key, number, now))
        attempts.permit, attempts.began_at, attempts.start_told = "asked", 0, False
        name = used(limit).name
        self._runs.declare(name, work)  # before it is asked for
        self._runs.agenda.ask(run, attempts, name)
        work.changes.append(PermitAsked(run.key, number, limit.name, now))
        return False

    def give_back(self, attempts: StepCall, work: UnitOfWork, *, started: bool = True) -> None:
        """Return the permit of an attempt, or its place in the line, where it has one."""
        limit = attempts.definition.step_options.limit
        if attempts.permit is None or limit is None:
            return
        attempts.permit = None
        now = self._runs.now
        started_at = (attempts.began_at or now) if started else None
        work.changes.append(PermitReturned(attempts.run_key, attempts.operation, now, started_at))
        self._runs.limit_touched(limit.name)

    def ended(self, attempts: StepCall, work: UnitOfWork) -> None:
        """Return the permit of an attempt that counts as ended, or leave it with the thread that goes on."""
        if attempts.lingers:
            attempts.lingers = False
            self.leave(attempts, work)
        if attempts.permit == "left":
            attempts.permit = None  # of the next attempt; when this one's thread ends, `free` is called
        else:
            self.give_back(attempts, work)

    def leave(self, attempts: StepCall, work: UnitOfWork) -> None:
        """Leave an attempt that executes with its permit, because nobody waits for its end any more.

        One that has not begun keeps its permit as it is; its end is told like any other, and returns it.
        """
        if attempts.permit == "held" and attempts.began_at:
            attempts.permit = "left"
            attempts.leaving[attempts.attempt] = False
            left = PermitDetached(attempts.run_key, attempts.operation, attempts.attempt, attempts.began_at)
            work.then(left, partial(self._has_left, attempts, attempts.attempt))

    def _has_left(self, attempts: StepCall, attempt: int, _result: object) -> None:
        if attempts.leaving.pop(attempt):
            self.free(attempts, attempt, self._runs.batch.lone_work())

    def over(self, attempts: StepCall, work: UnitOfWork) -> None:
        """Free the permit of an attempt that nobody waits for: only now is its execution over, unless it lingers."""
        if attempts.lingers:
            self.ended(attempts, work)
        elif attempts.permit == "left":
            attempts.permit = None
            self.free(attempts, attempts.attempt, work)
        elif attempts.permit == "held":
            self.give_back(attempts, work)

    def free(self, attempts: StepCall, attempt: int, work: UnitOfWork) -> None:
        """Free the permit that an attempt was left with; after the commit that leaves it, where that is to come."""
        limit = attempts.definition.step_options.limit
        if attempt in attempts.leaving:
            attempts.leaving[attempt] = True
        elif limit is not None:
            work.changes.append(PermitFreed(attempts.run_key, attempts.operation, attempt))
            self._runs.limit_touched(limit.name)

    def forget(self, attempts: StepCall, work: UnitOfWork) -> None:
        """Note that the end of the run, or its halt, returns the permit of an attempt unless that executes."""
        limit = attempts.definition.step_options.limit
        self.leave(attempts, work)
        if attempts.permit in ("asked", "waiting", "held") and limit is not None:
            attempts.permit = None
            self._runs.limit_touched(limit.name)
