"""Who is taken from a queue, who gets a permit, and when that is decided again: from facts alone, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import astuple

from stepwell import Batch, DuplicateRun, Queue, RunConflict
from stepwell.definitions.queue_slots import queue_entry
from stepwell.definitions.queues import FlowKind, OnDuplicate, QueueSettings
from stepwell.model.clock import datetime_of
from stepwell.model.run import RunRecord
from stepwell.store.changes import Created, RunCreated
from stepwell.store.queues import Entered, Head, Lane, LoneEntry, PermitsGranted, QueueState, QueueTaken
from stepwell.worker.rules.queue_policy import (
    MAX_GRANTED,
    Decision,
    entered,
    give,
    grant,
    has_room,
    rate_opens_at,
    refusal_of,
    take,
)

NOW = 1_000_000
UNBOUNDED = QueueSettings()


@dataclass
class Facts:
    """A queue "q" whose lanes hold entries, each (priority, place); an entry's place is the key of its run as well."""

    lines: list[tuple[Lane, list[tuple[int, int]]]] = field(default_factory=list)
    settings: QueueSettings = UNBOUNDED
    log: Sequence[int] = ()
    kind: FlowKind = "queue"
    facts: dict[str, Any] = field(default_factory=dict)
    held_there: dict[str, int] = field(default_factory=dict)
    partition_log: dict[str, list[int]] = field(default_factory=dict)
    lone: LoneEntry | None = None
    idle: Sequence[int] = ()

    def state(self, queue: str) -> QueueState | None:
        if queue != "q":
            return None
        waiting = sum(lane.waiting for lane, _ in self.lines)
        known = {"waiting": waiting, "starts": len(self.log), "last_start_at": max(self.log, default=0), **self.facts}
        return QueueState("q", self.kind, self.settings, **known)

    def workflows(self, queue: str) -> list[str]:
        assert queue == "q"
        return sorted({lane.workflow for lane, _ in self.lines})

    def lanes(self, queue: str, workflow: str, limit: int, without: Sequence[str] = ()) -> list[Lane]:
        assert queue == "q"
        found = (lane for lane, _ in self.lines if lane.workflow == workflow and lane.partition not in without)
        return sorted(found, key=astuple)[:limit]

    def partition_start_at(self, queue: str, partition: str, index: int) -> int | None:
        assert queue == "q"
        return self.partition_log[partition][index]

    def partition_opens_at(self, queue: str, partition: str) -> int | None:
        raise NotImplementedError

    def held(self, queue: str, worker: int) -> dict[str, int]:
        assert (queue, worker) == ("q", 0)
        return self.held_there

    def lone_entry(self, queue: str) -> LoneEntry | None:
        assert queue == "q"
        return self.lone

    def idle_workers(self, queue: str, workflow: str) -> list[int]:
        assert (queue, workflow) == ("q", "w")
        return list(self.idle)

    def heads(self, queue: str, lanes: Sequence[Lane], limit: int) -> list[list[Head]]:
        assert queue == "q"
        by_key = {(lane.partition, lane.workflow): entries for lane, entries in self.lines}
        found = [sorted(by_key[lane.partition, lane.workflow], key=lambda one: (-one[0], one[1])) for lane in lanes]
        return [[Head(priority, place, place, 0) for priority, place in entries[:limit]] for entries in found]

    def start_at(self, queue: str, index: int) -> int | None:
        assert queue == "q"
        assert index >= 0
        return self.log[index] if index < len(self.log) else None


def line(
    partition: str, *entries: int | tuple[int, int], turn: int = 0, workflow: str = "w", busy: int = 0
) -> tuple[Lane, list[tuple[int, int]]]:
    several = [(0, entry) if isinstance(entry, int) else entry for entry in entries]
    return Lane(turn, partition, workflow, len(several), busy), several


def permits(*entries: tuple[int, int]) -> tuple[Lane, list[tuple[int, int]]]:
    """Return the one line of a limit, whose entries are of no workflow."""
    return line("", *entries, workflow="")


