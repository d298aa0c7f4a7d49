"""The judge: watches every commit, every step and every answer of a world, and says which promise was broken.

What the file holds is read with SQL of its own, on a connection of its own.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from proof.sim import model
from proof.sim.callers import UPDATES
from proof.sim.database import text_of
from proof.sim.faults import Violation
from proof.sim.flows import FlowJudge
from proof.sim.programs import WORKFLOWS
from proof.sim.reasons import ReasonJudge
from proof.sim.relations import RelationJudge
from proof.sim.starts import STARTS, StartJudge
from proof.sim.stories.story import PREFIX
from proof.sim.writings import check_effects, check_streams
from stepwell.definitions.definition import JOB_PREFIX
from stepwell.definitions.step_call import StepCall
from stepwell.definitions.step_info import StepInfo
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import Claim
from stepwell.model.updates import marked
from stepwell.operations.table import OPERATIONS
from stepwell.replay.execution import Execution
from stepwell.store.sql.worker_reads import SqlWorkerReads
from stepwell.store.sqlite.read_pool import ReadPool
from stepwell.store.sqlite.statements import SQL

if TYPE_CHECKING:
    from proof.sim.callers import Call
    from proof.sim.process import Process
    from proof.sim.world import World

#: Of how many steps one is looked at more closely, which takes a replay; all are while commits fail.
_LED_TO_EVERY: Final = 16
_RUNS: Final = "SELECT key, id, status, owner, wake_at, workflow FROM stepwell_runs"
_NEW_ENTRIES: Final = (
    "SELECT position, run, op, kind, name, at, attempt FROM stepwell_journal WHERE position > ? ORDER BY position"
)
_ENTRIES: Final = "SELECT run, op, kind, name, value FROM stepwell_journal ORDER BY position"
_FINAL: Final = "SELECT 1 FROM stepwell_journal WHERE run = ? AND op = ? AND kind IN ('step', 'step_failed')"
_STARTED: Final = "SELECT 1 FROM stepwell_journal WHERE run = ? AND op = ? AND attempt = ? AND kind = 'step_started'"
_ORPHANS: Final = """
    SELECT 1 FROM stepwell_runs AS run JOIN stepwell_workers AS worker ON worker.epoch = run.owner
    WHERE worker.ended_at IS NOT NULL LIMIT 1
