"""A run as it was when it had been told so much: where its code waited, and what its variables were.

A copy of the run is replayed with the beginning of its journal, looked at where it waits, and dropped. Nothing is
executed but the workflow's code, which a replay executes anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.errors import RunHalted
from stepwell.model.journal import Entry
from stepwell.model.run import RunSnapshot
from stepwell.replay.execution import Execution
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.source_location import waiting_frames
from stepwell.values.codec import Codec
from stepwell.worker.throwaway import Throwaway


class CodeFrame(msgspec.Struct, frozen=True):
    """A function that waits: its file, the line that waits, and its variables as they are, of any type."""

    file: str
    line: int
    function: str
    variables: dict[str, Any]


class PendingOperation(msgspec.Struct, frozen=True):
    """What the code had asked for, and not been told of yet."""

    number: int
    kind: str
    name: str


class Moment(msgspec.Struct, frozen=True):
    """A run after `told` of its `entries`, of which the last is `entry`.

    `tasks` has, for each of the code's tasks, the functions that wait, the outermost first. `halted` is why the code
    that is here does not come so far; `has_ended`: the code has come to its end.
    """

    told: int
    entries: int
    entry: Entry | None
    tasks: list[list[CodeFrame]]
    pending: list[PendingOperation]
    has_ended: bool
    halted: RunHalted | None


class Moments:
    """Looks at copies of runs, on the thread that asks."""

    def __init__(self, codec: Codec, kinds: Kinds) -> None:
        self._kinds: Final = kinds
        self._copies: Final = Throwaway(codec, kinds, Execution)

    def at(self, snapshot: RunSnapshot, definition: Workflow[..., Any], told: int) -> Moment:
        """Return a run as it was after so many entries that its code was told of; more than there are: all."""
        delivered = [place for place, entry in enumerate(snapshot.entries) if entry.kind not in self._kinds.undelivered]
        told = min(told, len(delivered))
        # Entries that are history only go along as far as the next one of which the code was told.
        end = delivered[told] if told < len(delivered) else len(snapshot.entries)
        entry = snapshot.entries[delivered[told - 1]] if told else None
        thread = LoopThread()
        part = replace(snapshot, entries=snapshot.entries[:end])
        with thread.entered(), self._copies.replayed(part, definition, thread) as execution:
            tasks = [_frames(waiting_frames(task.get_coro())) for task in execution.loop.unfinished_tasks()]
            pending = [PendingOperation(each.number, each.kind, each.name) for each in execution.pending.values()]
            return Moment(
                told,
                len(delivered),
                entry,
                [task for task in tasks if task],
                pending,
                execution.outcome is not None,
                execution.halted,
            )


def _frames(frames: Sequence[FrameType]) -> list[CodeFrame]:
    return [
        CodeFrame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname, dict(frame.f_locals))
        for frame in frames
    ]
