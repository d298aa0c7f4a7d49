"""The reference model: what a program may return, decided without the engine.

A program has one result where nothing is a race; where something is, each way that the race may go has its own. So the
model is a predicate: it walks a program and a result side by side, and says what does not fit. What ties runs to each
other (messages, children) is compared by `proof.sim.judge` across the whole world.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from uuid import UUID

from proof.sim.grammar import ATTEMPTS, Node
from proof.sim.programs import key_of

#: `now()` has microseconds, but goes through a float.
_ROUNDING: Final = 2


@dataclass(frozen=True)
class Facts:
    """What the model is told of a run: its id, when it was created, and whether workers were lost meanwhile."""

    run_id: str
    created_at: int
    interrupted: bool


class UnfitError(Exception):
    """A result that the program does not allow."""


def outcomes(node: Node) -> frozenset[str]:
    """Return how a program may end where nobody cancels it: with a ``value``, with a ``raise``, either."""
    match node:
        case ["fail", *_]:
            return frozenset({"raise"})
        case ["seq", parts]:
            found: set[str] = set()
            for part in parts:
                these = outcomes(part)
                found |= these & {"raise"}
                if "value" not in these:
                    return frozenset(found)
            return frozenset(found | {"value"})
        case ["limit", _, _, part]:
            return outcomes(part) | {"value"}
        case ["final", part, _]:
            return outcomes(part)
        case _:
            return frozenset({"value"})


def kinds(node: Node) -> set[str]:
    """Return the kinds of all nodes of a program, children's programs left out."""
    found = {node[0]}
    match node:
        case [("seq" | "all" | "group" | "race"), parts]:
            return found.union(*(kinds(part) for part in parts))
        case ["limit", _, _, part] | ["catch", part]:
            return found | kinds(part)
        case ["final", part, last]:
            return found | kinds(part) | kinds(last)
        case _:
            return found


def names_sent(node: Node) -> set[str]:
    """Return the names of the messages that a program sends, children's programs left out."""
    match node:
        case ["send", _, _, name, _]:
            return {name}
        case [("seq" | "all" | "group" | "race"), parts]:
            return set[str]().union(*map(names_sent, parts))
        case ["limit", _, _, part] | ["catch", part]:
            return names_sent(part)
        case ["final", part, last]:
            return names_sent(part) | names_sent(last)
        case _:
            return set()


def cancel_may_be_lost(node: Node) -> bool:
    """Tell whether asyncio itself may swallow a cancellation: a TaskGroup that is failing already does (3.11, 3.12)."""
    match node:
        case ["group", parts]:
            return any("raise" in outcomes(part) for part in parts) or any(map(cancel_may_be_lost, parts))
        case [("seq" | "all" | "race"), parts]:
            return any(map(cancel_may_be_lost, parts))
        case ["limit", _, _, part] | ["catch", part]:
            return cancel_may_be_lost(part)
        case ["final", part, last]:
            return cancel_may_be_lost(part) or cancel_may_be_lost(last)
        case _:
            return False


def may_cancel_itself(node: Node) -> bool:
    """Tell whether a timeout may come out as a cancellation.

    In Python 3.11 and 3.12 that is so after a TaskGroup inside it has failed, for the group leaves its task's count of
    cancellations one too high.
    """
    if sys.version_info >= (3, 13):
        return False
    match node:
        case ["limit", _, _, part]:
            return cancel_may_be_lost(part) or may_cancel_itself(part)
        case [("seq" | "all" | "group" | "race"), parts]:
            return any(map(may_cancel_itself, parts))
        case ["catch", part]:
            return may_cancel_itself(part)
        case ["final", part, last]:
            return may_cancel_itself(part) or may_cancel_itself(last)
        case _:
            return False


def check(node: Node, result: Any, facts: Facts) -> None:
    """Raise `UnfitError` unless `result` is one that the program may have."""
    _require(isinstance(result, list) and bool(result) and result[0] == node[0], node, result)
    _CHECKS[node[0]](node, result, facts)


def _require(holds: bool, node: Node, result: Any) -> None:
    if not holds:
        raise UnfitError(f"{node} cannot result in {result}")


def _check_parts(node: Node, parts: list[Node], slots: list[Any], facts: Facts, *, may_lack: bool) -> int:
    """Check the results of parts that went on at once; return how many have one."""
    _require(len(parts) == len(slots), node, slots)
    ended = 0
    for part, slot in zip(parts, slots, strict=True):
        if slot is None:
            _require(may_lack, node, slots)
        elif slot == ["failed"]:
            _require("raise" in outcomes(part), part, slot)
            ended += 1
        else:
            _require("value" in outcomes(part), part, slot)
            check(part, slot, facts)
            ended += 1
    return ended


