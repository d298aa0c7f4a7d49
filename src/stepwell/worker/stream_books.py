"""How the streams of a run in memory stand, as its worker knows it; `stepwell.worker.streams` keeps these books."""

from __future__ import annotations


class StreamBook:
    """What is uncommitted included. `closed_by`: the operation that closed it."""

    __slots__ = ("closed_by", "first", "next")

    def __init__(self, first: int, following: int, closed_by: int | None) -> None:
        self.first = first
        self.next = following
        self.closed_by = closed_by


class StreamBooks:
    """Of one run. `begun` are the executions of steps, each (stream, operation, attempt, interruptions), that wrote."""

    __slots__ = ("begun", "streams")

    def __init__(self) -> None:
        self.streams: dict[str, StreamBook] = {}
        self.begun: set[tuple[str, int, int, int]] = set()
