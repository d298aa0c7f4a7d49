"""The SQLite store has the behaviour that every store must have.

The kernel knows processes only, so the workers of one test, which are in one process, have a stand-in for the
membership; `test_sqlite_workers` is about real processes.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.members import company_of, open_with_company

from stepwell.store.store import Store
from stepwell.testing.contract import StoreContract, Worker


class TestSqliteStore(StoreContract):
    def open_store(self, place: Path) -> Store:
        return open_with_company(place / "contract.db")

    def kill(self, worker: Worker) -> None:
        company_of(worker).kill(worker.epoch)
