"""Updates that have come for a run: whether its code takes them on, which is decided before the run has any of it.

What is refused is answered at once, and leaves nothing in the journal. What is taken on is an entry, in its place among
all that is delivered to the code.
"""

from __future__ import annotations

from functools import partial

from stepwell.errors import HandlerNotFound, StepwellError, UpdateRefused
from stepwell.model.journal import Entry, Payload
from stepwell.model.run import Message
from stepwell.model.updates import MARK, UPDATE
from stepwell.replay.execution import Execution
from stepwell.replay.handlers import none_of_name
from stepwell.store.changes import MessageTaken, UpdateAnswered, UpdateTakenOn
from stepwell.worker.state.facts import UpdateEnded
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork


def takes_updates(run: LoadedRun) -> bool:
    """Tell whether the code of a run can be asked now whether it takes on an update."""
    execution = run.execution
    handlers = execution.handlers
    return (
        run.pausing is None
        and execution.outcome is None
        and not execution.stopped
        and (handlers is None or not handlers.closed)
    )


def has_nothing_before(run: LoadedRun) -> bool:
    """Tell whether an update that comes now, of those that the code takes on, is the next thing it is to be told."""
    execution = run.execution
    untold = execution.loop.abandoned or execution.undoing
    return not (run.requests or run.sending or run.deliverable or untold or execution.issued)


def take_on(run: LoadedRun, name: str, key: str, given: Payload, now: int) -> tuple[UpdateTakenOn, Entry]:
    """Return what records an update that a run's code takes on as it comes; name and key are those of its message."""
    op = run.execution.issued_so_far + 1
    entry = Entry(run.key, op, UPDATE, name[len(MARK) :], 0, now, given)
    return UpdateTakenOn(run.key, name, key, now, op), entry


def next_update(runs: Runs, run: LoadedRun, work: UnitOfWork) -> Entry | None:
    """Return the entry of the next update that has come and that the code takes on; the others are answered."""
    while run.requests and takes_updates(run):
        entry = _admitted(runs, run, run.requests.popleft(), work)
        if entry is not None:
            return entry
    return None


def _admitted(runs: Runs, run: LoadedRun, message: Message, work: UnitOfWork) -> Entry | None:
    """Return the entry by which a run's code is told of an update; None where that is refused, and answered."""
    name, now = message.name[len(MARK) :], runs.now
    refused = refusal(runs, run.execution, name, message.value)
    if refused is not None:
        failure = runs.codec.encode_failure(refused)
        answered = UpdateAnswered(run.key, now, failure, position=message.position, failed=True)
        work.then(answered, partial(UpdateEnded, run.key, failure, True))
        return None
    op = run.execution.issued_so_far + 1
    work.changes.append(MessageTaken(run.key, message.position, now, op))
    return Entry(run.key, op, UPDATE, name, 0, now, message.value)


def refusal(runs: Runs, execution: Execution, name: str, given: Payload) -> StepwellError | None:
    """Return why a run's code does not take on an update now, None where it does; it has not ended."""
    handlers = execution.handlers
    handler = None if handlers is None else handlers.updates.get(name)
    if handler is None:
        return HandlerNotFound(none_of_name(execution.run_id, "update", name, handlers))
    try:
        where = f"the arguments of update {name!r} of run {execution.run_id!r}"
        args, kwargs = runs.codec.decode_arguments(given, handler.signature, where)
        handler.signature.bind_check(args, kwargs)
    except StepwellError as error:
        return error
    if handler.validate is None:
        return None
    try:
        execution.judge(f"update {name!r}", runs.bounded("its validator", handler.validate), args, kwargs)
    except BaseException as error:  # noqa: BLE001 - whatever the validator refuses it with; what is let out ends a thread
        text = str(error) if isinstance(error, StepwellError) else f"{type(error).__name__}: {error}"
        refused = UpdateRefused(f"run {execution.run_id!r} refuses update {name!r}: {text}")
        refused.__cause__ = error
        return refused
    return None
