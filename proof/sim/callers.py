"""The callers of a simulated world: what they ask for, of one process after another until one answers for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from proof.sim.faults import Violation
from proof.sim.programs import FLOWS, WORKFLOWS, collected, in_queue, key_of
from stepwell.api.enlisted import Enlisted
from stepwell.definitions.queue_slots import queue_entry
from stepwell.definitions.queues import Queue
from stepwell.errors import (
    ClaimLost,
    DuplicateRun,
    EngineClosed,
    RunConflict,
    RunEnded,
    RunNotFound,
    StepwellError,
    StorageFull,
    StoreError,
    UpdateRefused,
)
from stepwell.model.acts import Actor
from stepwell.model.updates import marked
from stepwell.runtime.serving.requests import (
    CancelRun,
    OutgoingMessage,
    PauseQueue,
    Request,
    SendMessage,
    StartRun,
    UpdateRun,
    WaitForRun,
)
from stepwell.store.changes import RunCreated
from stepwell.worker.rules.queue_policy import entered

if TYPE_CHECKING:
    from proof.sim.plan import Action
    from proof.sim.process import Process
    from proof.sim.world import World

#: The kinds of actions that are requests.
REQUESTS: Final = frozenset(
    {"start", "transact", "collect", "wait", "cancel", "send", "send_keyed", "update", "pause", "unpause", "tell"}
)
#: Those that may take effect twice where they are repeated, so whoever does not know how they ended lets them be.
_ONCE_ONLY: Final = frozenset({"send", "collect"})
_MOST_TRIES: Final = 8
#: How many tries of one call can be told from those of others by their numbers in the table of effects.
TRIES: Final = 1_000
#: Updates have numbers from here on, which no node of a program has.
UPDATES: Final = 1_000_000
#: No run has this id.
NOBODY: Final = "nobody"


@dataclass
class Call:
    """A request of a caller, sent to one process after another until one answers for good."""

    action: Action
    number: int
    process: Process | None = None
    answers: int = 0
    settled: bool = False
    outcome: str = ""  # "acknowledged", "refused" (nothing was done), or "unknown" for now
    unknown: int = 0  # how many tries ended without a word
    tries: int = 0
    at: int = 0  # when a start was made, the last time
    run_id: str = ""  # the run that a start was told it has
    ids: list[str] = field(default_factory=list)  # that starts without an id of their own have made up


class Callers:
    """Whoever calls the engines of one world."""

    def __init__(self, world: World) -> None:
        self.calls: list[Call] = []
        self._world = world
        self._places = dict(world.plan.places)
        self._deadlines = dict(world.plan.deadlines)
        self._programs = {run_id: (flavour, program) for run_id, flavour, program in world.plan.runs}

    def make(self, action: Action) -> None:
        """Make a call."""
        call = Call(action, len(self.calls))
        self.calls.append(call)
        self._try(call)

    def lost(self, process: Process) -> None:
        """A process is gone, and does not answer any more."""
        for call in self.calls:
            if call.process is process and not call.settled:
                call.unknown += call.answers == 0
                self._again(call)

    def _again(self, call: Call) -> None:
        call.process = None
        if call.action.kind in _ONCE_ONLY and call.unknown:
            call.settled, call.outcome = True, "unknown"
            return
        self._world.at(self._world.chance.choice((100, 20_000)), None, partial(self._try, call), "tries again")

    def _try(self, call: Call) -> None:
        world = self._world
        able = [process for process in world.processes if process.open and not process.leaving]
        able = [process for process in able if process.turn_loop.failure is None]
        if call.settled:
            return
        call.tries += 1
        if not able:
            world.at(10_000, None, partial(self._try, call), "tries")
            return
        process = world.chance.choice(able)
        call.process, call.answers = process, 0
        action = call.action
        world.note(process, f"asked to {action.kind} {action.target} {action.name}")
        reply = partial(self._answered, call, process)
        if action.kind == "transact":
            # The caller's own thread does this, while the turn loop's has its turns.
            transact = partial(self._transact, call, process, reply)
            process.post(partial(world.at, 1, process, transact, "transacts"))
            return
        request = self._request(call)
        if request is not None:
            process.submit(request, reply)
        elif call.tries > _MOST_TRIES:  # what the story would speak of has not come to be
            call.settled, call.outcome = True, "refused"
        else:
            self._again(call)

    def _request(self, call: Call) -> Request | None:
        """Return what a caller asks for; None where it cannot be said yet."""
        action = call.action
        match action.kind:
            case "tell":
                assert self._world.story is not None
                return self._world.story.request(call)
            case "start":
                return StartRun(self._creation(call))
            case "collect":
                return StartRun(self._item(call))
            case "wait":
                return WaitForRun(action.target)
            case "cancel":
                return CancelRun(action.target, Actor("a caller", "asked for"))
            case "pause" | "unpause":
                return PauseQueue(action.name, action.kind == "pause", Actor("a caller"))
            case "update":
                asked = json.dumps({"args": [UPDATES + call.number]})
                message = OutgoingMessage(marked("note"), asked, marked(f"u{call.number}"))
                return UpdateRun(action.target, message, is_new=False)
            case _:
                key = None if action.kind == "send" else "c0"
                return SendMessage(action.target, self._message(call, key))

    @staticmethod
    def _message(call: Call, key: str | None) -> OutgoingMessage:
        # A transaction that is tried again, after nobody knew how it ended, may send a message of its own.
        sender = f"c{call.number}.{call.tries}" if call.action.kind == "transact" else f"c{call.number}"
        return OutgoingMessage(call.action.name, json.dumps([sender, 0, 0]), key)

    # --- starts ------------------------------------------------------------------------------------------------------

    def _creation(self, call: Call) -> RunCreated:
        run_id = call.action.target
        flavour, program = self._programs[run_id]
        wait = self._deadlines.get(run_id)
        deadline_at = None if wait is None else self._world.now + wait
        return self.created(call, run_id, WORKFLOWS[flavour].name, program, self._places.get(run_id), deadline_at)

    def _item(self, call: Call) -> RunCreated:
        """Return a start that brings one item to a batch; each try of it makes up another id."""
        call.ids.append(f"b{call.number}.{call.tries}")
        place = ["sim.batch", call.action.name, 0, 0, ""]
        return self.created(call, call.ids[-1], collected.name, [[f"c{call.number}", call.number]], place, None)

    def created(
        self,
        call: Call,
        run_id: str,
        workflow: str,
        given: Any,
        place: list[Any] | None = None,
        deadline_at: int | None = None,
    ) -> RunCreated:
        """Return the run that a call starts, with one argument."""
        codec, now = self._world.codec, self._world.now
        call.at = now
        payload = codec.encode_arguments((given,), {}, run_id)
        fingerprint = codec.fingerprint((given,), {}, run_id)
        if place is None:
            return RunCreated(run_id, workflow, payload, fingerprint, "running", now, deadline_at=deadline_at)
        entry = queue_entry(**in_queue(place))
        assert entry is not None
        stands = entered(entry, now)
        return RunCreated(run_id, workflow, payload, fingerprint, "pending", now, deadline_at=deadline_at, entry=stands)

    def _transact(self, call: Call, process: Process, reply: Callable[[Any, BaseException | None], None]) -> None:
        """Do as `Engine.transaction` does: start a run, send it a message and write a row, all or nothing."""
        world, turn_loop, store = self._world, process.turn_loop, process.store
        if turn_loop.failure is not None:
            reply(None, turn_loop.failure)
            return
        if world.lock_holder is not None:
            world.at(1_000, process, partial(self._transact, call, process, reply), "transacts")
            return
        row = call.number * TRIES + call.tries
        store.writers.acquire()
        try:
            run = self._creation(call)
            # As a transaction of the engine has it: not where the run may turn out to be another one.
            alone = run.entry is not None and run.entry.dedup is not None
            messages = () if alone else (self._message(call, None),)
            with store.transaction(turn_loop.claimed()) as opened:
                opened.lent.execute("INSERT INTO effects (run, op, number) VALUES ('', ?, 0)", (row,))
                enlisted = Enlisted(turn_loop.worker, self._world.codec, process.time, opened)
                run_id = enlisted.submit(StartRun(run, messages))
                if call.number % 2:  # what is refused afterwards takes nothing of it back
                    with suppress(RunNotFound):
                        enlisted.submit(SendMessage(NOBODY, OutgoingMessage("word", "1", None)))
            for event in enlisted.events():
                process.post(event)
        except StepwellError as error:
            if store._writer.failed is not None and turn_loop.failure is None:
                turn_loop.fail(error)
                world.failed(process)
            reply(None, error)
        else:
            reply(run_id, None)
        finally:
            store.writers.release()

    # --- answers -----------------------------------------------------------------------------------------------------

    def _answered(self, call: Call, process: Process, value: Any, error: BaseException | None) -> None:
        again = f"{call.action} was answered again: {value!r} {error!r}"
        if call.process is not process or call.settled:
            if process.alive and call.process is process:
                raise Violation("a caller is answered once", again)
            return
        call.answers += 1
        if call.answers > 1:
            raise Violation("a caller is answered once", again)
        self._world.note(process, f"answers {call.action.kind} {call.action.target}: {value!r} {error!r}"[:200])
        if error is None:
            call.settled, call.outcome = True, "acknowledged"
            call.run_id = str(value)
            self._world.judge.acknowledged(call, value)
        elif self._is_refusal(call, error):
            call.settled, call.outcome = True, "refused"
        elif isinstance(error, (StorageFull, ClaimLost, EngineClosed, RunNotFound)):
            call.unknown += "is kept" in str(error)  # it is written later, so this one, repeated, may come twice
            self._again(call)
        else:  # an unknown outcome
            call.unknown += 1
            self._again(call)

    def _is_refusal(self, call: Call, error: BaseException) -> bool:
        """Tell whether an answer says for good that nothing was done."""
        if isinstance(error, (RunEnded, UpdateRefused)):
            return True
        if call.action.kind == "tell":
            return not isinstance(error, (StorageFull, ClaimLost, EngineClosed, StoreError))
        if isinstance(error, RunNotFound):
            return call.action.kind != "wait" or call.tries > _MOST_TRIES
        if not isinstance(error, (DuplicateRun, RunConflict)):
            return False
        name, dedup = key_of(self._places.get(call.action.target))
        queue = FLOWS.get(name)
        debounces = isinstance(queue, Queue) and queue.debounce is not None
        # A start whose input was replaced by a later one finds other input under its id when it is repeated.
        if not dedup or (isinstance(error, RunConflict) and not debounces):
            raise Violation("a start is refused for a reason", f"{call.action}, in {name!r}, key {dedup!r}: {error}")
        return True
