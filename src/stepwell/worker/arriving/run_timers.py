"""The times of runs in memory: timers, attempts that wait to be repeated, deadlines, pauses of code that goes round.

Code that polls with timers of no length (``while not task.done(): await asyncio.wait([task], timeout=0)``) sets the
next one each time that one has fired, at the same instant. It is treated as code that goes round without waiting
(`stepwell.worker.running.spinning`): after some rounds all else has its turn, and where nothing comes about it rests
longer and longer.

What was recorded before a time has passed comes before it: a message that another process sent, say, although the note
of it is still on its way. So the file is asked first, once for all runs that are due, if one of them waits for such.
"""

from __future__ import annotations

import logging
from typing import Final

from stepwell.replay.operation import Operation
from stepwell.worker.arriving.inbox import Inbox
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.run_endings import DEADLINE_REASON
from stepwell.worker.running.spinning import EAGER_TICKS, Spinning, pause_after
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.steps.step_dispatch import StepDispatch

_log: Final = logging.getLogger("stepwell")

#: How many timers that were set within the event are fired in it, one after the other.
_ROUNDS: Final = 16
#: What a run waits for that nobody else brings about.
_OWN: Final = frozenset(("timer", "step"))
#: After how many further events of that kind a run is named again.
_NAMED_EVERY: Final = 500


class RunTimers:
    """Carries runs on when their times come; a `stepwell.worker.state.due.Due`."""

    def __init__(
        self,
        runs: Runs,
        steps: StepDispatch,
        activator: Activator,
        carrier: Carrier,
        spinning: Spinning,
        inbox: Inbox,
    ) -> None:
        self._runs = runs
        self._steps = steps
        self._activator = activator
        self._carrier = carrier
        self._spinning = spinning
        self._inbox = inbox
        self._told: set[int] | None = None  # what `Inbox.told` said in the event under way; None: it was not asked
        self._put_off: list[LoadedRun] = []

    def due_at(self) -> int | None:
        """Return when the first run in memory is due; None: none is."""
        return self._runs.memory.next_due()

    def advance(self, now: int) -> None:
        """Carry on all runs that are due at `now`, the longest due first."""
        self._told = None
        while (run := self._runs.memory.pop_due(now)) is not None:
            self._fire(run, now)
        put_off, self._put_off = self._put_off, []
        for run in put_off:
            if not run.finished and run.armed is None and run.key in self._runs.memory:
                self._runs.memory.arm(run)

    def _fire(self, run: LoadedRun, now: int) -> None:
        if run.pausing is not None:
            return  # its timers wait
        memory = self._runs.memory
        if not self._hear(run):
            return
        work = self._runs.batch.work_of(run)
        if run.deadline_at is not None and run.deadline_at <= now and not run.cancelling:
            self._carrier.deliver_cancel(run, DEADLINE_REASON, work)
        newest, rounds = run.opened, 0
        while not run.finished and run.status != "halted":
            if rounds == _ROUNDS:
                self._let_rest(run, now)
                return
            due = run.pop_due(now)
            if not due:
                break
            rounds += due[0] > newest
            timers: list[Operation] = []
            for operation in map(run.execution.pending.__getitem__, due):
                if operation.kind == "timer":
                    timers.append(operation)
                elif operation.number in run.calls:
                    self._steps.dispatch(run, run.calls[operation.number], work)
                else:
                    self._activator.expire(run, operation, work)
            for place, operation in enumerate(timers, 1):
                entry = operation.answer(run.key, "timer", now)
                self._activator.deliver(run, entry, work, more=place < len(timers))
            self._carrier.carry_on(run, work)
        run.rounds = 0
        self._spinning.look(run)
        if not run.finished and run.armed is None and run.key in memory:
            memory.arm(run)

    def _hear(self, run: LoadedRun) -> bool:
        """Give a run what others have written for it, if it waits for such; tell whether its times still matter."""
        if all(operation.kind in _OWN for operation in run.execution.pending.values()):
            return True
        if self._told is None:
            self._told = self._inbox.told()
        if run.key in self._told:
            self._told.discard(run.key)
            self._inbox.look_again(run)
        return not run.finished and run.pausing is None and self._runs.memory.runs.get(run.key) is run

    def _let_rest(self, run: LoadedRun, now: int) -> None:
        """Put off the next timers of a run that sets them at once: to the next turn, and to later and later ones."""
        run.rounds += 1
        beyond = run.rounds - EAGER_TICKS
        if beyond >= 0 and beyond % _NAMED_EVERY == 0:
            _log.warning(
                "run %r: its code has set %d timers one after the other that are due at once, at %s. Other runs go on, "
                "but these fire more and more seldom. Where it polls, await what it polls for, or give the timers a "
                "length",
                run.id,
                run.rounds * _ROUNDS,
                run.execution.waits_at() or "a place in code that is not the workflow's own",
                extra=run_fields(run.id, run.execution.definition.name),
            )
        if beyond < 0:
            run.armed = None  # what the heap has of it now would be fired in this event
            self._put_off.append(run)
        else:
            rests_until = now + pause_after(run.rounds)
            is_sooner = run.deadline_at is not None and not run.cancelling and run.deadline_at < rests_until
            self._runs.memory.arm_at(run, run.deadline_at if is_sooner and run.deadline_at else rests_until)
