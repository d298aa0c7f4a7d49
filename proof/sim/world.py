"""The simulated world: a virtual clock, a heap of events, worker processes, callers, and the kernel between them.

Nothing here is left to chance or to the machine: every decision is drawn from generators that are seeded with the
plan's seed, so the same plan lives the same life, event by event.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

from proof.sim.callers import REQUESTS, Callers
from proof.sim.database import Arena
from proof.sim.faults import Crash, Violation
from proof.sim.judge import Judge
from proof.sim.kernel import SimMembers
from proof.sim.plan import Action, Plan, Worker
from proof.sim.process import Process
from proof.sim.programs import outside
from proof.sim.stories import STORIES
from proof.sim.stories.story import outside as outside_of_stories
from stepwell.definitions.step_info import StepInfo
from stepwell.errors import EngineClosed, StepwellError
from stepwell.store.sqlite.peers import datagrams
from stepwell.values.codec import Codec

#: When the world begins: 2025-11-22, in microseconds.
BEGIN: Final = 1_763_800_000_000_000
_TICK: Final = 100_000
#: How many events a world may take: far more than any has needed. One that takes more goes round in circles.
_MOST_EVENTS: Final = 60_000
#: How long the world may take, in its own time, from the end of the faults to rest, and from the cancelling of
#: everything to the end of everything, in microseconds.
_HEALING: Final = 120_000_000
_CANCELLINGS: Final = 8


@dataclass(frozen=True)
class Note:
    """One line of the world's history."""

    at: int
    who: str
    what: str


