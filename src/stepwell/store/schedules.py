"""What a store keeps of schedules: the changes to them, and what is read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from stepwell.model.run import RunRecord
from stepwell.model.schedule import ScheduleRecord


class ScheduleSaved(msgspec.Struct, frozen=True):
    """A schedule is as this row says, whether it was there before or not."""

    record: ScheduleRecord


class ScheduleAdvanced(msgspec.Struct, frozen=True):
    """A schedule has come further: its due time, pause, note and state are as this row says.

    It becomes due at once when one of the runs `awaited`, named by their ids, ends.
    """

    record: ScheduleRecord
    awaited: Sequence[str] = ()


class ScheduleDeleted(msgspec.Struct, frozen=True):
    """A schedule is there no more; its runs stay."""

    id: str


class ScheduleFacts(Protocol):
    """What a decision about a schedule is made from, inside the transaction."""

    def schedule(self, id: str) -> ScheduleRecord | None:
        """Return the schedule with this id, or None."""
        ...

    def run(self, id: str) -> RunRecord | None:
        """Return the run with this id, as earlier units of the transaction left it, or None."""
        ...


class ScheduleReads(Protocol):
    """What both read sides tell of schedules."""

    def schedule(self, id: str) -> ScheduleRecord | None:
        """Return the schedule with this id, or None."""
        ...

    def schedules(self, after: str = "", limit: int = 1000) -> list[ScheduleRecord]:
        """Return schedules by id, those after `after`, without their inputs."""
        ...

    def schedules_due(self, now: int, limit: int) -> list[str]:
        """Return the ids of the schedules that are due, the longest due first."""
        ...

    def next_schedule(self) -> int | None:
        """Return when the first schedule is due, or None."""
        ...
