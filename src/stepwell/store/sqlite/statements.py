"""SQLite's dialect of the statements, read once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stepwell.store.sql.named_sql import load

SQL: Final = load(Path(__file__).parent)