def runs(decision: Decision) -> list[int]:
    return [run for change in decision.changes if isinstance(change, QueueTaken) for run in change.runs]


def decide(facts: Facts, room: int = 10, **options: int) -> Decision:
    return take(facts, "q", {"w", "v"}, NOW, room=room, **options)


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "facts", "options", "expected"),
    [
        ({}, {}, {}, 5),
        ({}, {}, {"room": 3}, 3),
        ({}, {}, {"room": 0}, 0),
        ({"per_worker": 3}, {}, {"held": 1}, 2),
        ({"per_worker": 3}, {}, {"held": 3}, 0),
        ({"per_worker": 3}, {}, {"held": 4}, 0),
        ({"per_worker": 9}, {}, {"held": 1, "room": 4}, 4),
        ({"concurrency": 3}, {"running": 1}, {}, 2),
        ({"concurrency": 3}, {"running": 3}, {}, 0),
        ({"concurrency": 3}, {"running": 5}, {}, 0),
        ({"concurrency": 9}, {"running": 1}, {}, 5),
        ({"rate_limit": 4, "rate_per": 100}, {"starts": 1, "unconfirmed": 0}, {}, 3),
        ({"rate_limit": 4, "rate_per": 100}, {"starts": 1, "unconfirmed": 2}, {}, 1),
        ({"rate_limit": 4, "rate_per": 100}, {"starts": 3, "unconfirmed": 2}, {}, 0),
        ({"rate_limit": 9, "rate_per": 100}, {"starts": 1, "unconfirmed": 2}, {}, 5),
    ],
)
def test_as_many_are_taken_as_each_bound_allows(
    settings: dict[str, int], facts: dict[str, Any], options: dict[str, int], expected: int
) -> None:
    queue = Facts([line("", 1, 2, 3, 4, 5)], QueueSettings(**settings), facts=facts)
    decision = decide(queue, **options)
    assert runs(decision) == [1, 2, 3, 4, 5][:expected]
    assert decision.taken == expected
    assert has_room(QueueState("q", "queue", QueueSettings(**settings), waiting=5, **facts)) == (
        expected > 0 or "room" in options or "held" in options
    )


@pytest.mark.parametrize(
    ("settings", "started", "log", "there", "expected", "next_at"),
    [
        ({"partition_rate_limit": 2, "partition_rate_per": 100}, 0, [], {}, 2, NOW + 100),
        ({"partition_rate_limit": 2, "partition_rate_per": 100}, 1, [NOW - 40], {}, 1, NOW + 60),
        ({"partition_rate_limit": 1, "partition_rate_per": 100}, 2, [NOW - 70, NOW - 40], {}, 0, NOW + 60),
        ({"partition_rate_limit": 3, "partition_rate_per": 100}, 0, [], {}, 3, None),
        ({"partition_per_worker": 2}, 0, [], {"p": 1}, 1, None),
        ({"partition_per_worker": 2}, 0, [], {"p": 2}, 0, None),
    ],
)
def test_a_partition_gives_as_much_as_its_rate_and_the_share_of_a_worker_allow(
    settings: dict[str, int], started: int, log: list[int], there: dict[str, int], expected: int, next_at: int | None
) -> None:
    lane = Lane(1, "p", "w", 3, 0, started)
    queue = Facts([(lane, [(0, 1), (0, 2), (0, 3)])], QueueSettings(**settings))
    queue.held_there, queue.partition_log = there, {"p": log}
    decision = decide(queue)
    assert runs(decision) == [1, 2, 3][:expected]
    assert decision.next_at == next_at


