"""Looking whether a file is whole: SQLite's own checks, and what must be true of it that no CHECK can say.

It reads one snapshot, beside whoever writes. A backup that came compressed is unpacked first, see `backup`.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import apsw

from stepwell.store.sqlite.file import migrate
from stepwell.store.sqlite.statements import SQL

#: How many places are named of each thing that is wrong.
_NAMED: Final = 5

#: What it means that a statement of queries_verify.sql finds something; the places are appended.
_SENTENCES: Final[dict[str, str]] = {
    "verify_foreign_keys": "rows refer to rows that are not there",
    "verify_running_without_worker": "runs belong to workers that the file does not know",
    "verify_queued_without_place": "runs wait in a queue and have no place in it",
    "verify_place_of_ended": "runs have ended and still have a place in a queue",
    "verify_place_in_other_queue": "runs have a place in another queue than the one that they were started in",
    "verify_queue_counts": "queues count other entries than they have",
    "verify_lane_counts": "queues count other entries of a partition than they have",
    "verify_recorded_twice": "runs have an operation whose outcome is recorded twice",
    "verify_wake_without_worker": "runs are to be looked at by a worker and belong to none",
    "verify_child_before_parent": "children that end with their parent have none",
    "verify_followed": "starts wait for the end of runs that have ended, or were not asked to",
    "verify_stream_offsets": "streams have items at offsets that are not theirs, or two at one",
    "verify_promise_without_operation": "promises are open that their runs do not know of",
    "verify_payload_texts": "runs have payloads that are not JSON",
}


class Findings(NamedTuple):
    """What was found in a file of schema `version`: `problems`, a sentence each, and how much there is of what."""

    version: int
    runs: int
    entries: int
    problems: list[str]


def findings(connection: apsw.Connection, readable: Callable[[bytes], bool], tell: Callable[[str], None]) -> Findings:
    """Look into the file on `connection`.

    `readable` tells whether a payload that is bytes can be read; `tell` is told what is being looked at. Invariants are
    those of this release's schema: of an older file only SQLite's own checks are made.
    """
    connection.execute("BEGIN")
    try:
        version = migrate.version_of(connection)
        tell("pages and indexes")
        rows: list[tuple[Any, ...]] = connection.execute("PRAGMA integrity_check(20)").fetchall()
        verdicts = [str(row[0]) for row in rows]
        problems = [] if verdicts == ["ok"] else [f"SQLite's integrity check: {verdict}" for verdict in verdicts]
        if version == migrate.load_migrations()[-1].number and not problems:
            problems += _broken_rules(connection, tell)
            tell("payloads")
            unreadable = (str(run) for run, payload in _rows(connection, "verify_blobs") if not readable(payload))
            problems += _problem("runs have payloads that cannot be read", unreadable)
        runs, entries = _count(connection, "stepwell_runs"), _count(connection, "stepwell_journal")
        return Findings(version, runs, entries, problems)
    finally:
        connection.execute("ROLLBACK")


def _broken_rules(connection: apsw.Connection, tell: Callable[[str], None]) -> Iterator[str]:
    for name, sentence in _SENTENCES.items():
        tell(f"whether {sentence}")
        yield from _problem(sentence, (str(row[0]) for row in _rows(connection, name)))


def _rows(connection: apsw.Connection, name: str) -> Iterator[Any]:
    return connection.execute(SQL[name])


def _problem(sentence: str, places: Iterator[str]) -> Iterator[str]:
    found = list(dict.fromkeys(places))
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        yield f"{sentence}: {', '.join(found[:_NAMED])}{more}"


def _count(connection: apsw.Connection, table: str) -> int:
    exists = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    if not exists:
        return 0
    rows: list[tuple[Any, ...]] = connection.execute(SQL[f"count_of_{table}"]).fetchall()
    return int(rows[0][0])
