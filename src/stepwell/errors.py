"""Every error a user can meet, as one tree.

::

    StepwellError
    ├── DefinitionError            a workflow or step is declared or called wrongly
    ├── InvalidArgument            an id, a duration, a name … is not acceptable
    │   └── InvalidFilter          a filter of runs cannot be understood
    ├── SerializationError         a value cannot be written to, or read from, the file
    │   └── PayloadTooLarge
    ├── RunNotFound                no run has this id
    ├── RunConflict                the id belongs to a run with another workflow or input
    ├── DuplicateRun               a run with the same dedup key waits in the queue, or is under way
    ├── HandlerNotFound            the run has no query or update of this name
    ├── QueryFailed                a query cannot be answered: no code here, or its handler called a step or waited
    ├── UpdateRefused              the run refuses an update; nothing of it is in its journal
    ├── UpdateFailed               the handler of an update raised an exception whose class is not imported here
    ├── QueueNotFound              the file knows no queue or limit of this name
    ├── ScheduleNotFound           the file has no schedule with this id
    ├── StreamClosed               the stream was closed, so nothing can be written to it any more
    ├── StreamFull                 the stream holds as many items as it may
    ├── PromiseNotFound            no promise has this token
    ├── PromiseEnded               the promise was answered already, or has timed out
    ├── PromiseRejected            raised by a promise that was rejected, where only a text was given
    ├── PromiseTimedOut            raised by a promise that nobody answered in time
    ├── RunEnded                   the run has ended, so it takes no messages and makes no calls
    ├── RunNotEnded                the run has not ended, or not all of it has, so it cannot be retried
    ├── RunPaused                  the run is paused; unpause it first
    ├── RunUndone                  a saga has undone its work, so a retry would go on without it; rewind it
    ├── RunNotPaused               the run is not paused, so it cannot be unpaused
    ├── RunNotQueued               the run does not wait in a queue, so it has no delay to change
    ├── RunCancelled               `result()` of a cancelled run
    ├── RunFailed                  `result()` of a failed run whose exception class is not imported here
    │   └── RunDeadlineExceeded
    ├── RunHalted                  the engine stopped the run, with a reason; repair it and resume
    │   ├── RunCrashed             the run killed the worker that carried it on, several times in a row
    │   ├── JournalTooLong         the run's journal has as many entries as are allowed
    │   ├── DeterminismError       the code no longer does what the journal recorded
    │   ├── WorkflowCodeError      a mistake in the workflow's code; also of the class that shows it
    │   └── ResultNotSerializable  a step has acted, but its result cannot be recorded
    ├── StepFailed                 a step failed with an exception class that is not imported here
    ├── StepTimeout                an attempt, or all together, took too long, or one was silent for too long
    ├── PollTimeout                no result of a polled step satisfied its condition in time
    ├── StepInterrupted            an at-most-once step was cut off by a crash; it was not repeated
    ├── StepProcessDied            the child process of an isolated step crashed, or was killed
    ├── PermanentError             raised by a step: do not retry
    ├── RetryLater                 raised by a step: retry, after this delay
    ├── MapFailed                  more items of a map() failed than it tolerates; a group of these failures
    ├── UndoFailed                 calls that undo the work of a saga failed; a group of the first error and these
    ├── WorkflowIOError            workflow code did real I/O, asked an engine, or used a lock … of another run
    │   └── LoopMethodMissing      it called a method of its event loop that the loop does not have
    ├── EngineClosed               the engine is closed, or belongs to the parent of a fork
    ├── EngineInUse                the engine is in a ``with`` block already
    └── StoreError                 the file, or the disk below it
        ├── FileNotUsable          missing folder, read-only, not a Stepwell file, corrupt, network mount, …
        ├── FileInUse              another engine of this process has the file, or someone keeps it locked
        ├── SchemaTooNew           written by a newer Stepwell
        ├── SecondSqliteError      another SQLite library of this process touched the file
        ├── ReadTooLong            a question to the file took longer than whoever asked allows
        ├── TransactionError       user code misused the transaction that it was lent
        ├── StoreUnavailable       nothing could be written just now; try again
        │   └── StorageFull        the disk is full
        ├── ClaimLost              this worker no longer owns what it tried to write
        └── StoreFailed            the store stopped itself, to lose nothing

A message says what happened, to which run, step or file, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from stepwell.shown import shown

#: About 100 years, as `stepwell.model.retry.MAX_DURATION_SECONDS`.
_LONGEST_SECONDS: Final = 3_155_760_000.0


class StepwellError(Exception):
    """The root of the tree; catch it to catch everything that Stepwell itself raises."""


class DefinitionError(StepwellError, TypeError):
    """A workflow, step or transaction is declared, or called, in a way that cannot work."""


class InvalidArgument(StepwellError, ValueError):
    """An argument was refused before anything was written."""


class InvalidFilter(InvalidArgument):
    """A filter of runs cannot be understood; `position` is the index of the character at which it goes wrong."""

    def __init__(self, message: str, *, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class SerializationError(StepwellError, TypeError):
    """A value cannot be written to the file, or read from it as the annotated type.

    `where` names the step, workflow or message; `path` is the place inside the value, as ``$.items[3].price``.
    """

    def __init__(self, message: str, *, where: str = "", path: str = "$") -> None:
        super().__init__(message)
        self.where = where
        self.path = path


class PayloadTooLarge(SerializationError):
    """A value is larger than the engine's `max_payload_bytes`."""


