"""How a start wants to stand in a queue: what callers write beside `queue=`, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec

from stepwell.definitions.queues import (
    MAX_PRIORITY,
    OnDuplicate,
    Queue,
    check_key,
    checked_debounce,
    checked_on_duplicate,
    queue_named,
    used,
)
from stepwell.errors import InvalidArgument
from stepwell.model.clock import MICROSECONDS, microseconds_of, to_seconds
from stepwell.shown import shown


class QueueSlot(msgspec.Struct, frozen=True):
    """How a start wants to stand in a queue, checked. Times and durations are microseconds.

    `ready_at` is set for a start at a time, `delay` for one after a while; neither: at once. `debounce`,
    `debounce_limit` and `on_duplicate` are the start's own or, where it has none, those of its queue.
    """

    queue: Queue
    priority: int = 0
    delay: int = 0
    ready_at: int | None = None
    dedup: str | None = None
    partition: str = ""
    debounce: int | None = None
    debounce_limit: int | None = None
    on_duplicate: OnDuplicate = "attach"


def queue_entry(
    queue: Queue | str | None,
    *,
    priority: Any = 0,
    delay: float | timedelta | datetime | None = None,
    dedup: str | None = None,
    partition: str | None = None,
    debounce: float | timedelta | None = None,
    debounce_limit: float | timedelta | None = None,
    on_duplicate: OnDuplicate | None = None,
    has_id: bool = False,
) -> QueueSlot | None:
    """Check the queue's options of a start; None where it goes into no queue. Raises `InvalidArgument`."""
    if queue is None:
        given = (delay, dedup, partition, debounce, debounce_limit, on_duplicate)
        if not (isinstance(priority, int) and priority == 0) or any(option is not None for option in given):
            raise InvalidArgument(
                "priority, delay, dedup, partition, debounce and on_duplicate need a queue: start(…, queue=…)"
            )
        return None
    if isinstance(queue, str):
        queue = queue_named(queue)
    if not isinstance(queue, Queue):
        raise InvalidArgument(f"queue must be a Queue(…) or the name of one, not {shown(queue)}")
    used(queue)
    if not isinstance(priority, int) or isinstance(priority, bool) or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidArgument(
            f"priority must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {shown(priority)}"
        )
    period, latest = checked_debounce(queue.name, debounce, debounce_limit, (queue.debounce, queue.debounce_limit))
    if queue.batch is not None and (has_id or dedup is not None or delay is not None or period is not None):
        raise InvalidArgument(
            f"queue {queue.name!r} collects starts into one run, so a start cannot have an id, dedup, delay or debounce"
        )
    if period is not None and (dedup is None or delay is not None):
        who = f"queue {queue.name!r} debounces: a start" if debounce is None else "a start with debounce="
        raise InvalidArgument(f"{who} needs dedup=, by which starts belong together, and no delay")
    if on_duplicate is not None and dedup is None:
        raise InvalidArgument("on_duplicate= says what a start does whose dedup key a run has, and this one has no key")
    policy = queue.on_duplicate if on_duplicate is None else checked_on_duplicate(on_duplicate)
    after, ready_at = start_time(delay, "delay of a start")
    key, share = check_key(dedup, "dedup"), check_key(partition, "partition") or ""
    return QueueSlot(queue, priority, after, ready_at, key, share, period, latest, policy)


def batch_count(queue: Queue, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return how many items a start brings to a batch, 1 where the queue collects none; raises `InvalidArgument`."""
    if queue.batch is None:
        return 1
    if kwargs or len(args) != 1 or not isinstance(args[0], (list, tuple)) or not args[0]:
        raise InvalidArgument(
            f"queue {queue.name!r} collects items: a start in it takes one argument, a list of one or more of them"
        )
    return len(cast("list[object]", args[0]))


def start_time(delay: float | timedelta | datetime | None, what: str) -> tuple[int, int | None]:
    """Return how long from now a delay is, in microseconds, or 0 and its time; raises `InvalidArgument`."""
    if delay is None:
        return 0, None
    if not isinstance(delay, datetime):
        return round(to_seconds(delay, what) * MICROSECONDS), None
    if delay.tzinfo is None:
        raise InvalidArgument(f"delay needs a time zone: {delay!r}")
    return 0, max(0, microseconds_of(delay))
