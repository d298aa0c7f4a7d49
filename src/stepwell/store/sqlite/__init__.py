"""Runs in one SQLite file; `SqliteStore` is the way in."""

from __future__ import annotations

from stepwell.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
