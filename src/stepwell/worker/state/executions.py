"""The code of runs: made to execute when a run comes to memory, and made anew where it needs greenlets after all."""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.model.journal import Entry
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.replay.blocking import mentions_blocking_calls
from stepwell.replay.execution import Execution
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs


class Executions:
    """Makes executions. Knows which workflows need greenlets."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._greenlets: dict[str, tuple[Workflow[..., Any], bool]] = {}

    def of(self, record: RunRecord, definition: Workflow[..., Any], *, greenlets: bool = False) -> Execution:
        """Make the execution of a run, on greenlets where it is known to need them; it has not begun."""
        runs = self._runs
        greenlets = greenlets or self.need_greenlets(definition)
        execution = Execution(record, definition, runs.codec, runs.kinds, greenlets=greenlets, thread=runs.loops)
        execution.new_token = runs.tokens
        return execution

    def need_greenlets(self, definition: Workflow[..., Any]) -> bool:
        """Tell whether the code of a workflow executes on greenlets, as far as is known."""
        known = self._greenlets.get(definition.name)
        if known is None or known[0] is not definition:
            known = self._greenlets[definition.name] = (definition, mentions_blocking_calls(definition.function))
        return known[1]

    def with_items(self, snapshot: RunSnapshot) -> RunRecord:
        """Return the record of a run; of one that has collected the inputs of several starts, with all of them."""
        record = snapshot.record
        if not snapshot.items or record.chapter is not None:
            return record
        where = f"the input of workflow {record.workflow!r} for run {record.id!r}"
        return replace(record, input=self._runs.codec.join_arguments(snapshot.items, where))

    def restart(self, run: LoadedRun) -> None:
        """Start the run's code anew, on greenlets, from its journal.

        What the interrupted activation led to is discarded.
        """
        runs = self._runs
        old = run.execution
        self._greenlets[old.definition.name] = (old.definition, True)
        snapshot = runs.reads.load([run.key])[0]
        uncommitted = [
            change for change in runs.batch.work_of(run).changes if isinstance(change, Entry) and change.run == run.key
        ]
        record = replace(self.with_items(snapshot), started_at=old.started_at)
        run.execution = execution = self.of(record, old.definition, greenlets=True)
        execution.replay([*snapshot.entries, *uncommitted], restarted=True)
        execution.withdrawn = [*old.withdrawn, *execution.withdrawn]
        # What the old execution had asked for before the interrupted activation is under way already.
        execution.issued = [operation for operation in execution.issued if operation.number > run.opened]
        run.receivers = {
            name: deque(
                execution.pending[waiting.number] for waiting in receivers if waiting.number in execution.pending
            )
            for name, receivers in run.receivers.items()
        }
        old.close()
