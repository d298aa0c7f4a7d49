"""What code can ask about itself: a step while it executes, on a loop or in a thread, and workflow code.

A step or a workflow that is called outside of any run, as tests do, can ask as well: it is given a name of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar, cast

import msgspec

from stepwell.definitions.reports import Progress, Reports, progress_of
from stepwell.errors import StepwellError
from stepwell.model.clock import datetime_of

T = TypeVar("T")


class Attempt(Protocol):
    """What `StepInfo` shows; `stepwell.definitions.step_call.StepCall` is the one that executes in a run."""

    run_id: str
    name: str
    operation: int
    attempt: int
    started_at: int
    ahead: int
    wanted: bool
    reports: Reports | None


class Current:
    """What `current` returns: a `StepInfo` in a step, a `RunContext` in workflow code.

    For type checkers it has the attributes of both, because they cannot know from where `current` is called. At run
    time, an attribute that only the other one has raises `AttributeError`. Use ``isinstance`` in code that is called
    from both.
    """

    __slots__ = ()

    run_id: str
    workflow: str
    replaying: bool
    step: str
    operation: int
    attempt: int
    started_at: datetime
    idempotency_key: str

    @property
    def cancelled(self) -> bool:
        """Whether the result of the step is no longer wanted."""
        raise AttributeError("cancelled")  # which leads to __getattr__

    def check_cancelled(self) -> None:
        """Raise `StepwellError` when the result of the step is no longer wanted."""
        _ = self.cancelled

    @property
    def last_progress(self) -> Progress | None:
        """What an earlier attempt of the step reported last with `progress`; None if none did."""
        raise AttributeError("last_progress")  # as above

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the step is."""
        del done, total, note
        raise _elsewhere(self, "progress")

    if not TYPE_CHECKING:  # to type checkers, it would have every attribute

        def __getattr__(self, name: str) -> NoReturn:
            """Say which of both has it."""
            raise _elsewhere(self, name)


def _elsewhere(current: Current, name: str) -> AttributeError:
    mine, other = ("a step", "workflow code") if isinstance(current, StepInfo) else ("workflow code", "a step")
    there = f", as it has in {other}" if name in _ATTRIBUTES else ""
    return AttributeError(f"current() was called in {mine} of run {current.run_id!r}: it has no {name!r}{there}")


class StepInfo(Current):
    """What `current` returns in a step.

    `run_id` and `step` name the run and the step, `operation` is the number of the call in its run, `attempt` counts
    from 1. `idempotency_key` names the call, the same for all its attempts: hand it to outside services. Of a step that
    was called outside of any run, `run_id` begins with ``outside-`` and differs in every call.
    """

    __slots__ = ("_attempt", "_outlet", "attempt", "idempotency_key", "operation", "run_id", "started_at", "step")

    def __init__(self, attempt: Attempt, number: int, outlet: Any = None) -> None:
        self._attempt = attempt
        self._outlet = outlet
        self.run_id = attempt.run_id
        self.step = attempt.name
        self.operation = attempt.operation
        self.attempt = number
        self.started_at = datetime_of(attempt.started_at - attempt.ahead)
        self.idempotency_key = f"{attempt.run_id}:{attempt.operation}"

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was given up: its run was cancelled, or its time is up."""
        return not self._attempt.wanted or self._attempt.attempt != self.attempt

    def check_cancelled(self) -> None:
        """Raise `StepwellError` if the attempt was given up; call it now and then in a long `def` step."""
        if self.cancelled:
            raise StepwellError(f"step {self.step!r} of run {self.run_id!r} was cancelled or its time is up")

    @property
    def last_progress(self) -> Progress | None:
        """The last report of an earlier attempt of the step, also from before a crash; None if there was none.

        Go on from there: ``start = last.done if (last := current().last_progress) else 0``.
        """
        reports = self._attempt.reports
        return None if reports is None else reports.last

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Report how far the step is: `done`, of `total` if that is known, and a note of up to 1,000 characters.

        It returns at once, in ``def`` and ``async def``, and may be called as often as you like: reports are written to
        the file at most twice a second, and the last one is written with the end of the attempt. `Run.info` and
        ``stepwell show`` show it. In a `transaction`, whose writes nobody sees before its end, it does nothing.

        Raises `InvalidArgument` if the numbers are not at least 0, and `StepwellError`, as `check_cancelled`, if the
        attempt was given up.
        """
        said = progress_of(done, total, note, self.attempt)
        self.check_cancelled()
        if self._outlet is not None:
            self._outlet.report(self._attempt, said)


class RunContext(Current, msgspec.Struct, frozen=True):
    """What `current` returns in workflow code: the run's id, its workflow's name, and whether it is being replayed.

    Of a workflow that was called outside of any run, `run_id` begins with ``outside-`` and differs in every call.
    """

    run_id: str
    workflow: str
    replaying: bool


_ATTRIBUTES: Final = {name for kind in (StepInfo, RunContext) for name in dir(kind) if not name.startswith("_")}


class PlainCall:
    """A call of a step outside of any run; an `Attempt` that nobody records."""

    operation = 1
    attempt = 1
    ahead = 0
    wanted = True
    reports: Reports | None = None

    def __init__(self, name: str) -> None:
        self.run_id = _outside()
        self.name = name
        self.started_at = time.time_ns() // 1000


def _outside() -> str:
    # Differs in every call, because outside services take an idempotency key that they know for a repetition.
    return f"outside-{os.urandom(8).hex()}"


class Entered(msgspec.Struct, frozen=True):
    """What executes in a context: a call of a step, and which attempt of it, by the number that it has here.

    The call goes on to its next attempt while the thread of one that was given up may still execute.
    """

    attempt: Attempt
    number: int
    outlet: Any = None  # an `Outlet` of `stepwell.definitions.saying`, which builds upon this module


_current: Final[ContextVar[Entered | RunContext | None]] = ContextVar("stepwell_current", default=None)


def current_here() -> StepInfo | RunContext | None:
    """Return the step that is executing in this context, or the workflow that was called outside of any run."""
    found = _current.get()
    if found is None or isinstance(found, RunContext):
        return found
    return StepInfo(found.attempt, found.number, found.outlet)


def entered_here() -> Entered | None:
    """Return the attempt that is executing in this context."""
    found = _current.get()
    return None if found is None or isinstance(found, RunContext) else found


def enter_step(attempt: Attempt, outlet: object) -> None:
    """Make `attempt` the current one of this context; each attempt executes in a context of its own."""
    if attempt.reports is not None:
        attempt.reports.begin()
    _current.set(Entered(attempt, attempt.attempt, outlet))


def call_outside(kind: str, name: str, call: Callable[[], T], *, is_async: bool) -> T:
    """Call a step or a workflow outside of any run, so that `current` knows it; inside a step it is a plain call."""
    outer = _current.get()
    if outer is not None and not (isinstance(outer, RunContext) and kind != "workflow"):
        return call()
    here = RunContext(_outside(), name, replaying=False) if kind == "workflow" else Entered(PlainCall(name), 1)
    if is_async:
        coroutine: Any = _awaited(here, call)
        coroutine.__name__, coroutine.__qualname__ = name.rpartition(".")[2], name
        return cast("T", coroutine)
    token = _current.set(here)
    try:
        return call()
    finally:
        _current.reset(token)


async def _awaited(here: Entered | RunContext, call: Callable[[], Any]) -> Any:
    token = _current.set(here)
    try:
        return await call()
    finally:
        with suppress(ValueError):  # closed by the collector, in another context
            _current.reset(token)
