"""Updates travel as messages of names that no user can give, with keys of their own; the answer stands beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from stepwell.model.journal import Entry, Payload

#: Before the name of an update where it stands among messages, and before its key. Names that users give are printable.
MARK: Final = "\x1f"

#: The kind, and the operation, of the entry by which a run's code is told of an update; its value is the arguments.
UPDATE: Final = "update"


class UpdateAnswer(msgspec.Struct, frozen=True):
    """What the file has of an update: its name, as a message has it, and how it was answered, if it was.

    `payload` is the answer, or where `failed` is set the failure.
    """

    name: str
    is_answered: bool
    failed: bool
    payload: Payload


def marked(text: str) -> str:
    """Return the name, or the key, by which an update stands among messages."""
    return MARK + text


def is_marked(name: str) -> bool:
    """Tell whether the name of a message is that of an update."""
    return name.startswith(MARK)


def called(name: str) -> str:
    """Return how a message is called in texts: ``message 'x'``, or ``update 'x'``."""
    return f"update {name[len(MARK) :]!r}" if is_marked(name) else f"message {name!r}"


def returned(undone: Iterable[Entry]) -> list[tuple[str, Payload, int]]:
    """Return what can be received again where these entries are undone: name, value, and when each was taken."""
    return [
        (marked(entry.name) if entry.kind == UPDATE else entry.name, entry.value, entry.at)
        for entry in undone
        if entry.kind in ("message", UPDATE)
    ]
