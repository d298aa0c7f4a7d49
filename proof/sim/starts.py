"""The judge of starts: that each leads to the run that it should, with its input, its items and its deadline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proof.sim.callers import TRIES
from proof.sim.database import text_of
from proof.sim.faults import Violation
from proof.sim.programs import FLOWS, key_of
from stepwell.definitions.queues import Queue
from stepwell.worker.running.run_endings import DEADLINE_REASON

if TYPE_CHECKING:
    from proof.sim.callers import Call
    from proof.sim.world import World

#: The kinds of actions that start something.
STARTS: Final = frozenset({"start", "transact", "collect"})

_ITEMS: Final = "SELECT input FROM stepwell_batch_items WHERE run = ? ORDER BY number"
_RUN: Final = "SELECT created_at, deadline_at FROM stepwell_runs WHERE key = ?"
_STOPPED: Final = "SELECT min(at) FROM stepwell_journal WHERE run = ? AND kind = 'cancel' AND name = ?"
_UNBEGUN: Final = "SELECT iif(started_at IS NULL, ended_at, NULL) FROM stepwell_runs WHERE key = ?"
_CANCELLED: Final = "SELECT 1 FROM stepwell_journal WHERE run = ? AND kind = 'cancel'"


class StartJudge:
    """Watches what becomes of the starts of one world."""

    def __init__(self, world: World, rows: Callable[..., list[Any]]) -> None:
        self._world = world
        self._rows = rows
        self._places = dict(world.plan.places)

    def is_keyed(self, run_id: str) -> bool:
        """Tell whether a run is started with a dedup key, so that another may take its place."""
        return bool(self._key_of(run_id)[1])

    # --- input -------------------------------------------------------------------------------------------------------

    def check_input(self, key: int, run_id: str, node: Any) -> None:
        """Compare the input of a run with that of its start; one that debounces may have that of a later start."""
        programs = {known: program for known, _, program in self._world.plan.runs}
        if programs.get(run_id, node) == node:
            return
        queue, dedup = self._stood(key, run_id)
        flow = FLOWS.get(queue)
        debounces = isinstance(flow, Queue) and flow.debounce is not None
        others = [program for known, program in programs.items() if self._key_of(known) == (queue, dedup)]
        # A child that was started in the same queue has its program somewhere in its parent's.
        if not debounces or (node not in others and json.dumps(node) not in json.dumps(list(programs.values()))):
            raise Violation("a run has the input that it was started with", run_id)

    def _stood(self, key: int, run_id: str) -> tuple[str, str]:
        """Return the queue in which a run stood, and its dedup key there."""
        # One that left the queue in the turn in which it had entered it was never seen there.
        return self._world.judge.flow.keys.get(key, self._key_of(run_id))

    def _key_of(self, run_id: str) -> tuple[str, str]:
        return key_of(self._places.get(run_id))

    # --- batches -----------------------------------------------------------------------------------------------------

    def items(self, key: int) -> list[str]:
        """Return whose items a run has collected."""
        return [owner for owner, _ in self._items(key)]

    def _items(self, key: int) -> list[Any]:
        return [item for (encoded,) in self._rows(_ITEMS, key) for item in json.loads(text_of(encoded))["args"][0]]

    def check_batch(self, key: int, run_id: str, status: str, result: Any) -> None:
        """Compare what a run has done with the items that it collected."""
        if status == "completed" and json.loads(text_of(result)) != ["batch", self._items(key)]:
            raise Violation("a batch does all its items", f"{run_id}: {text_of(result)}, not {self._items(key)}")
        if status == "failed":
            raise Violation("the model", f"{run_id} cannot fail")

    # --- deadlines ---------------------------------------------------------------------------------------------------

    def check_deadline(self, key: int, run_id: str, now: int) -> None:
        """Look, at rest, whether a run that goes on has time."""
        ((_, deadline_at),) = self._rows(_RUN, key)
        if deadline_at is not None and deadline_at <= now and not self._rows(_CANCELLED, key):
            raise Violation("a deadline is kept", f"{run_id} goes on, {now - deadline_at} us after its deadline")

    def check_late(self, key: int, run_id: str, *, has_begun: bool) -> None:
        """Look whether a run that was stopped for its deadline, or never begun before it, was late."""
        ((_, deadline_at),) = self._rows(_RUN, key)
        ((stopped_at,),) = self._rows(_STOPPED, key, DEADLINE_REASON) if has_begun else self._rows(_UNBEGUN, key)
        if deadline_at is None or stopped_at is None or stopped_at < deadline_at:
            raise Violation("a deadline is not early", f"{run_id}: stopped at {stopped_at}, deadline {deadline_at}")

    # --- the end -----------------------------------------------------------------------------------------------------

    def transacted(self, call: Call) -> int:
        """Return how often the transaction of a call was committed."""
        first = call.number * TRIES
        sql = "SELECT count(*) FROM effects WHERE run = '' AND op BETWEEN ? AND ?"
        return int(self._rows(sql, first, first + TRIES - 1)[0][0])

    def ended(self) -> None:
        """Compare each start with the run that it led to."""
        keys = self._world.judge.keys
        collected = Counter(owner for key in keys.values() for owner in self.items(key))
        for call in self._world.calls:
            kind, target = call.action.kind, call.action.target
            if kind == "collect":
                count = collected[f"c{call.number}"]
                if count > 1 or (call.outcome == "acknowledged" and not count):
                    raise Violation("an item is collected once", f"c{call.number}: {count} times")
                continue
            if kind not in STARTS:
                continue
            if kind == "transact":
                count = self.transacted(call)
                if (count == 0 and call.outcome == "acknowledged") or (count and not call.unknown and count > 1):
                    raise Violation("a transaction is committed once", f"{call.action}: {count} times")
                if count and target not in keys and not self.is_keyed(target):
                    raise Violation("a transaction is whole", f"{call.action}: a row, and no run")
            if call.outcome == "acknowledged" and call.run_id != target:
                self._check_joined(call, keys[call.run_id])

    def _check_joined(self, call: Call, key: int) -> None:
        """Look at a start that was told of another run."""
        have = self._stood(key, call.run_id)
        wanted = self._key_of(call.action.target)
        if have != wanted:
            raise Violation("a start joins a run with its dedup key", f"{call.action}: {wanted}, {call.run_id}: {have}")
        queue = FLOWS[wanted[0]]
        assert isinstance(queue, Queue)
        if queue.debounce is None:
            return
        ((created_at, _),) = self._rows(_RUN, key)
        latest = created_at + (queue.debounce_limit or 0)
        taken_at = self._world.judge.flow.taken.get(key)
        if taken_at is not None and taken_at < min(call.at + queue.debounce, latest):
            raise Violation("a start that debounces puts off the run", f"{call.run_id} was taken too early")
