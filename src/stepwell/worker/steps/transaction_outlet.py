"""What a transactional step says while it executes: committed with the transaction, so said exactly once."""

from __future__ import annotations

from stepwell.definitions.reports import Progress
from stepwell.definitions.saying import Heard, PublishedValue, Said, StreamItems
from stepwell.definitions.step_info import Attempt
from stepwell.errors import StepwellError
from stepwell.store.changes import Change, ValuePublished
from stepwell.values.codec import Codec
from stepwell.worker.state import facts
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.streams import written


class TransactionOutlet:
    """A `stepwell.definitions.saying.Outlet` for one call; `add_to` makes it part of the call's unit of work."""

    is_immediate = True

    def __init__(self, runs: Runs, run: LoadedRun, op: int) -> None:
        self.codec: Codec = runs.codec
        self._runs = runs
        self._run = run
        self._op = op
        self._changes: list[Change] = []
        self._facts: list[facts.ValuePublished | facts.StreamGrew] = []

    def say(self, attempt: Attempt, number: int, said: Said, heard: Heard) -> None:
        """Take note of what is said."""
        del attempt
        if isinstance(said, PublishedValue):
            self._changes.append(ValuePublished(self._run.key, said.key, said.value, self._runs.now))
            self._facts.append(facts.ValuePublished(self._run.key, said.key, said.value))
            heard(None)
            return
        assert isinstance(said, StreamItems)
        change = written(self._runs, self._run, said, self._op, attempt=number)
        if isinstance(change, StepwellError):
            heard(change)
            return
        self._changes.append(change)
        self._facts.append(facts.StreamGrew(self._run.key, said.name))
        heard(None)

    def report(self, attempt: Attempt, progress: Progress) -> None:
        """Do nothing: when others could see it, the call has ended."""

    def add_to(self, work: UnitOfWork) -> None:
        """Have it written with the step's own writes."""
        work.changes += self._changes
        for fact in self._facts:
            work.afterwards(lambda fact=fact: fact)  # type: ignore[misc]

    def forget(self) -> None:
        """Take note that the call failed: nothing of it is written."""
        if self._changes:
            self._run.streams = None  # which counted what is not written; it is read again
