"""`set_attributes`: what a run says of itself, for whoever looks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from stepwell.model.attributes import AttributeValue, Description, described
from stepwell.model.journal import EntryForm
from stepwell.operations.calling_run import calling_run
from stepwell.replay.divergence import Given
from stepwell.store.changes import RunDescribed
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


async def set_attributes(
    attributes: Mapping[str, AttributeValue | None] | None = None,
    /,
    *,
    tags: Iterable[str] = (),
    remove_tags: Iterable[str] = (),
    note: str | None = None,
) -> None:
    """Set attributes of this run and add or remove tags, by which the run can be found, and leave a note.

    `attributes` is a mapping of names to values: str, int, float, bool or an aware datetime; None removes one.
    Attributes that are not named stay as they are. The change is recorded exactly once, and a rewind does not undo it.
    Raises `InvalidArgument` for other values.
    """
    run = calling_run("set_attributes()")
    said = described(attributes, tags, remove_tags, note)
    if said.is_empty:
        return
    given = msgspec.to_builtins(said)
    _, fingerprint = run.codec.seal_untyped(given, (given,), f"what run {run.run_id!r} says of itself")
    await run.perform("describe", said.summary, fingerprint, None, said, Given((given,), {}))


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    said: Description = operation.detail
    work.changes.append(RunDescribed(run.key, said, runs.now))
    run.deliverable.append(operation.answer(run.key, "described", runs.now))


#: The entry has no value: its name says what was set, and what a run has now stands in tables of its own.
DESCRIBE: Final = OperationKind(
    name="describe", entries=(EntryForm("described", has_value=False),), words="set_attributes", open=_open
)