class RunNotFound(StepwellError, LookupError):
    """No run in the file has this id."""


class RunConflict(StepwellError):
    """The id is taken by a run of another workflow, or of the same one with other input."""


class DuplicateRun(StepwellError):
    """A run of the queue with the same dedup key has not ended, and the queue refuses another; `run_id` names it."""

    def __init__(self, message: str, *, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class HandlerNotFound(StepwellError, LookupError):
    """The code of the run has registered no query, or no update, of this name; the message says which it has."""


class QueryFailed(StepwellError):
    """A query cannot be answered: its workflow is not here, its handler did more than read, or did not return."""


class UpdateRefused(StepwellError):
    """The validator of an update refused it, and nothing of it was recorded; the cause is what the validator raised."""


class UpdateFailed(StepwellError):
    """The handler of an update failed with an exception whose class is not imported in this process.

    `type_name` is the qualified name that was recorded, `traceback_text` the recorded traceback.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        """Return the class that was recorded and the text, as the exception's own last line in a traceback has them."""
        return _with_class(super().__str__(), self.type_name)


class QueueNotFound(StepwellError, LookupError):
    """The file has no queue or limit of this name: nothing was ever started in it."""


class ScheduleNotFound(StepwellError, LookupError):
    """No schedule in the file has this id."""


class StreamClosed(StepwellError):
    """The stream was closed: nothing can be written to it any more."""


class StreamFull(StepwellError):
    """The stream holds as many items as it may: truncate it, use `keep=`, or give it a higher limit."""


class PromiseNotFound(StepwellError, LookupError):
    """No promise has this token: it was never made, or its run has been deleted."""


class PromiseEnded(StepwellError):
    """The promise cannot be answered any more: it was answered, it has timed out, or its run goes on without it."""


class PromiseRejected(StepwellError):
    """The promise was rejected; the message carries the reason that was given."""


class PromiseTimedOut(StepwellError, TimeoutError):
    """Nobody answered the promise before its deadline, and it has no default."""


class RunEnded(StepwellError):
    """The run has ended; it accepts no messages, and code that is left over from it can do nothing durable."""


class RunNotEnded(StepwellError):
    """The run has not ended, or its children have not ended yet, so it cannot be retried now."""


class RunUndone(StepwellError):
    """A saga of the run has undone work which a retry would take for done; rewind the run instead."""


class RunPaused(StepwellError):
    """The run is paused, so it is not tried again; unpause it."""


class RunNotPaused(StepwellError):
    """The run is not paused, so it cannot be unpaused; the message says which state it is in."""


class RunNotQueued(StepwellError):
    """The run does not wait in a queue, so it cannot be rescheduled: it was started without one, or has been taken."""


class RunCancelled(StepwellError):
    """The run was cancelled; the message carries the reason that was given."""


def _with_class(text: str, type_name: str) -> str:
    if not text or not type_name:
        return text or type_name
    return text if text.startswith(f"{type_name.rpartition('.')[2]}: ") else f"{type_name}: {text}"


class RunFailed(StepwellError):
    """The run failed with an exception whose class is not imported in this process.

    `type_name` is the qualified name that was recorded, `traceback_text` the recorded traceback.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        """Return the class that was recorded and the text, as the exception's own last line in a traceback has them."""
        return _with_class(super().__str__(), self.type_name)


class RunDeadlineExceeded(RunFailed, TimeoutError):
    """The run had not ended by its deadline, and was stopped, or had not even begun."""


class RunHalted(StepwellError):
    """The engine stopped the run, for the reason in the message. Nothing is lost: repair the cause, then resume.

    `says_remedy`: the message says what to repair, so that only the commands are left to say.
    """

    says_remedy: bool = False


class RunCrashed(RunHalted):
    """The worker died each time that it executed this run, without any progress: it is not tried again by itself."""

    says_remedy = True


class JournalTooLong(RunHalted):
    """The journal of a run has as many entries as are allowed, so the run is halted until the limit is raised."""

    says_remedy = True


class DeterminismError(RunHalted):
    """Replay found that the code does something other than the journal recorded.

    `expected` is what the journal holds, `actual` what the code did, `location` is ``file:line`` of the code,
    `operation` the number of the operation in the run.
    """

    says_remedy = True

    def __init__(
        self, message: str, *, expected: str = "", actual: str = "", location: str = "", operation: int = 0
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.expected = expected
        self.actual = actual
        self.location = location


class WorkflowCodeError(RunHalted):
    """A mistake in the workflow's code: an exception that nobody raised on purpose ended it.

    `result()` raises an object that is also of the class of that exception, so that ``except KeyError`` catches it
    as well. `type_name` is the name of that class.
    """

    says_remedy = True

    def __init__(self, message: str, *, type_name: str = "") -> None:
        Exception.__init__(self, message)  # not the other class's, which may want other arguments
        self.type_name = type_name

    def __str__(self) -> str:
        """Return the message, which the other class may show otherwise."""
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        """Have pickle make a plain one: the class that is of both kinds has no name to be found by."""
        return (WorkflowCodeError, (str(self),), {"type_name": self.type_name})


class ResultNotSerializable(RunHalted, SerializationError):
    """A step, or the workflow, returned a value that cannot be recorded; the run is halted until that is mended."""

    says_remedy = True

    def __init__(self, message: str, *, where: str = "", path: str = "$") -> None:
        SerializationError.__init__(self, message, where=where, path=path)


class StepFailed(StepwellError):
    """A step failed with an exception whose class is not imported in this process.

    `type_name` is the qualified name that was recorded, `traceback_text` the recorded traceback.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        """Return the class that was recorded and the text, as the exception's own last line in a traceback has them."""
        return _with_class(super().__str__(), self.type_name)


class StepTimeout(StepwellError, TimeoutError):
    """An attempt of a step exceeded its `timeout`, or its attempts together the `deadline`."""


class PollTimeout(StepwellError, TimeoutError):
    """No result of the step that `poll_until` calls satisfied its condition within the `timeout`."""


class StepInterrupted(StepwellError):
    """A step with ``delivery="at-most-once"`` was cut off by a crash or a cancellation: it may have acted."""


class StepProcessDied(StepwellError):
    """The child process of a step with ``isolate="process"`` ended before the step did; it may or may not have acted.

    `exit_code` is the exit code of the process; below 0, the number of the signal that killed it (-11: SIGSEGV); None
    if it could not be started, or the code is unknown.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PermanentError(StepwellError):
    """Raise it in a step to fail at once, whatever the retry policy says."""


class RetryLater(StepwellError):
    """Raise it in a step for another attempt after `delay` (seconds or a timedelta) instead of the policy's delay.

    Raises `InvalidArgument` for a delay that is negative or no duration.
    """

    def __init__(self, message: str = "", *, delay: float | timedelta) -> None:
        super().__init__(message)
        seconds: object = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds <= _LONGEST_SECONDS:
            raise InvalidArgument(f"RetryLater: delay must be from 0 seconds to 100 years, not {shown(delay)}")
        self.retry_after = float(seconds)


class UndoFailed(StepwellError, ExceptionGroup[Exception]):
    """Some of the calls that undo the work of a saga failed; all others were made.

    A group: first the exception that left the saga's block, unless that was a cancellation, then one for each call that
    failed. Its `__cause__` is the exception that left the block.
    """

    def derive(self, excs: Sequence[Any]) -> Any:
        """Make a group of some of the exceptions, as ``except*`` does."""
        return UndoFailed(self.message, excs)


class MapFailed(StepwellError, ExceptionGroup[Exception]):
    """More items of a `map` failed than it tolerates: a group of the failures, in the order of the items."""

    def derive(self, excs: Sequence[Any]) -> Any:
        """Make a group of some of the exceptions, as ``except*`` does."""
        return MapFailed(self.message, excs)


class WorkflowIOError(StepwellError):
    """Workflow code opened a file or socket, started a thread, slept for real, asked an engine: move it into a step."""


class LoopMethodMissing(WorkflowIOError, NotImplementedError):
    """Workflow code called a method of its event loop that concerns the world outside; the message says what to do."""


class EngineClosed(StepwellError):
    """The engine is closed or failed, or this process inherited it through `fork`; the message says what to do."""


class EngineInUse(StepwellError):
    """An engine was entered as a context manager while it is in another `with` block, which has to end first."""


#: What to do about a file that was open when the process was forked: the child can never use it, for SQLite's own
#: tables in it say that it holds locks which it does not hold. Every message about forks ends with this.
FORK_ADVICE: Final = (
    "Fork first, and open the engine in each process on its own; or start processes that inherit nothing "
    '(multiprocessing.get_context("spawn"), subprocess)'
)


class StoreError(StepwellError):
    """Something is wrong with the database file, or with the disk below it."""


class FileNotUsable(StoreError):
    """The path cannot be used as a Stepwell file; the message says why and what would help."""


class FileInUse(StoreError):
    """The file cannot be had now: another engine of this process has it, workers of an older release, or a lock."""


class SchemaTooNew(StoreError):
    """The file was written by a newer Stepwell; upgrade the package, the file is untouched."""


class SecondSqliteError(StoreError):
    """This process tried to reach the engine's file other than through the engine, which would break its locks."""


class ReadTooLong(StoreError):
    """A question to the file took longer than its asker allows; ask for less."""


class TransactionError(StoreError):
    """User code tried something that a lent transaction does not allow: engine tables, COMMIT, use after its end."""


class StoreUnavailable(StoreError):
    """Nothing was written: the disk reported an error, or another writer does not stop. Try again.

    The engine itself repeats the writes of its runs; if the disk keeps reporting errors, it stops with `StoreFailed`.
    """


class StorageFull(StoreUnavailable):
    """The disk is full. Nothing was written; free some space and try again."""


class ClaimLost(StoreError):
    """The worker that tried to write is no longer the owner. What it holds in memory is stale and is dropped."""


class StoreFailed(StoreError):
    """The disk reported an error that makes writes unsafe; the engine stopped. Restart it when the disk is well."""
