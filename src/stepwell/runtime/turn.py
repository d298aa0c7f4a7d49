"""The engine as a step function: events in, one commit, effects out.

A `TurnLoop` has no clock, no thread and no event loop: `turn` is told the time, takes what is queued, lets the worker
turn it into works, commits them in one transaction, and releases what follows. `stepwell.runtime.engine_thread` drives
it with a thread and real time; a simulator drives several of them with a virtual clock and a scripted store.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, assert_never

from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import Limit, Queue
from stepwell.definitions.step_call import StepCall
from stepwell.errors import ClaimLost, EngineClosed, StepwellError, StoreError, StoreUnavailable
from stepwell.model.run import Claim
from stepwell.operations.table import OPERATIONS
from stepwell.runtime.driver import Driver
from stepwell.runtime.notifications import Notifications
from stepwell.runtime.other_workers import OtherWorkers
from stepwell.runtime.recorded import hear_first
from stepwell.runtime.refusals import refuse_asked, refuse_events, refuse_units
from stepwell.runtime.serving.request_gate import RequestGate
from stepwell.runtime.serving.requests import Asked, Event, Request, StartRun
from stepwell.runtime.serving.waiters import Waiters
from stepwell.runtime.serving.write_turn import WriteTurn
from stepwell.store.notifications import Notification
from stepwell.store.store import Outcome, Store
from stepwell.values.codec import Codec
from stepwell.values.large_values import collector_paused
from stepwell.worker.pace import MOST, STARTS
from stepwell.worker.state.commit_batch import in_groups
from stepwell.worker.state.effects import EndsRefused, Later, RunsBegunAnew, RunsOver, StepsDropped, TookOn
from stepwell.worker.state.facts import RunsBegun, StreamGrew, UpdateEnded, ValuePublished
from stepwell.worker.state.runs import Capacity, no_tokens
from stepwell.worker.state.unit_of_work import Reply, UnitOfWork
from stepwell.worker.worker import Worker

_log: Final = logging.getLogger("stepwell")

#: Where the turn before took on so much, the garbage collector waits for the end of this one.
_MANY: Final = 64


class TurnLoop:
    """One worker, its requests and whoever waits for answers. Not thread-safe, but for `post` and `submit`."""

    def __init__(
        self,
        store: Store,
        codec: Codec,
        workflows: Mapping[str, Workflow[..., Any]],
        *,
        limits: Capacity,
        chance: Callable[[], float],
        driver: Driver,
        takes_work: bool = True,
        flows: Mapping[str, Queue | Limit] = MappingProxyType({}),
        queues: frozenset[str] | None = None,
        tokens: Callable[[], str] = no_tokens,
    ) -> None:
        self.store = store
        self.claim: Claim | None = None
        self.failure: StepwellError | None = None
        self.closing = False
        #: The last commit could not be made.
        self.is_held_back = False
        #: How many commits were made.
        self.commits = 0
        self.inbox: deque[Event] = deque()
        #: Starts that callers asked for. They come behind all else: thousands at once must not hold up the others.
        self.starts: deque[Event] = deque()
        #: How much one turn takes on, at most; and how much the last one did.
        self.limit = MOST
        self.taken_on = 0
        #: Where somebody else is writing, the driver will be woken: until then another turn would change nothing.
        self.write_turn = WriteTurn(store.writers, driver.wake)
        self._held_up = False
        self._driver = driver
        self._takes_work = takes_work
        self.worker = Worker(
            store.reads,
            codec,
            workflows,
            limits,
            chance,
            OPERATIONS,
            takes_work=takes_work,
            flows=flows,
            queues=queues,
            tokens=tokens,
        )
        self.worker.scheduler.is_active = store.membership.is_active
        self.waiters = Waiters(store, self.worker.memory, self.worker.batch, self.worker.claims.claiming)
        self.gate = RequestGate(self.worker, store, self.waiters, self.write_turn, self.inbox.append)
        self._after_flush: list[Callable[[], None]] = []
        self._notifications = Notifications(self.worker, self.waiters)
        self._others = OtherWorkers(
            store.membership, self.worker.runs, self.worker.claims, queues, takes_work=takes_work
        )

    def open(self, now: int) -> None:
        """Register with the store, release what dead workers left behind, and queue what is to be taken up."""
        self.worker.now = now
        self.claim = self._others.register(now)
        released = self.store.membership.reap(self.claim, now)
        if released:
            _log.info("%s: %d runs were under way when their worker died; they go on", self.store.location, released)
        self.inbox.append(self.worker.claims.recover)
        if self._takes_work:
            self._others.somebody_left(self.store.membership.members())
            self.inbox.append(self.gate.bulk.take_over)
            self.inbox += [
                self.worker.scheduler.declare_known,
                self.worker.scheduler.look,
                self.worker.schedules.look,
            ]

    def post(self, event: Callable[[], None]) -> None:
        """Queue an event; from any thread, and from within another event. From outside, the driver must be woken."""
        self.inbox.append(event)

    def submit(self, request: Request, reply: Reply) -> None:
        """Queue a request, as `post`; `reply` is called once, with the answer to it."""
        if isinstance(request, StartRun):
            self.starts.append(Asked(request, reply))
        else:
            self.inbox.append(Asked(request, reply))

    # --- a turn --------------------------------------------------------------------------------------------------

    def turn(self, now: int, *, light: bool = False) -> None:
        """Take what is due and what is queued, commit it, and let its effects out.

        `light`: on a caller's loop; see `stepwell.runtime.light_turns`, which says when that may be.
        """
        if self.failure is not None:
            self.refuse_inbox()
            return
        worker = self.worker
        worker.now = max(worker.now, now)
        worker.runs.is_light = light
        # A turn that takes on many, as the one before did, begins and ends runs by the hundred, and what it makes is in
        # use until then: to look through it meanwhile took a seventh of the time of a job, a fifth of that of a step.
        try:
            with worker.loops.entered(), collector_paused(when=self.taken_on >= _MANY):
                self._handle_events()
                self._commit()
                if self.gate.unavailable is None and not light:
                    worker.evict()
                    worker.claims.admit()
                self._let_out()
        except Exception as error:  # noqa: BLE001 - see fail
            self.fail(error)
            return
        # What wakes other threads comes last: they need the interpreter, and would only wait for this thread to rest.
        self.flush()
        steps, withdrawn = worker.outcomes.take_steps()
        if steps:
            self.run_steps(steps)
        for attempts in withdrawn:
            worker.steps.finished(attempts)
        self._let_out()

    def has_more(self) -> bool:
        """Tell whether another turn should follow at once."""
        if self.gate.unavailable is not None:
            return False
        if self.inbox or (self.starts and not self._held_up) or self.worker.scheduler.is_pending():
            return True
        return bool(self.worker.batch) and not self._held_up

    def is_idle(self, now: int) -> bool:
        """Tell whether nothing is queued, uncommitted or due."""
        if (
            self.inbox
            or self.starts
            or self.write_turn.postponed
            or self.worker.batch
            or self.worker.scheduler.is_pending()
        ):
            return False
        due = self.worker.due.due_at()
        return due is None or due > now

    def _handle_events(self) -> None:
        worker, inbox = self.worker, self.inbox
        if self.write_turn.postponed:
            inbox.extend(self.write_turn.postponed)
            self.write_turn.postponed.clear()
        due = worker.due.due_at()
        if due is not None and due <= worker.now:
            hear_first(inbox, worker.memory, worker.now)
            worker.due.advance(worker.now)
            self._let_out()
        # What the turn before led to is committed in this one. But a part of each turn is for the events, and a part of
        # that for the starts, so that they come to their turn at all.
        self.taken_on = 0
        room = max(self.limit - len(worker.batch), self.limit // 4)
        self._handle(inbox, room)
        if self.starts and (not self._held_up or self.gate.unavailable is not None):
            self._handle(self.starts, max(min(room - self.taken_on, STARTS), min(room // 4, STARTS), 1))
        if worker.loops.intruded:
            worker.outcomes.halt_intruded()
            self._let_out()

    def _handle(self, events: deque[Event], limit: int) -> None:
        enough = self.taken_on + limit
        for _ in range(len(events)):
            if self.taken_on >= enough:
                return
            event = events.popleft()
            self.taken_on += 1
            try:
                if isinstance(event, Asked):
                    self.gate.serve(event)
                else:
                    event()
            except Exception:
                events.appendleft(event)  # its caller still waits for an answer, which `fail` gives
                raise
            finally:
                self._let_out()

    def _commit(self) -> None:
        if self.gate.unavailable is None:
            self.worker.scheduler.decide()
        if self.failure is not None:  # somebody who interrupts the turn wants it to end
            raise self.failure
        works = self.worker.batch.take()
        self.taken_on += len(works)
        self._held_up = False
        if not works:
            if not self.write_turn.postponed:
                self.write_turn.give_up()
            return
        if self.gate.unavailable is not None or not self.write_turn.take():
            self._held_up = True
            self.worker.batch.put_back(works)
            return
        groups = in_groups(works)
        try:
            for index, group in enumerate(groups):
                if group[0].calls_transactions:
                    self.worker.outcomes.prepare(group[0])
                try:
                    self._commit_together(group)
                except ClaimLost as error:
                    self._start_anew([work for left in groups[index:] for work in left], error)
                    break
                except Exception:
                    # Their callers still wait for an answer, which `fail` gives.
                    self.worker.batch.put_back([work for left in groups[index + 1 :] for work in left])
                    raise
        finally:
            self.write_turn.release()

    def _commit_together(self, works: list[UnitOfWork]) -> None:
        worker = self.worker
        written = [work for work in works if work.changes or work.is_written]
        if written:
            try:
                outcomes = self.store.commit(written, self.claimed())
            except StoreUnavailable as error:
                self._hold_back(works, error)
                return
            except ClaimLost:
                raise
            except Exception:
                worker.batch.put_back(works)
                raise
            self.is_held_back = False
            self.commits += 1
            self._release(written, outcomes)
        if len(written) != len(works):
            rest = [work for work in works if not work.is_written]
            self._release(rest, [[] for _ in rest])

    def _release(self, works: list[UnitOfWork], outcomes: Sequence[Outcome]) -> None:
        try:
            for _ in self.worker.release(works, outcomes):
                self._let_out()
        finally:
            self._let_out()

    def flush(self) -> None:
        """Call what waits for the end of the turn."""
        if self._after_flush:
            calls, self._after_flush = self._after_flush, []
            for call in calls:
                call()

    def at_flush(self, call: Callable[[], None]) -> None:
        """Have `call` called at the end of the current turn."""
        self._after_flush.append(call)

    # --- trouble -------------------------------------------------------------------------------------------------

    def _hold_back(self, works: list[UnitOfWork], error: StoreUnavailable) -> None:
        """Refuse what callers asked for, keep what runs did, and try again a little later."""
        if not self.is_held_back:
            _log.error("%s. Work goes on by itself when that is over", error)
            self.is_held_back = True
        self.worker.outcomes.hold_back(works, error)
        self._let_out()
        self.gate.unavailable = error
        self._driver.store_unavailable()

    def give_up_waiting(self, error: StoreUnavailable) -> None:
        """Refuse what callers asked for, since somebody else does not stop writing; what runs did waits on."""
        _log.error("%s. Work goes on by itself when that is over", error)
        self.worker.outcomes.hold_back(self.worker.batch.take(), error)
        self._let_out()
        self.write_turn.postponed = refuse_asked([*self.write_turn.postponed, *self.starts], error)
        self.starts.clear()
        self.flush()
        self._held_up = bool(self.worker.batch or self.write_turn.postponed)
        self.write_turn.wait_on(self._held_up)

    def try_store_again(self) -> None:
        """Try the commits that were held back; an event that was refused for it is found again by looking."""
        self.gate.unavailable = None
        self._look_at_everything()

    def _start_anew(self, works: list[UnitOfWork], error: ClaimLost) -> None:
        """Go on as a new worker: others took this one for lost, and carry its runs on.

        What touches no run in memory (a start, a message) is written with the new claim; the rest belongs to runs that
        are not this worker's any more. The writers' lock is held.
        """
        _log.warning("%s. It goes on as a new worker", error)
        kept = self.worker.lose_everything(works, error)
        self._let_out()
        try:
            # Not at the time of the turn: who was stopped in it begins after those who took its runs meanwhile.
            self.claim = self._others.register(self._driver.time())
        except StoreUnavailable as unavailable:
            # When it is available it looks at everything, and finds again that it was fenced.
            self._hold_back(kept, unavailable)
            return
        self.worker.batch.put_back(kept)
        self._take_bulk_acts()  # its own as well: they are nobody's now
        # Also what callers wait for: runs that seemed to end here have ended elsewhere, which was told meanwhile.
        self._look_at_everything()

    def fail(self, error: Exception) -> None:
        """Stop serving: whoever waits is told, and the file stays as the last commit left it."""
        if self.failure is not None:
            return
        if isinstance(error, StoreError):
            self.failure = error
        else:
            self.failure = EngineClosed(
                f"the engine stopped because of a defect of its own: {type(error).__name__}: {error}"
            )
            self.failure.__cause__ = error
        _log.critical("%s: the engine stopped", self.store.location, exc_info=error)
        self.waiters.refuse(self.failure)
        refuse_units(self.worker.batch.take(), self.failure)
        self.refuse_inbox()
        self._driver.failed()

    def refuse_inbox(self) -> None:
        """Tell the callers of queued requests that the engine does not serve any more."""
        failure = self.failure or EngineClosed("the engine is closed")
        self.inbox.extend(self.write_turn.postponed)
        self.write_turn.postponed.clear()
        while self.inbox or self.starts:
            refuse_events(self.inbox or self.starts, failure)
        self.flush()

    # --- news from other processes ---------------------------------------------------------------------------------

    def notified(self, news: Notification) -> None:
        """Take note of news, and look: at once, or where more may have been heard meanwhile, after that; an event."""
        if news.reply is not None:
            news.reply()
            return
        self._notifications.note(news)
        if self.inbox:
            self.post(self._look_at_news)
        else:
            self._look_at_news()

    def _look_at_everything(self) -> None:
        """Look, in an event of its own, at all that may have happened without this worker's knowing."""
        self._notifications.note(Notification("anything"))
        self.post(self._look_at_news)

    def _look_at_news(self) -> None:
        if self._notifications.may_be_of_deaths():
            self._look_at_members()
        self._notifications.look()

    def _look_at_members(self) -> None:
        """Release the runs of workers that are dead, and notice where this one was taken for lost."""
        if self.closing:
            return
        members = self.store.membership.members()
        if self._others.somebody_left(members):
            # What it halted may be fine with the code of this one: after a deployment the worker was of the old code.
            self.post(self.worker.claims.retry_halted)
            self.post(self.worker.claims.look)  # it may have been the one that had the version of runs
            self._take_bulk_acts()
        fenced = all(member.epoch != self.claimed().epoch for member in members)
        if not fenced and all(member.state != "dead" for member in members):
            return
        if not self.take_turn(partial(self.notified, Notification("death"))):
            return
        try:
            if fenced:
                lost = f"{self.store.location}: worker {self.claimed().epoch} was fenced: its runs were taken over"
                self._start_anew([], ClaimLost(lost))
            released = self.store.membership.reap(self.claimed(), self.worker.now)
        except (StoreUnavailable, ClaimLost):  # the next look tries again
            return
        finally:
            self.write_turn.release()
        self._take_bulk_acts()
        if released:
            _log.warning("%s: a worker died; its %d runs go on elsewhere", self.store.location, released)
        self.worker.claims.look()
        self.worker.scheduler.look()

    def _take_bulk_acts(self) -> None:
        if self._takes_work:
            self.post(self.gate.bulk.take_over)

    def take_turn(self, again: Callable[[], None]) -> bool:
        """Take the writers' lock; else have `again` called in a later turn."""
        if self.gate.unavailable is None:
            return self.write_turn.take_or_postpone(again)
        self.write_turn.postponed.append(again)
        return False

    # --- what the worker lets out ----------------------------------------------------------------------------------

    def _let_out(self) -> None:
        """Carry out the effects of what the worker has done, in their order."""
        if not self.worker.runs.effects:
            return
        for effect in self.worker.take_effects():
            match effect:
                case Later(fact):
                    # Runs that begin many at a time wait where starts do, and have a part of each turn: the step of
                    # another run that ends meanwhile is in the next commit, however many they are.
                    waiting = self.starts if isinstance(fact, RunsBegun) else self.inbox
                    waiting.append(partial(self.worker.route, fact))
                case StepsDropped(attempts):
                    self._driver.drop_steps(attempts)
                case RunsOver(over):
                    self.waiters.run_over(over)
                    if any(end.status == "halted" for end in over):
                        self.post(self.waiters.look_at_stuck)
                case ValuePublished(run, key, value):
                    self.waiters.published(run, key, value)
                case StreamGrew(run, name):
                    self.waiters.stream_grew(run, name)
                case UpdateEnded(run, payload, failed, key):
                    if key is not None:
                        self.waiters.answered(run, key, payload, failed)
                case EndsRefused(keys):
                    self.post(partial(self.notified, Notification("ends", tuple(keys))))
                case RunsBegunAnew(keys):
                    self.waiters.look_at_updates(frozenset(keys))
                case TookOn(number):
                    self.taken_on += number
                case _:
                    assert_never(effect)

    def run_steps(self, attempts: list[StepCall]) -> None:
        """Execute attempts, unless the engine is closing: then another one does."""
        if self.closing:
            self.worker.hand_over(attempts)
        else:
            self._driver.run_steps(attempts)

    def steps_finished(self, ended: Sequence[StepCall]) -> None:
        """Take the ends of attempts; an event."""
        if len(ended) > self.limit:
            self.inbox.appendleft(partial(self.steps_finished, ended[self.limit :]))
            ended = ended[: self.limit]
        self.taken_on += len(ended) - 1
        self.worker.steps_finished(ended)

    def claimed(self) -> Claim:
        """Return the claim of the engine's worker."""
        assert self.claim is not None
        return self.claim

    def close(self) -> None:
        """Tell whoever still waits, and drop what is in memory."""
        assert self.failure is not None
        self.waiters.refuse(self.failure)
        refuse_units(self.worker.batch.take(), self.failure)
        self.worker.close()
        self._let_out()
        self.flush()
