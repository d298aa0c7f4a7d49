"""Other runs of the file, as workflow code sees them: `get_run`, `list`, and what a child's handle has of the same.

What is looked up is recorded, and delivered again in each replay: what a run is, what it has published, which runs
there are. How the end of a run is waited for is `stepwell.operations.result`.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

import msgspec

from stepwell.errors import InvalidArgument, RunFailed, RunNotFound
from stepwell.model.clock import to_seconds
from stepwell.model.journal import EntryForm
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.model.names import check_id, check_name, check_text
from stepwell.operations.calling_run import calling_run
from stepwell.operations.result import result_as
from stepwell.operations.send import CancelDetail, send
from stepwell.operations.timer import set_unless_done
from stepwell.replay.divergence import Given
from stepwell.shown import shown
from stepwell.store.inspector import RunFilter
from stepwell.worker.state.opening import reopen_later
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.model.journal import Payload
    from stepwell.replay.execution import Execution
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D")

#: The most runs that one call lists: each stands in the journal.
MAX_LISTED: Final = 10_000


class RunHandle:
    """What workflow code can do with another run. `id` names it; whether there is such a run shows when it is asked."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id

    async def status(self) -> Status:
        """Return the state that it is in; raises `RunNotFound`."""
        run = calling_run("OtherRun.status()")
        found = await run.perform("look", self.id, 0, run.codec.converter(str), StatusLook(self.id))
        return cast("Status", found)

    @overload
    async def value(self, key: str, *, default: Any = ...) -> Any: ...
    @overload
    async def value(self, key: str, *, type: type[U]) -> U: ...
    @overload
    async def value(self, key: str, *, type: type[U], default: D) -> U | D: ...
    @overload
    async def value(self, key: str, *, type: Any, default: Any = ...) -> Any: ...

    async def value(self, key: str, *, type: Any = Any, default: Any = ...) -> Any:
        """Return what it published last under `key`, as `type`; it is not waited for.

        Where there is nothing yet: `default` or, without one, raises `LookupError`. Raises `RunNotFound`.
        """
        run = calling_run("OtherRun.value()")
        check_name(key, "the key of a published value")
        given = Given((self.id, key), {})
        fingerprint = run.codec.fingerprint(given.args, {}, "the key of a published value")
        try:
            detail = ValueLook(self.id, key)
            return await run.perform("look", self.id, fingerprint, run.codec.converter(type), detail, given)
        except LookupError as error:
            if default is ... or isinstance(error, RunNotFound):
                raise
            return default

    async def send(self, name: str, value: object = None, *, key: str | None = None) -> None:
        """Send it a message; see `stepwell.send`."""
        await send(self.id, name, value, key=key)

    async def cancel(self, reason: str | None = None) -> None:
        """Ask it to stop; it ends in its own time. Nothing happens where there is no such run, or it has ended."""
        run = calling_run("OtherRun.cancel()")
        check_text(reason, "reason")
        await run.perform("send", "cancel", 0, None, CancelDetail(self.id, reason))

    def __repr__(self) -> str:
        """Show the id."""
        return f"<{self.__class__.__name__} {self.id!r}>"