def test_nothing_is_taken_from_a_queue_that_is_paused_or_unknown_or_empty_or_of_other_workflows() -> None:
    assert decide(Facts([line("", 1)], facts={"paused": True})) == Decision([])
    assert take(Facts([line("", 1)]), "other", {"w"}, NOW, room=1) == Decision([])
    assert decide(Facts()) == Decision([])
    assert take(Facts([line("", 1)]), "q", {"other"}, NOW, room=1) == Decision([])
    assert grant(Facts([line("", 1)], facts={"paused": True}), "q", NOW) == Decision([])
    assert grant(Facts([line("", 1)]), "other", NOW) == Decision([])
    assert grant(Facts(), "q", NOW) == Decision([])
    assert not has_room(QueueState("q", "queue", QueueSettings(), paused=True, waiting=1))
    assert not has_room(QueueState("q", "queue", QueueSettings()))


@pytest.mark.parametrize(("room", "taken", "more"), [(2, 2, True), (3, 3, False), (4, 3, False)])
def test_there_is_more_to_take_only_where_the_room_was_the_bound(room: int, taken: int, more: bool) -> None:
    decision = decide(Facts([line("", 1, 2, 3)]), room=room)
    assert (decision.taken, decision.more) == (taken, more)
    assert not decide(Facts([line("", 1, 2, 3)], QueueSettings(concurrency=2)), room=9).more


# --- whose turn -------------------------------------------------------------------------------------------------------


def test_within_a_partition_the_higher_priority_goes_first_then_who_waits_longer() -> None:
    assert runs(decide(Facts([line("", (0, 1), (5, 2), (0, 3), (5, 4))]), room=3)) == [2, 4, 1]


def test_workflows_of_one_partition_share_its_turn_and_its_order() -> None:
    lines = [
        line("a", (0, 1), (5, 4), turn=1, workflow="w"),
        line("a", (5, 2), (0, 3), turn=1, workflow="v"),
        line("b", 9, turn=2),
    ]
    assert runs(decide(Facts(lines))) == [2, 9, 4, 1, 3]
    assert runs(decide(Facts(lines), room=3)) == [2, 9, 4]
    before = line("c", 31, 32, turn=0)
    assert runs(decide(Facts([before, *lines]))) == [31, 2, 9, 32, 4, 1, 3]


def test_partitions_give_one_each_in_the_order_of_their_turns_until_the_room_is_full() -> None:
    lines = [line("c", 31, 32, 33, turn=3), line("a", 11, turn=1), line("b", 21, 22, 23, 24, turn=2)]
    assert runs(decide(Facts(lines))) == [11, 21, 31, 22, 32, 23, 33, 24]
    assert runs(decide(Facts(lines), room=4)) == [11, 21, 31, 22]
    assert runs(decide(Facts(lines), room=2)) == [11, 21]
    assert runs(decide(Facts(lines), room=1)) == [11]


def test_whoever_gave_least_has_the_next_turn_and_among_equals_whoever_gave_first() -> None:
    lines = [line("a", 11, 12, 13, turn=1), line("b", 21, turn=2), line("c", 31, 32, turn=3), line("d", 41, turn=4)]
    (change,) = decide(Facts(lines), room=6).changes
    assert isinstance(change, QueueTaken)
    assert change.partitions == ["b", "d", "a", "c"]
    (change,) = decide(Facts(lines), room=2).changes
    assert isinstance(change, QueueTaken)
    assert change.partitions == ["a", "b"]


@pytest.mark.parametrize(("busy", "expected"), [(0, [11, 21, 12]), (1, [11, 21]), (2, [21]), (3, [21])])
def test_a_partition_gives_no_more_than_its_own_bound_leaves(busy: int, expected: list[int]) -> None:
    lines = [line("a", 11, 12, 13, turn=1, busy=busy), line("b", 21, turn=2)]
    assert runs(decide(Facts(lines, QueueSettings(partition_concurrency=2)))) == expected


# --- when -------------------------------------------------------------------------------------------------------------


def test_a_start_is_not_before_the_newest_one_and_says_how_far_starts_are_spread() -> None:
    (change,) = decide(Facts([line("", 1)], facts={"last_start_at": NOW + 5}), spread=7).changes
    assert change == QueueTaken("q", [1], [""], NOW + 5, 7)
    (change,) = decide(Facts([line("", 1)], facts={"last_start_at": NOW - 5})).changes
    assert change == QueueTaken("q", [1], [""], NOW, 0)


