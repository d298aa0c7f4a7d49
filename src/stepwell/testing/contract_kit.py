"""What the parts of the store contract share: a worker for short tests, and the fixtures."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from stepwell.errors import StepwellError
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED, Status
from stepwell.model.run import RunRecord
from stepwell.store.changes import Change, Created, RunCreated, RunFinished, RunMoved
from stepwell.store.claims import RunsReleased, WorkTaken
from stepwell.store.store import Outcome, Store, Unit

#: 2025-11-22, in microseconds; the tests count on from here.
NOW: Final = 1_763_800_000_000_000


class Worker:
    """A registered worker of a store, for short tests: applies changes and raises what refuses them."""

    def __init__(self, store: Store, now: int = NOW, *, takes_work: bool = True) -> None:
        self.store = store
        self.read = store.inspector
        self.reads = store.reads
        with self.writing():
            self.claim = store.membership.register(now, takes_work=takes_work)

    @property
    def epoch(self) -> int:
        """The epoch of its claim."""
        return self.claim.epoch

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Hold the writers' lock, as every caller of a store must."""
        self.store.writers.acquire()
        try:
            yield
        finally:
            self.store.writers.release()

    def commit(self, *units: Unit) -> list[Outcome]:
        """Commit units; return their outcomes."""
        with self.writing():
            return self.store.commit(units, self.claim)

    def apply(self, *changes: Change) -> list[Any]:
        """Commit changes as one unit; return their results or raise the error that refused them."""
        (outcome,) = self.commit(Unit(list(changes)))
        if isinstance(outcome, StepwellError):
            raise outcome
        return outcome

    def create(self, run_id: str, status: Status = "running", **fields: Any) -> int:
        """Create a run of the workflow ``shop.checkout``, by way of ``running`` where it cannot begin in `status`."""
        first: Status = status if status == "pending" else "running"
        fields = {"workflow": "shop.checkout", "input": "[1]", "fingerprint": 7, "at": NOW, **fields}
        (created,) = self.apply(RunCreated(id=run_id, status=first, **fields))
        assert isinstance(created, Created)
        if status == "failed":
            self.apply(RunFinished(created.key, status, fields["at"], error="{}"))
        elif status in ENDED:
            self.apply(RunFinished(created.key, status, fields["at"]))
        elif status != first:
            self.apply(RunMoved(created.key, status, fields["at"], reason="why" if status == "halted" else None))
        return created.key

    def parked(self, run_id: str, *, wake_at: int | None = None, **fields: Any) -> int:
        """Create a run that waits and is in nobody's memory."""
        key = self.create(run_id, **fields)
        self.apply(RunMoved(key, "waiting", NOW, wake_at=wake_at))
        assert self.apply(RunsReleased([key])) == [[]]
        return key

    def take(self, *workflows: str, at: int = NOW, limit: int = 10) -> list[int]:
        """Take work of these workflows, by default of ``shop.checkout``; return the keys."""
        wanted = list(workflows) or ["shop.checkout"]
        had_work = self.reads.has_work(wanted, at)
        (keys,) = self.apply(WorkTaken(wanted, at, limit))
        assert had_work is bool(keys)
        taken: list[int] = keys
        return taken

    def reap(self, now: int = NOW) -> int:
        """Bury dead workers."""
        with self.writing():
            return self.store.membership.reap(self.claim, now)

    def news(self) -> list[int]:
        """Return the runs for which a note lies here."""
        return self.reads.news(self.epoch)

    def record(self, key: int) -> RunRecord:
        """Return the record of a run that exists."""
        record = next(iter(self.reads.records([key])), None)
        assert record is not None
        return record


def step(run: int, op: int, **fields: Any) -> Entry:
    """Return the journal entry of a step that returned."""
    fields = {"kind": "step", "name": "shop.pay", "fingerprint": 0xFFFFFFFF, "at": NOW + op, "value": "1", **fields}
    return Entry(run=run, op=op, attempt=1, started_at=NOW, **fields)


class StoreFixtures:
    """The fixtures of the contract; `open_store` and `kill` are for the derived class to implement."""

    def open_store(self, place: Path) -> Store:
        """Return the store at `place`, made when there is none. It must let several workers register side by side."""
        raise NotImplementedError

    def kill(self, worker: Worker) -> None:
        """Have the worker's store believe that the worker's process is dead. Nothing else may happen."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """Return an empty store."""
        store = self.open_store(tmp_path)
        yield store
        store.close(None, NOW)

    @pytest.fixture
    def worker(self, store: Store) -> Worker:
        """Return a worker of the empty store."""
        return Worker(store)

    @pytest.fixture
    def other(self, worker: Worker) -> Worker:
        """Return a second worker of the same store, registered after the first."""
        return Worker(worker.store)
