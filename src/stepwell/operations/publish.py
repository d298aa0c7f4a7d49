"""`publish`: a value that anybody can read while the run goes on, in place of what was under the key before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stepwell.definitions.saying import PublishedValue, Speaker, say, speaker_here
from stepwell.model.journal import EntryForm
from stepwell.model.names import check_name
from stepwell.operations.calling_run import calling_run, calling_run_or_none
from stepwell.replay.divergence import Given
from stepwell.store.changes import ValuePublished
from stepwell.worker.state import facts
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.model.journal import Payload
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork


async def publish(key: str, value: object) -> None:
    """Publish a value under `key`, in place of an earlier one; `Run.value` reads it, or waits for it.

    In a workflow it is published exactly once, in the commit with the code's other progress. In a step it is published
    at once: when this returns, it survives power loss.
    """
    run = calling_run_or_none()
    if run is None and (speaker := speaker_here()) is not None:
        await say(speaker, of_step(speaker, key, value))
        return
    run = calling_run("publish()") if run is None else run
    check_name(key, "the key of a published value")
    where = f"the value published as {key!r} by run {run.run_id!r}"
    payload, fingerprint = run.codec.seal_untyped(value, (value,), where)
    await run.perform("publish", key, fingerprint, None, payload, Given((value,), {}))


def of_step(speaker: Speaker, key: str, value: object) -> PublishedValue:
    """Return what a step publishes; raises as `publish` does."""
    check_name(key, "the key of a published value")
    if speaker.outlet is None:
        return PublishedValue(key, None)
    where = f"the value published as {key!r} by {speaker}"
    return PublishedValue(key, speaker.outlet.codec.encode_untyped(value, where))


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    key, payload = operation.name, _payload(operation)
    work.changes.append(ValuePublished(run.key, key, payload, runs.now))
    work.afterwards(lambda: facts.ValuePublished(run.key, key, payload))
    run.deliverable.append(operation.answer(run.key, "published", runs.now))


def _payload(operation: Operation) -> Payload:
    payload: Payload = operation.detail
    return payload


#: The entry has no value: what was published last under a key stands in a table of its own, once.
PUBLISH: Final = OperationKind(name="publish", entries=(EntryForm("published", has_value=False),), open=_open)
