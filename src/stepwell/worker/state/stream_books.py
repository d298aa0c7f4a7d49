"""How the streams of a run in memory stand, as its worker knows it; `steps.streams` keeps these books."""

from __future__ import annotations

from typing import TypeAlias

#: Of a step that writes: the stream, the operation, the attempt, and how often the program cancelled its task before.
Execution: TypeAlias = tuple[str, int, int, int]


class StreamBook:
    """What is uncommitted included. `closed_by`: the operation that closed it.

    `key` and `last_op` are as they were when the run came to memory: what wrote before has no higher operation.
    """

    __slots__ = ("closed_by", "first", "key", "last_op", "next")

    def __init__(self, first: int, following: int, closed_by: int | None, key: int, last_op: int) -> None:
        self.first = first
        self.next = following
        self.closed_by = closed_by
        self.key = key
        self.last_op = last_op


class StreamBooks:
    """Of one run. `begun` are the executions of steps that wrote, each with the attempt that its items are from."""

    __slots__ = ("begun", "streams")

    def __init__(self) -> None:
        self.streams: dict[str, StreamBook] = {}
        self.begun: dict[Execution, int] = {}