def _seq(node: Node, result: Any, facts: Facts) -> None:
    _require(_check_parts(node, node[1], result[1], facts, may_lack=False) == len(node[1]), node, result)
    _require(["failed"] not in result[1], node, result)


def _all(node: Node, result: Any, facts: Facts) -> None:
    _check_parts(node, node[1], result[1], facts, may_lack=False)


def _race(node: Node, result: Any, facts: Facts) -> None:
    _require(_check_parts(node, node[1], result[1], facts, may_lack=True) > 0, node, result)


def _group(node: Node, result: Any, facts: Facts) -> None:
    _, parts = node
    _, how, slots = result
    failed = how == "failed"
    ended = _check_parts(node, parts, slots, facts, may_lack=failed)
    if failed:
        _require(any("raise" in outcomes(part) for part in parts) and ended < len(parts), node, result)
    else:
        _require(all("value" in outcomes(part) for part in parts), node, result)


def _limit(node: Node, result: Any, facts: Facts) -> None:
    _, number, milliseconds, part = node
    _, found, began, ended, value = result
    _require(found == number, node, result)
    if value is None:
        _require(ended - began >= milliseconds * 1000 - _ROUNDING, node, result)
    else:
        check(part, value, facts)


def _final(node: Node, result: Any, facts: Facts) -> None:
    check(node[1], result[1], facts)


def _catch(node: Node, result: Any, facts: Facts) -> None:
    if result[1] is None:
        _require("raise" in outcomes(node[1]), node, result)
    else:
        check(node[1], result[1], facts)


def _step(node: Node, result: Any, facts: Facts) -> None:
    _, number, flavour, fails = node
    expected: Any = number if fails < ATTEMPTS[flavour] else "SimError"
    interrupted = flavour == "once" and facts.interrupted and result[2] == "StepInterrupted"
    _require(result[1] == number and (result[2] == expected or interrupted), node, result)


def _sleep(node: Node, result: Any, _facts: Facts) -> None:
    _, number, milliseconds = node
    _, found, began, ended = result
    _require(found == number and ended - began >= milliseconds * 1000 - _ROUNDING, node, result)


def _recv(node: Node, result: Any, _facts: Facts) -> None:
    _, number, _, milliseconds = node
    _, found, began, ended, value = result
    _require(found == number, node, result)
    if value is None:
        _require(milliseconds is not None and ended - began >= milliseconds * 1000 - _ROUNDING, node, result)


def _send(node: Node, result: Any, _facts: Facts) -> None:
    _require(result[1] == node[1] and result[2] in ("sent", "RunNotFound", "RunEnded"), node, result)


def _number_only(node: Node, result: Any, _facts: Facts) -> None:
    _require(result == [node[0], node[1]], node, result)


def _draw(node: Node, result: Any, facts: Facts) -> None:
    _require(result[1] == node[1], node, result)
    source = Random(f"{facts.run_id}:{facts.created_at}")
    for _ in range(200):
        if source.random() == result[2] and str(UUID(int=source.getrandbits(128), version=4)) == result[3]:
            return
        # The next draw of the run begins where this one, a number and a UUID, ended.
    raise UnfitError(f"{node}: {result} is not what the run's generator yields")


def _join(node: Node, result: Any, _facts: Facts) -> None:
    _require(result[1] == node[1] and result[2] in ("completed", "failed", "cancelled", "RunNotFound"), node, result)


def _child(node: Node, result: Any, _facts: Facts) -> None:
    _, number, mode, _, _, child_id, place = node
    _, found, named, how, *rest = result
    _require(found == number, node, result)
    # The start of a run with a dedup key may lead to one that has it already, and to none at all.
    keyed = bool(key_of(place)[1])
    if how == "RunConflict":
        _require(child_id is not None and mode != "call", node, result)
    elif how == "DuplicateRun":
        _require(keyed and mode != "call", node, result)
    elif mode in ("leave", "detach"):
        _require(how == "started" and (child_id is None or named == child_id or keyed), node, result)
    else:
        _require(how in ("completed", "failed", "cancelled") and bool(rest) == (how == "completed"), node, result)


_CHECKS: Final[dict[str, Callable[[Node, Any, Facts], None]]] = {
    "seq": _seq,
    "all": _all,
    "race": _race,
    "group": _group,
    "limit": _limit,
    "final": _final,
    "catch": _catch,
    "step": _step,
    "sleep": _sleep,
    "recv": _recv,
    "send": _send,
    "publish": _number_only,
    "draw": _draw,
    "cancel": _number_only,
    "child": _child,
    "join": _join,
}
