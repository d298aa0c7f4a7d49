"""What is shown, as text: values as JSON without what shall be hidden, sizes, and no invisible character.

Pure. Numbers are made into text here and never pass a browser's JavaScript, whose numbers are floats.
"""

# Values are of plain JSON data, of which pyright knows no types:
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, Literal

Piece = Literal["text", "command", "moment"]

#: In the place of a value that is hidden.
HIDDEN: Final = "•••• hidden"
#: How much of one value a page shows, in characters; the journal as JSON has all of it.
SHOWN_CHARS: Final = 20_000

#: Control characters but for tab and line feed, lone halves of pairs, and those that turn the direction of text around:
#: what one sees would not be what is there.
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_FOLDERS: Final = re.compile(r"^.*[/\\](?=[^/\\]+[/\\][^/\\]+:\d)")
_MODULE: Final = re.compile(r"^(?:[a-z_][a-z0-9_]*\.)+(?=[A-Z])")


def visible(text: str) -> str:
    """Return a text with what cannot be seen written out: its code point behind a backslash and a u."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Redactor:
    """Hides the values of fields with some names, wherever they are in a value. Upper and lower case are the same."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: Final = frozenset(name.casefold() for name in names)

    @property
    def hides_any(self) -> bool:
        """Whether there is anything to hide."""
        return bool(self._names)

    def hides(self, name: str) -> bool:
        """Tell whether a field's values are hidden."""
        return name.casefold() in self._names

    def of(self, value: Any) -> Any:
        """Return a value of plain JSON data without what is hidden."""
        if not self._names:
            return value
        if type(value) is dict:
            return self._of_fields(value)
        return self._of_items(value) if type(value) is list else value

    def _of_fields(self, fields: dict[Any, Any]) -> dict[Any, Any]:
        return {key: HIDDEN if self.hides(str(key)) else self.of(each) for key, each in fields.items()}

    def _of_items(self, items: list[Any]) -> list[Any]:
        return [self.of(each) for each in items]


def as_json(value: Any, most: int | None = SHOWN_CHARS) -> str:
    """Return a value as JSON for people, not more than `most` characters of it."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if most is None or len(text) <= most:
        return text
    return f"{text[:most]}\n… and {len(text) - most:,} more characters"


def in_line(value: Any, most: int = 120) -> str:
    """Return the beginning of a value as JSON, in one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def short_place(place: str) -> str:
    """Return ``file:line in function`` with the last two parts of the file's path."""
    return _FOLDERS.sub("", place)


def short_error(remark: str) -> str:
    """Return what a run failed with, without the module of the exception's class."""
    return _MODULE.sub("", remark)


def stamp(at: datetime) -> str:
    """Return a time as ISO 8601 writes it, in UTC, to the microsecond."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_COMMAND: Final = re.compile(r"`([^`\n]+)`")
_MOMENT: Final = re.compile(r"\b(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z")


def pieces(text: str) -> Iterator[tuple[Piece, str]]:
    """Take a sentence of the engine's apart: commands stand between backticks in it, moments as ISO 8601 has them.

    A moment comes as `stamp` writes it.
    """
    for number, part in enumerate(_COMMAND.split(text)):
        if number % 2:
            yield "command", part
            continue
        reached = 0
        for found in _MOMENT.finditer(part):
            yield "text", part[reached : found.start()]
            yield "moment", f"{found[1]}T{found[2]}.{(found[3] or '').ljust(6, '0')}Z"
            reached = found.end()
        yield "text", part[reached:]


#: Which page shows more of what a finding is about; of queues and limits, whose names follow, their page does.
_PLACES: Final = {
    "halted runs": "/runs?filter=status:halted",
    "runs without code": "/runs?filter=status:pending",
    "queue": "/queues",
    "limit": "/queues",
    "workers": "/workers",
}


def place_of(about: str) -> str:
    """Return the address of the page that shows more of what a finding is about; empty where there is none."""
    return _PLACES.get(about) or _PLACES.get(about.partition(" ")[0], "")
