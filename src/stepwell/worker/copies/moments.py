"""A run as it was when it had been told so much: where its code waited, and what its variables were.

A copy of the run is replayed with the beginning of its journal, looked at where it waits, and dropped. Nothing is
executed but the workflow's code, which a replay executes anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.definitions.step_call import StepCall
from stepwell.errors import RunHalted
from stepwell.model.journal import Entry
from stepwell.model.run import RunSnapshot
from stepwell.replay.execution import Execution
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.operation import Operation
from stepwell.replay.source_location import waiting_frames
from stepwell.values.codec import Codec
from stepwell.worker.copies.throwaway import Throwaway


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


class CodeRequest(msgspec.Struct, frozen=True):
    """An operation as the code asks for it: what it takes as an answer, and of a step with which arguments.

    `place` is the function that waits for it, None where that cannot be told. `step` is the call of a step.
    """

    number: int
    kind: str
    name: str
    annotation: Any
    step: StepCall | None
    place: CodeFrame | None


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

    def requests(self, snapshot: RunSnapshot, definition: Workflow[..., Any], number: int | None) -> list[CodeRequest]:
        """Return operation `number` as the code asked for it, or, for None, all that the code waits for now.

        None where the code that is here does not come so far, or the operation was never waited for.
        """
        entries = snapshot.entries
        if number is not None:
            delivered = [entry.kind not in self._kinds.undelivered and entry.op == number for entry in entries]
            end = delivered.index(True) if True in delivered else len(entries)
            # Without what is known of it: else the code is given that without being asked for arguments.
            entries = [entry for entry in entries[:end] if entry.op != number]
        thread = LoopThread()
        part = replace(snapshot, entries=entries)
        with thread.entered(), self._copies.replayed(part, definition, thread) as execution:
            if execution.halted is not None:
                return []
            wanted = execution.pending.values() if number is None else [execution.pending.get(number)]
            return [_request(each, execution.loop.unfinished_tasks()) for each in wanted if each is not None]


def _request(operation: Operation, tasks: Sequence[asyncio.Task[Any]]) -> CodeRequest:
    # What waits for it, or else what waits for that: the code that called `gather`.
    waiting: list[Any] = [task for task in tasks if getattr(task, "_fut_waiter", None) is operation.future]
    found = (_frames(waiting_frames(task.get_coro())) for task in (*waiting, *tasks))
    frames = next((each for each in found if each), list[CodeFrame]())
    return CodeRequest(
        operation.number,
        operation.kind,
        operation.name,
        None if operation.converter is None else operation.converter.annotation,
        operation.detail if isinstance(operation.detail, StepCall) else None,
        frames[-1] if frames else None,
    )


def _frames(frames: Sequence[FrameType]) -> list[CodeFrame]:
    return [
        CodeFrame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname, dict(frame.f_locals))
        for frame in frames
    ]
