"""How far an operation is that has not ended, as the file has it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

#: Who says it: the attempts of a step; nobody, a map is counted; nobody, the attempts of a poll are.
ProgressKind: TypeAlias = Literal["step", "map", "poll"]


class ProgressRow(msgspec.Struct, frozen=True, gc=False):
    """How far an operation of a run is; see the table stepwell_progress."""

    op: int
    kind: ProgressKind
    name: str
    attempt: int
    done: int | float
    total: int | float | None
    failed: int
    note: str | None
    began_at: int
    at: int
    next_at: int | None = None
    ended: bool = False
