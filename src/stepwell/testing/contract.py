"""The behaviour that every store must have, as tests; for this package's store and for yours.

Derive a class in a test module, say how your store is opened, and pytest runs everything::

    from stepwell.testing.contract import StoreContract


    class TestMyStore(StoreContract):
        def open_store(self, place: Path) -> Store:
            return MyStore(place / "runs.db")

        def kill(self, worker: Worker) -> None:
            worker.store.forget_heartbeat(worker.epoch)

Two stores that are opened one after the other at the same `place` (an empty directory, or a name for a schema) must see
the same runs. The workers of a test are on one store; `kill` makes one of them dead in the eyes of the others. Needs
pytest and hypothesis.
"""

from __future__ import annotations

import pytest

# Before they are imported: failures show the values then.
pytest.register_assert_rewrite(
    *(
        f"stepwell.testing.contract_{part}"
        for part in (
            *("acts", "bulk_acts", "changes", "chapters", "claims", "deaths", "ends", "kit", "limits", "moves"),
            *("pauses", "properties", "queue_kit", "queue_model", "queues", "reads", "reasons", "retries"),
            *("starts", "workers"),
        )
    )
)

from stepwell.testing.contract_acts import ActContract  # noqa: E402
from stepwell.testing.contract_bulk_acts import BulkActContract  # noqa: E402
from stepwell.testing.contract_changes import ChangeContract  # noqa: E402
from stepwell.testing.contract_chapters import ChapterContract  # noqa: E402
from stepwell.testing.contract_claims import ClaimContract  # noqa: E402
from stepwell.testing.contract_deaths import DeathContract  # noqa: E402
from stepwell.testing.contract_ends import EndContract  # noqa: E402
from stepwell.testing.contract_kit import NOW, Worker, step  # noqa: E402
from stepwell.testing.contract_limits import LimitContract, LimitProperties  # noqa: E402
from stepwell.testing.contract_moves import MoveContract  # noqa: E402
from stepwell.testing.contract_pauses import PauseContract  # noqa: E402
from stepwell.testing.contract_properties import StoreProperties, WorkProperties  # noqa: E402
from stepwell.testing.contract_queue_model import QueueProperties  # noqa: E402
from stepwell.testing.contract_queues import QueueContract  # noqa: E402
from stepwell.testing.contract_reads import ReadContract  # noqa: E402
from stepwell.testing.contract_reasons import ReasonContract  # noqa: E402
from stepwell.testing.contract_retries import RetryContract  # noqa: E402
from stepwell.testing.contract_starts import StartContract, SuccessorContract  # noqa: E402
from stepwell.testing.contract_workers import WorkerContract  # noqa: E402

__all__ = ["NOW", "StoreContract", "Worker", "step"]


class StoreContract(
    ActContract,
    BulkActContract,
    ChangeContract,
    ChapterContract,
    ClaimContract,
    DeathContract,
    EndContract,
    LimitContract,
    MoveContract,
    PauseContract,
    QueueContract,
    ReadContract,
    ReasonContract,
    RetryContract,
    StartContract,
    SuccessorContract,
    WorkerContract,
    LimitProperties,
    QueueProperties,
    StoreProperties,
    WorkProperties,
):
    """All of the contract. Derive from it and implement `open_store` and `kill`; see the module."""
