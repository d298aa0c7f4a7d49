"""Which file a command is about, where the line does not say: what the environment, the project or the folder says."""

# ruff: noqa: PTH208 -- SQLite's paths are strings

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

#: The variable of the environment that names the file.
VARIABLE: Final = "STEPWELL_DB"
_ENDINGS: Final = (".db", ".sqlite", ".sqlite3")
_MAGIC: Final = b"SQLite format 3\0"
#: Where SQLite's header has the application's id, four bytes; `migrate.APPLICATION_ID` is ours.
_ID_AT: Final = 68
_ID: Final = b"Stwl"

_Function = TypeVar("_Function", bound=Callable[..., Any])


def database_option(function: _Function) -> _Function:
    """Give a command the parameter `db`: the file's path."""
    return click.option(
        "--db",
        metavar="FILE",
        default=found,
        show_default=False,
        help=f"The database file; by default that of {VARIABLE}, of [tool.stepwell] in pyproject.toml, or the only "
        "one in the folder.",
    )(function)


def found() -> str:
    """Return the path of the file that is meant where the line names none. Raises `click.UsageError`."""
    named = os.environ.get(VARIABLE) or _of_project(Path.cwd())
    if named:
        return named
    here = sorted(name for name in os.listdir() if name.endswith(_ENDINGS) and _is_ours(name))
    if len(here) == 1:
        return here[0]
    context = click.get_current_context(silent=True)
    what = f"There are {', '.join(here)} in this folder" if here else "No file of Stepwell is in this folder"
    raise click.UsageError(
        f"Which file? {what}. Name it: --db FILE, the variable {VARIABLE}, or in pyproject.toml:\n"
        '  [tool.stepwell]\n  db = "orders.db"',
        context,
    )


def _of_project(folder: Path) -> str | None:
    """Return what the nearest pyproject.toml names, from its own folder; None where it names nothing."""
    for parent in (folder, *folder.parents):
        project = parent / "pyproject.toml"
        if project.is_file():
            import tomllib

            try:
                tools = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {})
                named = tools.get("stepwell", {}).get("db")
            except (OSError, ValueError, AttributeError) as error:
                raise click.UsageError(f"{project} cannot be read: {error}. Correct it, or give --db FILE.") from error
            if named is None:
                return None
            if not isinstance(named, str) or not named:
                raise click.UsageError(f"{project}: `db` in [tool.stepwell] must be the path of a file, not {named!r}.")
            return os.path.relpath(parent / named)
    return None


def _is_ours(name: str) -> bool:
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - before any engine is open; see `audit_hook`
            header = file.read(_ID_AT + len(_ID))
    except OSError:
        return False
    return header.startswith(_MAGIC) and header.endswith(_ID)
