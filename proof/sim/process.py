"""A simulated worker process: a real `TurnLoop` over a real store, driven by the world's clock.

What `stepwell.runtime.engine_thread` does with a thread, a loop and timers, this does with events of the world. Every
place where the real process reads the file, asks for the writers' lock, or commits is a *point*: there other workers
may have their turn, and there the process may die or stall.

Half of the processes take light turns as the loop of an `AsyncEngine` does (`stepwell.runtime.in_line`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from proof.sim.database import SimDatabase
from proof.sim.faults import Crash, Violation
from proof.sim.kernel import SimLock, SimMembers
from proof.sim.plan import Worker
from proof.sim.programs import FLOWS, WORKFLOWS
from stepwell.definitions import invoke
from stepwell.definitions.step_call import StepCall
from stepwell.errors import EngineClosed, StepwellError, StorageFull, StoreError, StoreFailed
from stepwell.executors.runner import is_rated
from stepwell.model.run import Claim
from stepwell.runtime.light_turns import StepsEnded, is_light, leaves_work
from stepwell.runtime.serving.requests import Request
from stepwell.runtime.step_outlet import StepOutlet
from stepwell.runtime.turn import TurnLoop
from stepwell.store.notifications import Notification
from stepwell.store.sql.aftermath import Evidence
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Outcome, StoreTransaction, Unit
from stepwell.values.codec import Codec
from stepwell.worker.arriving.step_outcomes import record_result
from stepwell.worker.state.runs import Capacity
from stepwell.worker.state.unit_of_work import Reply

if TYPE_CHECKING:
    from proof.sim.world import World

_T = TypeVar("_T")

#: As `stepwell.runtime.engine_thread` has them, in microseconds.
_STORE_RETRY: int = 250_000
_DRAIN_RETRY: int = 10_000
_START_TOLD: int = 20_000
#: How much a light turn may take on.
_LIGHT_LIMIT: int = 16


class SimStore(SqliteStore):
    """The real store, with points before and after each transaction, and outcomes that are not known."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.members_ = SimMembers(process)
        database: Any = SimDatabase(
            process.world.arena, SimLock(process), self.members_, partial(process.point, "read")
        )
        super().__init__(database, members=self.members_)

    def commit(self, units: Sequence[Unit], claim: Claim) -> list[Outcome]:
        """Commit, or fail as the world wants it."""
        outcomes = self._transact(lambda: SqliteStore.commit(self, units, claim), claim)
        self.process.world.refusals += sum(isinstance(outcome, StepwellError) for outcome in outcomes)
        return outcomes

    @contextmanager
    def transaction(self, claim: Claim) -> Generator[StoreTransaction]:
        """Open a transaction of a caller's, which may fail as any other."""
        process, world = self.process, self.process.world
        unknown = self._before(claim)
        with SqliteStore.transaction(self, claim) as opened:
            yield opened
        world.judge.after_commit(process, claim)
        self._after(unknown)

    def _write(self, claim: Claim | None, action: Callable[[], tuple[_T, Evidence | None]]) -> _T:
        return self._transact(lambda: SqliteStore._write(self, claim, action), claim)

    def _transact(self, transact: Callable[[], _T], claim: Claim | None) -> _T:
        unknown = self._before(claim)
        result = transact()
        self.process.world.judge.after_commit(self.process, claim)
        self._after(unknown)
        return result

    def _before(self, claim: Claim | None) -> str:
        process, world = self.process, self.process.world
        process.point("before a commit")
        if world.disk_full_until > world.now:
            raise StorageFull("the simulated disk is full")
        unknown = process.takes_unknown()
        if unknown == "lost":
            self._stop("was not applied")
        world.judge.before_commit(claim)
        return unknown

    def _after(self, unknown: str) -> None:
        self.process.world.committed(self.process)
        if unknown == "applied":
            self._stop("was applied")
        self.process.point("after a commit")

    def _stop(self, what: str) -> None:
        self._writer.failed = StoreFailed(f"the simulated disk failed; the transaction {what}")
        raise self._writer.failed


