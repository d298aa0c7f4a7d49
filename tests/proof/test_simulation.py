"""The simulation: that a world repeats itself, and worlds in which something once broke."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from proof.sim import Simulator
from proof.sim.controls import broken_engine, world_for
from proof.sim.faults import Violation
from proof.sim.grammar import Node
from proof.sim.making import make, with_story
from proof.sim.plan import Action, Plan, Weather, Worker
from proof.sim.stories import STORIES
from proof.sim.story_controls import STORY_CONTROLS

_FAULT_AT = 50_000


_FAIR = Weather()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    log = logging.getLogger("stepwell")
    level = log.level
    yield Simulator()
    log.setLevel(level)


def broken_somewhere(
    simulator: Simulator,
    runs: tuple[tuple[str, str, Node], ...],
    actions: tuple[Action, ...],
    *faults: tuple[Action, ...],
    workers: tuple[Worker, ...] = (Worker(),),
    weather: Weather = _FAIR,
    seeds: int = 2,
) -> list[str]:
    """Live the same world with each of the faults, and with several seeds; return what broke."""
    found: list[str] = []
    for seed in range(seeds):
        for fault in faults:
            plan = Plan(seed, workers, runs, (*actions, *fault), weather, 400_000)
            violation = simulator.broken(plan)
            if violation is not None:
                found.append(f"seed {seed}, {fault}: {violation}")
    return found


#: The worker at place 0 dies at each of the points that follow on 50 ms.
_CRASHES = tuple((Action(_FAULT_AT - 10, "crash_soon", number=point),) for point in range(14))


def test_a_world_lives_the_same_life_whenever_it_is_lived(simulator: Simulator) -> None:
    first = [simulator.live(make(seed), telling=True)[0].history for seed in range(10)]
    again = [Simulator().live(make(seed), telling=True)[0].history for seed in range(10)]
    assert first == again


def test_seeds_of_worlds_in_which_nothing_breaks(simulator: Simulator) -> None:
    broken = {seed: str(found) for seed in range(1, 41) if (found := simulator.broken(make(seed)))}
    assert not broken


def test_whatever_does_not_run_says_why_in_every_state_that_worlds_reach(simulator: Simulator) -> None:
    given: Counter[str] = Counter()
    for seed in range(1, 61):
        world, violation = simulator.live(make(seed))
        assert violation is None, seed
        given += world.judge.reasons.given
    kinds = {
        *("it waits for a", "it waits for message", "it waits for run", "it waits for attempt", "it was asked to"),
        *("it is delayed until", "it collects the inputs", "it waits in queue", "queue is full of"),
        *("what it waited for", "its worker ended while"),
    }
    assert kinds <= given.keys()


@pytest.mark.parametrize(
    "name", ["replay in arrival order", "a reason that is out of date", "a run is parked without a word"]
)
def test_an_engine_that_is_broken_on_purpose_is_caught(simulator: Simulator, name: str) -> None:
    with broken_engine(name):
        assert any(simulator.broken(make(seed)) for seed in range(1, 31))


@pytest.mark.parametrize("name", STORIES)
def test_worlds_with_a_story_in_which_nothing_breaks(simulator: Simulator, name: str) -> None:
    broken = {seed: str(found) for seed in range(1, 5) if (found := simulator.broken(with_story(make(seed), name)))}
    assert not broken


def test_an_act_on_many_runs_goes_on_where_its_worker_was_taken_for_lost(simulator: Simulator) -> None:
    """The worker learns of it by a write that is refused: it goes on as a new one, and nobody died."""
    assert simulator.broken(make(451)) is None


@pytest.mark.parametrize("name", STORY_CONTROLS)
def test_an_engine_that_is_broken_in_what_a_story_is_about_is_caught(simulator: Simulator, name: str) -> None:
    with broken_engine(name):
        found = (simulator.broken(world_for(name, make(seed))) for seed in range(1, 121))
        assert any(violation is not None and violation.invariant in STORY_CONTROLS[name].reasons for violation in found)


def test_a_run_that_waits_for_one_that_was_created_with_it_goes_on_after_a_crash(simulator: Simulator) -> None:
    runs = (("r0", "async", ["step", 1, "plain", 0]), ("r1", "async", ["join", 2, "r0"]))
    actions = (Action(_FAULT_AT, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    assert broken_somewhere(simulator, runs, actions, *_CRASHES) == []


def test_a_message_to_a_waiting_run_is_received_after_a_crash(simulator: Simulator) -> None:
    runs = (("r0", "async", ["recv", 1, "r0.a", None]), ("r1", "sync", ["send", 2, "r0", "r0.a", None]))
    actions = (Action(0, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    assert broken_somewhere(simulator, runs, actions, *_CRASHES) == []


def test_a_cancellation_by_another_run_arrives_after_a_crash(simulator: Simulator) -> None:
    runs = (("r0", "async", ["recv", 1, "r0.a", None]), ("r1", "sync", ["cancel", 2, "r0"]))
    actions = (Action(0, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    assert broken_somewhere(simulator, runs, actions, *_CRASHES) == []


# The rest are worlds that the simulation found and cut down, by their seeds.


def test_10585_the_end_of_a_run_that_another_worker_told_of_is_heard_after_a_crash(simulator: Simulator) -> None:
    workers = (Worker(), Worker(running=2), Worker(waiting=0, running=2), Worker(()))
    runs = (("r1", "sync", ["join", 6, "r2"]), ("r2", "async", ["recv", 12, "r2.a", 25]))
    actions = (
        Action(3_307, "start", "r2"),
        Action(11_667, "start", "r1"),
        Action(44_597, "crash_soon", place=1, number=8),
    )
    weather = Weather(crossing=0.3, turn_delay=5_000)
    assert simulator.broken(Plan(10585, workers, runs, actions, weather, 100_000)) is None


def test_13484_a_message_from_another_worker_is_received_after_a_full_disk(simulator: Simulator) -> None:
    workers = (Worker(waiting=0), Worker(waiting=3))
    sequence = ["seq", [["step", 6, "sync", 0], ["seq", [["step", 7, "retry", 0], ["recv", 10, "r1.a", None]]]]]
    runs = (("r0", "sync", ["step", 2, "sync", 0]), ("r1", "async", sequence))
    actions = (
        Action(15_432, "start", "r1"),
        Action(181_652, "start", "r0"),
        Action(194_053, "crash_soon", place=2, number=6, flag=True),
        Action(207_514, "full", number=400_000),
        Action(216_107, "wait", "r0"),
        Action(239_356, "stall_soon", place=2, number=200_000),
        Action(324_802, "send_keyed", "r1", name="r1.keyed"),
        Action(352_254, "send", "r1", name="r1.a"),
    )
    weather = Weather(lag=50_000, step_time=300_000)
    assert simulator.broken(Plan(13484, workers, runs, actions, weather, 400_000)) is None


def test_17956_a_claim_lost_for_one_run_does_not_strand_the_others_of_the_same_unit(simulator: Simulator) -> None:
    child = ["all", [["child", 7, "await", "sync", ["step", 8, "retry", 0], "s0", None], ["cancel", 10, "s0"]]]
    other = ["final", ["seq", [["publish", 12, "x"], ["draw", 13], ["cancel", 14, "r0"]]], ["step", 15, "plain", 0]]
    parent = [
        "all",
        [["child", 6, "call", "async", child, None, None], ["child", 11, "await", "sync", other, None, None]],
    ]
    actions = (
        Action(2_392, "fence", place=1),
        Action(5_619, "start", "r0"),
        Action(6_001, "start", "r1"),
        Action(22_473, "wait", "r1"),
        Action(27_504, "wait", "r0"),
    )
    runs = (("r0", "async", ["sleep", 1, 4]), ("r1", "async", parent))
    weather = Weather(turn_delay=5_000)
    workers = (Worker(running=1), Worker(running=5))
    assert simulator.broken(Plan(17956, workers, runs, actions, weather, 100_000)) is None


def test_24157_an_end_that_is_refused_was_told_to_nobody(simulator: Simulator) -> None:
    race = ["race", [["join", 9, "r2"], ["step", 10, "txretry", 0]]]
    runs = (
        ("r0", "async", ["join", 4, "r1"]),
        ("r1", "sync", ["send", 5, "r3", "r3.a", None]),
        ("r3", "async", ["child", 11, "await", "async", race, "s0", None]),
    )
    actions = (
        Action(1_723, "start", "r3"),
        Action(6_278, "start", "r0"),
        Action(14_837, "start", "r1"),
        Action(15_921, "cancel", "r3"),
    )
    plan = Plan(24157, (Worker(waiting=3, running=5),), runs, actions, Weather(crossing=0.3), 400_000)
    assert simulator.broken(plan) is None


def test_many_suspects_take_turns_on_one_worker(simulator: Simulator) -> None:
    runs = tuple((f"r{index}", "async", ["sleep", index + 1, 50]) for index in range(4))
    actions = (
        *(Action(100, "start", run_id) for run_id, _, _ in runs),
        *(Action(at, "crash_soon", number=8) for at in range(1_000, 40_000, 2_000)),
    )
    found = [simulator.broken(Plan(seed, (Worker(),), runs, actions, Weather(), 400_000)) for seed in range(30)]
    assert [violation for violation in found if violation is not None] == []


def test_290_a_queued_child_whose_start_was_dropped_is_no_hindrance_to_replay(simulator: Simulator) -> None:
    child = ["child", 5, "leave", "sync", ["sleep", 6, 1505], None, ["sim.each", "", 0, 0]]
    runs = (("r0", "async", ["seq", [["race", [["join", 4, "r1"], child]], ["sleep", 7, 50]]]),)
    actions = (Action(17_486, "start", "r0"),)
    assert broken_somewhere(simulator, runs, actions, *_CRASHES) == []


def test_140_workers_that_have_their_share_of_a_queue_write_nothing(simulator: Simulator) -> None:
    runs = tuple((f"r{index}", "async", ["recv", index + 1, f"r{index}.a", None]) for index in range(4))
    actions = tuple(Action(100 * index, "start", f"r{index}") for index in range(4))
    places = tuple((run_id, ["sim.each", "", 0, 0]) for run_id, _, _ in runs)
    plan = Plan(140, (Worker(), Worker()), runs, actions, Weather(), 400_000, places)
    world, violation = simulator.live(plan)
    assert violation is None
    assert world.commits < 60


def test_538_what_one_commit_told_a_run_of_two_children_is_told_at_once(simulator: Simulator) -> None:
    def child(number: int) -> Node:
        return ["child", number, "leave", "sync", ["step", number + 1, "plain", 0], None, ["sim.parts", "", 0, 0]]

    both = ["all", [["seq", [child(number), ["publish", number + 2, "x"], child(number + 3)]] for number in (1, 11)]]
    runs = (("r0", "async", ["seq", [both, ["sleep", 20, 50]]]),)
    actions = (Action(_FAULT_AT - 20_000, "start", "r0"),)
    assert broken_somewhere(simulator, runs, actions, *_CRASHES) == []


def test_328_a_start_that_a_crash_left_in_doubt_counts_beside_the_next_one(simulator: Simulator) -> None:
    rated = [["step", number, "rated", 0] for number in range(1, 5)]
    runs = (("r0", "async", ["seq", rated]),)
    actions = (Action(_FAULT_AT, "start", "r0"),)
    assert broken_somewhere(simulator, runs, actions, *_CRASHES, weather=Weather(step_time=100)) == []


def test_50978_who_waits_at_a_worker_that_was_fenced_hears_how_the_run_ended_elsewhere(simulator: Simulator) -> None:
    runs = (("r1", "sync", ["seq", [["sleep", 3, 8], ["recv", 5, "r1.a", 58]]]),)
    actions = (
        Action(17_391, "start", "r1"),
        Action(36_160, "wait", "r1"),
        Action(40_834, "stall", place=0, number=100_000),
        Action(134_074, "fence", place=0),
    )
    workers = (Worker(waiting=1), Worker(joins_at=91_279))
    weather = Weather(busy=0.6, crossing=0.02)
    found = [simulator.broken(Plan(seed, workers, runs, actions, weather, 200_000)) for seed in range(8)]
    assert [violation for violation in found if violation is not None] == []


def test_151020_what_builds_upon_a_transactional_step_is_dropped_with_it_when_the_disk_is_full(
    simulator: Simulator,
) -> None:
    runs: tuple[tuple[str, str, Node], ...] = (
        ("r0", "async", ["final", ["step", 2, "tx", 0], ["step", 3, "plain", 0]]),
        ("r1", "async", ["step", 4, "once", 0]),
        ("r2", "async", ["cancel", 13, "r0"]),
    )
    actions = (
        Action(6_292, "start", "r0"),
        Action(6_292, "transact", "r0", name="r0.a"),
        Action(7_656, "start", "r1"),
        Action(7_656, "start", "r1"),
        Action(10_081, "fence", place=2),
        Action(14_688, "wait", "r1"),
        Action(16_312, "start", "r2"),
        Action(16_312, "transact", "r2", name="r2.b"),
        Action(19_279, "wait", "r0"),
        Action(26_714, "fence"),
        Action(28_663, "crash_soon", number=1, flag=True),
        Action(53_213, "full", number=10_000),
        Action(60_504, "stall_soon", number=5_000),
        Action(80_019, "stall_soon", place=1, number=100_000),
        Action(81_102, "crash_soon", place=1, number=6, flag=True),
        Action(86_437, "full", number=400_000),
        Action(114_683, "fence", place=1),
    )
    workers = (Worker(), Worker(waiting=0), Worker())
    weather = Weather(lost=0.2, letter_delay=1_000, crossing=0.3, step_time=10_000, turn_delay=5_000)
    assert simulator.broken(Plan(151_020, workers, runs, actions, weather, 100_000)) is None


def test_147623_a_step_that_is_withdrawn_before_it_is_handed_out_never_begins(simulator: Simulator) -> None:
    runs: tuple[tuple[str, str, Node], ...] = (
        ("r0", "async", ["seq", [["step", 3, "once", 0], ["cancel", 4, "r3"]]]),
        ("r3", "async", ["group", [["step", 13, "rated", 0], ["step", 14, "limited", 0]]]),
        ("r4", "async", ["step", 19, "limited", 0]),
    )
    actions = (
        Action(1_546, "start", "r3"),
        Action(8_326, "start", "r4"),
        Action(19_530, "start", "r0"),
        Action(43_978, "crash", place=1),
    )
    weather = Weather(step_time=300_000)
    workers = (Worker(), Worker(waiting=0))
    found = [simulator.broken(Plan(seed, workers, runs, actions, weather, 3_000_000)) for seed in range(60)]
    assert [str(violation) for violation in found if violation is not None] == []


def test_5112_what_a_run_did_is_dropped_with_what_was_refused_before(simulator: Simulator) -> None:
    limit = ["limit", 3, 101, ["all", [["cancel", 1, "r1"], ["fail", 2]]]]
    joins = ["seq", [["join", 4, "r1"], ["send", 5, "r6", "r6.keyed", "k2"], ["sleep", 6, 145]]]
    steps = ["seq", [["sleep", 7, 1], ["step", 8, "txretry", 0]]]
    sends = ["seq", [["send", 15, "r6", "r6.keyed", "k1"], ["publish", 16, "x"], ["step", 17, "txretry", 0]]]
    later = ["seq", [["sleep", 18, 88], ["send", 19, "r6", "r6.a", None], ["join", 20, "r4"]]]
    runs = (
        ("r0", "async", ["final", ["all", [limit, joins, steps]], ["step", 9, "plain", 0]]),
        ("r1", "async", ["group", [["cancel", 10, "r1"], ["fail", 11]]]),
        ("r2", "async", ["seq", [["cancel", 12, "r0"], ["cancel", 13, "r6"], ["step", 14, "txretry", 0]]]),
        ("r3", "async", ["all", [sends, later]]),
        ("r5", "sync", ["seq", [["publish", 28, "x"], ["fail", 29]]]),
        ("r6", "async", ["final", ["cancel", 30, "r4"], ["step", 31, "plain", 0]]),
    )
    early = ((393, "r3"), (393, "r3"), (1_690, "r0"), (4_143, "r5"), (17_763, "r6"), (17_763, "r6"))
    starts = (*early, (17_979, "r1"), (17_979, "r1"), (18_013, "r2"))
    waits = ((1_145, "r3"), (11_519, "r5"))
    actions = (
        *(Action(at, "start", run_id) for at, run_id in starts),
        *(Action(at, "wait", run_id) for at, run_id in waits),
    )
    places = (("r0", ["sim.one", "a", 0, 0]),)
    weather = Weather(crossing=0.3, lag=50_000, step_time=100, turn_delay=5_000)
    workers = (Worker(waiting=1),)
    found = [simulator.broken(Plan(seed, workers, runs, actions, weather, 400_000, places)) for seed in range(30)]
    assert [violation for violation in found if violation is not None] == []


def test_101444_the_start_of_an_attempt_counts_although_its_run_has_ended_meanwhile(simulator: Simulator) -> None:
    race = ["race", [["sleep", 1, 15], ["step", 2, "rated", 0]]]
    both = ["all", [["step", 3, "rated", 0], ["step", 4, "rated", 0]]]
    runs = (("r0", "async", race), ("r1", "async", ["seq", [["sleep", 5, 18], both]]))
    actions = (Action(0, "start", "r0"), Action(0, "start", "r1"))
    weather = Weather(step_time=300_000)
    found = [simulator.broken(Plan(seed, (Worker(),), runs, actions, weather, 400_000)) for seed in range(10)]
    assert [violation for violation in found if violation is not None] == []


def test_a_limit_that_was_never_declared_because_its_worker_was_fenced_is_not_decided_about_for_ever(
    simulator: Simulator,
) -> None:
    runs = (("r0", "async", ["seq", [["step", 1, "plain", 0], ["step", 2, "rated", 0]]]),)
    found: list[Violation | None] = []
    for at in range(67_000, 68_500, 250):
        actions = (
            Action(50_000, "start", "r0"),
            Action(at, "fence", place=0),
            Action(at + 15_000, "cancel", "r0"),
        )
        plan = Plan(4, (Worker(), Worker(())), runs, actions, Weather(busy=0.8, turn_delay=500), 400_000)
        found.append(simulator.broken(plan))
    assert [violation for violation in found if violation is not None] == []


def test_an_attempt_that_a_fenced_worker_began_does_not_return_the_permit_of_the_one_that_takes_its_place(
    simulator: Simulator,
) -> None:
    runs = (("r0", "async", ["step", 1, "rated", 0]),)
    found: list[Violation | None] = []
    for at in range(60_100, 60_600, 150):
        actions = (Action(50_000, "start", "r0"), Action(at, "fence", place=0))
        plan = Plan(1, (Worker(), Worker(())), runs, actions, Weather(busy=0.8, turn_delay=500), 400_000)
        found.append(simulator.broken(plan))
    assert [violation for violation in found if violation is not None] == []


def test_5217_a_step_whose_result_came_with_a_child_that_another_worker_started_is_not_executed_again(
    simulator: Simulator,
) -> None:
    def starts(number: int) -> Node:
        child = ["child", number + 1, "await", "async", ["step", 50, "plain", 0], "s0", None]
        return ["seq", [["step", number, "plain", 0], child]]

    runs = (("r0", "async", starts(1)), ("r1", "async", starts(11)))
    actions = (Action(_FAULT_AT, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    weather = Weather(crossing=0.3, step_time=100)
    refusals, most = 0, 0
    for seed in range(60):
        workers = (Worker(running=1), Worker(running=1))
        world, violation = simulator.live(Plan(seed, workers, runs, actions, weather, 400_000))
        assert violation is None
        refusals += world.refusals
        most = max(most, *world.judge.executions.values())
    assert refusals
    assert most == 1


def test_300065_a_permit_that_an_attempt_was_left_with_comes_free_though_its_run_ended_beside_a_transaction(
    simulator: Simulator,
) -> None:
    race = ["race", [["step", 16, "once", 0], ["step", 17, "limited", 0], ["step", 18, "txretry", 2]]]
    runs = (("r1", "async", ["step", 14, "limited", 0]), ("r2", "async", race))
    actions = (Action(33_021, "start", "r2"), Action(55_606, "start", "r1"))
    weather = Weather(step_time=100, turn_delay=5_000)
    found = [simulator.broken(Plan(seed, (Worker(running=1),), runs, actions, weather, 400_000)) for seed in range(20)]
    assert [violation for violation in found if violation is not None] == []


def test_381_a_run_that_is_cancelled_while_it_is_claimed_is_not_forgotten_by_its_worker(simulator: Simulator) -> None:
    call = ["child", 14, "call", "async", ["cancel", 15, "r0"], None, None]
    runs = (("r2", "async", ["group", [["cancel", 13, "r2"], call]]),)
    worker, weather = Worker(waiting=0, running=1), Weather(step_time=10_000, turn_delay=100)
    plans = [Plan(seed, (worker,), runs, (Action(10_621, "start", "r2"),), weather, 100_000) for seed in range(20)]
    assert [violation for plan in plans if (violation := simulator.broken(plan)) is not None] == []


def test_119076_an_attempt_that_goes_on_while_its_run_is_read_again_keeps_its_permit(simulator: Simulator) -> None:
    child = ["child", 12, "await", "sync", ["step", 14, "rated", 0], "s0", None]
    limited = ["group", [["step", 17, "limited", 2], ["cancel", 18, "s0"]]]
    runs = (("r3", "async", ["group", [child, limited]]),)
    workers = (Worker(waiting=0, running=1), Worker(serves=("sync",), waiting=1))
    plan = Plan(0, workers, runs, (Action(12_174, "start", "r3"),), Weather(crossing=0.3), 100_000)
    found = [simulator.broken(plan.but(seed=seed)) for seed in range(25)]
    assert [violation for violation in found if violation is not None] == []


def test_108096_who_waits_for_a_run_hears_of_its_end_elsewhere_though_it_was_to_end_here_too(
    simulator: Simulator,
) -> None:
    runs = (("r1", "async", ["draw", 1]), ("r2", "async", ["draw", 2]))
    waits = (Action(7_000, "wait", "r1"), Action(7_500, "wait", "r1"), Action(8_000, "wait", "r1"))
    # For one of the two the disk seems full until long after the deadline, which the other keeps.
    actions = (Action(5_000, "start", "r1"), *waits, Action(9_000, "full", number=5_000), Action(9_500, "start", "r2"))
    places, deadlines = (("r1", ["sim.one", "", 0, 5_000, ""]),), (("r1", 20_000),)
    plan = Plan(0, (Worker(), Worker()), runs, actions, Weather(turn_delay=100), 100_000, places, deadlines)
    found = [simulator.broken(plan.but(seed=seed)) for seed in range(20)]
    assert [violation for violation in found if violation is not None] == []


@pytest.mark.parametrize(
    "name",
    [
        "a paused queue gives",
        "a dedup key is not looked at",
        "a deadline that comes 5 ms early",
        "a deadline is not kept in a queue",
    ],
)
def test_what_is_broken_about_starts_is_caught(simulator: Simulator, name: str) -> None:
    with broken_engine(name):
        assert any(simulator.broken(world_for(name, make(seed))) for seed in range(1, 200))