RATE = QueueSettings(rate_limit=2, rate_per=100)


@pytest.mark.parametrize(
    ("settings", "log", "facts", "entries", "next_at"),
    [
        # nobody is left, or the room was the bound: only an event changes anything
        (QueueSettings(), (), {}, 1, None),
        (RATE, (), {}, 2, None),
        # the oldest start that fills the window has to leave it
        (RATE, (NOW - 90, NOW - 40), {}, 1, NOW + 10),
        (RATE, (NOW - 90,), {}, 2, NOW + 10),
        # the rate was higher when these started
        (RATE, (NOW - 90, NOW - 50, NOW - 40), {}, 1, NOW + 50),
        # those that are taken now fill it
        (RATE, (), {}, 3, NOW + 100),
        # a permit is out whose start is not known yet
        (RATE, (NOW - 90,), {"unconfirmed": 1}, 1, NOW + 10),
        (RATE, (), {"unconfirmed": 2}, 1, None),
        # an entry becomes due, even one that should have been by now
        (QueueSettings(), (), {"first_ready_at": NOW + 3}, 0, NOW + 3),
        (QueueSettings(), (), {"first_ready_at": NOW - 3}, 0, NOW),
        (RATE, (NOW - 90, NOW - 40), {"first_ready_at": NOW + 3}, 1, NOW + 3),
        # all places are taken: time changes nothing
        (QueueSettings(concurrency=2), (), {"first_ready_at": NOW + 3, "running": 2}, 1, None),
        (QueueSettings(concurrency=2), (), {"first_ready_at": NOW + 3, "running": 1}, 1, None),
        (QueueSettings(concurrency=2), (), {"first_ready_at": NOW + 3, "running": 0}, 1, NOW + 3),
    ],
)
def test_it_is_decided_again_when_time_alone_lets_something_start(
    settings: QueueSettings, log: Sequence[int], facts: dict[str, int], entries: int, next_at: int | None
) -> None:
    lines = [line("", *range(1, entries + 1))] if entries else []
    assert decide(Facts(lines, settings, log, facts=facts)).next_at == next_at


@pytest.mark.parametrize("room", [0, 1])
def test_where_only_the_room_is_the_bound_time_changes_nothing(room: int) -> None:
    assert decide(Facts([line("", 1, 2)], RATE), room=room).next_at is None


def test_starts_that_are_spread_leave_the_window_later() -> None:
    assert decide(Facts([line("", 1, 2, 3)], RATE), spread=7).next_at == NOW + 107


def test_of_a_limit_the_starts_of_what_is_granted_are_not_known_yet() -> None:
    assert grant(Facts([permits((0, 1), (0, 2), (0, 3))], RATE, kind="limit"), "q", NOW).next_at is None


@pytest.mark.parametrize(
    ("settings", "log", "unconfirmed", "expected"),
    [
        (QueueSettings(), (), 0, 0),
        (RATE, (), 0, 0),
        (RATE, (NOW,), 0, 0),
        (RATE, (NOW, NOW + 1), 0, NOW + 100),
        (RATE, (NOW, NOW + 1, NOW + 5), 0, NOW + 101),
        (RATE, (NOW,), 1, NOW + 100),
        (RATE, (), 1, 0),
        (RATE, (), 2, None),
        (RATE, (NOW,), 3, None),
    ],
)
def test_a_rate_opens_when_the_start_that_fills_it_leaves_the_window(
    settings: QueueSettings, log: Sequence[int], unconfirmed: int, expected: int | None
) -> None:
    facts = Facts([], settings, log, facts={"unconfirmed": unconfirmed})
    state = facts.state("q")
    assert state is not None
    assert rate_opens_at(facts, state) == expected