class Process:
    """One life of a worker process at a place. Implements `stepwell.runtime.driver.Driver`."""

    def __init__(self, world: World, place: int, worker: Worker, life: int) -> None:
        self.world = world
        self.place = place
        self.name = f"w{place}.{life}"
        self.chance = world.generator(self.name)
        self.alive = True
        self.open = False
        self.leaving = False
        self._closes = False
        self.hears: Callable[[bytes, tuple[int, ...]], None] | None = None
        self.stalled_until = 0
        self.fuses: list[tuple[int, str, int, bool]] = []  # (points left, what then, number, flag)
        self._unknown: tuple[int, str] | None = None
        self._scheduled = False
        self._timer = 0
        self._armed: int | None = None  # when the timer of the engine's thread is due
        self._has_loop = self.chance.random() < 0.5
        self._thread_is_woken = True
        self._latest = 0
        self.under_way: dict[int, StepCall] = {}
        self.tick_pending = False
        self.crashed_in_turn = False
        self.store = SimStore(self)
        self.members = self.store.members_
        workflows = {WORKFLOWS[flavour].name: WORKFLOWS[flavour] for flavour in worker.serves}
        self.serves_all = len(workflows) == len(WORKFLOWS)
        story = world.story
        if story is not None and self.serves_all:
            workflows |= {each.name: each for each in story.workflows}
        self.turn_loop = TurnLoop(
            self.store,
            world.codec,
            workflows,
            limits=Capacity(worker.running, worker.waiting),
            chance=self.chance.random,
            driver=self,
            takes_work=bool(workflows),
            flows=FLOWS,
            tokens=lambda: f"{self.chance.getrandbits(128):032x}",
        )
        self._outlet = StepOutlet(world.codec, self.submit, self._later)
        self.turn_loop.worker.runs.on_failure = next(iter(story.hooks if story is not None else ()), None)

    @property
    def codec(self) -> Codec:
        """What encodes values."""
        return self.world.codec

    # --- time ----------------------------------------------------------------------------------------------------

    def time(self) -> int:
        """Return what the process takes for now: it may have been interrupted since it looked at the clock.

        It looks at it each time, so what it did before is older than that.
        """
        lag = self.world.plan.weather.lag
        now = self.world.now - (self.chance.randint(0, lag) if lag and not self.world.healing else 0)
        self._latest = max(self._latest, now)
        return self._latest

    def _has_acted(self) -> None:
        self._latest = max(self._latest, self.world.now)

    def is_stalled(self) -> bool:
        """Tell whether the process gets no time."""
        return self.stalled_until > self.world.now

    # --- points ----------------------------------------------------------------------------------------------------

    def point(self, what: str) -> None:
        """Come to a place where the world may interfere."""
        world = self.world
        if not self.alive:
            raise Violation("the dead do not act", f"{self.name} went on after its death: {what}")
        if self.store._connection.in_transaction:
            return
        if self.fuses:
            self._burn(what)
        if world.crossings < 2 and world.plan.weather.crossing and self.chance.random() < world.plan.weather.crossing:
            world.cross(self.chance.randint(1, 4))
        if not self.alive:
            raise Crash

    def _burn(self, what: str) -> None:
        left, kind, number, flag = self.fuses[0]
        if left > 0:
            self.fuses[0] = (left - 1, kind, number, flag)
            return
        del self.fuses[0]
        if kind == "crash":
            self.world.note(self, f"dies at a point: {what}")
            raise Crash
        self.world.note(self, f"stalls at a point, for {number} us: {what}")
        self.stalled_until = self.world.now + number
        self.world.cross(200, until=self.stalled_until)
        self.stalled_until = 0

    def takes_unknown(self) -> str:
        """Return what becomes of this commit, where that is to stay unknown: ``applied``, ``lost``, or nothing."""
        if self._unknown is None:
            return ""
        left, how = self._unknown
        self._unknown = (left - 1, how) if left > 0 else None
        return "" if left > 0 else how

    def will_not_know(self, commits: int, how: str) -> None:
        """Have the outcome of a commit unknown."""
        self._unknown = (commits, how)

    # --- the driver --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the store and register; tried again while somebody else writes."""
        world = self.world
        if world.lock_holder is not None or world.disk_full_until > world.now:
            world.at(1_000, self, self.start, "starts")
            return
        try:
            self.store.writers.acquire()
            try:
                self.turn_loop.open(self.time())
            finally:
                self.store.writers.release()
        except StoreError as error:  # no room, or the disk failed: the process gives up
            world.note(self, f"could not open: {error}")
            world.dies(self)
            return
        self.open = True
        world.note(self, f"is worker {self.members.epoch}")
        self.wake()
        world.at(self.chance.randint(1, 2_000), self, self._watch, "watches")

    def _watch(self) -> None:
        self.store.notifications.watch(self._hear)
        self._hear(Notification("anything"))

    def _hear(self, news: Notification) -> None:
        self.post(partial(self.turn_loop.notified, news))

    def post(self, event: Callable[[], None]) -> None:
        """Queue an event."""
        self.turn_loop.post(event)
        self.wake()

    def submit(self, request: Request, reply: Reply) -> None:
        """Hand in a request."""
        self.turn_loop.submit(request, reply)
        self._wake()

    def wake(self) -> None:
        """Have a turn soon."""
        self._thread_is_woken = True
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled and self.alive:
            self._scheduled = True
            self.world.at(self.chance.randint(1, self.world.plan.weather.turn_delay), self, self._pump, "turn")

    def _pump(self) -> None:
        self._scheduled = False
        turn_loop, now = self.turn_loop, self.time()
        light = self._has_loop and not self._thread_is_woken and is_light(turn_loop, now, _LIGHT_LIMIT)
        self._thread_is_woken = False
        turn_loop.turn(now, light=light)
        self._has_acted()
        if light:
            self._check_greenlets()
        if turn_loop.failure is not None:
            if not self.leaving:
                self.world.failed(self)
            elif not self._closes:
                self._close_soon()
            return
        if not light:
            self._set_timer()
        elif leaves_work(turn_loop, self._armed):
            self.wake()
        if not self._scheduled and turn_loop.has_more():
            self._wake()
        self.world.judge.after_turn(self)

    def _check_greenlets(self) -> None:
        memory = self.turn_loop.worker.memory
        if any(memory.runs[key].execution.loop.greenlets for key in memory.on_greenlets):
            raise Violation("greenlets belong to the engine's thread", f"{self.name} has some from a light turn")

    def _set_timer(self) -> None:
        self._timer += 1
        self._armed = due = self.turn_loop.worker.due.due_at()
        if due is None or self.turn_loop.closing:
            return
        if due <= self.turn_loop.worker.now:
            self.wake()
            return
        self.world.at(max(1, due - self.world.now), self, partial(self._on_timer, self._timer), "timer")

    def _on_timer(self, number: int) -> None:
        if number == self._timer:
            self._armed = None
            self.wake()

    def store_unavailable(self) -> None:
        """Try again later."""
        self.world.at(_STORE_RETRY, self, self._retry_store, "tries the disk again")

    def _retry_store(self) -> None:
        self.turn_loop.try_store_again()
        self.wake()

    def failed(self) -> None:
        """Take note; see `_pump`."""

    # --- steps -------------------------------------------------------------------------------------------------------

    def run_steps(self, attempts: list[StepCall]) -> None:
        """Execute attempts on the spot, and tell of it later."""
        for attempt in attempts:
            self.point("before a step")
            attempt.began_at = self.world.now
            self.world.judge.began(self, attempt)
            value, error = copy_context().run(self._execute, attempt)
            if is_rated(attempt):
                seen = partial(self.turn_loop.worker.scheduler.starts_seen, [attempt])
                self.world.at(_START_TOLD, self, partial(self.post, seen), "has seen a start")
            self.under_way[id(attempt)] = attempt
            delay = self.chance.randint(1, self.world.plan.weather.step_time)
            self.world.at(delay, self, partial(self._finish, attempt, attempt.attempt, value, error), "step ends")

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self.world.at(int(seconds * 1_000_000), self, call, "says it again")

    def _execute(self, attempt: StepCall) -> tuple[Any, BaseException | None]:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            called = invoke.step(attempt, attempt.definition, attempt.args, attempt.kwargs, self._outlet)
            if attempt.definition.is_async:
                try:
                    called.send(None)
                except StopIteration as end:
                    return end.value, None
            return called, None  # noqa: TRY300 - it belongs to what is tried, as the ends above do
        except Exception as error:
            return None, error
        finally:
            asyncio._set_running_loop(loop)

    def _finish(self, attempt: StepCall, number: int, value: Any, error: BaseException | None) -> None:
        self.under_way.pop(id(attempt), None)
        self.world.judge.stopped(attempt)
        if attempt.attempt != number:
            return
        if error is None:
            record_result(self.codec, attempt, value)
        else:
            attempt.error = error
        self.turn_loop.post(StepsEnded([attempt], self.turn_loop.steps_finished))
        self._wake()

    def drop_steps(self, attempts: list[StepCall]) -> None:
        """Let them end when they do: nobody listens."""

    # --- the end -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Close in order, as `Core.close` does."""
        if not self.leaving and self.open and self.turn_loop.failure is None:
            self.leaving = True
            self.post(partial(self._drain, self.world.now + self.chance.choice((0, 20_000, 1_000_000))))

    def _drain(self, deadline: int) -> None:
        turn_loop = self.turn_loop
        turn_loop.closing = turn_loop.worker.runs.draining = True
        if any(attempt.wanted for attempt in self.under_way.values()) and self.world.now < deadline:
            self.world.at(_DRAIN_RETRY, self, partial(self.post, partial(self._drain, deadline)), "drains")
            return
        turn_loop.post(self._end)

    def _end(self) -> None:
        turn_loop = self.turn_loop
        if (turn_loop.worker.batch or turn_loop.starts) and turn_loop.gate.unavailable is None:
            turn_loop.post(self._end)
            return
        turn_loop.failure = EngineClosed("the simulated worker is closed")
        self._close_soon()

    def _close_soon(self) -> None:
        self._closes = True
        with self.turn_loop.worker.loops.entered():
            self.turn_loop.close()
        self.world.at(1, self, self._close, "closes")

    def _close(self) -> None:
        if self.world.lock_holder is not None:
            self.world.at(1_000, self, self._close, "closes")
            return
        self.store.writers.acquire()
        try:
            self.store.close(self.turn_loop.claim, self.time())
        except StoreError as error:
            self.world.note(self, f"closing failed: {error}")
        finally:
            self.store.writers.release()
        self.world.dies(self)

    def end(self) -> None:
        """Let go of what a dead process had in memory, without letting any of it act."""
        self.alive = False
        self.store._writer.applier.drop_entries()
        if self.store._connection.in_transaction:
            self.store._connection.execute("ROLLBACK")
        with self.turn_loop.worker.loops.entered():
            self.turn_loop.worker.close()
        self.members.leave()
