"""Whether runs fit code: each is replayed as far as its journal goes, and nothing comes of it.

For `stepwell.api.check`, and before a run goes on with another version of its workflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from stepwell.definitions.definition import Workflow
from stepwell.definitions.versions import versioned
from stepwell.errors import DeterminismError, RunHalted, StepwellError
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.replay.execution import Execution
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.values.codec import Codec
from stepwell.worker.copies.throwaway import Throwaway
from stepwell.worker.rules.versions import other_version

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
        self._workflows = versioned(workflows)
        self._thread = LoopThread()
        self._copies = Throwaway(codec, kinds, Execution)

    def check(self, snapshot: RunSnapshot) -> Checked:
        """Replay a run, and say whether it would go on."""
        record = snapshot.record
        definition = self._workflows.fitting(record.workflow, record.version)
        if definition is None:
            return Checked(record, "no code")
        with self._thread.entered():
            try:
                with self._copies.replayed(snapshot, definition, self._thread) as execution:
                    return self._outcome(snapshot, execution)
            except StepwellError as error:
                return Checked(record, "breaks", RunHalted(f"run {record.id!r} cannot be read: {error}"))

    def _outcome(self, snapshot: RunSnapshot, execution: Execution) -> Checked:
        patches = execution.patches or {}
        recorded = frozenset(entry.name for entry in snapshot.entries if entry.kind == self._patch_kind)
        halted, record = execution.halted, snapshot.record
        version = execution.definition.version
        if halted is None:
            return Checked(record, "goes on", None, None, patches, recorded)
        if record.version is not None and record.version != version:
            halted = other_version(halted, record, version)
        verdict: Verdict = "diverges" if isinstance(halted, DeterminismError) else "breaks"
        operation = halted.operation if isinstance(halted, DeterminismError) else None
        return Checked(snapshot.record, verdict, halted, operation, patches, recorded)
