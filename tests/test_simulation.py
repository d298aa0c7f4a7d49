"""The simulation: that a world repeats itself, and worlds in which something once broke."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from proof.sim import Simulator
from proof.sim.controls import broken_engine
from proof.sim.grammar import Node
from proof.sim.plan import Action, Plan, Weather, Worker, make

_FAULT_AT = 50_000


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    log = logging.getLogger("stepwell")
    level = log.level
    yield Simulator()
    log.setLevel(level)


def broken_somewhere(
    simulator: Simulator, runs: tuple[tuple[str, str, Node], ...], actions: tuple[Action, ...], points: int = 14
) -> list[str]:
    """Let the only worker die at each of the points that follow on 50 ms; return what broke."""
    found: list[str] = []
    for seed in range(2):
        for point in range(points):
            crash = Action(_FAULT_AT - 10, "crash_soon", number=point)
            plan = Plan(seed, (Worker(),), runs, (*actions, crash), Weather(), 400_000)
            violation = simulator.broken(plan)
            if violation is not None:
                found.append(f"seed {seed}, point {point}: {violation}")
    return found


def test_a_world_lives_the_same_life_whenever_it_is_lived(simulator: Simulator) -> None:
    first = [simulator.live(make(seed), telling=True)[0].history for seed in range(10)]
    again = [Simulator().live(make(seed), telling=True)[0].history for seed in range(10)]
    assert first == again


def test_seeds_of_worlds_in_which_nothing_breaks(simulator: Simulator) -> None:
    broken = {seed: str(found) for seed in range(1, 41) if (found := simulator.broken(make(seed)))}
    assert not broken


def test_an_engine_that_is_broken_on_purpose_is_caught(simulator: Simulator) -> None:
    with broken_engine("replay in arrival order"):
        assert any(simulator.broken(make(seed)) for seed in range(1, 31))


def test_a_run_that_waits_for_one_that_was_created_with_it_goes_on_after_a_crash(simulator: Simulator) -> None:
    runs = (("r0", "async", ["step", 1, "plain", 0]), ("r1", "async", ["join", 2, "r0"]))
    actions = (Action(_FAULT_AT, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    assert broken_somewhere(simulator, runs, actions) == []


def test_a_message_to_a_waiting_run_is_received_after_a_crash(simulator: Simulator) -> None:
    runs = (("r0", "async", ["recv", 1, "r0.a", None]), ("r1", "sync", ["send", 2, "r0", "r0.a", None]))
    actions = (Action(0, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    assert broken_somewhere(simulator, runs, actions) == []


def test_a_cancellation_by_another_run_arrives_after_a_crash(simulator: Simulator) -> None:
    runs = (("r0", "async", ["recv", 1, "r0.a", None]), ("r1", "sync", ["cancel", 2, "r0"]))
    actions = (Action(0, "start", "r0"), Action(_FAULT_AT, "start", "r1"))
    assert broken_somewhere(simulator, runs, actions) == []
