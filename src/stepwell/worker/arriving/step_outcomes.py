"""What follows from the outcome of an attempt of a step: it is recorded, tried again, or given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepwell.definitions import invoke
from stepwell.definitions.callables import refuse_coroutine
from stepwell.definitions.code_identity import code_fingerprint
from stepwell.definitions.reports import Progress
from stepwell.definitions.step_call import History, Poll, StepCall
from stepwell.errors import SerializationError, StepProcessDied, StepTimeout
from stepwell.model.clock import MICROSECONDS
from stepwell.model.journal import CUT_OFF, Entry, EntryKind, Payload
from stepwell.model.progress import ProgressRow
from stepwell.model.retry import Retry, is_spent, next_delay
from stepwell.model.waits import shortened
from stepwell.store.changes import PauseRequested
from stepwell.store.store import Lent
from stepwell.store.streams import StreamSuperseded
from stepwell.values.codec import Codec
from stepwell.values.failure import failure_json, summary_from_json
from stepwell.values.failure_codec import FailureCodec
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.carrying import Carrier
from stepwell.worker.running.claims import Claims
from stepwell.worker.state.failure_log import attempt_failed, failed_unheard
from stepwell.worker.state.loaded_run import LoadedRun, Pausing
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.permits import Permits
from stepwell.worker.steps.polling import fits, out_of_time, remembered, try_again
from stepwell.worker.steps.progress import tell_last
from stepwell.worker.steps.streams import has_written
from stepwell.worker.steps.transaction_outlet import TransactionOutlet
from stepwell.worker.steps.unrecorded import interrupted, unrecorded


def record_result(codec: Codec, attempts: StepCall, result: Any) -> None:
    """Encode what a step returned, and make sure that it reads back as the annotated type."""
    try:
        attempts.value, attempts.delivered = attempts.definition.read_back(codec, result, attempts)
    except SerializationError as error:
        attempts.refused = error
        try:
            refuse_coroutine(result, f"step {attempts.name!r}", str(attempts))
        except SerializationError as better:
            attempts.refused = better


class StepOutcomes:
    """Decides what follows an attempt. Holds the randomness of retry delays and nothing else."""

    def __init__(
        self,
        runs: Runs,
        permits: Permits,
        activator: Activator,
        carrier: Carrier,
        claims: Claims,
        chance: Callable[[], float],
    ) -> None:
        self._runs = runs
        self._permits = permits
        self._activator = activator
        self._carrier = carrier
        self._claims = claims
        self._chance = chance

    def finished(self, attempts: StepCall) -> None:
        """Record how an attempt ended, and carry the run on."""
        runs = self._runs
        run = runs.memory.runs.get(attempts.run_key)
        number = attempts.operation
        if run is None or not attempts.wanted or run.calls.get(number) is not attempts:
            failed_unheard(attempts)
            taken_up = run is not None and number in run.calls  # by another attempt, which has the permit now
            if attempts.permit == "left" or (attempts.permit is not None and not taken_up):
                self._permits.over(attempts, runs.batch.lone_work())
            return
        work: UnitOfWork = run.work or runs.batch.work_of(run)
        if attempts.poll is not None and self._polled(run, attempts, attempts.poll, work):
            pass
        elif attempts.error is None and attempts.refused is None:
            run.active -= 1
            del run.calls[number]
            entry = Entry(
                attempts.run_key,
                number,
                "step",
                attempts.name,
                attempts.fingerprint,
                runs.now,
                attempts.value,
                attempts.attempt,
                attempts.started_at,
            )
            if attempts.reports is not None or attempts.poll is not None:
                tell_last(attempts, work, runs.now, ended=True)
            work.changes.append(entry)
            run.entries += 1
            if attempts.permit is not None:
                self._permits.give_back(attempts, work)
            run.execution.deliver(entry)
        else:
            self._failed(run, attempts, work, runs.now)
            if run.status in ("halted", "paused"):
                return
        self._carrier.advance(run, work)
        if run.suspect:
            self._claims.work_may_exist = True  # it makes progress, so the next suspect may be taken
        if self._carrier.ends:
            self._carrier.deliver_ends(work)

    def permit_free(self, attempts: StepCall, attempt: int) -> None:
        """Free the permit that an attempt was left with, whose execution is over now; an event."""
        self._permits.free(attempts, attempt, self._runs.batch.lone_work())

    def _polled(self, run: LoadedRun, attempts: StepCall, poll: Poll, work: UnitOfWork) -> bool:
        """Go on with a poll after a try that returned what does not fit, or end it; False where that is not so."""
        if attempts.error is not None or attempts.refused is not None:
            return False
        now = self._runs.now
        try:
            if fits(attempts, poll, self._runs.codec):
                return False
        except Exception as error:  # noqa: BLE001 - what the predicate raises is what the poll raises
            problem: Exception = error
        else:
            run.active -= 1
            self._permits.ended(attempts, work)
            tell_last(attempts, work, now, ended=False)
            if try_again(run, attempts, poll, work, now):
                return True
            run.active += 1
            problem = out_of_time(attempts, poll)
        self._end_poll(run, attempts, problem, work)
        return True

    def _end_poll(self, run: LoadedRun, attempts: StepCall, problem: Exception, work: UnitOfWork) -> None:
        run.active -= 1
        self._permits.ended(attempts, work)
        del run.calls[attempts.operation]
        tell_last(attempts, work, self._runs.now, ended=True)
        workflow = run.execution.definition.name
        work.extra.lines.append(attempt_failed(attempts, workflow, problem, None, self._runs.now))
        failure = self._runs.codec.pack_failure(failure_json(problem))
        self._activator.deliver(run, _entry(attempts, "step_failed", failure, self._runs.now), work)

    def _failed(self, run: LoadedRun, attempts: StepCall, work: UnitOfWork, now: int) -> None:
        """Record an attempt that ended without a result, and what follows: another attempt, an exception, or a halt."""
        run.active -= 1
        self._permits.ended(attempts, work)
        if attempts.refused is not None:
            self._refuse(run, attempts, attempts.refused, work, now)
            return
        error = attempts.error
        assert error is not None
        retry_at = self._retry_at(attempts, error, now)
        if attempts.poll is not None and retry_at is not None:
            attempts.poll.began_at = attempts.poll.began_at or attempts.first_started_at
            ends_at = attempts.poll.ends_at(attempts)
            if ends_at is not None and now >= ends_at:
                cause, error, retry_at = error, out_of_time(attempts, attempts.poll), None
                error.__cause__ = cause
            elif ends_at is not None:
                retry_at = min(retry_at, ends_at)
        deadline_at = _deadline(attempts)
        too_late = retry_at is not None and deadline_at is not None and retry_at >= deadline_at
        if too_late:
            retry_at = None
        spent = retry_at is None and self._pauses(attempts, error, too_late=too_late)
        failure = failure_json(error)
        workflow = run.execution.definition.name
        work.extra.lines.append(
            attempt_failed(attempts, workflow, error, retry_at, now, too_late=too_late, pauses=spent)
        )
        tell_last(attempts, work, now, ended=retry_at is None and not spent)
        if retry_at is None and not spent:
            del run.calls[attempts.operation]
            attempts.wanted = False  # a thread that still executes it is told
            self._activator.deliver(
                run, _entry(attempts, "step_failed", self._runs.codec.pack_failure(failure), now), work
            )
            return
        if retry_at is None:
            retry_at, attempts.forgiven, attempts.first_started_at = now, attempts.attempt, 0
        if has_written(run, attempts.operation, attempts.attempt):
            work.changes.append(StreamSuperseded(run.key, attempts.operation))
        self._record_failed_attempt(attempts, failure, retry_at, work, now, spent=spent)
        run.entries += 1
        attempts.attempt += 1
        attempts.retry_at, attempts.last_error = retry_at, summarised(failure)
        attempts.visible = False
        attempts.error = None
        run.add_timer(retry_at, attempts.operation)
        if spent:
            self._pause(run, attempts, failure, work)

    def _pauses(self, attempts: StepCall, error: BaseException, *, too_late: bool) -> bool:
        options = attempts.definition.step_options
        if options.delivery == "at-most-once" and not _may_be_repeated(options.retry, error):
            return False
        if too_late:
            return options.retry.then == "pause"
        return is_spent(options.retry, attempts.attempt - attempts.forgiven, error, invoke.predicate)

    def _pause(self, run: LoadedRun, attempts: StepCall, failure: str, work: UnitOfWork) -> None:
        """Have a run pause, in its own name, because a step has no attempt left; it begins with the next one."""
        if run.pausing is None:
            run.pausing = Pausing(self._runs.codec.pack_failure(failure))
            reason = f"attempt {attempts.attempt - 1} of step {attempts.name!r} failed: {attempts.last_error}"
            by = f"the retry policy of step {attempts.name!r}"
            work.changes.append(PauseRequested(run.id, self._runs.now, by, reason))

    def _retry_at(self, attempts: StepCall, error: BaseException, now: int) -> int | None:
        options = attempts.definition.step_options
        delay = next_delay(options.retry, attempts.attempt - attempts.forgiven, error, self._chance(), invoke.predicate)
        if delay is None or (options.delivery == "at-most-once" and not _may_be_repeated(options.retry, error)):
            return None
        return now + int(delay * MICROSECONDS)

    def _record_failed_attempt(
        self,
        attempts: StepCall,
        failure: str,
        retry_at: int,
        work: UnitOfWork,
        now: int,
        code: int | None = None,
        *,
        spent: bool = False,
    ) -> None:
        value = self._runs.codec.encode_attempt(failure, retry_at, attempts.first_started_at, code, spent=spent)
        work.changes.append(_entry(attempts, "attempt_failed", value, now))

    def _refuse(
        self,
        run: LoadedRun,
        attempts: StepCall,
        error: SerializationError,
        work: UnitOfWork,
        now: int,
    ) -> None:
        """Stop the run: the step acted, but its result cannot be kept. Calling it again by itself would act twice.

        A step of at-most-once is never called again, so there is nothing to wait for: its code is told.
        """
        del run.calls[attempts.operation]
        tell_last(attempts, work, now, ended=True)
        if attempts.definition.step_options.delivery == "at-most-once":
            interruption = interrupted(attempts, error)
            work.extra.lines.append(attempt_failed(attempts, run.execution.definition.name, interruption, None, now))
            entry = _entry(attempts, "step_failed", self._runs.codec.encode_failure(interruption), now)
            self._activator.deliver(run, entry, work)
            return
        code = code_fingerprint(attempts.definition)
        self._record_failed_attempt(attempts, failure_json(error), now, work, now, code)
        self._carrier.halt(run, unrecorded(attempts, error), work, attempts)

    def call_transaction(self, run: LoadedRun, attempts: StepCall, lent: Lent, work: UnitOfWork) -> None:
        """Call a transactional step inside the open transaction; undo what it wrote where it fails."""
        outlet = TransactionOutlet(self._runs, run, attempts.operation)
        try:
            with lent.savepoint():
                result = attempts.context.copy().run(
                    invoke.transaction, attempts, attempts.definition, lent, attempts.args, attempts.kwargs, outlet
                )
                record_result(self._runs.codec, attempts, result)
                if attempts.refused is not None:
                    raise attempts.refused
        except BaseException as error:  # noqa: BLE001 - whatever the user's function raises is the attempt's outcome
            outlet.forget()
            if error is not attempts.refused:
                attempts.error = error
        else:
            outlet.add_to(work)


def _deadline(attempts: StepCall) -> int | None:
    seconds = attempts.definition.step_options.deadline_seconds
    return None if seconds is None else attempts.first_started_at + int(seconds * MICROSECONDS)


def _may_be_repeated(policy: Retry, error: BaseException) -> bool:
    """Tell whether a policy may repeat a step of at-most-once after an error.

    What the step itself raises says that it has failed. Where it was ended from outside, nobody knows whether it acted,
    and it may even go on in its thread; then only a policy that names this error is meant.
    """
    if not isinstance(error, (StepTimeout, StepProcessDied)):
        return True
    return type(error) in (policy.on if isinstance(policy.on, tuple) else (policy.on,))


def _entry(attempts: StepCall, kind: EntryKind, value: Payload, now: int) -> Entry:
    return Entry(
        attempts.run_key,
        attempts.operation,
        kind,
        attempts.name,
        attempts.fingerprint,
        now,
        value,
        attempts.attempt,
        attempts.started_at,
    )


def summarised(failure: str | bytes) -> str:
    """Return the class and text of a failure, given as JSON, short, as `waiting_on` has it."""
    return shortened(": ".join(part for part in summary_from_json(failure) if part))


def attempt_history(
    codec: FailureCodec, entries: Sequence[Entry], progress: Sequence[ProgressRow] = ()
) -> dict[int, History]:
    """Return, by operation, what the journal, and the attempts themselves, say of steps that have not ended."""
    found: dict[int, History] = {}
    for entry in entries:
        if entry.kind == "attempt_failed":
            history = found.setdefault(entry.op, History())
            failure = codec.decode_attempt(entry.value)
            history.attempts = entry.attempt
            history.forgiven = entry.attempt if failure.spent else history.forgiven
            history.first_started_at = failure.first_started_at
            history.retry_at = failure.retry_at
            history.last_error = summarised(bytes(failure.failure))
            history.started = False
            if failure.code is not None:
                history.refused[failure.code] = bytes(failure.failure).decode()
        elif entry.kind == "step_started" and entry.value != CUT_OFF:
            history = found.setdefault(entry.op, History())
            history.started = True
            history.first_started_at = history.first_started_at or entry.started_at
        elif entry.kind in ("step", "step_failed"):
            found.pop(entry.op, None)
    for row in progress:
        if row.kind == "poll":
            remembered(found.setdefault(row.op, History()), row)
        elif row.kind == "step":
            found.setdefault(row.op, History()).progress = Progress(row.done, row.total, row.note, row.attempt)
    return found
