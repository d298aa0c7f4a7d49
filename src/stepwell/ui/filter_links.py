"""Changes one word of a filter that somebody wrote, and leaves the rest as it is. For links. Pure."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*"?)+')
_PLAIN: Final = re.compile(r'[^\s"\\]+')


def with_word(text: str, field: str, value: str | None) -> str:
    """Return a filter in which `field` is `value`, or is not said where that is None."""
    kept = [word for word in _WORD.findall(text) if not word.startswith((f"{field}:", f"{field}="))]
    return " ".join(kept if value is None else [*kept, f"{field}:{quoted(value)}"])


def value_of(text: str, field: str) -> str | None:
    """Return what a filter says of a field, as it stands there; None where it says nothing."""
    return next(
        (word[len(field) + 1 :] for word in _WORD.findall(text) if word.startswith((f"{field}:", f"{field}="))), None
    )


def quoted(value: str) -> str:
    """Return a value as a filter writes it."""
    if _PLAIN.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
