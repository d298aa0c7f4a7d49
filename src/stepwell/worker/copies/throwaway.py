"""Replays of runs of which nothing comes: to look whether they fit the code, or to ask them something.

What a worker does when it takes a run up, without the worker: no claim, no effect, no step is executed, no commit. What
the code asks for beyond its journal is dropped, and so is the copy of the run.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.model.run import RunSnapshot
from stepwell.replay.blocking import mentions_blocking_calls
from stepwell.replay.execution import Execution
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.values.codec import Codec

E = TypeVar("E", bound=Execution)


class Throwaway(Generic[E]):
    """Makes copies of runs, on the thread that asks. `kind` is the class of their executions."""

    def __init__(self, codec: Codec, kinds: Kinds, kind: type[E]) -> None:
        self._codec = codec
        self._kinds = kinds
        self._kind = kind
        self._greenlets: dict[str, bool] = {}

    @contextmanager
    def replayed(self, snapshot: RunSnapshot, definition: Workflow[..., Any], thread: LoopThread) -> Generator[E]:
        """Yield a run that was replayed as far as its journal goes, in a block of `thread`."""
        name = definition.name
        if name not in self._greenlets:
            self._greenlets[name] = mentions_blocking_calls(definition.function)
        execution = self._made(snapshot, definition, thread)
        try:
            execution.replay(snapshot.entries)
            if execution.needs_greenlets:
                execution.close()
                self._greenlets[name] = True
                execution = self._made(snapshot, definition, thread)
                execution.replay(snapshot.entries)
            yield execution
        finally:
            execution.close()

    def _made(self, snapshot: RunSnapshot, definition: Workflow[..., Any], thread: LoopThread) -> E:
        record = snapshot.record
        if snapshot.items and record.chapter is None:
            where = f"the input of workflow {record.workflow!r} for run {record.id!r}"
            record = replace(record, input=self._codec.join_arguments(snapshot.items, where))
        # Its code was executed up to where it waits: the log is told of nothing again.
        silent = replace(record, status="waiting")
        greenlets = self._greenlets[definition.name]
        execution = self._kind(silent, definition, self._codec, self._kinds, greenlets=greenlets, thread=thread)
        execution.patches = {}
        return execution
