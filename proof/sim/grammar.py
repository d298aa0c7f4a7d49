"""Programs at random: what the workflows of a simulated world do, as data.

A program is a node: a JSON list whose first element is its kind. `n` is a number that no other node of the plan has.

====================================== ============================================================================
``["step", n, flavour, fails]``         call a step (see `proof.sim.programs`); its first `fails` attempts fail
``["sleep", n, ms]``                    a durable timer
``["recv", n, name, ms]``               receive a message; `ms` None: however long it takes
``["send", n, target, name, key]``      send the run `target` a message; `key` dedups, or is None
``["publish", n, key]``                 publish a value, and write it to a stream
``["draw", n]``                         `random()` and `uuid4()`
``["child", n, mode, flavour, p, …]``   start a child with program `p`: ``call`` it, ``await`` it, ``leave`` it,
                                        ``detach`` it; then its id or None, and its place in a queue or None; flavour
                                        ``batch``: `p` is a list of items, each an owner and a number
``["join", n, target]``                 wait for the end of another run
``["cancel", n, target]``               cancel another run
``["fail", n]``                         raise `SimError`
``["seq", [p, …]]``                     one after the other
``["all", [p, …]]``                     at once, by `asyncio.gather`; failures stay in their slots
``["group", [p, …]]``                   at once, in a `TaskGroup`; the first failure cancels the others
``["race", [p, …]]``                    at once, by `asyncio.wait` for the first; the others are cancelled
``["limit", n, ms, p]``                 inside `asyncio.timeout`
``["final", p, q]``                     ``try: p finally: q``
``["catch", p]``                        `SimError` is caught
====================================== ============================================================================

Programs of a ``def`` workflow have no ``all``, ``group``, ``race`` and ``limit``.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, TypeAlias

Node: TypeAlias = list[Any]

#: The attempts that each flavour of step has.
ATTEMPTS: Final[dict[str, int]] = {
    "plain": 1,
    "retry": 3,
    "once": 1,
    "sync": 1,
    "tx": 1,
    "txretry": 3,
    "limited": 2,
    "rated": 1,
}
#: The kinds whose parts run at once.
TOGETHER: Final = frozenset({"all", "group", "race"})
#: The queues of `proof.sim.programs`: plain ones; those in which starts have dedup keys; the one that collects.
PLAIN_QUEUES: Final = ("sim.one", "sim.parts", "sim.rate", "sim.each")
KEYED_QUEUES: Final = ("sim.dedup", "sim.reject", "sim.calm")
BATCHES: Final = "sim.batch"
_MODES: Final = ("call", "call", "await", "await", "await", "leave", "detach")


class Grammar:
    """Makes programs. `targets` are ids that messages and cancellations may go to; `shared` children have ids."""

    def __init__(self, chance: Random, targets: list[str], *, deep: int) -> None:
        self._chance = chance
        self._deep = deep
        self._made = 0
        self._shared: list[tuple[str, str, Node]] = []
        self.targets = targets
        self.messages: list[tuple[str, str]] = []  # (target, name) of what is received somewhere
        # Each plan prefers some kinds and has none of others: so that rare combinations are not rare everywhere.
        self._weights = {kind: chance.choice((0, 1, 1, 2, 4)) for kind in _LEAVES}
        self._weights["fail"] = min(self._weights["fail"], 1)
        self._weights["step"] = max(self._weights["step"], 1)
        self._flavours = tuple(flavour for flavour in ATTEMPTS if chance.random() < 0.7) or ("plain",)
        self._queueing = chance.choice((0.0, 0.0, 0.3, 0.9))
        queues = (*PLAIN_QUEUES, *KEYED_QUEUES)
        self.queues = chance.sample(queues, chance.choice((1, 2, 3, len(queues))))
        #: Whether some starts are collected into batches.
        self.batches = chance.random() < 0.25
        self._together = chance.choice((0.2, 0.5, 0.7))
        self._failing = chance.choice((0.0, 0.1, 0.3))
        self._patient = chance.choice((0.0, 0.3, 0.8))
        self.slowest_ms = chance.choice((20, 200, 2_000))

    def number(self) -> int:
        """Return the next number of a node."""
        self._made += 1
        return self._made

    def program(self, run_id: str, flavour: str, budget: int, depth: int = 0) -> Node:
        """Return a program of up to about `budget` leaves for the run with this id."""
        body = self._node(run_id, flavour, budget, depth)
        if self._chance.random() < 0.2:
            return ["final", body, ["step", self.number(), "plain", 0]]
        return body

    def _node(self, run_id: str, flavour: str, budget: int, depth: int) -> Node:
        chance = self._chance
        if budget <= 1:
            return self._leaf(run_id, flavour, depth)
        if chance.random() < 0.15:
            inner = self._node(run_id, flavour, budget - 1, depth)
            kind = chance.choice(("catch", "final", "limit"))
            if kind == "catch":
                return ["catch", inner]
            if kind == "final" or flavour == "sync":
                return ["final", inner, ["step", self.number(), chance.choice(("plain", "sync")), 0]]
            return ["limit", self.number(), chance.randint(1, self.slowest_ms), inner]
        parts = chance.randint(2, min(4, budget))
        shares = [budget // parts] * parts
        nodes = [self._node(run_id, flavour, share, depth) for share in shares]
        if flavour == "async" and chance.random() < self._together:
            return [chance.choice(("all", "group", "race")), nodes]
        return ["seq", nodes]

    def _leaf(self, run_id: str, flavour: str, depth: int) -> Node:
        kinds = list(self._weights)
        kind = self._chance.choices(kinds, [self._weights[kind] for kind in kinds])[0]
        return _LEAVES[kind](self, run_id, flavour, depth)

    # --- leaves --------------------------------------------------------------------------------------------------

    def _step(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        flavour = self._chance.choice(self._flavours)
        fails = self._chance.randint(1, 3) if self._chance.random() < self._failing else 0
        return ["step", self.number(), flavour, fails]

    def _sleep(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        return ["sleep", self.number(), self._chance.randint(0, self.slowest_ms)]

    def _receive(self, run_id: str, _flavour: str, _depth: int) -> Node:
        name = f"{run_id}.{self._chance.choice('ab')}"
        if run_id in self.targets:  # the ids of other children are not known
            self.messages.append((run_id, name))
        limit = None if self._chance.random() < self._patient else self._chance.randint(0, 5 * self.slowest_ms)
        return ["recv", self.number(), name, limit]

    def _send(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        target = self._chance.choice(self.targets)
        name = f"{target}.{self._chance.choice('aab')}"
        if self.messages and self._chance.random() < 0.7:
            target, name = self._chance.choice(self.messages)
        key = None
        if self._chance.random() < 0.2:
            key, name = f"k{self._chance.randint(0, 2)}", f"{target}.keyed"
        return ["send", self.number(), target, name, key]

    def _publish(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        return ["publish", self.number(), self._chance.choice("xy")]

    def _draw(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        return ["draw", self.number()]

    def _child(self, run_id: str, flavour: str, depth: int) -> Node:
        chance = self._chance
        if depth >= self._deep:
            return self._step(run_id, flavour, depth)
        number = self.number()
        mode = chance.choice(_MODES)
        if mode != "call" and chance.random() < 0.6:
            if not self._shared or chance.random() < 0.25:
                child_id = f"s{len(self._shared)}"
                kind = chance.choice(("async", "sync"))
                self._shared.append((child_id, kind, self.program(child_id, kind, chance.randint(1, 3), self._deep)))
                self.targets.append(child_id)
            child_id, kind, program = chance.choice(self._shared)
            if chance.random() < 0.05:
                program = ["step", 0, "plain", 0]  # other input: a conflict
            return ["child", number, mode, kind, program, child_id, None]
        if self.batches and mode != "call" and chance.random() < 0.5:
            items = [[run_id, number]]
            return ["child", number, mode, "batch", items, None, [BATCHES, chance.choice(("", "a")), 0, 0, ""]]
        kind = chance.choice(("async", "async", "sync"))
        program = self.program(run_id, kind, chance.randint(1, 4), depth + 1)
        return ["child", number, mode, kind, program, None, None if mode == "call" else self.place()]

    def place(self) -> list[Any] | None:
        """Return a place in a queue: its name, partition, priority, delay in milliseconds, dedup key; or None."""
        chance = self._chance
        if chance.random() >= self._queueing:
            return None
        delay = chance.randint(1, self.slowest_ms) if chance.random() < 0.2 else 0
        queue = chance.choice(self.queues)
        dedup = chance.choice(("", "d0", "d1")) if queue in KEYED_QUEUES else ""
        if queue == "sim.calm":
            delay, dedup = 0, dedup or "d0"
        return [queue, chance.choice(("", "a", "b")), chance.choice((0, 0, 1)), delay, dedup]

    def _join(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        return ["join", self.number(), self._chance.choice(self.targets)]

    def _cancel(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        return ["cancel", self.number(), self._chance.choice(self.targets)]

    def _fail(self, _run_id: str, _flavour: str, _depth: int) -> Node:
        return ["fail", self.number()]


_LEAVES: Final[dict[str, Callable[[Grammar, str, str, int], Node]]] = {
    "step": Grammar._step,
    "sleep": Grammar._sleep,
    "recv": Grammar._receive,
    "send": Grammar._send,
    "publish": Grammar._publish,
    "draw": Grammar._draw,
    "child": Grammar._child,
    "join": Grammar._join,
    "cancel": Grammar._cancel,
    "fail": Grammar._fail,
}