# --- permits ----------------------------------------------------------------------------------------------------------


def test_permits_are_granted_in_order_as_far_as_the_limit_goes() -> None:
    facts = Facts([permits((0, 1), (5, 2), (0, 3))], QueueSettings(concurrency=3), facts={"running": 1}, kind="limit")
    decision = grant(facts, "q", NOW)
    assert decision.changes == [PermitsGranted("q", [(2, 0), (1, 0)], NOW)]
    assert (decision.taken, decision.more) == (2, False)
    (change,) = grant(Facts([permits((0, 7))], kind="limit"), "q", NOW).changes
    assert change == PermitsGranted("q", [(7, 0)], NOW)


@pytest.mark.parametrize(("number", "more"), [(MAX_GRANTED, False), (MAX_GRANTED + 1, True)])
def test_so_many_permits_are_granted_at_a_time_and_then_it_is_decided_again(number: int, more: bool) -> None:
    decision = grant(Facts([permits(*((0, place) for place in range(1, number + 1)))], kind="limit"), "q", NOW)
    assert (decision.taken, decision.more) == (MAX_GRANTED, more)


# --- how a start stands in its queue ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "slot", "expected"),
    [
        ({}, {}, (None, None, None)),
        ({}, {"delay": timedelta(microseconds=5)}, (NOW + 5, None, None)),
        ({}, {"delay": datetime_of(NOW + 7)}, (NOW + 7, None, None)),
        ({}, {"delay": datetime_of(NOW)}, (None, None, None)),
        ({}, {"delay": datetime_of(NOW - 1)}, (None, None, None)),
        ({"debounce": 2}, {"dedup": "d"}, (NOW + 2_000_000, 2**63 - 1, None)),
        (
            {"debounce": 2, "debounce_limit": timedelta(seconds=3)},
            {"dedup": "d"},
            (NOW + 2_000_000, NOW + 3_000_000, None),
        ),
        ({"debounce": 2, "debounce_limit": 2}, {"dedup": "d"}, (NOW + 2_000_000, NOW + 2_000_000, None)),
        ({"debounce": 2}, {"dedup": "d", "debounce": 3, "debounce_limit": 4}, (NOW + 3_000_000, NOW + 4_000_000, None)),
        ({"debounce": 2, "debounce_limit": 3}, {"dedup": "d", "debounce": 1}, (NOW + 1_000_000, NOW + 3_000_000, None)),
        ({}, {"dedup": "d", "debounce": 1}, (NOW + 1_000_000, 2**63 - 1, None)),
        ({"batch": Batch(3, 2)}, {}, (NOW + 2_000_000, None, 3)),
        ({"batch": Batch(3, 0)}, {}, (NOW, None, 3)),
    ],
)
def test_a_start_waits_from_when_its_delay_or_its_queue_says(
    options: dict[str, Any], slot: dict[str, Any], expected: tuple[int | None, int | None, int | None]
) -> None:
    queue = Queue("of a policy's test", **options)
    place = queue_entry(queue, priority=4, partition="p", **slot)
    assert place is not None
    found = entered(place, NOW, count=2)
    assert (found.ready_at, found.latest_at, found.batch_size) == expected
    assert (found.queue, found.priority, found.partition, found.count) == (queue.name, 4, "p", 2)
    assert (found.dedup, found.attach) == (slot.get("dedup"), True)


@pytest.mark.parametrize(("own", "attach"), [(None, False), ("reject", False), ("attach", True)])
def test_an_entry_says_whether_its_start_or_else_its_queue_refuses_duplicates(
    own: OnDuplicate | None, attach: bool
) -> None:
    queue = Queue("refuses in a policy's test", on_duplicate="reject")
    place = queue_entry(queue, dedup="d", on_duplicate=own)
    assert place is not None
    assert entered(place, NOW).attach is attach


# --- starts that must not have the run that there is ------------------------------------------------------------------

EXISTING = RunRecord(1, "first", "w", "running", b"1", 1, NOW, NOW)


