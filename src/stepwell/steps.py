"""What becomes of an attempt of a step: recorded, tried again, or given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from stepwell.activation import Activator
from stepwell.clock import MICROSECONDS
from stepwell.codec import Codec
from stepwell.errors import ResultNotSerializable, SerializationError
from stepwell.execution import Operation
from stepwell.failure import encode_failure
from stepwell.journal import AttemptFailure, Entry, EntryKind, Payload
from stepwell.resident import Attempts, History, Resident
from stepwell.retry import next_delay
from stepwell.store.base import Lent
from stepwell.work import Work

_encode = msgspec.json.encode
_decode_attempt = msgspec.json.Decoder(AttemptFailure).decode


class StepOutcome(NamedTuple):
    """How an attempt ended: with a `value`, with an `error`, or with a result that cannot be recorded (`refused`)."""

    value: Payload = None
    error: BaseException | None = None
    refused: SerializationError | None = None


class Savepoint(Protocol):
    """What the body of a transactional step needs beside `Lent`."""

    def savepoint(self) -> Any:
        """Return a context manager that rolls back what was written inside it when it is left by an exception."""
        ...


def record_result(codec: Codec, attempts: Attempts, result: Any) -> StepOutcome:
    """Encode what a step returned, and make sure that it reads back as the annotated type."""
    try:
        payload, _ = attempts.definition.converter(codec).roundtrip(result, attempts)
    except SerializationError as error:
        return StepOutcome(refused=error)
    return StepOutcome(payload)


class Steps:
    """Decides what follows an attempt. Holds the randomness of retry delays and nothing else."""

    def __init__(self, activator: Activator, chance: Callable[[], float]) -> None:
        self._activator = activator
        self._chance = chance

    def finished(self, run: Resident, attempts: Attempts, outcome: StepOutcome, work: Work, now: int) -> bool:
        """Record how an attempt ended. Return whether the run's code has something to go on with."""
        run.active -= 1
        value, error, refused = outcome
        number = attempts.operation
        if error is None and refused is None:
            del run.calls[number]
            entry = Entry(
                attempts.run_key,
                number,
                "step",
                attempts.name,
                attempts.fingerprint,
                now,
                value,
                attempts.attempt,
                attempts.started_at,
            )
            work.changes.append(entry)
            run.execution.deliver(entry)
            return True
        operation = run.execution.pending[number]
        if outcome.refused is not None:
            self._refuse(run, attempts, operation, outcome.refused, work, now)
            return False
        assert outcome.error is not None
        retry_at = self._retry_at(attempts, outcome.error, now)
        failure = encode_failure(outcome.error)
        if retry_at is None:
            del run.calls[attempts.operation]
            self._activator.deliver(run, self._entry(attempts, operation, "step_failed", failure, now), work)
            return True
        self._record_failed_attempt(attempts, operation, failure, retry_at, work, now)
        attempts.attempt += 1
        attempts.retry_at = retry_at
        attempts.visible = False
        run.add_timer(retry_at, attempts.operation)
        return True

    def _retry_at(self, attempts: Attempts, error: BaseException, now: int) -> int | None:
        options = attempts.definition.step_options
        delay = next_delay(options.retry, attempts.attempt, error, self._chance())
        if delay is None:
            return None
        retry_at = now + int(delay * MICROSECONDS)
        if options.deadline_seconds is not None:
            deadline_at = attempts.first_started_at + int(options.deadline_seconds * MICROSECONDS)
            if retry_at >= deadline_at:
                return None
        return retry_at

    def _record_failed_attempt(
        self, attempts: Attempts, operation: Operation, failure: str, retry_at: int, work: Work, now: int
    ) -> None:
        value = _encode(AttemptFailure(msgspec.Raw(failure.encode()), retry_at, attempts.first_started_at)).decode()
        work.changes.append(self._entry(attempts, operation, "attempt_failed", value, now))

    def _refuse(
        self,
        run: Resident,
        attempts: Attempts,
        operation: Operation,
        error: SerializationError,
        work: Work,
        now: int,
    ) -> None:
        """Stop the run: the step acted, but its result cannot be kept. Calling it again by itself would act twice."""
        self._record_failed_attempt(attempts, operation, encode_failure(error), now, work, now)
        del run.calls[attempts.operation]
        reason = ResultNotSerializable(
            f"{error} The step has acted, but its result is not recorded. Mend the step, then resume the run (or restart the "
            "engine): the step will be executed once more.",
            where=error.where,
            path=error.path,
        )
        self._activator.halt(run, reason, work)

    def _entry(self, attempts: Attempts, operation: Operation, kind: EntryKind, value: Payload, now: int) -> Entry:
        return Entry(
            attempts.run_key,
            attempts.operation,
            kind,
            operation.name,
            operation.fingerprint,
            now,
            value,
            attempts.attempt,
            attempts.started_at,
        )

    def call_transaction(self, codec: Codec, attempts: Attempts, lent: Lent) -> StepOutcome:
        """Call a transactional step inside the open transaction; undo what it wrote where it fails."""
        savepoint: Any = lent
        try:
            with savepoint.savepoint():
                result = attempts.definition.function(lent, *attempts.args, **attempts.kwargs)
                outcome = record_result(codec, attempts, result)
                if outcome.refused is not None:
                    raise _Undo(outcome)
        except _Undo as undo:
            return undo.outcome
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises is the attempt's outcome
            return StepOutcome(error=error)
        return outcome


class _Undo(Exception):  # noqa: N818 - not an error, a way out of the savepoint
    def __init__(self, outcome: StepOutcome) -> None:
        super().__init__()
        self.outcome = outcome


def attempt_history(entries: Sequence[Entry]) -> dict[int, History]:
    """Return, by operation, what the journal says of attempts of steps that have not ended."""
    found: dict[int, History] = {}
    for entry in entries:
        if entry.kind == "attempt_failed":
            history = found.setdefault(entry.op, History())
            failure = _decode_attempt(entry.value or "")
            history.attempts = entry.attempt
            history.first_started_at = failure.first_started_at
            history.retry_at = failure.retry_at
            history.started = False
        elif entry.kind == "step_started":
            history = found.setdefault(entry.op, History())
            history.started = True
            history.first_started_at = history.first_started_at or entry.started_at
        elif entry.kind in ("step", "step_failed"):
            found.pop(entry.op, None)
    return found
