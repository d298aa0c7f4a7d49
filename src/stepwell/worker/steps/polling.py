"""What follows a call of `poll_until`: its result, another call, or its timeout. See `stepwell.operations.poll`.

A try that returned what does not fit is written as one row, in place of that of the try before: how many there were,
and when the next is due. A worker that reads the run goes on from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import cast

from stepwell.definitions import invoke
from stepwell.definitions.step_call import History, Poll, StepCall
from stepwell.errors import PollTimeout
from stepwell.model.clock import MICROSECONDS
from stepwell.model.progress import ProgressRow
from stepwell.store.progress import ProgressNoted
from stepwell.values.codec import Codec
from stepwell.values.inspection import MISSING
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.unit_of_work import UnitOfWork


def fits(attempts: StepCall, poll: Poll, codec: Codec) -> bool:
    """Tell whether what a try returned fits; raises what the predicate raises."""
    value = attempts.delivered
    if value is MISSING:  # it was made in a child process
        value = attempts.definition.converter(codec).decode(attempts.value, str(attempts))
    found = invoke.until(poll.until, value)
    if isinstance(found, Awaitable):
        unfit = cast("Awaitable[object]", found)
        if inspect.iscoroutine(unfit):
            unfit.close()
        raise TypeError(f"until of poll_until() returned {type(unfit).__name__}: it must be a plain function")
    return bool(found)


def try_again(run: LoadedRun, attempts: StepCall, poll: Poll, work: UnitOfWork, now: int) -> bool:
    """Have a step tried again whose result did not fit, when it is due; False where its time is up."""
    began_at = poll.began_at = poll.began_at or attempts.first_started_at
    ends_at = poll.ends_at(attempts)
    poll.tries += 1
    if ends_at is not None and now >= ends_at:
        return False
    next_at = began_at + ((now - began_at) // poll.every + 1) * poll.every
    if ends_at is not None:
        next_at = min(next_at, ends_at)
    poll.tried = attempts.forgiven = attempts.attempt
    attempts.attempt += 1
    attempts.retry_at, attempts.last_error, attempts.first_started_at = next_at, "", 0
    attempts.value, attempts.delivered = None, MISSING
    run.add_timer(next_at, attempts.operation)
    work.changes.append(ProgressNoted([(run.key, row_of(attempts, poll, now, next_at=next_at))]))
    return True


def row_of(attempts: StepCall, poll: Poll, now: int, *, next_at: int | None = None, ended: bool = False) -> ProgressRow:
    """Return what the file is to have of a poll."""
    return ProgressRow(
        op=attempts.operation,
        kind="poll",
        name=attempts.name,
        attempt=poll.tried,
        done=poll.tries,
        total=None,
        failed=0,
        note=None,
        began_at=poll.began_at,
        at=now,
        next_at=next_at,
        ended=ended,
    )


def out_of_time(attempts: StepCall, poll: Poll) -> PollTimeout:
    """Return what is raised where nothing that fits has come in time."""
    assert poll.timeout is not None
    tries = f"{poll.tries} {'try' if poll.tries == 1 else 'tries'}"
    return PollTimeout(
        f"run {attempts.run_id!r}: what step {attempts.name!r} (operation {attempts.operation}) returned did not fit "
        f"within {poll.timeout / MICROSECONDS:g} s, in {tries}. Catch it in the workflow, or give poll_until() a "
        "longer timeout"
    )


def remembered(history: History, row: ProgressRow) -> None:
    """Have a history know of the tries that the journal does not have."""
    history.poll = row
    history.forgiven = max(history.forgiven, row.attempt)
    if row.attempt > history.attempts:  # the last one did not fail
        history.attempts, history.retry_at, history.last_error = row.attempt, row.next_at or 0, ""
        history.first_started_at = 0


def go_on(poll: Poll, row: ProgressRow) -> None:
    """Have a poll that is read from the file go on."""
    poll.tries, poll.tried, poll.began_at = int(row.done), row.attempt, row.began_at