def start(run: str = "first", workflow: str = "w", entry: Entered | None = None) -> RunCreated:
    return RunCreated(run, workflow, b"2", 2, "pending", NOW, entry=entry)


@pytest.mark.parametrize(
    "created", [Created(1), Created(1, refused=True), Created(1, EXISTING), Created(1, EXISTING, "attached")]
)
def test_a_start_that_made_a_run_or_may_have_the_one_that_there_is_is_not_refused(created: Created) -> None:
    assert refusal_of(start(entry=Entered("q", dedup="d")), created) is None


@pytest.mark.parametrize("entry", [None, Entered("q", dedup="d")])
@pytest.mark.parametrize(("workflow", "what"), [("w", "with other input"), ("v", "with another workflow")])
def test_an_id_that_is_taken_is_a_conflict_that_says_by_what(workflow: str, what: str, entry: Entered | None) -> None:
    error = refusal_of(start(workflow=workflow, entry=entry), Created(1, EXISTING, refused=True))
    assert isinstance(error, RunConflict)
    assert f"'first' exists already, {what} ('w', running)" in str(error)


@pytest.mark.parametrize(
    ("workflow", "what"), [("w", "is in queue"), ("v", "is of another workflow, 'w', and in queue")]
)
def test_a_dedup_key_that_is_taken_is_a_duplicate_that_names_the_run(workflow: str, what: str) -> None:
    change = start("second", workflow, Entered("q", dedup="d"))
    error = refusal_of(change, Created(1, EXISTING, "attached", refused=True))
    assert isinstance(error, DuplicateRun)
    assert error.run_id == "first"
    assert f"run 'first' {what} 'q' under the dedup key 'd' already" in str(error)


def lone(settings: QueueSettings = UNBOUNDED, *, paused: bool = False, running: int = 0) -> LoneEntry:
    return LoneEntry(7, "eu", "w", settings, paused, running)


def test_the_only_run_that_waits_is_given_to_an_idle_worker() -> None:
    given = give(Facts(lone=lone(QueueSettings(2), running=1), idle=[3, 5]), "q", NOW, is_active=lambda _epoch: True)
    assert given == QueueTaken("q", [7], ["eu"], NOW, owner=3)


def test_idle_workers_are_given_runs_in_turn() -> None:
    facts = Facts(lone=lone(), idle=[3, 5, 9])
    chosen: list[int] = []
    for _ in range(4):
        after = chosen[-1] if chosen else 0
        given = give(facts, "q", NOW, is_active=lambda _epoch: True, after=after)
        assert given is not None
        assert given.owner is not None
        chosen.append(given.owner)
    assert chosen == [3, 5, 9, 3]


def test_who_was_stopped_is_given_nothing() -> None:
    given = give(Facts(lone=lone(), idle=[3, 5]), "q", NOW, is_active=lambda epoch: epoch == 5)
    assert given is not None
    assert given.owner == 5
    assert give(Facts(lone=lone(), idle=[3, 5]), "q", NOW, is_active=lambda _epoch: False) is None


@pytest.mark.parametrize(
    "entry",
    [
        None,
        lone(paused=True),
        lone(QueueSettings(2), running=2),
        lone(QueueSettings(per_worker=1)),
        lone(QueueSettings(partition_concurrency=1)),
        lone(QueueSettings(rate_limit=1, rate_per=1)),
        lone(QueueSettings(partition_per_worker=1)),
        lone(QueueSettings(partition_rate_limit=1, partition_rate_per=1)),
    ],
)
def test_nobody_is_given_what_may_not_start_or_what_workers_have_shares_of(entry: LoneEntry | None) -> None:
    assert give(Facts(lone=entry, idle=[3]), "q", NOW, is_active=lambda _epoch: True) is None


def test_where_nobody_is_idle_a_run_waits_for_its_turn() -> None:
    assert give(Facts(lone=lone()), "q", NOW, is_active=lambda _epoch: True) is None