class OtherRun(RunHandle):
    """Any run of the file; see `get_run`."""

    async def result(self, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
        """Wait for its end and return its result as `type`; raises what it failed with, or `RunCancelled`.

        Raises `TimeoutError` after `timeout` (seconds or a timedelta); it goes on. Raises `RunNotFound`.
        """
        run = calling_run("OtherRun.result()")
        return await within(run, self.id, timeout, lambda: result_as(run, run.codec.converter(type), self.id))


async def within(
    run: Execution, run_id: str, timeout: float | timedelta | None, wait: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """Return what comes of waiting for the end of a run, or raise `TimeoutError` where that takes too long."""
    if timeout is None:
        return await wait()
    seconds = to_seconds(timeout, "timeout of result()")
    expired = run.loop.create_future()
    handle = run.loop.call_later(seconds, set_unless_done, expired)
    waiting = run.loop.create_task(wait())
    try:
        await asyncio.wait([waiting, expired], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return cast("T", waiting.result())
    finally:
        handle.cancel()
        waiting.cancel()
    raise TimeoutError(f"run {run_id!r} has not ended after {seconds:g} s; it goes on, so it can be waited for again")


def get_run(id: str) -> OtherRun:
    """Return the handle of another run, by its id, for workflow code; nothing is looked up before you use it."""
    run = calling_run("get_run()")
    if check_id(id) == run.run_id:
        raise InvalidArgument(f"run {id!r} asks for a handle of itself; current() tells about it")
    return OtherRun(id)


async def list(
    *,
    status: Status | Sequence[Status] | None = None,
    workflow: object = None,
    id_prefix: str | None = None,
    limit: int = 100,
) -> builtins.list[OtherRun]:
    """Return handles of the runs of the file that match all of it, newest first, as they are now: that is recorded.

    `status`: a state, or several; `workflow`: one, or its name; `limit`: at most 10,000.
    """
    run = calling_run("list()")
    name = getattr(workflow, "name", workflow)
    if name is not None and not isinstance(name, str):
        raise InvalidArgument(f"list() takes a workflow, or the name of one, not {shown(workflow)}")
    most: Any = limit
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MAX_LISTED:
        raise InvalidArgument(f"limit must be a whole number from 1 to {MAX_LISTED}, not {shown(limit)}")
    statuses: tuple[Status, ...] | None = None
    if status is not None:
        wanted = (status,) if isinstance(status, str) else tuple(status)
        for each in wanted:
            if each not in STATUSES:
                raise InvalidArgument(f"status must be one of {', '.join(STATUSES)}, not {shown(each)}")
        statuses = tuple(each for each in STATUSES if each in wanted)  # a set has another order in each process
    prefix = check_text(id_prefix, "id_prefix")
    given = Given((statuses, name, prefix, limit), {})
    fingerprint = run.codec.fingerprint(given.args, {}, "what runs are listed by")
    detail = RunFilter(status=statuses, workflow=name, id_prefix=prefix, limit=limit)
    ids = await run.perform("look", "runs", fingerprint, run.codec.converter(builtins.list[str]), detail, given)
    return [OtherRun(each) for each in ids]


# --- what is done about it --------------------------------------------------------------------------------------------


class StatusLook(msgspec.Struct, frozen=True, gc=False):
    """The detail of a look at the state of a run."""

    run_id: str


class ValueLook(msgspec.Struct, frozen=True, gc=False):
    """The detail of a look at what a run has published."""

    run_id: str
    key: str


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    detail: StatusLook | ValueLook | RunFilter = operation.detail
    if isinstance(detail, RunFilter):
        ids = [record.id for record in runs.reads.matching(detail)]
        run.deliverable.append(operation.answer(run.key, "looked", runs.now, runs.codec.encode(ids, "ids")))
        return
    if runs.being_created(detail.run_id) is not None or runs.is_ending(detail.run_id):
        reopen_later(run, operation, work)
        return
    try:
        payload = _found(runs, detail)
    except LookupError as error:
        failure = runs.codec.encode_failure(error)
        run.deliverable.append(operation.answer(run.key, "look_failed", runs.now, failure))
    else:
        run.deliverable.append(operation.answer(run.key, "looked", runs.now, payload))


def _found(runs: Runs, detail: StatusLook | ValueLook) -> Payload:
    """Return what is looked for; raises `RunNotFound`, and `LookupError` for a value that is not there."""
    record = runs.find(detail.run_id)
    if record is None:
        raise RunNotFound(f"the file has no run {detail.run_id!r}")
    if isinstance(detail, StatusLook):
        return runs.codec.encode(record.status, "a state")
    value = runs.reads.value(record.key, detail.key)
    if value is None:
        raise LookupError(f"run {detail.run_id!r} has not published {detail.key!r}")
    return value[0]


LOOK: Final = OperationKind(
    name="look",
    entries=(EntryForm("looked"), EntryForm("look_failed", fails_as=RunFailed)),
    words="a look at",
    advice="What was looked up is not of the type that the code asks for. Ask for what it is, or for Any, and resume.",
    open=_open,
)
