"""A recorded failure for people: the tree of exceptions that the file holds, and its text as Python would print it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from stepwell.values.failure import read_failure

_CAUSE: Final = "The exception above was the direct cause of the one below:"
_CONTEXT: Final = "While the exception above was handled, the one below occurred:"


class FailureInfo(msgspec.Struct, frozen=True):
    """An exception as it was recorded, without its class being imported.

    `type` is written as tracebacks show it (``ValueError``, ``shop.errors.CardDeclined``). `traceback` has the frames
    of the user's code; `notes` are those of `add_note`. `cause` is what it was raised from, `context` what was being
    handled meanwhile (None where there is a cause, or that was suppressed), `members` are the exceptions of a group.
    """

    type: str
    message: str
    notes: list[str] = []
    traceback: str = ""
    cause: FailureInfo | None = None
    context: FailureInfo | None = None
    members: list[FailureInfo] = []

    @property
    def summary(self) -> str:
        """The type and the message."""
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def origin(self) -> FailureInfo | None:
        """What the user's code raised: itself, or else what it was raised from; None where that raised nothing."""
        return self if self.traceback or self.members else self.cause or self.context

    @property
    def text(self) -> str:
        """All of it, as Python prints it: what came first stands first."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for earlier, link in ((self.cause, _CAUSE), (self.context, _CONTEXT)):
            if earlier is not None:
                yield from earlier._lines()  # noqa: SLF001 - another one of this class
                yield from ("", link, "")
        if self.traceback:
            yield "Traceback (most recent call last):"
            yield from self.traceback.rstrip("\n").split("\n")
        yield from self.summary.split("\n")
        for note in self.notes:
            yield from note.split("\n")
        for number, member in enumerate(self.members, 1):
            yield f"  +-- {number} of {len(self.members)}:"
            for line in member._lines():  # noqa: SLF001 - as above
                yield f"  | {line}".rstrip()


_decode: Final = partial(msgspec.json.decode, type=FailureInfo)


def failure_info(text: str | bytes) -> FailureInfo:
    """Return the failure that JSON records; raises `SerializationError` where it is damaged."""
    found: FailureInfo = read_failure(text, _decode)
    return found
