"""From a world in which something broke to a small one in which the same breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from proof.sim.faults import Violation
from proof.sim.grammar import TOGETHER, Node
from proof.sim.plan import Plan, Weather

#: The calmest weather.
_CALM: Final = Weather()
#: Other orders of the same events that are tried for each cut.
_CHANCES: Final = ("", "a", "b")


def shrink(plan: Plan, invariant: str, live: Callable[[Plan], Violation | None], seconds: float) -> Plan:
    """Return the smallest plan found within `seconds` in which `invariant` breaks."""
    stop_at = time.monotonic() + seconds
    shrunk = True
    while shrunk:
        shrunk = False
        for smaller in _cuts(plan):
            for chance in _CHANCES:
                if time.monotonic() > stop_at:
                    return plan
                candidate = smaller.but(chance=chance)
                found = live(candidate)
                if found is not None and found.invariant == invariant:
                    plan, shrunk = candidate, True
                    break
            if shrunk:
                break
    return plan


def _cuts(plan: Plan) -> Iterator[Plan]:
    """Yield plans that lack something, the boldest first."""
    for size in (len(plan.actions) // 2, len(plan.actions) // 4):
        if size > 1:
            for start in range(0, len(plan.actions), size):
                yield plan.but(actions=plan.actions[:start] + plan.actions[start + size :])
    for run_id, _, _ in plan.runs:
        yield plan.but(
            runs=tuple(run for run in plan.runs if run[0] != run_id),
            places=tuple(place for place in plan.places if place[0] != run_id),
            deadlines=tuple(limit for limit in plan.deadlines if limit[0] != run_id),
            actions=tuple(action for action in plan.actions if action.target != run_id),
        )
    for index in range(len(plan.places)):
        yield plan.but(places=plan.places[:index] + plan.places[index + 1 :])
    for index in range(len(plan.deadlines)):
        yield plan.but(deadlines=plan.deadlines[:index] + plan.deadlines[index + 1 :])
    if len(plan.workers) > 1:
        yield plan.but(workers=plan.workers[:-1])
    for index in range(len(plan.actions)):
        yield plan.but(actions=plan.actions[:index] + plan.actions[index + 1 :])
    for name in Weather.__dataclass_fields__:
        calm = getattr(_CALM, name)
        if getattr(plan.weather, name) != calm:
            yield plan.but(weather=replace(plan.weather, **{name: calm}))
    for index, (run_id, flavour, program) in enumerate(plan.runs):
        for smaller in _smaller(program):
            yield plan.but(runs=(*plan.runs[:index], (run_id, flavour, smaller), *plan.runs[index + 1 :]))


def _smaller(node: Node) -> Iterator[Node]:
    """Yield programs that lack a part of this one."""
    kind = node[0]
    if kind == "seq" or kind in TOGETHER:
        parts: list[Node] = node[1]
        yield from parts
        for index, part in enumerate(parts):
            if len(parts) > 2:
                yield [kind, parts[:index] + parts[index + 1 :]]
            for smaller in _smaller(part):
                yield [kind, [*parts[:index], smaller, *parts[index + 1 :]]]
    elif kind in ("limit", "catch", "final"):
        place = 3 if kind == "limit" else 1
        yield node[place]
        for smaller in _smaller(node[place]):
            yield [*node[:place], smaller, *node[place + 1 :]]
    elif kind == "child" and node[5] is None:
        for smaller in _smaller(node[4]):
            yield [*node[:4], smaller, *node[5:]]
        if node[6] is not None:
            yield [*node[:6], None]
