"""A query that somebody typed: it only reads, and it is bounded in time, in rows and in what a value may have.

Unlike those of user code (`user_queries`) it comes from a person in front of a web page, who may be anybody that was
let in, so nothing of it is trusted: not its cost, and not its size.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from itertools import islice
from typing import Final

import apsw
import msgspec

from stepwell.errors import InvalidArgument
from stepwell.store.sqlite.faults import translate_read
from stepwell.store.sqlite.user_connection import ReadGate

#: The longest text of a query, in characters.
MAX_QUERY_CHARS: Final = 10_000
#: No value that a query makes may have more bytes.
_MAX_VALUE_BYTES: Final = 4_000_000
#: What is shown of one value, in characters.
_SHOWN_CHARS: Final = 2_000


class QueryBounds(msgspec.Struct, frozen=True):
    """How many rows are read at most. The time is that of whoever opened the file."""

    rows: int


class QueryAnswer(msgspec.Struct, frozen=True):
    """What a query read, as texts: long ones shortened, bytes as their number, NULL as None.

    `is_cut`: there are more rows.
    """

    columns: list[str]
    rows: list[list[str | None]]
    is_cut: bool


def limited_query(connection: apsw.Connection, sql: str, most: QueryBounds, location: str) -> QueryAnswer:
    """Execute one statement on a connection of its own, which cannot write, and close that.

    Raises `InvalidArgument` for what is no query, or does more than read; `ReadTooLong` where its time is up.
    """
    if len(sql) > MAX_QUERY_CHARS:
        raise InvalidArgument(f"a query has at most {MAX_QUERY_CHARS} characters, not {len(sql)}")
    gate = ReadGate(connection)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    columns: list[str] = []

    def note_columns(cursor: apsw.Cursor, _sql: str, _bindings: object) -> bool:
        if columns:
            raise InvalidArgument("one query at a time, please: nothing stands behind its semicolon")
        columns.extend(each[0] for each in cursor.get_description())
        return True

    try:
        cursor = connection.cursor()
        cursor.exec_trace = note_columns
        found = list(islice(cursor.execute(sql, can_cache=False), most.rows + 1))
    except apsw.InterruptError as error:
        raise translate_read(error, location) from error
    except apsw.Error as error:
        raise InvalidArgument(
            f"a query may not use {gate.refused}" if gate.refused else f"SQLite says: {error}"
        ) from error
    finally:
        connection.close(force=True)
    return QueryAnswer(
        columns, [[_shown(value) for value in row] for row in found[: most.rows]], len(found) > most.rows
    )


def _shown(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"
