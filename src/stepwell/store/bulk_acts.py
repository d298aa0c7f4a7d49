"""What a store is told of acts that pass by a run's code, and of acts on many runs: part of `store.changes`."""

from __future__ import annotations

import msgspec

from stepwell.model.run import RunRecord


class RunTerminated(msgspec.Struct, frozen=True):
    """Somebody ends a run at once, in any state and whoever owns it: it is ``cancelled``, and its code is not executed.

    What its worker still writes of it is refused. Its watchers are woken as by `RunFinished`, and its attached children
    get a cancel request. The result is `Terminated`. Nothing happens to one that has ended. Raises `RunNotFound`.
    """

    run_id: str
    at: int
    by: str
    reason: str | None = None

    @property
    def told(self) -> str:
        """What is said of it to whoever waits for the run."""
        return _told("terminated", self.by, self.reason)


class Terminated(msgspec.Struct, frozen=True):
    """What became of a `RunTerminated`: the run before, the keys of its watchers, of the children to be cancelled."""

    before: RunRecord
    watchers: list[int] = []
    children: list[int] = []


class RunDeleted(msgspec.Struct, frozen=True):
    """Somebody deletes a run that has ended or that nobody has begun, with all that the file has of it; its id is free.

    One that nobody has begun is ended first, as by `RunTerminated`: it leaves its queue, and who waits for it is told.
    The result is `Terminated`. Raises `RunNotEnded` for another one, where its parent has not ended, and where another
    run waits for its end, `RunNotFound`.
    """

    run_id: str
    at: int
    by: str
    reason: str | None = None

    @property
    def told(self) -> str:
        """What is said of it to whoever waits for the run."""
        return _told("deleted", self.by, self.reason)


def _told(what: str, by: str, reason: str | None) -> str:
    return f"{what} by {by}" + ("" if reason is None else f": {reason}")


class BulkBegun(msgspec.Struct, frozen=True):
    """An act on all runs that match begins; the writing worker carries it out. The result is its number.

    `filter` is what was written, `bounds` the `RunFilter` that it stood for, as JSON, `total` how many runs match.
    """

    act: str
    filter: str
    bounds: str
    at: int
    total: int
    by: str
    reason: str | None = None


class BulkAdvanced(msgspec.Struct, frozen=True):
    """The writing worker has acted on `seen` more runs: all that match below `was_at` and from `before_key` up.

    With `ended_at` these were the last. The result is whether the act had come as far as `was_at` and no further. It is
    false where something else of this worker has advanced it meanwhile, or where another worker has taken it; then
    nothing changes.
    """

    bulk: int
    was_at: int
    before_key: int
    seen: int = 0
    refused: int = 0
    ended_at: int | None = None


class BulksTaken(msgspec.Struct, frozen=True):
    """The writing worker goes on with the acts whose workers have ended. The result is the list of their numbers."""


class BulkRecord(msgspec.Struct, frozen=True):
    """An act on many runs as its row shows it; times in microseconds."""

    id: int
    act: str
    filter: str
    by: str
    reason: str | None
    created_at: int
    total: int
    seen: int
    refused: int
    ended_at: int | None
    before_key: int
    bounds: str
    worker: int
