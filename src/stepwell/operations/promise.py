"""`promise`: a value that somebody outside of the file is asked for, and gives with a token, once.

The token is made where the code asks for it, and recorded in the commit that makes the promise: before that nothing of
the run's gets out. What has become of a promise is what its row says (`stepwell.model.promise`); that it is answered,
or that its time has passed, is decided there, and the run is told what it reads. ADR 0058.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from datetime import timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, overload

import msgspec

from stepwell.errors import PromiseTimedOut, RunFailed
from stepwell.model.clock import MICROSECONDS, to_seconds
from stepwell.model.journal import EntryForm
from stepwell.model.promise import Form
from stepwell.model.waits import Wait
from stepwell.operations.calling_run import calling_run
from stepwell.store import promises as store
from stepwell.values.decoders import show
from stepwell.values.inspection import MISSING
from stepwell.worker.state.facts import PromiseTouched
from stepwell.worker.state.operation_kinds import OperationKind

if TYPE_CHECKING:
    from stepwell.model.journal import Entry, Payload
    from stepwell.model.promise import PromiseFacts
    from stepwell.replay.operation import Operation
    from stepwell.worker.state.loaded_run import LoadedRun
    from stepwell.worker.state.runs import Runs
    from stepwell.worker.state.unit_of_work import UnitOfWork

T = TypeVar("T")
D = TypeVar("D")


class PromiseDetail(msgspec.Struct, gc=False):
    """The detail of a promise: `title` names it to people, `is_recorded` says that its row is in the file already."""

    token: str
    title: str
    deadline_at: int | None
    form: Payload
    is_recorded: bool


class PendingPromise(Generic[T]):
    """What a promise is to all code: `token` is what whoever may answer it needs, and nobody else should have."""

    __slots__ = ("default", "future", "token")

    def __init__(self, token: str, future: asyncio.Future[T], default: Any) -> None:
        self.token = token
        self.future = future
        self.default = default

    def done(self) -> bool:
        """Tell whether there is an answer, or its time has passed: to await it takes no time."""
        return self.future.done()

    def __repr__(self) -> str:
        """Say what it is, but not the token: whoever reads a log must not be able to answer."""
        return f"<{type(self).__name__} {'done' if self.done() else 'open'}>"


async def answer_of(promise: PendingPromise[T]) -> T:
    """Wait for the answer. That this is cancelled leaves the promise as it is: it can be awaited again."""
    if not promise.future.done():
        await asyncio.wait([promise.future])  # which leaves it alone
    try:
        return promise.future.result()
    except PromiseTimedOut:
        if promise.default is MISSING:
            raise
        default: T = promise.default
        return default


class Promise(PendingPromise[T]):
    """A value that comes from outside: await it. `token` is what `Engine.resolve` and `Engine.reject` take."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the answer, as often as is wanted; raises what it was rejected with, or `PromiseTimedOut`."""
        return answer_of(self).__await__()


@overload
def promise(type: type[T], *, timeout: float | timedelta | None = None, form: Form | None = None) -> Promise[T]: ...
@overload
def promise(
    type: type[T], *, timeout: float | timedelta | None, default: D, form: Form | None = None
) -> Promise[T | D]: ...
@overload
def promise(
    type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = ..., form: Form | None = None
) -> Promise[Any]: ...


def promise(
    type: Any = Any,
    *,
    timeout: float | timedelta | None = None,
    default: Any = MISSING,
    form: Form | None = None,
) -> Promise[Any]:
    """Promise a value of `type` that somebody outside gives: hand its `token` out, then await it.

    `Engine.resolve` and `Engine.reject` take the token, in any process, once. The promise is recorded before any effect
    of the run that could reveal the token. After `timeout` (seconds or a timedelta) it cannot be answered any more:
    awaiting it raises `PromiseTimedOut`, or returns `default` where one is given. `form` says how a person is asked.
    """
    return Promise(*begin("promise()", type, timeout, default, form))