"""
_GIVEN: Final = "SELECT run FROM stepwell_wakes"
_ALIVE: Final = "SELECT 1 FROM stepwell_workers WHERE epoch = ? AND ended_at IS NULL"
_CANCELLED_UNBEGUN: Final = (
    "SELECT 1 FROM stepwell_runs WHERE key = ? AND cancel_requested_at IS NOT NULL AND started_at IS NULL"
)
_LOST_NOTES: Final = (
    "SELECT wake.run FROM stepwell_wakes AS wake JOIN stepwell_runs AS run ON run.key = wake.run "
    "WHERE run.owner IS NULL"
)


class Judge:
    """Knows what has happened, and what must not happen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._connection = world.arena.reader
        self._position = 0
        self._answered: set[tuple[int, int]] = set()
        self._updates: set[tuple[int, int]] = set()  # that the code of a run was told of
        self.flow = FlowJudge(world, self.rows)
        self.starts = StartJudge(world, self.rows)
        self.relations = RelationJudge(world, self.rows)
        pool = ReadPool(_Reads(self._connection))
        self._reads = SqlWorkerReads(pool, SQL)
        self.reasons = ReasonJudge(world, self.rows, pool)
        self._failed: Counter[tuple[int, int]] = Counter()
        self._status: dict[int, str] = {}
        self._owners: dict[int, int | None] = {}
        self.executions: Counter[tuple[str, int]] = Counter()
        self._attempts: Counter[tuple[str, int, int]] = Counter()
        self._numbers: dict[tuple[str, int], int] = {}
        self._may_write = True
        self.keys: dict[str, int] = {}
        self.ids: dict[int, str] = {}
        #: The runs of the world's story, which judges them beside what holds for every run.
        self.of_story: set[int] = set()

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """Read the file."""
        return self._connection.execute(sql, parameters).fetchall()

    # --- every commit -------------------------------------------------------------------------------------------------

    def before_commit(self, claim: Claim | None) -> None:
        """Look at who is about to write."""
        self._may_write = claim is None or bool(self.rows(_ALIVE, claim.epoch))

    def after_commit(self, process: Process, claim: Claim | None) -> None:
        """Look at what was written."""
        if not self._may_write:
            raise Violation("a fenced worker does not write", f"{process.name} wrote as worker {claim}")
        entries = self.rows(_NEW_ENTRIES, self._position)
        before = dict(self._owners)
        story = self._world.story
        for key, run_id, status, owner, _, workflow in self.rows(_RUNS):
            was = self._status.get(key)
            if key not in self.ids and PREFIX in workflow:
                self.of_story.add(key)
            told = story if key in self.of_story else None
            if was in ENDED and status != was and (told is None or told.ends_are_final):
                raise Violation("an end is the end", f"run {run_id} was {was} and is {status}")
            if was in ENDED and status not in ENDED:
                self._begins_anew(key)  # what it did not survive is undone
            if status == "halted" and (told is None or not told.may_halt):
                reason = self.rows("SELECT reason FROM stepwell_runs WHERE key = ?", key)
                raise Violation("no run is halted without need", f"run {run_id}: {reason[0][0]}")
            self._status[key], self._owners[key] = status, owner
            self.keys[run_id], self.ids[key] = key, run_id
        for position, run, op, kind, name, at, attempt in entries:
            self._position = position
            if kind == "update":
                self._taken_on(position, run)
            self._world.note(process, f"records {kind} {name} for {self.ids[run]}:{op}")
            if kind == "chapter":
                self._begins_anew(run)
            if kind not in OPERATIONS.kinds.undelivered and (op or kind != "timer"):  # of which a run may have many
                if (run, op) in self._answered:
                    raise Violation("an operation has one outcome", f"{self.ids[run]}:{op} has a second one, {kind}")
                self._answered.add((run, op))
            elif kind == "attempt_failed":
                self._failed[run, op] += 1
                if attempt != self._failed[run, op]:
                    raise Violation("attempts are counted", f"{self.ids[run]}:{op} failed attempt {attempt} once more")
            epoch = process.members.epoch
            if claim is not None and before.get(run, epoch) not in (None, epoch):
                raise Violation(
                    "only the owner acts", f"{process.name} recorded {kind} for {self.ids[run]}, of another"
                )
            if at > self._world.now:
                raise Violation("nothing happens in the future", f"{self.ids[run]}:{op} {kind} at {at}")
        self.flow.after_commit(process)
        self.reasons.after_commit()
        if self.rows(_ORPHANS):
            raise Violation("an owner lives", "a run belongs to a worker that has ended")
        if self.rows(_LOST_NOTES):
            raise Violation("a note has a reader", "there is a note for a run without an owner")
        if story is not None:
            story.after_commit()

    def _begins_anew(self, run: int) -> None:
        """Forget what was seen of operations: a chapter that another one follows has had its outcomes."""
        self._answered = {place for place in self._answered if place[0] != run}
        self._failed = Counter({place: count for place, count in self._failed.items() if place[0] != run})

    def _taken_on(self, position: int, run: int) -> None:
        """Look at an update that the code of a run is told of."""
        ((value,),) = self.rows("SELECT value FROM stepwell_journal WHERE position = ?", position)
        place = run, json.loads(value)["args"][0]
        if place in self._updates:
            raise Violation("an update is carried out once", f"{self.ids[run]} takes on update {place[1]} again")
        self._updates.add(place)

    def after_turn(self, process: Process) -> None:
        """Compare what is in a worker's memory with what the file says is in it."""
        turn_loop = process.turn_loop
        if not process.alive or turn_loop.failure is not None or turn_loop.claim is None:
            return
        epoch = turn_loop.claim.epoch
        if not self.rows(_ALIVE, epoch):
            return
        self.reasons.after_turn(process)
        owned = {key for key, owner in self._owners.items() if owner == epoch}
        held = set(turn_loop.worker.memory.runs)
        # What somebody terminates is taken from whoever has it, who may not have heard of that yet.
        strangers = {key for key in held - owned if key not in self.of_story or self._status[key] not in ENDED}
        if strangers:
            names = [self.ids.get(key, "?") for key in strangers]
            raise Violation(
                "what is in memory is owned", f"{process.name} has {names} in memory, which it does not own"
            )
        given = {key for (key,) in self.rows(_GIVEN)}  # its owner may not have heard of it yet
        if owned - held - given and not turn_loop.inbox and not turn_loop.worker.batch:
            names = [self.ids.get(key, "?") for key in owned - held - given]
            raise Violation("what is owned is in memory", f"{process.name} owns {names}, and has forgotten them")

    # --- steps --------------------------------------------------------------------------------------------------------

    def executed(self, process: Process, info: StepInfo, number: int, flavour: str) -> None:
        """Look at a step that is executed just now."""
        key = self.keys.get(info.run_id)
        place = (info.run_id, info.operation)
        what = f"{process.name} executes {info.run_id}:{info.operation}, attempt {info.attempt}"
        self._world.note(process, f"executes node {number} ({flavour}), {info.run_id}:{info.operation}")
        if key is None:
            raise Violation("a step follows a commit", f"{what}, of a run that is not in the file")
        if self._numbers.setdefault(place, number) != number:
            raise Violation("an operation is one step", f"{what}: node {number}, before it was {self._numbers[place]}")
        self.executions[place] += 1
        self._attempts[*place, info.attempt] += 1
        if flavour == "once" and self._attempts[*place, info.attempt] > 1:
            raise Violation("at most once", what)
        again = self._attempts[*place, info.attempt] > 1 and flavour not in ("tx", "txretry")
        if again and not self._world.losses and not self._world.refusals:
            raise Violation("a step is executed once where nothing is lost", what)
        if flavour in ("tx", "txretry"):
            return  # inside the transaction, which the file does not show yet
        alive = self.rows(_ALIVE, process.members.epoch)
        if self.rows(_FINAL, key, info.operation) and alive:
            raise Violation("a recorded step is not executed again", what)
        if flavour == "once" and not self.rows(_STARTED, key, info.operation, info.attempt):
            raise Violation("at most once means that the intent is recorded", what)
        if alive and self._owners.get(key) != process.members.epoch:
            raise Violation("a step is executed by the owner", f"{what}; the owner is {self._owners.get(key)}")
        if alive and (process.turn_loop.is_held_back or number % _LED_TO_EVERY == 0):
            self._check_what_led_to(key, info.operation, what)

    def _check_what_led_to(self, key: int, operation: int, what: str) -> None:
        """Look whether the code, replayed from the file as it is, comes to call the step that is executed."""
        execution = self._replay(key)
        issued = execution._counter
        execution.close()
        if issued < operation:
            raise Violation("a step follows a commit", f"{what}; from the file the code comes to operation {issued}")

    def began(self, process: Process, attempt: StepCall) -> None:
        """Look at an attempt that begins just now, and at the limit that it may have."""
        self.flow.began(process, attempt)

    def stopped(self, attempt: StepCall) -> None:
        """Take note that an attempt has ended, or was cancelled."""
        self.flow.stopped(attempt)

    # --- answers ------------------------------------------------------------------------------------------------------

    def acknowledged(self, call: Call, value: Any) -> None:
        """Look whether the file holds what a caller was told just now."""
        action = call.action
        if action.kind == "tell":
            assert self._world.story is not None
            self._world.story.acknowledged(call)
            return
        if action.kind in ("pause", "unpause"):
            return  # others may have changed that since; see `FlowJudge`
        run_id = call.run_id if action.kind in STARTS else action.target
        rows = self.rows("SELECT status, result, cancel_requested_at, ended_at FROM stepwell_runs WHERE id = ?", run_id)
        if not rows:
            raise Violation("what is acknowledged is durable", f"{action.kind}: there is no run {run_id}")
        status, result, cancelled_at, ended_at = rows[0]
        if action.kind == "update":
            self._check_answer(call, value)
        if action.kind == "collect" and f"c{call.number}" not in self.starts.items(self.keys[run_id]):
            raise Violation("what is acknowledged is durable", f"item {call.number} is not in run {run_id}")
        if action.kind == "wait" and (status != value.status or result != value.result):
            raise Violation("a result is that of the file", f"{action.target} is {status}, the caller was told {value}")
        if action.kind == "cancel" and cancelled_at is None and ended_at is None:
            raise Violation(
                "what is acknowledged is durable", f"{action.target} shall be cancelled, the file says nothing"
            )

    def _check_answer(self, call: Call, value: Any) -> None:
        """Look whether the file holds the answer of an update that a caller was given just now."""
        key = marked(f"u{call.number}")
        rows = self.rows(
            "SELECT answer, failed FROM stepwell_messages WHERE run = ? AND key = ? AND answered_at IS NOT NULL",
            self.keys[call.action.target],
            key,
        )
        if rows != [(value.payload, int(value.failed))]:
            raise Violation(
                "what is acknowledged is durable", f"{call.action}: the answer is {value}, in the file {rows}"
            )
        number = UPDATES + call.number
        if not value.failed and json.loads(value.payload)[0] != number:
            raise Violation("an answer is that of its update", f"{call.action}: update {number} was answered {value}")

    def ends(self) -> Counter[str]:
        """Return how many runs there are in each state."""
        return Counter(self._status.values())

    # --- rest and end -------------------------------------------------------------------------------------------------

    def not_ended(self) -> list[str]:
        """Return the ids of the runs that have not ended."""
        return [run_id for (run_id,) in self.rows("SELECT id FROM stepwell_runs WHERE ended_at IS NULL ORDER BY key")]

    def rested(self) -> None:
        """The faults are over, and nothing happens any more: look whether anything should."""
        for call in self._world.calls:
            if call.action.kind in STARTS and call.outcome == "acknowledged" and call.run_id not in self.keys:
                raise Violation("what is started runs", f"{call.run_id} is not in the file")
        waiting = [run_id for run_id in self.not_ended() if self.keys[run_id] not in self.of_story]
        for run_id in waiting:
            self._check_blocked(run_id)
        self.relations.rested(self._entries(), waiting)
        if self._world.story is not None:
            self._world.story.rested()
        for call in self._world.calls:
            if not call.settled and not self._waits_rightly(call):
                raise Violation("callers are answered", f"{call.action} waits for ever")
        if self.rows("SELECT 1 FROM stepwell_wakes"):
            raise Violation("notes are read", "there are notes that nobody has taken")

    def _waits_rightly(self, call: Call) -> bool:
        """Tell whether a caller waits for something that cannot be now: an end, or a run that stands in a queue."""
        if call.action.kind == "update":
            return self._status.get(self.keys.get(call.action.target, 0)) == "pending"
        return call.action.kind == "wait" and self._waits(call)

    def _waits(self, call: Call) -> bool:
        return call.action.target not in self.keys or self._status[self.keys[call.action.target]] not in ENDED

    def _check_blocked(self, run_id: str) -> None:
        key = self.keys[run_id]
        self.starts.check_deadline(key, run_id, self._world.now)
        if self.rows(_CANCELLED_UNBEGUN, key):
            raise Violation("a cancellation reaches its run", f"{run_id} waits to begin")
        if self.flow.stands_rightly(key):
            return
        execution = self._replay(key)
        if execution.outcome is not None or execution.stopped:
            raise Violation("a run goes on", f"{run_id} has not ended, but its code has")
        for operation in execution.pending.values():
            if operation.kind == "receive":
                waiting = self.rows(
                    "SELECT 1 FROM stepwell_messages WHERE run = ? AND name = ? AND taken_at IS NULL",
                    key,
                    operation.name,
                )
                if waiting:
                    raise Violation(
                        "a message wakes its receiver", f"{run_id} waits for {operation.name}, which is there"
                    )
            elif operation.kind == "result":
                if self._status.get(self.keys.get(operation.name, 0)) in ENDED:
                    raise Violation("an end wakes who waits for it", f"{run_id} waits for {operation.name}")
            else:
                raise Violation("a run goes on", f"{run_id} waits for its {operation.kind} {operation.name} for ever")
        if not execution.pending:
            raise Violation("a run goes on", f"{run_id} waits for nothing")
        self.reasons.rested(key, run_id, execution)
        execution.close()
        if self.rows("SELECT 1 FROM stepwell_runs WHERE key = ? AND cancel_requested_at IS NOT NULL", key):
            raise Violation("a cancellation reaches its run", f"{run_id} goes on")

    def _replay(self, key: int, until: str | None = None) -> Execution:
        (snapshot,) = self._reads.load([key])
        story = self._world.story
        known = [*WORKFLOWS.values(), *(() if story is None else story.workflows)]
        definition = next(one for one in known if one.name == snapshot.record.workflow)
        record = snapshot.record
        if snapshot.items:
            record = replace(record, input=self._world.codec.join_arguments(snapshot.items, record.id))
        execution = _Replay(record, definition, self._world.codec, OPERATIONS.kinds, greenlets=True)
        entries = snapshot.entries
        if until is not None:
            entries = list(takewhile(lambda entry: entry.kind != until, entries))
        execution.replay(entries)
        if execution.halted is not None:
            raise Violation("a journal replays", f"{snapshot.record.id}: {execution.halted}")
        return execution

    def ended(self) -> None:
        """Everything has ended: compare each run with its program, and the runs with each other."""
        left = self.not_ended()
        if left:
            raise Violation("a cancelled run ends", ", ".join(left))
        entries = self._entries()
        for row in self.rows(
            "SELECT key, id, workflow, status, input, created_at, result, error, cancel_requested_at, parent, reason "
            "FROM stepwell_runs ORDER BY key"
        ):
            if row[0] in self.of_story:
                self._check_replay(row)
            else:
                self._check_run(row, entries[row[0]])
        self.starts.ended()
        check_effects(self.rows, self.ids, entries)
        general = {run: of_run for run, of_run in entries.items() if run not in self.of_story}
        check_streams(self.rows, general, but=self.of_story)
        self.relations.ended(general)
        if self._world.story is not None:
            self._world.story.ended()
        for call in self._world.calls:
            if not call.settled and call.action.kind != "wait":
                raise Violation("callers are answered", f"{call.action} waits for ever")

    def _check_replay(self, row: Any) -> None:
        """Look whether the journal of a run of the story replays to its result."""
        key, run_id, workflow, status, _, _, result = row[:7]
        execution = self._replay(key)
        outcome = execution.outcome
        execution.close()
        if status == "completed" and not workflow.startswith(JOB_PREFIX):  # what a job returned is in its row only
            found = json.loads(text_of(result))
            if outcome is None or json.loads(json.dumps(outcome.result)) != found:
                raise Violation("a journal replays to the same result", f"{run_id}: {found}, {outcome}")

    def _check_run(self, row: Any, entries: list[Any]) -> None:
        key, run_id, workflow, status, encoded, created_at, result, error, cancelled_at, _, _ = row
        execution = self._replay(key)
        if workflow == "sim.batch":
            self.starts.check_batch(key, run_id, status, result)
            execution.close()
            return
        node = json.loads(text_of(encoded))["args"][0]
        self.starts.check_input(key, run_id, node)
        outcome = execution.outcome
        late = _type_of(error) == "stepwell.errors.RunDeadlineExceeded"
        never_ran = (late and not entries) or (status == "cancelled" and {entry[1] for entry in entries} <= {"cancel"})
        if outcome is None and not never_ran:
            raise Violation("a journal replays to the end", f"{run_id} is {status}, its journal is not at an end")
        if status == "completed":
            found = json.loads(text_of(result))
            if outcome is None or json.loads(json.dumps(outcome.result)) != found:
                raise Violation(
                    "a journal replays to the same result", f"{run_id}: {found} and {outcome and outcome.result}"
                )
            if "value" not in model.outcomes(node):
                raise Violation("the model", f"{run_id} cannot complete, but has: {node} {found}")
            try:
                model.check(node, found, model.Facts(run_id, created_at, self._world.losses + self._world.refusals > 0))
            except model.UnfitError as problem:
                raise Violation("the model", f"{run_id}: {problem}") from problem
        elif late:
            self.starts.check_late(key, run_id, has_begun=not never_ran)
        elif status == "failed":
            if "SimError" not in text_of(error) or "raise" not in model.outcomes(node):
                raise Violation("the model", f"{run_id} cannot fail, but has: {text_of(error)[:500]}")
        elif cancelled_at is None and not model.may_cancel_itself(node):
            raise Violation("a run is cancelled because somebody said so", run_id)
        heard = any(kind == "cancel" for _, kind, _, _ in entries)
        stopped = status == "cancelled" or late
        if heard and not stopped and not model.cancel_may_be_lost(node):
            raise Violation("a cancellation ends its run", f"{run_id} is {status}")
        if heard and not never_ran and node[0] == "final" and not self._cleaned_up(key, run_id, node[2][1]):
            raise Violation("clean-up is done on cancellation", f"{run_id} did not execute node {node[2][1]}")
        execution.close()

    def _cleaned_up(self, key: int, run_id: str, number: int) -> bool:
        """Tell whether the last step of a cancelled run was executed, or itself cancelled."""
        if any(found == number for (of_run, _), found in self._numbers.items() if of_run == run_id):
            return True
        execution = self._replay(key, until="cancel")
        try:
            return any(
                operation.kind == "step" and operation.detail.args[0] == number
                for operation in execution.pending.values()
            )
        finally:
            execution.close()

    def _entries(self) -> dict[int, list[Any]]:
        entries: dict[int, list[Any]] = defaultdict(list)
        for run, op, kind, name, value in self.rows(_ENTRIES):
            entries[run].append((op, kind, name, text_of(value)))
        return entries

    def closed(self) -> None:
        """All workers have left in order."""
        if self.rows("SELECT 1 FROM stepwell_runs WHERE owner IS NOT NULL"):
            raise Violation("who leaves owns nothing", "there are runs with an owner")
        if self.rows("SELECT 1 FROM stepwell_wakes"):
            raise Violation("notes are read", "there are notes that nobody has taken")


class _Replay(Execution):
    """A replay that looks at the clock."""

    __slots__ = ()

    def deliver(self, entry: Entry, *, more: bool = False) -> None:
        """Deliver an entry, a timer's only if it was due."""
        if entry.kind == "timer" and entry.op in self.pending and self.pending[entry.op].detail > entry.at:
            raise Violation("a timer is never early", f"{self.run_id}:{entry.op} at {entry.at}")
        super().deliver(entry, more=more)


class _Reads:
    """What an inspector needs of a database."""

    path = "the simulated file"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def connect_reader(self) -> Any:
        return self._connection

    def check_process(self) -> None:
        """Nobody forks."""

    def check_identity(self) -> None:
        """Nobody replaces the file."""


def _type_of(error: Any) -> Any:
    return None if error is None else json.loads(text_of(error))["type"]
