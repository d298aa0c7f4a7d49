"""What other workers wrote for runs of this one: messages, cancellations, ends of runs, permits.

They left a note in the store, in the transaction that wrote it. What it told of is read at once, and again after the
commit that removes the note: what came in between found the old one still there. So the runs' answers and the note's
removal are one commit, where they were two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stepwell.model.lifecycle import ENDED
from stepwell.model.run import Message, RunRecord, Settlement
from stepwell.store.claims import NotesTaken
from stepwell.worker.repair.settlements import Settler
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.letting_go import LettingGo
from stepwell.worker.scheduling.queue_scheduler import QueueScheduler
from stepwell.worker.state.facts import NotesRemoved
from stepwell.worker.state.loaded_run import LoadedRun, Pausing
from stepwell.worker.state.opening import answer_with_end
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.runs import Runs

#: For how long, in microseconds for each run in memory, it is not asked again which of them have ended. To ask took 0.1
#: to 0.6 microseconds of CPU a run, with 10,000 and with 100 of them: so this takes less than a hundredth of the time.
_CENSUS_PER_RUN: Final = 100


class Inbox:
    """Hands what other workers wrote to the runs in memory."""

    def __init__(
        self,
        runs: Runs,
        activator: Activator,
        carrier: Carrier,
        scheduler: QueueScheduler,
        settler: Settler,
        letting_go: LettingGo,
    ) -> None:
        self._runs = runs
        self._reads = runs.reads
        self._activator = activator
        self._carrier = carrier
        self._scheduler = scheduler
        self._settler = settler
        self._letting_go = letting_go
        self._next_census = 0
        self._unread: set[int] = set()  # the keys of runs whose notes were removed, and that were not read since

    def take(self) -> list[int]:
        """Look at what arrived for runs of this worker; return the keys of those that somebody made its own.

        Those are to be read. Their notes stay until `given` is called.
        """
        runs = self._runs
        keys = self._reads.news(runs.epoch)
        if not keys:
            return []
        present = runs.memory.runs
        new: list[int] = []
        if not runs.draining:
            absent = [key for key in keys if key not in present and key not in runs.claiming]
            new = [key for key in absent if not runs.batch.touches(key)]
        told = [key for key in keys if key not in new] if new else keys
        if told:
            self._look([present[key] for key in told if key in present])
            self._remove_notes(told)
        return new

    def given(self, keys: Sequence[int]) -> None:
        """Remove the notes of runs that were given to this worker, and read just now.

        Where nothing is to be written for such a run its step begins without a commit, and must not wait for one: the
        note goes with the run's end, or when the worker looks at its notes again.
        """
        batch = self._runs.batch
        written = [
            key for key in keys if key not in batch.ending and (key not in self._runs.memory or batch.writes_of(key))
        ]
        if written:
            self._remove_notes(written)

    def _remove_notes(self, keys: list[int]) -> None:
        self._runs.batch.lone_work().then(NotesTaken(keys), lambda _: self._removed(keys))

    def _removed(self, keys: list[int]) -> None:
        self._unread.update(keys)
        self._runs.later(NotesRemoved(keys))

    def drop_terminated(self) -> None:
        """Take the runs out of memory that another worker has ended past their code; an event.

        Nothing tells of those: a note is for a run that goes on. What their attempts still say is refused anyway.
        """
        runs, memory = self._runs, self._runs.memory.runs
        if not memory or runs.now < self._next_census:
            return
        self._next_census = runs.now + len(memory) * _CENSUS_PER_RUN
        for key in self._reads.ended_among(list(memory)):
            run = memory.get(key)
            if run is not None and not run.finished and run.work is None:
                run.finished = True
                self._letting_go.forget(run, runs.batch.lone_work())

    def read(self, keys: Sequence[int]) -> None:
        """Give the runs with these keys what others wrote for them; an event."""
        self._unread.difference_update(keys)
        present = self._runs.memory.runs
        missing = [key for key in keys if key not in present]
        missing += self._look([run for run in map(present.get, keys) if run is not None])
        if missing:
            # They left memory since their notes were read: those that have not ended anyone may carry on, and has to
            # know why.
            left = [record.key for record in self._reads.facts(missing) if record.status not in ENDED]
            if left:
                work = self._runs.batch.lone_work()
                for key in left:
                    self._activator.wake_absent(key, work)

    def told(self) -> set[int]:
        """Return the keys of the runs for which others wrote something that these may not have been given yet."""
        return self._unread.union(self._reads.news(self._runs.epoch))

    def pending_for(self, run: LoadedRun) -> bool:
        """Tell whether something arrived for a run that it was not given yet."""
        return run.key in self.told()

    def look_again(self, run: LoadedRun) -> None:
        """Give a run what other workers have written for it: messages, a cancellation, the ends of runs it awaits."""
        self._look([run])

    def unpause(self, key: int) -> None:
        """Let a run go on that was to pause and is still in memory, with what it was not given meanwhile."""
        run = self._runs.memory.runs.get(key)
        if run is not None and run.pausing is not None:
            run.pausing = None
            self.look_again(run)

    def _look(self, runs: Sequence[LoadedRun]) -> list[int]:
        """Give runs what was written for them; return the keys of those that left memory because of what others did.

        It is read for all at once: what comes later leaves a note of its own.
        """
        messages = self._reads.messages_from_others({run.key: run.heard for run in runs}, self._runs.epoch)
        records = {record.key: record for record in self._reads.facts([run.key for run in runs])}
        settlements = self._reads.settlements([run.key for run in runs])
        gone: list[int] = []
        for run in runs:
            if self._runs.memory.runs.get(run.key) is run:
                self._hand_out(run, messages[run.key], records.get(run.key), settlements.get(run.key, ()))
            else:
                gone.append(run.key)
        return gone

    def _hand_out(
        self,
        run: LoadedRun,
        messages: Sequence[Message],
        record: RunRecord | None,
        settlements: Sequence[Settlement],
    ) -> None:
        run.was_made_due()
        if record is not None:
            _note_pause(run, record)
        activator, work = self._activator, self._runs.batch.work_of(run)
        for message in messages:
            run.heard = message.position
            run.put_message(message.name, message.value, message.position, message.sent_at)
        if settlements and not run.finished:
            self._settler.take(run, settlements, self._runs.now, work)
            self._carrier.carry_on(run, work)
        awaiting = [operation for operation in run.execution.pending.values() if operation.kind == "result"]
        found = self._reads.over_among([operation.name for operation in awaiting]) if awaiting else ()
        over = {record.id: RunOver.of(record) for record in found if record.status in ENDED}
        for operation in awaiting:
            if operation.name in over and operation.number in run.execution.pending and not run.finished:
                entry = answer_with_end(self._runs, run, operation, over[operation.name])
                activator.deliver(run, entry, work)
                self._carrier.carry_on(run, work)
        if record is not None and record.cancel_requested_at is not None:
            self._carrier.deliver_cancel(run, record.cancel_reason, work)
        activator.look(run)
        self._scheduler.look_at_permits(run)
        if self._runs.memory.runs.get(run.key) is run:
            self._carrier.carry_on(run, self._runs.batch.work_of(run))


def _note_pause(run: LoadedRun, record: RunRecord) -> None:
    """Have a run know whether it is to pause; where it does so by itself, the file may not have that yet."""
    if record.paused:
        run.pausing = run.pausing or Pausing()
    elif run.pausing is not None and (run.pausing.failure is None or run.work is None):
        run.pausing = None
