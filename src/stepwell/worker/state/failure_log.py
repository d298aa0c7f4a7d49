"""What the log says of failures: one line each, once what it tells stands in the file.

A failed attempt is a WARNING, a run that failed, was given up or is halted an ERROR, a cancelled one INFO. Lines are
made by whoever decides what happened, and written by `Outcomes` after the commit, beside the other effects: so nothing
is said that did not happen, and neither a replay nor another worker, which decide nothing of it, say it again.

Each record has the fields `run` (as `run_id` as well, which is what `get_logger` calls it) and `workflow`; that of an
attempt also `step`, `operation`, `attempt` and `retry_at`; and `exc_info`, the exception.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from typing import Any, Final

import msgspec

from stepwell.definitions.step_call import StepCall
from stepwell.errors import RunCrashed
from stepwell.model.clock import MICROSECONDS, datetime_of
from stepwell.model.lifecycle import Status
from stepwell.values.failure import described
from stepwell.values.own_frames import drop_own_frames

_log: Final = logging.getLogger("stepwell")


class Line(msgspec.Struct, frozen=True):
    """One line of the log that waits for its commit. `run` is the run's key; `of_attempt`: it is about a step.

    `text` is the same for all lines of a kind, as tools that group records want it; the rest is in `arguments`.
    """

    run: int
    level: int
    text: str
    arguments: tuple[object, ...]
    error: BaseException | None
    fields: dict[str, Any]
    of_attempt: bool = False

    def write(self) -> None:
        """Write it."""
        with suppress(Exception):  # of a filter or a handler of the program's, which must not stop the engine
            if self.error is not None:
                drop_own_frames(self.error)
            shown = "" if self.error is None else "".join(traceback.format_exception(self.error))
            if _is_encodable(shown):
                _log.log(self.level, self.text, *self.arguments, exc_info=self.error, extra=self.fields)
                return
            # A handler could not write it, and logging would say so on stderr instead of what failed.
            arguments = [_printable(one) if isinstance(one, str) else one for one in self.arguments]
            _log.log(self.level, f"{self.text}\n%s", *arguments, _printable(shown).rstrip(), extra=self.fields)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    """Return the text with lone surrogates, which no encoding has, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def run_fields(run_id: str, workflow: str | None = None) -> dict[str, Any]:
    """Return the fields of a record about a run."""
    return {"run": run_id, "run_id": run_id, "workflow": workflow}


def attempt_fields(attempts: StepCall, workflow: str | None = None) -> dict[str, Any]:
    """Return the fields of a record about an attempt of a step."""
    return run_fields(attempts.run_id, workflow) | {
        "step": attempts.name,
        "operation": attempts.operation,
        "attempt": attempts.attempt,
    }


def attempt_failed(
    attempts: StepCall,
    workflow: str,
    error: BaseException,
    retry_at: int | None,
    now: int,
    *,
    too_late: bool = False,
    pauses: bool = False,
) -> Line:
    """Say that an attempt failed, and when the next one follows; `too_late`: its step's deadline passes before that.

    `pauses`: its run does, instead of getting the error.
    """
    text = "run %r: step %r (operation %d), attempt %d of %d, failed with %s; "
    of_how_many = max(attempts.attempt, attempts.forgiven + attempts.definition.step_options.retry.attempts)
    arguments: tuple[object, ...] = attempts.run_id, attempts.name, attempts.operation, attempts.attempt, of_how_many
    arguments += (described(error),)
    fields = attempt_fields(attempts, workflow)
    if pauses:
        text += "no other follows by itself: its run pauses. Mend the cause, then `stepwell unpause %s`"
        arguments += (attempts.run_id,)
        fields["retry_at"] = None
    elif retry_at is None:
        if too_late:
            text += "no other follows, because it would begin after the step's deadline, %g s after its first attempt; "
            arguments += (attempts.definition.step_options.deadline_seconds,)
            text += "its workflow gets the error"
        else:
            text += "no other follows, so its run gets the error"
        fields["retry_at"] = None
    else:
        text += "the next one follows in %g s"
        arguments += (round(max(0, retry_at - now) / MICROSECONDS, 3),)
        fields["retry_at"] = datetime_of(retry_at - attempts.ahead).isoformat()
    return Line(attempts.run_key, logging.WARNING, text, arguments, error, fields, of_attempt=True)


