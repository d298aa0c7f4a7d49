"""How fast this disk commits: SQLite alone, with the settings that the engine has, for `stepwell bench`."""

from __future__ import annotations

import os
import time
from typing import Any

import apsw

#: As a small step's entry has.
_ROW_BYTES = 120


def raw_commits(path: str | os.PathLike[str], span: float) -> float:
    """Return how many rows are committed in a second, one by one and each synced, measured for `span` seconds."""
    connection: Any = apsw.Connection(os.fspath(path))
    try:
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", 2)
        execute = connection.execute
        execute("CREATE TABLE rows (key INTEGER PRIMARY KEY, value TEXT)")
        value, count, begin = "x" * _ROW_BYTES, 0, time.perf_counter()
        while time.perf_counter() - begin < span:
            execute("INSERT INTO rows (value) VALUES (?)", (value,))
            count += 1
        return count / (time.perf_counter() - begin)
    finally:
        connection.close()
