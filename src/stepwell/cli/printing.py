"""How the commands print: tables, facts, JSON, and the commands that their texts advise, ready to be entered.

On a terminal, tables have colours and break long texts within their columns, and lists say how long ago something
was; elsewhere each row is one line, its columns two spaces apart, and no text is shortened for want of room. Times are
local.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from stepwell.values.failure_info import FailureInfo

#: A command in a text of the engine's, which does not know how the file was called on this line.
_ADVISED: Final = re.compile(r"`(stepwell (?:resume|cancel|retry|takeover|unpause|worker)\b[^`\n]*)`")


def print_json(value: object) -> None:
    """Print a value for programs."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values below each other; what is None or empty is left out."""
    shown = {name: _fact(value) for name, value in facts.items() if value is not None and value != {}}
    width = max(map(len, shown)) + 2
    for name, text in shown.items():
        first, *others = text.split("\n")
        print(f"{name}:".ljust(width) + first, *((" " * width + line).rstrip() for line in others), sep="\n")


def _fact(value: object) -> str:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, FailureInfo):
        return value.text
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: drawn for a terminal, else as wide as their longest text; the last is not padded."""
    if on_terminal():
        _draw_table(header, rows)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def on_terminal() -> bool:
    """Tell whether a person reads this as it comes, and can be shown more than plain text."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


#: Colours of states: what needs somebody stands out, what is over recedes.
COLOURS: Final = {
    "completed": "green",
    "failed": "bold red",
    "halted": "bold yellow",
    "paused": "yellow",
    "cancelled": "dim",
    "running": "cyan",
    "stalled": "bold yellow",
    "unreachable": "bold yellow",
    "dead": "bold red",
}


def coloured(text: str, state: str) -> str:
    """Return a text in the colour of a state, where colours are shown."""
    if not on_terminal():
        return text
    codes = {"ok": "32", "warning": "33", "problem": "1;31"}
    return f"\x1b[{codes[state]}m{text}\x1b[0m"


_TIMES: Final = frozenset({"AT", "CREATED", "SINCE"})


def _draw_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for number, name in enumerate(header):
        # The first column names the thing, and can be copied as it stands; a time is read at a glance.
        table.add_column(name, overflow="fold", no_wrap=number == 0 or name in _TIMES)
    for row in rows:
        cells = [
            Text(text, style=COLOURS.get(text, "") if name in ("STATUS", "STATE", "KIND") else "")
            for name, text in zip(header, row, strict=True)
        ]
        table.add_row(*cells)
    Console(highlight=False).print(table)


def moment(at: datetime) -> str:
    """Return a time as all commands show it: local, milliseconds, and how far from UTC."""
    local = at.astimezone()
    offset = local.strftime("%z")
    return local.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + ("Z" if offset == "+0000" else f" {offset[:3]}:{offset[3:]}")


#: Units of a duration in words, each with its seconds; the first that fits at least once is taken.
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def when(at: datetime) -> str:
    """Return a time for a list: how long ago on a terminal, else as `moment`."""
    return ago(at, datetime.now(UTC)) if on_terminal() else moment(at)


def ago(at: datetime, now: datetime) -> str:
    """Return how long before `now` a time was, or how long after it will be, in one unit."""
    seconds = (now - at).total_seconds()
    unit, length = next((unit for unit in _UNITS if abs(seconds) >= unit[1]), _UNITS[-1])
    number = int(abs(seconds) // length)
    if not number:
        return "now"
    return f"{number} {unit} ago" if seconds > 0 else f"in {number} {unit}"


def counted(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def for_this_file(text: str, db: str) -> str:
    """Return a text whose commands can be entered as they stand: they name the file."""

    def completed(found: re.Match[str]) -> str:
        line = found.group(1).replace("--db FILE", "").rstrip()
        return f"`{line} --db {shlex.quote(db)}`"

    return _ADVISED.sub(completed, text)
