"""A worker whose thread is at a large value is not taken for stalled: what it said beforehand is an answer.

Only who is silent when asked is ever fenced by itself (`tests/runtime/test_stalls.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.processes import child, line, tell

from stepwell import Engine, step, workflow
from stepwell.values import large_values
from stepwell.values.large_values import LARGE_BYTES

#: Another process, which asks the workers of the file whenever it is told to.
NEIGHBOUR = """
import sys
from stepwell import Engine
with Engine(sys.argv[1], workflows=[]) as engine:
    own = max(worker.epoch for worker in engine.workers())
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*(worker.state for worker in engine.workers() if worker.epoch != own), flush=True)
"""


class Gate:
    """Where reading a value waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()


gate = Gate()


class Slow(msgspec.Struct):
    """A value that takes as long to be read as the test wants."""

    text: str

    def __post_init__(self) -> None:
        """Wait, on the engine's own thread."""
        if threading.current_thread().name == "stepwell":
            gate.reached.set()
            assert gate.open.wait(60)


@step(name="busy-with-values.one")
async def one() -> int:
    """Do nothing."""
    return 1


@workflow(name="busy-with-values.takes")
async def takes(value: Slow) -> int:
    """Take a value, which is read on the engine's thread."""
    return await one() + len(value.text)


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    gate.__init__()  # type: ignore[misc]
    yield
    gate.open.set()


def state_seen_meanwhile(path: Path, value: Slow) -> tuple[str, int]:
    """Return what a neighbour sees of a worker that is at a value, and what its run returns in the end."""
    with Engine(path) as engine, child(NEIGHBOUR, path) as neighbour:
        assert line(neighbour) == "ready"
        run = engine.start(takes, value)
        assert gate.reached.wait(60)
        tell(neighbour)
        seen = line(neighbour)
        gate.open.set()
        return seen, run.result(60)


def test_a_worker_that_is_at_a_large_value_is_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_values, "SECONDS_PER_BYTE", 1e-4)  # however slow this machine is

    seen, result = state_seen_meanwhile(tmp_path / "busy.db", Slow("x" * 20 * LARGE_BYTES))

    assert (seen, result) == ("active", 20 * LARGE_BYTES + 1)


def test_one_that_does_not_answer_for_another_reason_shows_as_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_values, "LARGE_BYTES", 100 * LARGE_BYTES)

    seen, result = state_seen_meanwhile(tmp_path / "busy.db", Slow("x" * 20 * LARGE_BYTES))

    assert (seen, result) == ("stalled", 20 * LARGE_BYTES + 1)
