"""The options of a step: what users write, checked, in one value that travels with every call of the step."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal, cast

import msgspec

from stepwell.definitions.queues import Limit
from stepwell.errors import InvalidArgument
from stepwell.model.clock import to_seconds
from stepwell.model.names import check_text
from stepwell.model.retry import NO_RETRY, Retry
from stepwell.shown import is_one_of, shown

Delivery = Literal["at-least-once", "at-most-once"]
Isolation = Literal["process"]

#: The longest summary of a step, in characters.
MAX_SUMMARY_LENGTH: Final = 500


class StepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a step is executed.

    `timeout_seconds` bounds one attempt, `deadline_seconds` all attempts and the delays between them. `isolate` says
    where: ``"process"`` is a child process, None the engine's own process. An attempt needs a permit of `limit`.
    `summary` says what the call is about, for people. An attempt must say something every `heartbeat_seconds`.
    """

    retry: Retry = NO_RETRY
    timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    delivery: Delivery = "at-least-once"
    isolate: Isolation | None = None
    limit: Limit | None = None
    summary: str | None = None
    heartbeat_seconds: float | None = None


def step_options(
    retry: Retry | None,
    timeout: float | timedelta | None,
    deadline: float | timedelta | None,
    delivery: Delivery,
    isolate: Isolation | None = None,
    limit: Limit | None = None,
    summary: str | None = None,
    heartbeat_timeout: float | timedelta | None = None,
) -> StepOptions:
    """Check the options as users write them and return them in one value."""
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidArgument(f"retry must be a Retry(...), not {shown(retry)}")
    if not is_one_of(delivery, ("at-least-once", "at-most-once")):
        raise InvalidArgument(f"delivery must be 'at-least-once' or 'at-most-once', not {shown(delivery)}")
    if isolate is not None and not is_one_of(isolate, ("process",)):
        raise InvalidArgument(f"isolate must be 'process' or None, not {shown(isolate)}")
    if limit is not None and not isinstance(limit, Limit):
        raise InvalidArgument(f"limit must be a Limit(...), not {shown(limit)}")
    return StepOptions(
        retry=retry or NO_RETRY,
        timeout_seconds=None if timeout is None else _positive(timeout, "timeout of a step"),
        deadline_seconds=None if deadline is None else _positive(deadline, "deadline of a step"),
        delivery=delivery,
        isolate=isolate,
        limit=limit,
        summary=_summary(summary),
        heartbeat_seconds=(
            None if heartbeat_timeout is None else _positive(heartbeat_timeout, "heartbeat_timeout of a step")
        ),
    )


def _summary(summary: object) -> str | None:
    """Return a line for people, or None; raises `InvalidArgument`."""
    if summary is None:
        return None
    text = check_text(cast("str", summary), "the summary of a step")
    if not text or len(text) > MAX_SUMMARY_LENGTH or not text.isprintable():
        raise InvalidArgument(
            f"the summary of a step must be one line of 1 to {MAX_SUMMARY_LENGTH} printable characters, not "
            f"{str(summary)[:50]!r}"
        )
    return text


def _positive(duration: float | timedelta, what: str) -> float:
    seconds = to_seconds(duration, what)
    if seconds == 0:
        raise InvalidArgument(f"{what} must be more than 0")
    return seconds
