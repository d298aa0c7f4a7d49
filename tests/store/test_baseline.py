"""A new file begins with what the scripts up to a released one would make: the same, in a third of the time.

``python tests/store/test_baseline.py NUMBER`` makes the baseline anew, up to the script with that number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from stepwell.store.sqlite.file import migrate
from stepwell.store.sqlite.file.migrate import Migration, load_migrations

_HEAD = """\
-- What the scripts 1 to {number} make of an empty file, for new files to begin with: without the tables that later
-- scripts build anew. Made from the scripts, by tests/store/test_baseline.py, which compares the two. Do not edit.
"""
# In order: of two indexes that would do, SQLite takes the one that was made last.
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name <> 'sqlite_sequence' ORDER BY rowid"


def made_by(scripts: Sequence[Migration]) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    migrate.migrate(connection, "a test's file", scripts)
    return connection


def by_scripts_alone(up_to: int) -> list[Migration]:
    return [Migration(each.number, each.name, each.source) for each in load_migrations()[:up_to]]


def rows_of(connection: apsw.Connection) -> dict[str, list[tuple[Any, ...]]]:
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid").fetchall()
    return {str(name): connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables}


def text_of_baseline(number: int) -> str:
    connection = made_by(by_scripts_alone(number))
    parts = [_HEAD.format(number=number)]
    for kind, _, table, sql in connection.execute(_SCHEMA):
        if sql is not None:  # an index that a table brings with it has none
            parts.append(f"{sql};\n")
        if kind == "table":
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                values = ", ".join(apsw.format_sql_value(value) for value in row)
                parts.append(f"INSERT INTO {table} VALUES ({values});\n")
    return "\n".join(parts).replace(";\n\nINSERT", ";\nINSERT")


def baseline() -> Migration:
    (newest,) = [each for each in load_migrations() if each.baseline is not None]
    return newest


def test_the_baseline_is_what_the_scripts_make() -> None:
    script = baseline()
    made = Path(str(script.baseline)).read_text(encoding="utf-8")
    assert made == text_of_baseline(script.number), f"run python {os.path.relpath(__file__)} {script.number}"


def test_a_new_file_has_the_schema_and_the_rows_that_the_scripts_alone_make() -> None:
    new, migrated = made_by(load_migrations()), made_by(by_scripts_alone(len(load_migrations())))
    assert new.execute(_SCHEMA).fetchall() == migrated.execute(_SCHEMA).fetchall()
    assert rows_of(new) == rows_of(migrated)
    for pragma in ("user_version", "application_id"):
        assert new.pragma(pragma) == migrated.pragma(pragma)
    assert len(rows_of(new)) > 15


def test_a_new_file_reads_no_script_up_to_the_baseline() -> None:
    scripts = [
        Migration(each.number, each.name, each.source if each.number > baseline().number else "/nowhere", each.baseline)
        for each in load_migrations()
    ]
    assert made_by(scripts).pragma("user_version") == len(scripts)


if __name__ == "__main__":
    number = int(sys.argv[1])
    folder = Path(str(migrate.package_folder()))
    for old in folder.glob("baseline_*.sql"):
        old.unlink()
    (folder / f"baseline_{number:04d}.sql").write_text(text_of_baseline(number), encoding="utf-8")
