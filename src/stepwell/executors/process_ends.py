"""What becomes of an attempt whose child process ended without an answer: the error, in words."""

from __future__ import annotations

import asyncio
import signal
from typing import Final, Literal

from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepProcessDied
from stepwell.executors import child_main as wire
from stepwell.executors.time_limits import timed_out

#: How long starting a child and importing the step's module may take, in seconds; not part of the step's timeout.
START_SECONDS: Final = 120.0
#: What is kept of a crash report; the innermost frames come first in it.
_REPORT_BYTES: Final = 4_000

#: Why a child is ended here; "refused": it was gone before it took its call, "garbled": what it says is no answer.
Why = Literal["timeout", "start", "dropped", "refused", "garbled"]


def end_of(
    attempts: StepCall, why: Why | None, code: int | None, failure: Exception | None, report: bytes
) -> BaseException:
    """Return the error of an attempt whose process ended without an answer.

    `why`: what it was ended for here; `code`: its exit code, None where another part of the program took that;
    `failure`: why it could not be started; `report`: what it has written that is no answer.
    """
    if why == "timeout":
        return timed_out(attempts)
    if why == "dropped":
        return asyncio.CancelledError()
    if why == "start":
        return _died(attempts, code, f"was ended: it had not imported the step after {START_SECONDS:g} s")
    if why == "garbled":
        return _died(attempts, code, "was ended: something in it wrote to the descriptor that belongs to Stepwell")
    if failure is not None:
        return not_started(attempts, failure)
    error = _died(attempts, code, _how(code))
    if report:
        error.add_note(report[:_REPORT_BYTES].decode(errors="replace"))
    return error


def _died(attempts: StepCall, code: int | None, how: str) -> StepProcessDied:
    return StepProcessDied(
        f"step {attempts.name!r} of run {attempts.run_id!r}: the process of attempt {attempts.attempt} {how}",
        exit_code=code,
    )


def not_started(attempts: StepCall, cause: Exception) -> StepProcessDied:
    """Return the error of an attempt for which there was no process."""
    error = _died(attempts, None, f"could not be started: {cause}")
    error.__cause__ = cause
    return error


def _how(code: int | None) -> str:
    if code is None:
        return "ended, and another part of this program took its exit code"
    if code == wire.TOLD_TO_END:
        return "was told to end by SIGTERM, which somebody else sent"
    if code >= 0:
        return f"ended with exit code {code} before the step did, as os._exit() does"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {"SIGKILL": ", as the kernel does when memory runs out", "SIGTERM": ", which somebody else sent"}
    crash = ", a crash in native code" if name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT") else ""
    return f"was killed by {name}{hints.get(name, crash)}"
