"""Makes plans of worlds from seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from proof.sim.grammar import Grammar, Node
from proof.sim.plan import Action, Plan, Weather, Worker
from proof.sim.stories import STORIES

#: When faults end and healing begins, in microseconds after the world's begin.
_HORIZONS: Final = (100_000, 400_000, 1_000_000, 3_000_000)
#: How many worlds have a story.
_TOLD: Final = 0.4
#: How many worlds have clients that enqueue, and the queues whose runs they give to workers.
_ENQUEUED: Final = 0.2
_GIVING: Final = ("sim.one", "sim.dedup")

_FAULTS: Final = (
    *("crash", "crash", "crash_soon", "crash_soon", "crash_soon", "stall", "stall_soon", "fence", "leave"),
    *("full", "unknown", "jump", "bury"),
)


@dataclass
class _Maker:
    chance: Random
    horizon: int
    actions: list[Action] = field(default_factory=list)

    def add(self, at: int, kind: str, **fields: Any) -> None:
        self.actions.append(Action(at, kind, **fields))

    def faults(self, places: int) -> None:
        chance = self.chance
        wanted = [kind for kind in _FAULTS if chance.random() < 0.5]
        for _ in range(chance.choice((0, 1, 2, 4, 8)) if wanted else 0):
            kind = chance.choice(wanted)
            at = chance.randint(0, self.horizon)
            place = chance.randrange(places)
            if kind in ("stall", "stall_soon"):
                length = chance.choice((5_000, 100_000, self.horizon // 2))
                self.add(at, kind, place=place, number=length)
                if chance.random() < 0.5:
                    self.add(at + chance.randint(0, length), "fence", place=place)
            elif kind in ("crash_soon", "unknown"):
                self.add(at, kind, place=place, number=chance.randint(0, 12), flag=chance.random() < 0.5)
            elif kind == "jump":
                self.add(at, kind, number=chance.choice((1_000, 3_600_000_000, 86_400_000_000)))
            elif kind == "full":
                self.add(at, kind, number=chance.choice((10_000, 400_000)))
            else:
                self.add(at, kind, place=place)

    def requests(self, runs: list[tuple[str, str, Node]], grammar: Grammar) -> None:
        chance = self.chance
        together = chance.random() < 0.5
        for run_id, _, _ in runs:
            at = chance.randint(0, 20_000 if together else self.horizon // 2)
            for _ in range(chance.choice((1, 1, 1, 2))):
                self.add(at, "start", target=run_id)
            if chance.random() < 0.2:
                name = f"{run_id}.{chance.choice('ab')}"
                self.add(at + chance.choice((0, 0, self.horizon // 4)), "transact", target=run_id, name=name)
            for _ in range(chance.choice((0, 1, 1, 2))):
                self.add(at + chance.randint(0, self.horizon // 4), "wait", target=run_id)
            if chance.random() < 0.15:
                self.add(at + chance.randint(0, self.horizon // 2), "cancel", target=run_id)
            for _ in range(chance.choice((0, 0, 0, 1, 2))):
                self.add(at + chance.randint(0, self.horizon // 2), "update", target=run_id)
        for target, name in grammar.messages:
            for _ in range(chance.choice((0, 0, 1, 1, 2))):
                key = chance.choice(("", "", "", "c0"))
                kind = "send" if not key else "send_keyed"
                self.add(
                    chance.randint(0, self.horizon), kind, target=target, name=name if not key else f"{target}.keyed"
                )

    def queues(self, grammar: Grammar) -> None:
        chance = self.chance
        if grammar.batches:
            for _ in range(chance.randint(1, 8)):
                self.add(chance.randint(0, self.horizon // 2), "collect", name=chance.choice(("", "", "a")))
        for name in (*grammar.queues, "sim.batch", "sim.limit", "sim.rated"):
            if chance.random() < 0.1:
                self.add(chance.randint(0, self.horizon), "pause", name=name)
                if chance.random() < 0.5:
                    self.add(chance.randint(0, self.horizon), "unpause", name=name)


def make(seed: int) -> Plan:
    """Return the plan that follows from a seed."""
    chance = Random(seed)
    count = chance.choice((1, 2, 3, 3, 4, 5, 7))
    ids = [f"r{index}" for index in range(count)]
    grammar = Grammar(chance, list(ids), deep=chance.choice((0, 1, 2)))
    runs: list[tuple[str, str, Node]] = []
    for run_id in ids:
        flavour = chance.choice(("async", "async", "async", "sync"))
        runs.append((run_id, flavour, grammar.program(run_id, flavour, chance.choice((1, 2, 4, 6, 9)))))
    horizon = chance.choice(_HORIZONS)
    maker = _Maker(chance, horizon)
    maker.requests(runs, grammar)
    maker.queues(grammar)
    in_queues = [(run_id, grammar.place()) for run_id in ids]
    places = chance.choice((1, 2, 2, 3, 3, 4))
    maker.faults(places)
    workers = tuple(_worker(chance, index, horizon) for index in range(places))
    weather = Weather(
        lost=chance.choice((0.0, 0.0, 0.2, 0.9)),
        doubled=chance.choice((0.0, 0.2)),
        letter_delay=chance.choice((50, 1_000, 30_000)),
        crossing=chance.choice((0.0, 0.02, 0.1, 0.3)),
        busy=chance.choice((0.0, 0.05, 0.3)),
        lag=chance.choice((0, 0, 1_000, 50_000)),
        step_time=chance.choice((100, 10_000, 300_000)),
        turn_delay=chance.choice((10, 100, 5_000)),
    )
    standing = tuple((run_id, place) for run_id, place in in_queues if place is not None)
    actions = tuple(sorted(maker.actions, key=lambda action: action.at))
    hurry = chance.choice((0.0, 0.0, 0.3))
    limits = [(run_id, chance.randint(0, horizon)) for run_id in ids if chance.random() < hurry]
    plan = Plan(seed, workers, tuple(runs), actions, weather, horizon, standing, tuple(limits))
    apart = Random(f"{seed}:clients")  # so that what else happens in a world does not depend on it
    if apart.random() < _ENQUEUED:
        plan = with_clients(plan, apart)
    apart = Random(f"{seed}:story")
    return with_story(plan, apart.choice(sorted(STORIES))) if apart.random() < _TOLD else plan


def with_clients(plan: Plan, chance: Random) -> Plan:
    """Return a plan whose runs are started in queues, mostly by processes that execute none of them."""
    places = tuple((run_id, [chance.choice(_GIVING), "", 0, 0, ""]) for run_id, _, _ in plan.runs)
    return plan.but(places=places, workers=(*plan.workers, Worker(()), Worker(())))


def with_story(plan: Plan, name: str) -> Plan:
    """Return a plan with one of `proof.sim.stories`, in place of its own if it has one, and what is asked for in it."""
    horizon = max(plan.horizon, STORIES[name].horizon)
    told = STORIES[name].actions(Random(f"{plan.seed}:{name}"), horizon)
    others = [action for action in plan.actions if action.kind != "tell"]
    return plan.but(story=name, horizon=horizon, actions=tuple(sorted((*others, *told), key=lambda action: action.at)))


def _worker(chance: Random, index: int, horizon: int) -> Worker:
    serves: tuple[str, ...] = ("async", "sync", "batch")
    if index and chance.random() < 0.25:
        serves = chance.choice((("async",), ("sync",), ()))
    return Worker(
        serves,
        waiting=chance.choice((0, 0, 1, 3, 1000, 1000)),
        running=chance.choice((1, 2, 5, 10_000, 10_000)),
        joins_at=0 if index == 0 or chance.random() < 0.6 else chance.randint(0, horizon),
    )
