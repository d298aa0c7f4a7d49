"""What the contracts of queues and of limits have in common: declaring, entering, and deciding.

See `stepwell.testing.contract` for how to run them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from stepwell.definitions.queues import QueueSettings
from stepwell.store.changes import Change, Created, RunCreated, RunFinished
from stepwell.store.queues import (
    Entered,
    QueueDeclared,
    QueueFacts,
    QueueState,
)
from stepwell.store.store import Unit
from stepwell.testing.contract_kit import NOW, Worker
from stepwell.worker.rules.queue_policy import Decision, advance, grant, take

SECOND: Final = 1_000_000
#: The workflows of the runs in these contracts.
ALL: Final = ("w", "v")


def entered(queue: str = "q", **fields: Any) -> Entered:
    """Return how a run stands in the queue ``q``."""
    return Entered(queue=queue, **fields)


def declare(worker: Worker, name: str = "q", **bounds: Any) -> None:
    """Declare a queue, or a limit where the name begins with ``limit``."""
    kind = "limit" if name.startswith("limit") else "queue"
    worker.apply(QueueDeclared(name, kind, QueueSettings(**bounds), NOW))  # type: ignore[arg-type]


def enqueue(worker: Worker, run_id: str, entry: Entered | None = None, **fields: Any) -> Created:
    """Start a run of the workflow ``w`` in a queue."""
    fields = {"workflow": "w", "input": "[1]", "fingerprint": 7, "status": "pending", "at": NOW, **fields}
    (created,) = worker.apply(RunCreated(id=run_id, entry=entry or entered(), **fields))
    assert isinstance(created, Created)
    return created


def decide(worker: Worker, queue: str, choose: Callable[[QueueFacts], Decision], now: int) -> tuple[Decision, Any]:
    """Commit a unit that decides; return the decision and the result of its change."""
    decisions: list[Decision] = []

    def choice(facts: QueueFacts) -> list[Change]:
        decisions.append(choose(facts))
        return decisions[-1].changes

    (outcome,) = worker.commit(Unit([advance(queue, now)], decide=choice))
    assert isinstance(outcome, list), outcome
    return decisions[-1], outcome[1] if len(outcome) > 1 else []


def taken(
    worker: Worker, now: int = NOW, *, room: int = 100, held: int = 0, workflows: Collection[str] = ALL
) -> list[int]:
    """Have a worker take what it may from the queue ``q``."""
    return decided(worker, now, room=room, held=held, workflows=workflows)[1]


def decided(
    worker: Worker, now: int = NOW, *, room: int = 100, held: int = 0, workflows: Collection[str] = ALL
) -> tuple[Decision, list[int]]:
    """As `taken`, with the decision."""

    def choose(facts: QueueFacts) -> Decision:
        return take(facts, "q", workflows, now, room=room, held=held, worker=worker.epoch)

    decision, keys = decide(worker, "q", choose, now)
    return decision, keys


def granted(worker: Worker, now: int = NOW, limit: str = "limit") -> list[tuple[int, int]]:
    """Grant what may be granted of a limit; return the permits of the worker's own runs."""
    _, permits = decide(worker, limit, lambda facts: grant(facts, limit, now), now)
    return [(run, op) for run, op in permits]


def state_of(worker: Worker, name: str = "q") -> QueueState:
    """Return what the store holds of a queue."""
    return next(state for state in worker.read.queues() if state.name == name)


def finish(worker: Worker, run: int, at: int = NOW) -> None:
    """End a run."""
    worker.apply(RunFinished(run, "completed", at))


def settings_of(
    concurrency: int | None,
    per_worker: int | None,
    partition: int | None,
    rate: tuple[int, int] | None,
    partition_per_worker: int | None = None,
    partition_rate: tuple[int, int] | None = None,
) -> QueueSettings:
    """Return the bounds of a queue or limit."""
    of_partitions = partition_per_worker, *(partition_rate or (None, None))
    return QueueSettings(concurrency, per_worker, partition, *(rate or (None, None)), *of_partitions)
