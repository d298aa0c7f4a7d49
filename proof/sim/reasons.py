"""The judge of reasons: every run that does not run says why, and what it says is what its code waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proof.sim.faults import Violation
from stepwell.api.reading.why import Reasons
from stepwell.model.run import Member, MemberState
from stepwell.model.waits import decode_waits
from stepwell.replay.execution import Execution
from stepwell.store.sql.inspector import SqlInspector
from stepwell.store.sql.worker_reads import SqlWorkerReads
from stepwell.store.sql.workers import WorkerReader
from stepwell.store.sqlite.read_pool import ReadPool
from stepwell.store.sqlite.statements import SQL
from stepwell.worker.state.parked import waits_of

if TYPE_CHECKING:
    from proof.sim.process import Process
    from proof.sim.world import World

_IDLE: Final = (
    "SELECT key, status, owner, wake_at, waiting_on, cancel_requested_at, crashes, queued FROM stepwell_runs "
    "WHERE status IN ('pending', 'waiting', 'halted')"
)
_WAITS: Final = "SELECT status, waiting_on FROM stepwell_runs WHERE key = ?"
#: What must not be all that a reason says.
_EMPTY_WORDS: Final = ("it waits for a timer, a message or another run", "the reason is not known", "None")
#: What the code of a run waits for, and how the row calls it.
_KINDS: Final = {"timer": "timer", "receive": "message", "result": "run"}


class ReasonJudge:
    """Watches what is said of the runs of one world."""

    def __init__(self, world: World, rows: Callable[..., list[Any]], pool: ReadPool) -> None:
        self._world = world
        self._rows = rows
        self._inspector = SqlInspector(pool, SQL)
        self._reads = SqlWorkerReads(pool, SQL)
        self._workers = WorkerReader(pool, SQL)
        self._seen: dict[int, Any] = {}
        #: How often each kind of reason was given: its first words.
        self.given: Counter[str] = Counter()

    def after_commit(self) -> None:
        """Ask why each run does not run that was changed."""
        changed = [row for row in self._rows(_IDLE) if self._seen.get(row[0]) != row]
        if not changed:
            return
        reasons = Reasons(self._inspector, self._members, self._world.now)
        for row in changed:
            self._seen[row[0]] = row
            (record,) = self._reads.records([row[0]])
            reason = reasons.of(record)
            if not reason or any(words in reason for words in _EMPTY_WORDS):
                raise Violation("whatever does not run says why", f"run {record.id}, {record.status}: {reason!r}")
            self.given[kind_of(reason)] += 1

    def _members(self) -> list[Member]:
        return self._workers.members(self._states_of)

    def _states_of(self, seats: list[tuple[int, int]]) -> dict[int, MemberState]:
        found: dict[int, MemberState] = {}
        for epoch, slot in seats:
            member = self._world.seats.get(slot)
            found[epoch] = "dead" if member is None or member.epoch != epoch else member.state_of(slot)
        return found

    def after_turn(self, process: Process) -> None:
        """Compare what the rows of the waiting runs in memory say with what their code waits for."""
        turn_loop = process.turn_loop
        if turn_loop.inbox or turn_loop.worker.batch:
            return
        for run in turn_loop.worker.memory.runs.values():
            if run.status != "waiting" or run.work is not None:
                continue
            ((status, waiting_on),) = self._rows(_WAITS, run.key)
            if status == "waiting" and waiting_on != waits_of(run):
                raise Violation(
                    "a row says what its run waits for", f"{run.id}: {waiting_on}, its code: {waits_of(run)}"
                )

    def rested(self, key: int, run_id: str, execution: Execution) -> None:
        """Compare what a row says with what a replay of the journal finds."""
        ((_, waiting_on),) = self._rows(_WAITS, key)
        said = {(wait.op, wait.kind, wait.name) for wait in decode_waits(waiting_on)}
        operations = execution.pending.values()
        true = {(one.number, _KINDS[one.kind], one.name) for one in operations if one.kind in _KINDS}
        if said != true:
            raise Violation("a row says what its run waits for", f"{run_id}: {said}, its journal: {true}")


def kind_of(reason: str) -> str:
    """Return what a reason begins with, without names, numbers and times."""
    words = reason.replace(",", " ").replace(":", " ").split()
    plain = [word for word in words if word.isalpha()]
    return " ".join(plain[:4])
