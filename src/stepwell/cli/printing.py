"""How the commands print: tables, facts, JSON, and the commands that their texts advise, ready to be entered."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
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
    """Print columns as wide as their longest text; the last is not padded."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def moment(at: datetime) -> str:
    """Return a time as all commands show it: UTC, milliseconds."""
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def counted(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def for_this_file(text: str, db: str) -> str:
    """Return a text whose commands can be entered as they stand: they name the file."""

    def completed(found: re.Match[str]) -> str:
        line = found.group(1).replace("--db FILE", "").rstrip()
        return f"`{line} --db {shlex.quote(db)}`"

    return _ADVISED.sub(completed, text)
