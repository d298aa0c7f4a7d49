"""Whether runs fit code: each is replayed as far as its journal goes, and nothing comes of it.

What a worker does when it takes a run up, without the worker: no claim, no effect, no step is executed, no commit. What
the code asks for beyond its journal is dropped. For `stepwell.api.check`, and before a run goes on with another version
of its workflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.errors import DeterminismError, RunHalted, StepwellError
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.replay.blocking import mentions_blocking_calls
from stepwell.replay.execution import Execution
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.values.codec import Codec

#: ``goes on``: its journal fits; ``diverges``: the code does something else than was recorded; ``breaks``: it cannot be
#: given what was recorded, or a mistake in it ends it; ``no code``: the workflow is not there.
Verdict: TypeAlias = Literal["goes on", "diverges", "breaks", "no code"]


class Checked(msgspec.Struct, frozen=True):
    """What became of the replay of one run.

    `error` is why it does not go on. `patches` has, for each call of `patched` that the code made, whether it took the
    new path; `recorded` the names of those that stand in the journal. `operation` is where it diverges.
    """

    record: RunRecord
    verdict: Verdict
    error: RunHalted | None = None
    operation: int | None = None
    patches: Mapping[str, bool] = {}
    recorded: frozenset[str] = frozenset()


class Checker:
    """Replays runs with the code of some workflows. For one thread. `patch_kind` is the kind of entry of a patch."""

    def __init__(
        self, codec: Codec, kinds: Kinds, workflows: Mapping[str, Workflow[..., Any]], patch_kind: str
    ) -> None:
        self._patch_kind = patch_kind
        self._codec = codec
        self._kinds = kinds
        self._workflows = workflows
        self._thread = LoopThread()
        self._greenlets: dict[str, bool] = {}

    def check(self, snapshot: RunSnapshot) -> Checked:
        """Replay a run, and say whether it would go on."""
        record = snapshot.record
        definition = self._workflows.get(record.workflow)
        if definition is None:
            return Checked(record, "no code")
        with self._thread.entered():
            try:
                return self._replayed(snapshot, definition)
            except StepwellError as error:
                return Checked(record, "breaks", RunHalted(f"run {record.id!r} cannot be read: {error}"))

    def _replayed(self, snapshot: RunSnapshot, definition: Workflow[..., Any]) -> Checked:
        name = definition.name
        if name not in self._greenlets:
            self._greenlets[name] = mentions_blocking_calls(definition.function)
        execution = self._execution(snapshot, definition)
        try:
            execution.replay(snapshot.entries)
            if execution.needs_greenlets:
                execution.close()
                self._greenlets[name] = True
                execution = self._execution(snapshot, definition)
                execution.replay(snapshot.entries)
            return self._outcome(snapshot, execution)
        finally:
            execution.close()

    def _execution(self, snapshot: RunSnapshot, definition: Workflow[..., Any]) -> Execution:
        record = snapshot.record
        if snapshot.items and record.chapter is None:
            where = f"the input of workflow {record.workflow!r} for run {record.id!r}"
            record = replace(record, input=self._codec.join_arguments(snapshot.items, where))
        # Its code was executed up to where it waits: the log is told of nothing again.
        silent = replace(record, status="waiting")
        greenlets = self._greenlets[definition.name]
        execution = Execution(silent, definition, self._codec, self._kinds, greenlets=greenlets, thread=self._thread)
        execution.patches = {}
        return execution

    def _outcome(self, snapshot: RunSnapshot, execution: Execution) -> Checked:
        patches = execution.patches or {}
        recorded = frozenset(entry.name for entry in snapshot.entries if entry.kind == self._patch_kind)
        halted = execution.halted
        if halted is None:
            return Checked(snapshot.record, "goes on", None, None, patches, recorded)
        verdict: Verdict = "diverges" if isinstance(halted, DeterminismError) else "breaks"
        operation = halted.operation if isinstance(halted, DeterminismError) else None
        return Checked(snapshot.record, verdict, halted, operation, patches, recorded)
