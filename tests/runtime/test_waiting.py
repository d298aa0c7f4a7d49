"""Who waits for runs that end elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepwell.runtime.serving.requests import WaitForRun
from stepwell.runtime.serving.waiters import Waiters
from stepwell.store.changes import RunFinished
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing.contract_kit import NOW, Worker
from stepwell.worker.state.commit_batch import CommitBatch
from stepwell.worker.state.run_cache import RunCache


def test_the_end_of_a_run_that_this_worker_is_about_to_claim_is_told(database: Path) -> None:
    worker = Worker(SqliteStore.open(database))
    key = worker.create("run")
    answers: list[Any] = []
    waiters = Waiters(worker.store, RunCache(), CommitBatch(), {key})
    waiters.run(WaitForRun("run"), lambda value, error: answers.append(error or value.status))
    waiters.look(None)
    assert answers == []
    worker.apply(RunFinished(key, "completed", NOW, result="1"))  # by another worker, say: the claim comes too late
    waiters.look(None)
    assert answers == ["completed"]
    worker.store.close(worker.claim, NOW)
