"""Which run is taken from a queue next, or gets a permit of a limit: a pure function of the facts.

It is made inside the transaction that takes what it names, so it is exact however many workers decide at once. It reads
as much as it takes and no more: how long the line is, and how many partitions there are, makes no difference.

- Partitions take turns: the one whose turn is longest ago gives one entry, then the next. A partition at its bound, or
  without waiting entries, is passed over. Between two entries of a partition that could give one all the time,
  every other gives one at most. Within a partition higher priority goes first, then who waits longer.
- A rate is kept by a log of starts. A start is allowed when fewer than `limit` starts lie within the window that ends
  with it, and then no window holds more, wherever it begins. The start of a step's attempt is known only when it
  happens, some time after the permit is granted; until then the permit counts as a start that is happening right now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from stepwell.definitions.queue_slots import QueueSlot
from stepwell.definitions.queues import NEVER, QueueSettings
from stepwell.errors import DuplicateRun, RunConflict, StepwellError
from stepwell.model.start_policy import rejection
from stepwell.store.changes import Change, Created, RunCreated
from stepwell.store.queues import (
    Entered,
    Head,
    Lane,
    PermitsGranted,
    QueueAdvanced,
    QueueFacts,
    QueueState,
    QueueTaken,
)

#: How many permits are granted at a time. Runs are bounded by the worker's room.
MAX_GRANTED: Final = 1_000

_turn: Final = attrgetter("turn")


class Decision(msgspec.Struct, frozen=True):
    """What is taken from a queue now, and when to decide again.

    `more` says that there was more to take than the worker had room for. `next_at` is when there may be something to
    take though nothing happens until then; None where only an event can change that.
    """

    changes: list[Change]
    taken: int = 0
    more: bool = False
    next_at: int | None = None


def entered(entry: QueueSlot, now: int, *, count: int = 1) -> Entered:
    """Return how a start at `now` stands in its queue; `count` is how many items it brings to a batch."""
    queue = entry.queue
    ready_at = entry.ready_at if entry.ready_at is not None else (now + entry.delay if entry.delay else None)
    latest_at = batch_size = None
    if entry.debounce is not None:
        latest_at = NEVER if entry.debounce_limit is None else now + entry.debounce_limit
        ready_at = min(now + entry.debounce, latest_at)
    if queue.batch is not None:
        batch_size = queue.batch.size
        ready_at = now + queue.batch_within
    if ready_at is not None and ready_at <= now and latest_at is None and batch_size is None:
        ready_at = None
    return Entered(
        queue=queue.name,
        partition=entry.partition,
        priority=entry.priority,
        ready_at=ready_at,
        dedup=entry.dedup,
        attach=entry.on_duplicate == "attach",
        latest_at=latest_at,
        batch_size=batch_size,
        count=count,
    )


def refusal_of(change: RunCreated, created: Created) -> StepwellError | None:
    """Return the error for a start that must not have the run that there is; None where all is well."""
    existing = created.existing
    if existing is None or not created.refused:
        return None
    if created.joined == "rejected":
        return rejection(existing.id, existing.workflow, existing.status, change.workflow)
    if created.joined is not None and change.entry is not None:
        what = "is" if existing.workflow == change.workflow else f"is of another workflow, {existing.workflow!r}, and"
        return DuplicateRun(
            f"run {existing.id!r} {what} in queue {change.entry.queue!r} under the dedup key {change.entry.dedup!r} "
            "already; nothing was started. Wait for it, or choose another key",
            run_id=existing.id,
        )
    what = "another workflow" if existing.workflow != change.workflow else "other input"
    return RunConflict(
        f"run {change.id!r} exists already, with {what} ({existing.workflow!r}, {existing.status}); it was not "
        f"started again. Choose another id, or get the run with get({change.id!r})"
    )


def advance(queue: str, now: int) -> QueueAdvanced:
    """Return the change that must be applied before a decision: entries that are due begin to wait."""
    return QueueAdvanced(queue, now)


def take(
    facts: QueueFacts,
    queue: str,
    workflows: Collection[str],
    now: int,
    *,
    room: int,
    held: int = 0,
    spread: int = 0,
    worker: int = 0,
) -> Decision:
    """Decide which runs a worker takes from a queue.

    It serves `workflows`, has room for `room` more runs, and `held` runs of the queue already (for `per_worker`). Runs
    of other workflows are passed over; they keep their places, and their partitions' turns. `spread`: see `QueueTaken`.
    `worker` is its epoch.
    """
    state = facts.state(queue)
    if state is None or state.paused:
        return Decision([])
    if state.settings.per_worker is not None:
        room = min(room, state.settings.per_worker - held)
    free = _free(state, room)
    served = [workflow for workflow in facts.workflows(queue) if workflow in workflows] if state.waiting else []
    # One more than can be taken, to know whether something is left.
    most = state.settings.partition_per_worker
    there = {} if most is None or not served else facts.held(queue, worker)
    full = [partition for partition, number in there.items() if most is not None and number >= most]
    groups = _partitions((facts.lanes(queue, workflow, free + 1, full) for workflow in served), free + 1)
    able = _able(groups, state.settings, there)
    shares = _shares(able, free)
    taken = _heads(facts, queue, groups, shares)
    left = sum(able) > len(taken)
    at = max(now, state.last_start_at)
    changes: list[Change] = []
    if taken:
        changes.append(QueueTaken(queue, [head.run for head in taken], _served(groups, shares), at, spread))
    more = left and len(taken) >= room
    opens_at = _partition_opens_at(facts, state, groups, shares, at + spread)
    next_at = _next_at(facts, state, len(taken), at + spread, now, left=left, opens_at=opens_at)
    return Decision(changes, len(taken), more, next_at)


def give(
    facts: QueueFacts, queue: str, now: int, *, is_active: Callable[[int], bool], after: int = 0
) -> QueueTaken | None:
    """Decide whether the only run that waits in a queue is given to an idle worker, and to which; None: to nobody.

    For whoever enqueues it and does not take it itself: the worker would spend a commit on that. A busy worker would
    not, it decides in a commit that it makes anyway. Who was given a run and has not begun it is not idle, so it is
    given no other one. Workers take turns: the next is the first with an epoch above `after`. Where partitions, workers
    or times have bounds of their own, the workers decide.
    """
    entry = facts.lone_entry(queue)
    if entry is None or entry.paused:
        return None
    free = NEVER if entry.settings.concurrency is None else entry.settings.concurrency - entry.running
    if free <= 0 or entry.settings != QueueSettings(entry.settings.concurrency):
        return None
    idle = facts.idle_workers(queue, entry.workflow)
    if not idle:
        return None
    idle.sort(key=lambda epoch: (epoch <= after, epoch))
    chosen = next(filter(is_active, idle), None)
    return None if chosen is None else QueueTaken(queue, [entry.run], [entry.partition], now, owner=chosen)


def grant(facts: QueueFacts, limit: str, now: int) -> Decision:
    """Decide which attempts of steps get permits of a limit."""
    state = facts.state(limit)
    if state is None or state.paused:
        return Decision([])
    free = min(_free(state, MAX_GRANTED), state.waiting)
    taken: list[Head] = []
    if free > 0:
        taken = facts.heads(limit, [Lane(0, "", "", state.waiting, state.running)], free)[0]
    at = max(now, state.last_start_at)
    left = state.waiting > len(taken)
    changes: list[Change] = []
    if taken:
        changes.append(PermitsGranted(limit, [(head.run, head.op) for head in taken], at))
    more = left and len(taken) >= MAX_GRANTED
    return Decision(changes, len(taken), more, _next_at(facts, state, len(taken), at, now, left=left))


def has_room(state: QueueState) -> bool:
    """Tell whether something waits and the bounds of the whole queue or limit let it start."""
    return not state.paused and _free(state, 1) > 0


def rate_opens_at(facts: QueueFacts, state: QueueState) -> int | None:
    """Return when the rate of a queue or limit lets the next one start: 0 for now, None where it is not known yet."""
    settings = state.settings
    if settings.rate_limit is None or settings.rate_per is None:
        return 0
    index = state.starts + state.unconfirmed - settings.rate_limit
    if index < 0:
        return 0
    start_at = facts.start_at(state.name, index) if index < state.starts else None
    return None if start_at is None else start_at + settings.rate_per


def _free(state: QueueState, room: int) -> int:
    """Return how many more may start now; 0 or less: none."""
    settings = state.settings
    free = min(room, state.waiting)
    if settings.concurrency is not None:
        free = min(free, settings.concurrency - state.running)
    if settings.rate_limit is not None:
        free = min(free, settings.rate_limit - state.starts - state.unconfirmed)
    return max(free, 0)


def _partitions(found: Iterable[Sequence[Lane]], most: int) -> list[list[Lane]]:
    """Gather the lanes of each partition, by turn: lanes of one partition have one turn, and no other has it."""
    groups: list[list[Lane]] = []
    for lane in sorted((lane for lanes in found for lane in lanes), key=_turn):
        if groups and groups[-1][0].partition == lane.partition:
            groups[-1].append(lane)
        elif len(groups) < most:
            groups.append([lane])
        else:
            break
    return groups


def _able(groups: list[list[Lane]], settings: QueueSettings, there: Mapping[str, int]) -> list[int]:
    """Return how many entries each partition could give to a worker that has some of it (`there`)."""
    bound = NEVER if settings.partition_concurrency is None else settings.partition_concurrency
    rate = NEVER if settings.partition_rate_limit is None else settings.partition_rate_limit
    most = NEVER if settings.partition_per_worker is None else settings.partition_per_worker
    return [
        max(
            0,
            min(
                sum(lane.waiting for lane in group),
                bound - group[0].busy,
                rate - group[0].started,
                most - there.get(group[0].partition, 0),
            ),
        )
        for group in groups
    ]


def _partition_opens_at(
    facts: QueueFacts, state: QueueState, groups: list[list[Lane]], shares: list[int], at: int
) -> int | None:
    """Return when the rate first lets a partition give more that gives as much as it may now, None: none of them."""
    limit, per = state.settings.partition_rate_limit, state.settings.partition_rate_per
    if limit is None or per is None:
        return None
    times = [] if state.first_opens_at is None else [state.first_opens_at]
    for group, share in zip(groups, shares, strict=True):
        started = group[0].started
        index = started + share - limit  # the start that must leave the window first
        if index >= 0 and sum(lane.waiting for lane in group) > share:
            start_at = facts.partition_start_at(state.name, group[0].partition, index) if index < started else at
            times.append((at if start_at is None else start_at) + per)
    return min(times, default=None)


def _shares(able: list[int], free: int) -> list[int]:
    """Deal `free` places to the partitions, one each in the order of their turns, again and again."""
    shares = [0] * len(able)
    open_ones: list[int] = [index for index, number in enumerate(able) if number]
    while free > 0 and open_ones:
        if free < len(open_ones):
            del open_ones[free:]
        # As many rounds at once as all of them can take part in.
        rounds = min(free // len(open_ones), *(able[index] - shares[index] for index in open_ones))
        for index in open_ones:
            shares[index] += rounds
        free -= rounds * len(open_ones)
        open_ones = [index for index in open_ones if shares[index] < able[index]]
    return shares


def _heads(facts: QueueFacts, queue: str, groups: list[list[Lane]], shares: list[int]) -> list[Head]:
    """Read the entries that the partitions give, in the order of the rounds."""
    wanted: dict[int, list[int]] = {}
    for index, share in enumerate(shares):
        if share:
            wanted.setdefault(share, []).append(index)
    given: dict[int, list[Head]] = {}
    for share, indexes in wanted.items():
        lanes = [(index, lane) for index in indexes for lane in groups[index]]
        for (index, _), heads in zip(lanes, facts.heads(queue, [lane for _, lane in lanes], share), strict=True):
            given.setdefault(index, []).extend(heads)
    for index, heads in given.items():
        if len(groups[index]) > 1:
            heads.sort(key=lambda head: (-head.priority, head.place))
            del heads[shares[index] :]
    if len(given) == 1:
        return next(iter(given.values()))
    order = sorted((number, index, head) for index, heads in given.items() for number, head in enumerate(heads))
    return [head for _, _, head in order]


def _served(groups: list[list[Lane]], shares: list[int]) -> list[str]:
    """Return the partitions that gave something, in the order in which they gave last."""
    order = sorted((share, index) for index, share in enumerate(shares) if share)
    return [groups[index][0].partition for _, index in order]


def _next_at(
    facts: QueueFacts, state: QueueState, taken: int, at: int, now: int, *, left: bool, opens_at: int | None = None
) -> int | None:
    """Return when time alone may let something start: an entry becomes due, or a start leaves a window.

    `opens_at` is when the first of the partitions opens that their rate blocks.
    """
    settings = state.settings
    if settings.concurrency is not None and state.running + taken >= settings.concurrency:
        return None
    times: list[int] = []
    if state.first_ready_at is not None:
        times.append(max(state.first_ready_at, now))
    if opens_at is not None:
        times.append(max(opens_at, now))
    if left and settings.rate_limit is not None and settings.rate_per is not None:
        # The start that must leave the window before there is room for another one.
        index = state.starts + state.unconfirmed + taken - settings.rate_limit
        if 0 <= index < state.starts:
            start_at = facts.start_at(state.name, index)
            if start_at is not None:
                times.append(start_at + settings.rate_per)
        elif 0 <= index < state.starts + taken and state.kind == "queue":
            times.append(at + settings.rate_per)
    return min(times, default=None)
