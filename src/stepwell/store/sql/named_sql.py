"""Loads named SQL.

SQL lives in ``.sql`` files, but for what opens, checks and migrates a SQLite file. A statement begins with a line
``-- name: run_created``; the comment lines after it say what it is for and what its parameters ``?1``, ``?2`` … mean;
it ends where the next one begins.

What many statements share stands once, in ``fragments.sql``, where each begins with ``-- fragment: run_record``; a
statement has ``{run_record}`` in its place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

#: Begins with plain text, which is found quicker than the beginning of a line: all files are read at each start of a
#: process, in 1.3 ms instead of 2.7 with this, and where what is not there is not looked for by a pattern.
_HEADER: Final = re.compile(r"-- (?:name|fragment): (\w+)\n")
_PLACE: Final = re.compile(r"\{(\w+)\}")
_COMMENT: Final = re.compile(r"^--.*\n?", re.MULTILINE)
_ROW: Final = re.compile(r"VALUES (\([?, ]+\))")

#: Statements that insert many rows at once, as (rows, SQL), most rows first.
Ladder = list[tuple[int, str]]


def parse(text: str) -> dict[str, str]:
    """Return the statements of a ``.sql`` file by name, without their comments.

    Raises `ValueError` for a name that occurs twice and for a name without a statement.
    """
    _, *parts = _HEADER.split(text)
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        statement = _without_comments(body).strip().removesuffix(";")
        if name in statements or not statement:
            raise ValueError(f"query {name!r} is defined twice or is empty")
        statements[name] = statement
    return statements


def _without_comments(body: str) -> str:
    while body.startswith("--"):  # what it is for, which nearly all say
        _, _, body = body.partition("\n")
    return _COMMENT.sub("", body) if "\n--" in body else body


def load(folder: Path) -> dict[str, str]:
    """Return the statements of one dialect by name: those of all files ``queries_….sql`` in `folder`.

    Raises `ValueError` for a name that occurs twice, `KeyError` for the name of a fragment that does not exist.
    """
    fragments = parse((folder / "fragments.sql").read_text(encoding="utf-8"))

    def filled(text: str) -> str:
        return _PLACE.sub(lambda place: filled(fragments[place[1]]), text) if "{" in text else text

    statements: dict[str, str] = {}
    for path in sorted(folder.glob("queries_*.sql")):
        found = parse(path.read_text(encoding="utf-8"))
        if twice := statements.keys() & found.keys():
            raise ValueError(f"queries are defined twice: {sorted(twice)}")
        statements.update((name, filled(statement)) for name, statement in found.items())
    return statements


def ladder(statement: str, sizes: tuple[int, ...]) -> Ladder:
    """Return variants of a one-row ``INSERT … VALUES (?, …)`` that insert as many rows as each of `sizes`.

    This is the only SQL that is made in code: the tuple is repeated, nothing else is touched.
    """
    match = _ROW.search(statement)
    if match is None:
        raise ValueError(f"no single row of plain parameters in {statement!r}")
    row = match.group(1)
    head, tail = statement[: match.start(1)], statement[match.end(1) :]
    return [(size, head + ",".join([row] * size) + tail) for size in sorted(sizes, reverse=True)]
