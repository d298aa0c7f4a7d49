"""Which runs become this worker's: those that are due or pending and that nobody owns, and those somebody asks for.

First the claim is committed, then the run is read: `stepwell.worker.arriving.loader` does that, in an event of its own.
A run that has left memory is released the same way, and comes back where something arrived for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stepwell.definitions.jobs import Served
from stepwell.errors import StepwellError
from stepwell.model.lifecycle import ENDED
from stepwell.store.claims import RunsClaimed, RunsReleased, WorkerServes, WorkTaken
from stepwell.worker.running.unstarted import Unstarted
from stepwell.worker.state.facts import NotesLeft, RunsTaken
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs

#: How many runs are claimed in one commit, at most.
_CLAIMED_AT_ONCE: Final = 500


class Claims:
    """Takes runs for one worker and gives them back. Knows which of them are on their way."""

    def __init__(
        self,
        runs: Runs,
        unstarted: Unstarted,
        *,
        takes_work: bool = True,
    ) -> None:
        self._runs = runs
        self._unstarted = unstarted
        self._reads = runs.reads
        self._workflows = runs.workflows
        self._limits = runs.limits
        self.takes_work = takes_work
        self._announced = 0, 0  # how many workflows, and versions of some, the store was told of
        #: Whether there may be work in the store that `look` had no room for.
        self.work_may_exist = True
        self._looking = False  # a `WorkTaken` is not committed yet
        self._looked_meanwhile = False  # it was made before what is to be looked at now
        #: The keys of those that were brought to memory although workers died of them.
        self.suspects: set[int] = set()
        self._releasing: set[int] = set()  # the keys of runs whose release is not committed yet
        self._wanted_back: set[int] = set()  # those of them that somebody wanted meanwhile
        #: Why they were halted, of those that are tried again without being asked for.
        self.halted: dict[int, str | None] = {}
        self.claiming = runs.claiming

    def recover(self) -> None:
        """Take up what waits for a worker, try halted runs with today's code, and say which runs nobody here can run.

        An event, the first one of an engine.
        """
        runs = self._runs
        if not self.takes_work:
            return
        self._note_jobs()
        served = list(self._workflows)
        self.claim(self._reads.halted(served, self._limits.crashes), unasked=True)
        for record in self._reads.facts(self._reads.stranded(served, runs.now, _CLAIMED_AT_ONCE)):
            self._unstarted.leave_pending(record)
        self.look()

    def _note_jobs(self) -> None:
        """Find out which steps were started by themselves, also by others, so that those are served that are here."""
        if isinstance(self._workflows, Served):
            self._workflows.note(self._reads.started_steps())

    def serving(self) -> list[str]:
        """Return the workflows that this worker has; the caller tells the store."""
        self._announced = self._number()
        return list(self._workflows)

    def _number(self) -> tuple[int, int]:
        return len(self._workflows), len(self._workflows.versions())

    def retry_halted(self) -> None:
        """Try halted runs again, with the code of this worker; an event."""
        if self.takes_work and not self._runs.draining:
            self.claim(self._reads.halted(list(self._workflows), self._limits.crashes), unasked=True)

    def due_at(self) -> int | None:
        """Return when the next run that nobody owns is due, or passes its deadline, as far as is known."""
        return self._runs.parked.at

    def advance(self, now: int) -> None:
        """Take what is due, or end it; `now` is the time of the worker."""
        assert now == self._runs.now
        self.look()

    # --- claiming and releasing --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Take runs that are due, or pending, and that nobody owns, as far as there is room; an event.

        Those that were cancelled, or whose deadlines have passed, before anybody began them are ended.
        """
        runs = self._runs
        if runs.draining or not self.takes_work:
            runs.parked.at = None
            return
        self._note_jobs()
        if self._number() != self._announced:  # a module was imported since
            served, versions = self.serving(), sorted(self._workflows.versions())
            runs.batch.lone_work().changes.append(WorkerServes(served, versions))
        served = list(self._workflows)
        runs.parked.at = self._reads.next_wake(served, runs.now)
        runs.parked.note(self._unstarted.end_overdue())
        self.work_may_exist = True
        if self._looking:
            self._looked_meanwhile = True
        else:
            self._take(served)

    def admit(self) -> None:
        """Take what `look` had no room for, once there is some; call it after a commit."""
        if self.suspects:
            # Only one is taken up at a time: when it has got on, or has left memory, it is the next one's turn.
            self.work_may_exist = True
            if not self._runs.batch:
                self.suspects.intersection_update(self._runs.memory.runs)
        if self.work_may_exist and not self._looking and self.takes_work and not self._runs.draining:
            self._take(list(self._workflows))

    def _take(self, served: list[str]) -> None:
        runs = self._runs
        limit = min(runs.room(), _CLAIMED_AT_ONCE)
        if limit <= 0:
            return
        self.work_may_exist = self._reads.has_work(served, runs.now)
        if not self.work_may_exist:
            return
        self._looking = True
        work = runs.batch.lone_work()
        work.then(WorkTaken(served, runs.now, limit), lambda keys: self._taken(keys, limit), self._not_taken)

    def _taken(self, keys: list[int], limit: int) -> None:
        self._looking = False
        self.work_may_exist = len(keys) == limit or self._looked_meanwhile
        self._looked_meanwhile = False
        self.claiming.update(keys)
        self._taken_over(keys)

    def _not_taken(self, _error: StepwellError) -> None:
        self._looking = False
        self.work_may_exist = True

    def claim(self, keys: Sequence[int], *, unasked: bool = False) -> None:
        """Bring runs to memory that nobody owns; those of other workflows are left to other workers.

        `unasked`: nobody asked for just these; a halted one that is halted again for the same reason is no news then.
        """
        runs = self._runs
        if runs.draining or not self.takes_work:
            return
        wanted: list[int] = []
        absent = [
            key for key in keys if key not in runs.memory and not runs.batch.keeps_out(key) and key not in self.claiming
        ]
        for record in self._reads.facts(absent):
            if record.status in ENDED or record.queued or record.paused:
                continue
            if record.workflow in self._workflows:
                wanted.append(record.key)
                if unasked and record.status == "halted":
                    self.halted[record.key] = record.reason
            elif record.owner is None:
                self._unstarted.leave_pending(record)
        if wanted:
            self.claiming.update(wanted)
            work = runs.batch.lone_work()
            work.then(
                RunsClaimed(wanted, runs.now),
                lambda keys: self._claimed(wanted, keys),
                lambda _error: self._claimed(wanted, []),
            )

    def _claimed(self, wanted: list[int], keys: list[int]) -> None:
        missed = set(wanted).difference(keys)
        self.claiming.difference_update(missed)
        for key in missed:
            self.halted.pop(key, None)
        # Not at once: what else the commit held, messages for these runs say, must be handed out first.
        self._taken_over(keys)

    def woken(self, key: int) -> None:
        """Bring a run that is not in memory back, if nobody else has it."""
        if key not in self._runs.memory:
            self.claim([key], unasked=True)

    def release(self, parked: Sequence[LoadedRun]) -> None:
        """Let others have waiting runs that have left memory; those that something arrived for come back."""
        runs = self._runs
        keys = [run.key for run in parked]
        due = min((run.wake_at for run in parked if run.wake_at is not None), default=None)

        def released(kept: list[int]) -> None:
            runs.parked.note(due)  # not earlier: what is not released yet, `look` would not find
            wanted_back = self._released(keys)
            if kept:
                self._taken_over(kept)
                runs.later(NotesLeft())
            self.claim([key for key in wanted_back if key not in kept])

        def not_released(_error: StepwellError) -> None:
            self._released(keys)
            self._taken_over(keys)

        self._releasing.update(keys)
        work = runs.batch.lone_work()
        work.then(RunsReleased(keys), released, not_released)

    def _released(self, keys: list[int]) -> list[int]:
        """Note that a release has its outcome; return the keys of the runs that were wanted back meanwhile."""
        wanted_back = [key for key in keys if key in self._wanted_back]
        self._releasing.difference_update(keys)
        self._wanted_back.difference_update(keys)
        return wanted_back

    def _taken_over(self, keys: list[int]) -> None:
        self._runs.later(RunsTaken(keys))

    def claimed(self, keys: Sequence[int]) -> list[int]:
        """Return those of these runs that can be read now: they are this worker's, and not in memory."""
        runs = self._runs
        self.claiming.difference_update(keys)
        # What is about to be released is not this worker's any more when that is committed.
        self._wanted_back.update(key for key in keys if key in self._releasing)
        wanted = [key for key in keys if key not in runs.memory and not runs.batch.keeps_out(key)]
        return [key for key in wanted if key not in self._releasing]
