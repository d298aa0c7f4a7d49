"""Goes through a run operation by operation, both ways: which line waited, and what the variables were.

The code is that of this process; without it there is nothing to see. Values of variables are taken apart without
calling anything of theirs: no ``__repr__``, no property.
"""

# Values are of any type, of which pyright knows nothing:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import linecache
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import msgspec

from stepwell.api.asking.options import QUERY_SECONDS
from stepwell.api.reading.views import JournalEntry
from stepwell.definitions.definition import Versioned
from stepwell.errors import InvalidArgument
from stepwell.model.run import RunRecord
from stepwell.operations.table import OPERATIONS
from stepwell.runtime.time_bound import time_bound
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.codec import Codec
from stepwell.worker.copies.moments import CodeFrame, Moments, PendingOperation

#: How many lines of the source are shown before and behind the one that waits.
_AROUND: Final = 6
#: Of a variable: how deep it is shown, how many of its items, how much of a text.
_DEPTH: Final = 4
_ITEMS: Final = 50
_CHARS: Final = 2_000
_AS_TEXT: Final = (datetime, date, time, timedelta, Decimal, UUID)


class SourceLine(msgspec.Struct, frozen=True):
    """A line of a source file; `waits`: it is the one."""

    number: int
    text: str
    waits: bool


class FrameView(msgspec.Struct, frozen=True):
    """A function that waited, with the lines around the one that did, and its variables as plain data."""

    file: str
    line: int
    function: str
    source: list[SourceLine]
    variables: dict[str, Any]


class MomentView(msgspec.Struct, frozen=True):
    """A run after it was told `told` of `entries` things, of which `entry` was the last.

    `tasks` are the functions that waited, a list for each task of the code; `pending` is what had been asked for;
    `halted` is why the code that is here does not come so far.
    """

    told: int
    entries: int
    entry: JournalEntry | None
    tasks: list[list[FrameView]]
    pending: list[PendingOperation]
    has_ended: bool
    halted: str | None


def moment_of(reads: WorkerReads, record: RunRecord, workflows: Versioned, codec: Codec, told: int) -> MomentView:
    """Return a run as it was after it was told so much; raises `InvalidArgument` where its code is not here."""
    definition = workflows.fitting(record.workflow, record.version)
    snapshots = reads.load([record.key])
    if definition is None or not snapshots:
        raise InvalidArgument(
            f"workflow {record.workflow!r} is not defined in this process, so run {record.id!r} cannot be replayed "
            "here: name the module that defines it (`stepwell ui MODULE`), or mount the UI where the code is"
        )
    with time_bound(QUERY_SECONDS, f"the replay of run {record.id!r}"):
        found = Moments(codec, OPERATIONS.kinds).at(snapshots[0], definition, told)
    return MomentView(
        found.told,
        found.entries,
        None if found.entry is None else JournalEntry.of(found.entry, codec, record.ahead),
        [[_frame(frame) for frame in task] for task in found.tasks],
        found.pending,
        found.has_ended,
        None if found.halted is None else str(found.halted),
    )


def _frame(frame: CodeFrame) -> FrameView:
    lines = linecache.getlines(frame.file)
    first = max(1, frame.line - _AROUND)
    source = [
        SourceLine(number, lines[number - 1].rstrip("\n"), number == frame.line)
        for number in range(first, min(len(lines), frame.line + _AROUND) + 1)
    ]
    variables = {name: plain(value) for name, value in frame.variables.items() if not name.startswith("__")}
    return FrameView(frame.file, frame.line, frame.function, source, variables)


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """Return a variable's value as plain JSON data, without calling anything of its own."""
    kind: type[Any] = type(value)
    if value is None or kind in (bool, int, float):
        return value
    if kind is str:
        return value if len(value) <= _CHARS else f"{value[:_CHARS]}…"
    if kind in _AS_TEXT or issubclass(kind, PurePath):
        return str(value) if kind in _AS_TEXT or kind.__module__ == "pathlib" else f"<{kind.__qualname__}>"
    if depth == 0:
        return f"<{kind.__qualname__}>"
    if issubclass(kind, Enum):
        return _member(value, kind)
    if kind is dict:
        return {str(plain(key, 0)): plain(each, depth - 1) for key, each in list(value.items())[:_ITEMS]}
    if kind in (list, tuple, set, frozenset):
        return [plain(each, depth - 1) for each in list(value)[:_ITEMS]]
    return _fields(value, kind, depth)


def _member(value: Any, kind: type[Any]) -> str:
    """Return a member of an enumeration by its name, which a combination of flags need not have."""
    name = object.__getattribute__(value, "__dict__").get("_name_")
    return f"{kind.__qualname__}.{name}" if type(name) is str else f"<{kind.__qualname__}>"


def _fields(value: Any, kind: type[Any], depth: int) -> Any:
    """Return the fields of an object: of a struct, or of what keeps them in a dict; else the name of its type."""
    name = f"<{kind.__qualname__}>"
    if issubclass(kind, msgspec.Struct):
        fields = {field: object.__getattribute__(value, field) for field in kind.__struct_fields__}
    else:
        try:
            fields = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return name
    if type(fields) is not dict or issubclass(kind, type) or callable(value):
        return name
    return {name: {str(field): plain(each, depth - 1) for field, each in list(fields.items())[:_ITEMS]}}
