"""What sagas have undone: entries that say so, one for each call that undoes something, made before its operations.

They make no difference to a replay. A retry takes back what followed a failure, so it must know whether work that the
journal holds as done has been undone meanwhile (ADR 0073).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from stepwell.model.journal import UNDOES, Entry

_WITH: Final = " undoes with "
#: How many calls are named.
_NAMED: Final = 5


class Undone(msgspec.Struct, frozen=True):
    """What was undone: the first operation of the saga that did, and by which calls, in words."""

    first: int
    calls: str


def undoes(first: int, name: str) -> str:
    """Return the name of the entry of one call; `first` is the first operation of the saga's block."""
    return f"{UNDOES}{first}{_WITH}{name}"


def undone_by(entries: Iterable[Entry]) -> Undone | None:
    """Return what entries say was undone, of several sagas with the first operation of all; None where nothing was.

    What nothing was recorded of after it changed nothing outside of the code.
    """
    first = 0
    names: list[str] = []
    is_durable = False
    for entry in entries:
        is_durable = is_durable or (bool(names) and entry.op > 0)
        if not entry.op and entry.kind == "timer" and entry.name.startswith(UNDOES):
            number, _, name = entry.name.removeprefix(UNDOES).partition(_WITH)
            first = min(first or int(number), int(number))
            names.append(name)
    if not is_durable:
        return None
    counts = Counter(names)
    told = [f"{name!r}" + (f" ({count} times)" if count > 1 else "") for name, count in counts.most_common(_NAMED)]
    return Undone(first, ", ".join(told) + (" and others" if len(counts) > _NAMED else ""))
