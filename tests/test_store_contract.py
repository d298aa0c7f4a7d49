"""The SQLite store has the behaviour that every store must have."""

from __future__ import annotations

from pathlib import Path

from stepwell.store.base import Store
from stepwell.store.sqlite import SqliteStore
from stepwell.testing.contract import StoreContract


class TestSqliteStore(StoreContract):
    def open_store(self, place: Path) -> Store:
        # Behaviour does not depend on the durability, and without a sync at every commit the suite is quick.
        return SqliteStore.open(place / "contract.db", durability="normal")
