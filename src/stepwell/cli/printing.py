"""How the commands print: tables, facts, JSON, and the commands that their texts advise, ready to be entered.

On a terminal, tables have colours and break long texts within their columns, and lists say how long ago something
was; elsewhere each row is one line, its columns two spaces apart, and no text is shortened for want of room. Times are
local.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from stepwell.values.failure_info import FailureInfo

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

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
        line = f"{name}:".ljust(width) + first
        if isinstance(facts[name], str):
            say(line, " " * width)
        else:  # JSON stays in one piece, to be copied
            click.echo(line)
        for line in others:
            click.echo((" " * width + line).rstrip())


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


_TIMES: Final = frozenset({"AT", "CREATED", "SINCE", "NEXT"})
_NUMBERS: Final = frozenset(
    ["WAITING", "DELAYED", "RUNNING", "OLDEST WAIT", "RUNS", "EPOCH", "PID", "STARTED", "CALLS", "MEAN", "LONGEST"]
)
_STATES: Final = frozenset({"STATUS", "STATE", "KIND"})
_GAP: Final = 2
#: Where less room is left for the last column, its texts stand below their rows; no column of names is made narrower
#: than the second.
_ROOM_FOR_WORDS: Final = 24
_NARROWEST: Final = 12


def _draw_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Draw columns as wide as they need to be; what has no room is broken, or stands below, and never left out."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    header, rows = _without_empty(header, rows)
    widths = _natural(header, rows)
    below = len(header) > 1 and _needed(widths) > console.width and header[-1] not in _NUMBERS | _TIMES
    below = below and console.width - _needed(widths[:-1]) - _GAP < _ROOM_FOR_WORDS
    shown = len(header) - below
    table = _table(header[:shown], _fitted(header[:shown], widths[:shown], console.width))
    for row in rows:
        if below and table.row_count:
            table = _continued(table)
        table.add_row(*(_cell(name, text) for name, text in zip(header, row[:shown], strict=False)))
        if below:
            console.print(table)
            if row[-1]:
                console.print(Padding(Text(row[-1], style="dim"), (0, 0, 0, _GAP)))
    if not below:
        console.print(table)


def _without_empty(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the columns that say anything; all of them where there is no row."""
    kept = [number for number in range(len(header)) if not rows or any(row[number] for row in rows)]
    return [header[number] for number in kept], [[row[number] for number in kept] for row in rows]


def _natural(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]


def _needed(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _fitted(header: Sequence[str], widths: Sequence[int], width: int) -> list[int]:
    """Make the widest columns of texts narrower, as far as it takes; numbers and times stay whole."""
    fitted = list(widths)
    texts = [number for number, name in enumerate(header) if name not in _NUMBERS | _TIMES | _STATES]
    while _needed(fitted) > width:
        widest = max(texts, key=lambda number: fitted[number], default=None)
        if widest is None or fitted[widest] <= _NARROWEST:
            break
        fitted[widest] -= 1
    return fitted


def _table(header: Sequence[str], widths: Sequence[int]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold dim")
    for name, width in zip(header, widths, strict=True):
        table.add_column(name, overflow="fold", width=width, justify="right" if name in _NUMBERS else "left")
    return table


def _continued(table: Table) -> Table:
    """Return a table with the columns of another one, and without its heading."""
    more = _table([str(column.header) for column in table.columns], [column.width or 0 for column in table.columns])
    more.show_header = False
    return more


def _cell(name: str, text: str) -> Text:
    from rich.text import Text

    return Text(text, style=COLOURS.get(text.partition(" ")[0], "") if name in _STATES else "")


def say(text: str, hanging: str = "", *, err: bool = False) -> None:
    """Print sentences: broken between words on a terminal, what follows the first line behind `hanging`.

    Lines that are indented already are left as they are: code, and what points into it.
    """
    stream = sys.stderr if err else sys.stdout
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        width = shutil.get_terminal_size().columns
        text = "\n".join(_broken(line, width, hanging) for line in text.split("\n"))
    click.echo(text, err=err)


def _broken(line: str, width: int, hanging: str) -> str:
    import textwrap

    if len(click.unstyle(line)) <= width or (line.startswith("  ") and not (hanging and line.startswith(hanging))):
        return line
    # What colours a word takes no room of the line, but its codes stand in the first one only.
    extra = len(line) - len(click.unstyle(line))
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False, subsequent_indent=hanging)
    first = textwrap.TextWrapper(width + extra, break_long_words=False, break_on_hyphens=False).wrap(line)[0]
    rest = line[len(first) :].lstrip()
    return "\n".join([first, *(wrapper.wrap(hanging + rest) if rest else [])])


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


#: A time in a text of the engine's, which does not know the reader's zone.
_MOMENT: Final = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z")


def for_this_file(text: str, db: str) -> str:
    """Return a text of the engine's for whoever reads it here: its commands name the file, its times are local."""

    def completed(found: re.Match[str]) -> str:
        line = found.group(1).replace("--db FILE", "").rstrip()
        return f"`{line} --db {shlex.quote(db)}`"

    def local(found: re.Match[str]) -> str:
        return moment(datetime.fromisoformat(found[0]))

    return _MOMENT.sub(local, _ADVISED.sub(completed, text))