class World:
    """One life of one plan. `live` raises `Violation` where a promise is broken."""

    def __init__(self, plan: Plan, arena: Arena, codec: Codec, *, telling: bool = False) -> None:
        self.plan = plan
        self.arena = arena
        self.codec = codec
        self.now = BEGIN
        self.healing = False
        self.closing = False
        self.crossings = 0
        self.events = 0
        self.history: list[Note] = []
        self.telling = telling
        self.chance = self.generator("world")
        self.seats: dict[int, SimMembers] = {}
        self.lock_holder: Process | None = None
        self.lock_waiters: list[tuple[Process, Callable[[], None]]] = []
        self.disk_full_until = 0
        self.commits = 0
        self.refusals = 0  # of units: what they knew of is forgotten, as after a crash
        self.losses = 0  # of workers, by whatever cause
        self.active: list[Process] = []
        self.processes: list[Process] = []  # the living ones
        self.callers = Callers(self)
        self.calls = self.callers.calls
        self.judge = Judge(self)
        self.story = STORIES[plan.story](self, self.judge.rows) if plan.story else None
        self._heap: list[tuple[int, int, int, Process | None, Callable[[], None], str]] = []
        self._made = 0
        self._lives = [0] * len(plan.workers)
        self._waiting_for_news: set[Process] = set()

    def generator(self, name: str) -> Random:
        """Return a generator of its own for a part of the world."""
        return Random(f"{self.plan.seed}:{self.plan.chance}:{name}")

    def note(self, who: Process | str, what: str) -> None:
        """Write a line of history."""
        if self.telling:
            name = who if isinstance(who, str) else who.name
            self.history.append(Note(self.now - BEGIN, "  " * max(0, len(self.active) - 1) + name, what))

    # --- events ------------------------------------------------------------------------------------------------------

    def at(self, delay: int, process: Process | None, call: Callable[[], None], what: str) -> None:
        """Have something happen after a delay in microseconds, to a process, while it lives."""
        self._made += 1
        order = self.chance.getrandbits(16)
        heapq.heappush(self._heap, (self.now + delay, order, self._made, process, call, what))

    def _take(self, but: list[Process], until: int) -> bool:
        """Let the next event happen that concerns none of these processes; False where there is none in time."""
        aside: list[Any] = []
        found: Any = None
        while self._heap and self._heap[0][0] <= until:
            event = heapq.heappop(self._heap)
            process = event[3]
            if process is not None and not process.alive:
                continue
            if process is not None and process in but:
                aside.append(event)
                continue
            if process is not None and process.stalled_until > max(self.now, event[0]):
                heapq.heappush(self._heap, (process.stalled_until, *event[1:]))
                continue
            found = event
            break
        for event in aside:
            heapq.heappush(self._heap, event)
        if found is None:
            return False
        self.events += 1
        if self.events > _MOST_EVENTS:
            raise Violation("the engine comes to rest", f"{_MOST_EVENTS} events, and no end")
        self.now = max(self.now, found[0])
        self._happen(found[3], found[4], found[5])
        return True

    def _happen(self, process: Process | None, call: Callable[[], None], what: str) -> None:
        if process is None:
            call()
            return
        if self.telling and what not in ("turn", "timer"):
            self.note(process, what)
        self.active.append(process)
        try:
            call()
        except Crash:
            if process.alive:
                self.dies(process)
            else:
                process.end()
        finally:
            self.active.pop()

    def cross(self, count: int, until: int | None = None) -> None:
        """Give others a few turns while the process that is active is in the middle of something."""
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        self.crossings += 1
        busy = list(self.active)
        try:
            for _ in range(count):
                if not self._take(busy, self.now + 5_000 if until is None else until):
                    break
        finally:
            self.crossings -= 1
            asyncio._set_running_loop(loop)
        if until is not None:
            self.now = max(self.now, until)

    # --- the kernel --------------------------------------------------------------------------------------------------

    def free_slot(self) -> int:
        """Return the lowest slot that no living process has."""
        taken = {process.members._slot for process in self.processes}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def release_lock(self) -> None:
        """Give the writers' lock to whoever asks next, and tell those who wait."""
        self.lock_holder = None
        waiters, self.lock_waiters = self.lock_waiters, []
        told: set[Process] = set()
        for process, notify in waiters:
            if process.alive and process not in told:
                told.add(process)
                self.at(process.chance.randint(1, 50), process, notify, "the lock is free")

    def send_letter(self, sender: Process, receiver: Process, kind: bytes, keys: tuple[int, ...]) -> None:
        """Deliver a letter late, twice, or not at all."""
        weather = self.plan.weather
        if not self.healing and sender.chance.random() < weather.lost:
            return
        for _ in range(2 if sender.chance.random() < weather.doubled else 1):
            delay = sender.chance.randint(1, weather.letter_delay)
            self.at(delay, receiver, partial(self._deliver, receiver, kind, keys), "hears")

    def _deliver(self, receiver: Process, kind: bytes, keys: tuple[int, ...]) -> None:
        if receiver.hears is not None:
            receiver.hears(kind, keys)
        elif receiver.open:
            self.at(2_000, receiver, partial(self._deliver, receiver, kind, keys), "hears")

    def committed(self, writer: Process) -> None:
        """Have the others notice a commit at their next tick."""
        self.commits += 1
        for process in self.processes:
            if process is not writer:
                self._tick(process)

    def members_changed(self, who: Process) -> None:
        """Have the others notice that a process came or went."""
        for process in self.processes:
            if process is not who and process.alive:
                if not who.alive and (self.healing or self.chance.random() >= self.plan.weather.lost):
                    delay = self.chance.randint(1, self.plan.weather.letter_delay)
                    self.at(delay, process, partial(self._deliver, process, datagrams.DIED, ()), "hears of a death")
                self._tick(process)

    def _tick(self, process: Process) -> None:
        if not process.tick_pending and process.hears is not None:
            process.tick_pending = True
            phase = (self.now + hash(process.place) * 37_000) % _TICK
            self.at(_TICK - phase, process, partial(self._ticks, process), "ticks")

    def _ticks(self, process: Process) -> None:
        process.tick_pending = False
        self._deliver(process, datagrams.ANYTHING, ())

    # --- processes ---------------------------------------------------------------------------------------------------

    def spawn(self, place: int) -> None:
        """Start a worker process at a place, if there is none."""
        if any(process.place == place for process in self.processes):
            return
        self._lives[place] += 1
        worker = Worker() if self.healing else self.plan.workers[place]
        process = Process(self, place, worker, self._lives[place])
        self.processes.append(process)
        self.at(self.chance.randint(1, 1_000), process, process.start, "starts")

    def dies(self, process: Process) -> None:
        """End a process, as the kernel does: locks are free, letters have no receiver, nothing more is done."""
        if not process.alive:
            return
        self.note(process, "is gone")
        self.losses += 1
        process.alive = False
        self.processes.remove(process)
        process.members.leave()
        if process not in self.active[:-1]:  # else it is in the middle of something, and ends when it comes to itself
            process.end()
        if self.lock_holder is process:
            self.release_lock()
        self.callers.lost(process)
        if not self.closing and not (self.healing and self._is_served()):
            self.at(self.chance.choice((1, 10_000, 500_000)), None, partial(self.spawn, process.place), "respawn")

    def failed(self, process: Process) -> None:
        """A process whose engine stopped by itself is ended by its supervisor, some time later."""
        failure = process.turn_loop.failure
        if isinstance(failure, EngineClosed):
            raise Violation("the engine does not stop by a defect", str(failure)) from failure.__cause__
        self.note(process, f"failed: {failure}")
        with process.turn_loop.worker.loops.entered():
            process.turn_loop.close()
        self.at(self.chance.choice((1, 100_000)), process, partial(self.dies, process), "ends")

    # --- actions -----------------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        process = next((process for process in self.processes if process.place == action.place), None)
        if action.kind in REQUESTS:
            self.callers.make(action)
            return
        match action.kind:
            case "full":
                self.note("disk", f"full for {action.number} us")
                self.disk_full_until = max(self.disk_full_until, self.now + action.number)
            case "jump":
                self.note("clock", f"jumps by {action.number} us")
                self.now += action.number
            case _:
                if process is not None and process.open:
                    self._fault(action, process)

    def _fault(self, action: Action, process: Process) -> None:
        self.note(process, f"fault: {action.kind} {action.number} {action.flag}")
        match action.kind:
            case "crash":
                self.dies(process)
            case "crash_soon":
                process.fuses.append((action.number, "crash", 0, False))
            case "stall":
                process.stalled_until = self.now + action.number
            case "stall_soon":
                process.fuses.append((self.chance.randint(0, 10), "stall", action.number, False))
            case "unknown":
                process.will_not_know(action.number, "applied" if action.flag else "lost")
            case "leave":
                process.leave()
            case "bury":
                self._deliver(process, datagrams.DIED, ())
            case "fence":
                self._fence(process, 3)
            case _:
                raise AssertionError(action)

    def _fence(self, victim: Process, tries: int) -> None:
        """Have another worker take over; a command of the operator's."""
        others = [
            process for process in self.processes if process is not victim and process.open and not process.leaving
        ]
        others = [process for process in others if process.turn_loop.failure is None and not process.is_stalled()]
        others = [process for process in others if process not in self.active]
        if not others or not victim.alive or not tries:
            return
        chosen = self.chance.choice(others)
        if self.lock_holder is not None:
            self.at(1_000, None, partial(self._fence, victim, tries - 1), "fence")
            return
        self._happen(chosen, partial(self._take_over, chosen, victim), "takes over")

    def _take_over(self, chosen: Process, victim: Process) -> None:
        epoch = victim.members.epoch
        chosen.store.writers.acquire()
        try:
            chosen.store.membership.fence(epoch, chosen.time())
        except StepwellError as error:
            self.note(chosen, f"could not take over: {error}")
            if chosen.store._writer.failed is not None:
                chosen.turn_loop.fail(error)
                self.failed(chosen)
            return
        finally:
            chosen.store.writers.release()
        self.losses += 1
        self.note(chosen, f"took over the runs of {victim.name}, worker {epoch}")
        chosen.hears and chosen.hears(datagrams.WORK, ())

    # --- steps -------------------------------------------------------------------------------------------------------

    def executed(self, info: StepInfo, number: int, flavour: str) -> None:
        """Take note that a step is executed; called by the step."""
        self.judge.executed(self.active[-1], info, number, flavour)

    # --- the life of the world ----------------------------------------------------------------------------------------

    def live(self) -> None:
        """Live from the beginning to the end."""
        outside.world = outside_of_stories.world = self
        for place, worker in enumerate(self.plan.workers):
            self.at(worker.joins_at, None, partial(self.spawn, place), "joins")
        for action in self.plan.actions:
            self.at(action.at, None, partial(self._act, action), "action")
        self._until(BEGIN + self.plan.horizon)
        self._heal()
        self.judge.rested()
        self.note("world", "everything is cancelled")
        for _ in range(_CANCELLINGS):  # a run may go on for a while, and start others, because its child was cancelled
            for run_id in self.judge.not_ended():
                self.callers.make(Action(0, "cancel", target=run_id))
            self._rest("every run ends after it was cancelled")
        self.judge.ended()
        self.closing = True
        for process in list(self.processes):
            process.leave()
        self._rest("workers leave")
        if self.processes:
            raise Violation("workers leave when asked", ", ".join(process.name for process in self.processes))
        self.judge.closed()

    def _until(self, limit: int) -> None:
        while self._take([], limit):
            pass
        self.now = max(self.now, limit)

    def _heal(self) -> None:
        """End all faults, and let everything go on that can."""
        self.healing = True
        self.note("world", "the faults end")
        self.disk_full_until = 0
        for process in self.processes:
            process.stalled_until = 0
            process.fuses.clear()
            process._unknown = None
        if not self._is_served():
            for process in [process for process in self.processes if process.place == 0]:
                self.dies(process)
            self.spawn(0)
        if self.story is not None:
            self.story.heals()
        self._rest("everything that can end ends")
        # Only now: what was asked for before may have been under way for long.
        for name in sorted({action.name for action in self.plan.actions if action.kind == "pause"}):
            self.callers.make(Action(0, "unpause", name=name))
        if self.story is not None:
            self.story.healed()
        self._rest("everything that can end ends")

    def _is_served(self) -> bool:
        """Tell whether there is somebody who can carry on every run."""
        able = [process for process in self.processes if process.serves_all and not process.leaving]
        return any(process.turn_loop.failure is None for process in able)

    def _rest(self, invariant: str) -> None:
        limit = self.now + _HEALING
        while self._take([], limit):
            pass
        if self._heap:
            raise Violation(invariant, f"after {_HEALING // 1_000_000} s there is still something to happen")


def live(plan: Plan, arena: Arena, codec: Codec, *, telling: bool = False) -> tuple[World, Violation | None]:
    """Live a plan; return the world at its end, and what was broken in it, if anything was."""
    world = World(plan, arena, codec, telling=telling)
    was_enabled = gc.isenabled()
    gc.disable()
    violation: Violation | None = None
    try:
        with nullcontext() if world.story is None else world.story.surroundings():
            world.live()
    except Violation as found:
        violation = found
    finally:
        for process in list(world.processes):
            process.alive = False
            process.end()
        arena.clear()
        if was_enabled:
            gc.enable()
    return world, violation