def begin(
    what: str, type: Any, timeout: float | timedelta | None, default: Any, form: Form | None
) -> tuple[str, asyncio.Future[Any], Any]:
    """Issue the operation; return the token, the future of the answer, and the default."""
    run = calling_run(what)
    converter = run.codec.converter(type)
    seconds = None if timeout is None else to_seconds(timeout, f"timeout of {what}")
    where = f"a promise of run {run.run_id!r}"
    recorded = run.recorded_next()
    if recorded is not None and recorded.kind == _MADE.kind:
        token, shown = run.codec.decode(recorded.value, str, f"the token of {where}"), None
    else:
        from stepwell.values.promise_form import form_of

        token, recorded = run.new_token(), None
        shown = form_of(run.codec, converter, form, default, where)
    detail = PromiseDetail(
        token,
        (form is not None and form.title) or show(converter.annotation),
        None if seconds is None else run.now + round(seconds * MICROSECONDS),
        shown,
        recorded is not None,
    )
    operation = run.issue("promise", "", 0, converter, detail)
    operation.future = future = asyncio.Future[Any](loop=run.loop)
    future.add_done_callback(_heard)
    return token, future, default


def _heard(future: asyncio.Future[Any]) -> None:
    """Note that a failure was heard: code need not wait for what it asked for, and so nothing is lost."""
    if not future.cancelled():
        future.exception()


# --- in the worker ----------------------------------------------------------------------------------------------------


def _open(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    detail: PromiseDetail = operation.detail
    if detail.is_recorded:
        (found,) = _look(runs, run, [operation])
        detail.deadline_at = found.deadline_at  # which may be later than the code says: see `Promises.reopen`
    else:
        token = runs.codec.encode(detail.token, "a token")
        work.changes.append(operation.answer(run.key, _MADE.kind, runs.now, token))
        run.entries += 1
        made = store.PromiseMade(detail.token, run.key, operation.number, runs.now, detail.deadline_at, detail.form)
        work.changes.append(made)
    if detail.deadline_at is not None:
        run.add_timer(detail.deadline_at, operation.number)


def _look(runs: Runs, run: LoadedRun, operations: Sequence[Operation]) -> list[PromiseFacts]:
    """Answer those of these promises that are open no more, as the store says."""
    waiting = {operation.number: operation for operation in operations}
    found = runs.reads.promises_of(run.key, list(waiting))
    for facts in found:
        if facts.state != "open":
            run.deliverable.append(_told(runs, run, waiting[facts.op], facts))
    return found


def _told(runs: Runs, run: LoadedRun, operation: Operation, facts: PromiseFacts) -> Entry:
    if facts.state == "resolved":
        return operation.answer(run.key, _KEPT.kind, runs.now, facts.answer)
    failure = facts.answer
    if facts.state != "rejected":
        title = operation.detail.title
        error = PromiseTimedOut(f"nobody answered the promise {title!r} of run {run.id!r} before its deadline")
        failure = runs.codec.encode_failure(error)
    return operation.answer(run.key, _FAILED.kind, runs.now, failure)


def _expire(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
    """Have the store end a promise whose time has passed: somebody may have answered it at the last moment."""
    run.awaits_commit += 1

    def on_commit() -> PromiseTouched:
        run.awaits_commit -= 1
        return PromiseTouched(run.key, operation.number)

    work.changes.append(store.PromiseTimedOut(operation.detail.token, runs.now))
    work.afterwards(on_commit)


def _waits(operation: Operation) -> Wait:
    return Wait("promise", operation.number, operation.detail.title, until=operation.detail.deadline_at)


#: The first entry of each: its value is the token.
_MADE: Final = EntryForm("promised", is_delivered=False)
_KEPT: Final = EntryForm("promise_kept")
_FAILED: Final = EntryForm("promise_failed", fails_as=RunFailed)

PROMISE: Final = OperationKind(
    name="promise",
    entries=(_MADE, _KEPT, _FAILED),
    words="a promise",
    advice=(
        "The promise was of another type when it was answered. Nothing is lost: promise what was answered, or Any, and "
        "resume the run; or rewind it to the promise, and ask again."
    ),
    open=_open,
    look=_look,
    expire=_expire,
    waits=_waits,
    raises=(cast("FunctionType", answer_of),),
)
