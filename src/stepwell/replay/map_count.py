"""How far a `map` is, which the run's code counts and the worker writes now and then."""

from __future__ import annotations


class MapCount:
    """Of one map: `done` and `failed` of `total` items. `op` is the first operation that it called, 0 until then.

    `is_noted`: the worker will look at it. Counted again by a replay, so nothing of it has to be read.
    """

    __slots__ = ("began_at", "done", "failed", "is_noted", "is_over", "name", "op", "total")

    def __init__(self, name: str, total: int, began_at: int) -> None:
        self.name = name
        self.total = total
        self.began_at = began_at
        self.op = self.done = self.failed = 0
        self.is_noted = self.is_over = False
