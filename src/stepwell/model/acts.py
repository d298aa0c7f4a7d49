"""Acts: what somebody did to a run or a queue, as the file remembers it.

A run's journal says what its code was told. That a person cancelled, resumed or retried it, and why, is no part of
that: its code must not see it, and a retry must not undo it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import msgspec

#: ``pause`` and ``unpause`` are done to queues, limits and runs, all others to runs.
ActKind: TypeAlias = Literal[
    "cancel",
    "resume",
    "retry",
    "rewind",
    "restart",
    "fork",
    "settle",
    "terminate",
    "reschedule",
    "takeover",
    "pause",
    "unpause",
    "note",
    "describe",
    "resolve",
    "reject",
    "archive",
]


class Actor(NamedTuple):
    """Who acts, in words, and why, if that was said."""

    by: str
    reason: str | None = None


class ActRecord(msgspec.Struct, frozen=True):
    """An act as its row shows it. `at` is engine time, in microseconds."""

    at: int
    act: ActKind
    by: str
    reason: str | None
