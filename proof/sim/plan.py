"""What happens in one simulated world, as data that follows from a seed and can be cut down piece by piece.

The order of events beyond that (how long a step takes, which letter is lost, where two workers cross) is drawn while
the world lives, from generators that are seeded with the plan's seed and a name: a cut elsewhere changes little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from proof.sim.grammar import Node


@dataclass(frozen=True)
class Worker:
    """A place for a worker process: what those that start there, one after another, are like."""

    serves: tuple[str, ...] = ("async", "sync", "batch")
    waiting: int = 1000
    running: int = 10_000
    joins_at: int = 0


@dataclass(frozen=True)
class Action:
    """Something that is done from outside at a time: to the engines (a request) or to a place (a fault)."""

    at: int
    kind: str
    target: str = ""
    place: int = 0
    number: int = 0
    name: str = ""
    flag: bool = False


@dataclass(frozen=True)
class Weather:
    """How likely things are in this world; 0 turns them off. Times are in microseconds."""

    lost: float = 0.0
    doubled: float = 0.0
    letter_delay: int = 1_000
    crossing: float = 0.0
    busy: float = 0.0
    lag: int = 0
    step_time: int = 10_000
    turn_delay: int = 100


@dataclass(frozen=True)
class Plan:
    """A world."""

    seed: int
    workers: tuple[Worker, ...]
    runs: tuple[tuple[str, str, Node], ...]  # id, flavour, program
    actions: tuple[Action, ...]
    weather: Weather
    horizon: int  # when the faults end and healing begins
    places: tuple[tuple[str, list[Any]], ...] = ()  # of runs that are started in queues; see `Grammar.place`
    deadlines: tuple[tuple[str, int], ...] = ()  # of runs, in microseconds after their starts
    story: str = ""  # the name of one of `proof.sim.stories`, whose actions are among the others
    chance: str = ""  # what the generators are seeded with, besides the seed

    def but(self, **changes: Any) -> Plan:
        """Return the plan with changes."""
        return replace(self, **changes)
