"""Runs in one SQLite file; `SqliteStore` is the way in."""