def failed_unheard(attempts: StepCall) -> None:
    """Say that an attempt failed whose end nobody waits for any more: only the log has it."""
    error = attempts.error
    if isinstance(error, Exception):
        text = "run %r: step %r (operation %d), attempt %d, which nobody waits for any more, failed with %s"
        arguments = attempts.run_id, attempts.name, attempts.operation, attempts.attempt, described(error)
        Line(attempts.run_key, logging.INFO, text, arguments, error, attempt_fields(attempts)).write()


def task_failed(run_id: str, workflow: str, key: int, task: str, error: BaseException) -> Line:
    """Say that a task of a run's code failed, and that nothing asks for its result."""
    text = "run %r of %r: task %r failed, and nothing has asked for its result (asyncio: never retrieved): %s"
    fields = run_fields(run_id, workflow) | {"task": task}
    return Line(key, logging.ERROR, text, (run_id, workflow, task, described(error)), error, fields)


def update_failed(key: int, run_id: str, workflow: str, name: str, error: BaseException) -> Line:
    """Say that the handler of an update raised; whoever asked has the error."""
    text = "run %r of %r: update %r failed with %s; whoever asked for it gets the error"
    return Line(
        key, logging.WARNING, text, (run_id, workflow, name, described(error)), error, run_fields(run_id, workflow)
    )


def run_ended_line(
    key: int,
    run_id: str,
    workflow: str,
    status: Status,
    *,
    error: BaseException | None = None,
    reason: str | None = None,
) -> Line:
    """Say that a run failed, or was cancelled."""
    fields = run_fields(run_id, workflow)
    if status == "cancelled":
        arguments = run_id, workflow, reason or "no reason was given"
        return Line(key, logging.INFO, "run %r of %r is cancelled: %s", arguments, None, fields)
    what = "no error" if error is None else described(error)
    return Line(key, logging.ERROR, "run %r of %r failed: %s", (run_id, workflow, what), error, fields)


def run_paused(key: int, run_id: str, workflow: str) -> Line:
    """Say that a run is paused; who wants it so, and why, the acts on it say."""
    text = "run %r of %r is paused, until somebody unpauses it"
    return Line(key, logging.INFO, text, (run_id, workflow), None, run_fields(run_id, workflow))


def run_halted(
    key: int, run_id: str, workflow: str, reason: BaseException, *, was: str | None = None, step: StepCall | None = None
) -> Line:
    """Say that a run is halted; `was` is why it was halted before, where that was tried again without being asked for.

    `step`: the attempt whose result cannot be recorded.
    """
    fields = run_fields(run_id, workflow) if step is None else attempt_fields(step, workflow)
    text = described(reason)
    drop_own_frames(reason)
    # Its text says all; the traceback is that of the user's code, or of what its code raised, which repeats nothing.
    error = reason if reason.__traceback__ is not None else reason.__cause__
    if error is reason and "\n" in text:  # the traceback ends with the whole of it
        text = text.partition("\n")[0]
    arguments = run_id, workflow, text
    if was == f"{type(reason).__name__}: {reason}":  # whoever halted it first wrote the traceback
        return Line(key, logging.DEBUG, "run %r of %r is still halted: %s", arguments, None, fields)
    if isinstance(reason, RunCrashed):
        return Line(key, logging.ERROR, "run %r of %r is given up: %s", arguments, error, fields)
    return Line(key, logging.ERROR, "run %r of %r is halted: %s", arguments, error, fields)
