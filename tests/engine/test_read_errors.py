"""A disk that fails a read while a run is carried on: that is the disk's trouble, and no fault of the run's."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from stepwell import Engine, StoreError, current, receive, start, step, workflow
from stepwell.store.sql.worker_reads import SqlWorkerReads

DEADLINE_SECONDS = 120


@step
async def number() -> int:
    return 1


@workflow
async def child() -> int:
    return 2


@workflow
async def parent() -> int:
    """Look for a child of a given id, which reads the file, after a step or after a message."""
    found = await number() if current().run_id.startswith("step") else await receive("go", int)
    return found + await (await start(child, id=f"{current().run_id}-child")).result()


@contextmanager
def failing(name: str, for_id: str) -> Generator[None]:
    """Let one way of reading fail for the run with this id, or that begins with it, as a bad sector would."""
    read = getattr(SqlWorkerReads, name)

    def fails(reads: SqlWorkerReads, wanted: Any) -> Any:
        if str(wanted).startswith(for_id):
            raise StoreError("the disk reported an error (injected)")
        return read(reads, wanted)

    with patch.object(SqlWorkerReads, name, fails):
        yield


def test_a_run_is_not_halted_for_a_read_error_of_the_disk_after_a_step(database: Path) -> None:
    reported = pytest.raises(StoreError, match="the disk reported an error")
    with Engine(database) as engine, failing("run_by_id", "step-child"), reported:
        engine.start(parent, id="step").result(timeout=DEADLINE_SECONDS)
    with Engine(database) as engine:
        assert engine.get("step").result(timeout=DEADLINE_SECONDS) == 3


def test_a_run_is_not_halted_for_a_read_error_of_the_disk_after_a_message(database: Path) -> None:
    with Engine(database) as engine:
        engine.start(parent, id="message")
        with failing("run_by_id", "message-child"), pytest.raises(StoreError, match="the disk reported an error"):
            engine.send("message", "go", 1)
    with Engine(database) as engine:
        engine.send("message", "go", 1)
        assert engine.get("message").result(timeout=DEADLINE_SECONDS) == 3
