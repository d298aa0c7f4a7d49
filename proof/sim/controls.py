"""Engines that are broken on purpose; each must be caught by some world."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from msgspec.structs import replace

from proof.sim import process
from proof.sim.making import with_clients, with_story
from proof.sim.plan import Action, Plan, Worker
from proof.sim.story_controls import STORY_CONTROLS, Break, act_early
from proof.sim.world import World
from stepwell.api.enlisted import Enlisted
from stepwell.model.journal import Entry
from stepwell.model.run import RunRecord, RunSnapshot
from stepwell.operations.table import OPERATIONS
from stepwell.replay.execution import Execution
from stepwell.replay.operation import Operation
from stepwell.runtime.serving.run_requests import RunRequests
from stepwell.runtime.turn import TurnLoop
from stepwell.store.changes import MessageTaken, UpdateTakenOn
from stepwell.store.sql.messages import Messages
from stepwell.store.sql.ownership import Ownership
from stepwell.store.sql.queue_changes import Entries
from stepwell.store.sql.queue_facts import SqlFacts
from stepwell.store.sqlite.membership import SqliteMembership
from stepwell.store.sqlite.statements import SQL
from stepwell.store.sqlite.writer import Writer
from stepwell.store.streams import StreamWritten
from stepwell.worker.arriving.inbox import Inbox
from stepwell.worker.arriving.loader import Loader
from stepwell.worker.running import activation
from stepwell.worker.running.activation import Activator
from stepwell.worker.running.unstarted import Unstarted
from stepwell.worker.scheduling.queue_scheduler import QueueScheduler
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.run_cache import RunCache
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import UnitOfWork
from stepwell.worker.steps.permits import Permits


def _acknowledge_early(stack: ExitStack) -> None:
    start = RunRequests.start

    def broken(self: RunRequests, request: Any, reply: Any) -> None:
        reply(0, None)
        start(self, request, lambda _value, _error: None)

    stack.enter_context(patch.object(RunRequests, "start", broken))


def _act_on_a_failed_commit(stack: ExitStack) -> None:
    """The next step starts although the commit of the result that led to it was not made."""
    hold_back = TurnLoop._hold_back

    def broken(self: TurnLoop, works: list[UnitOfWork], error: Any) -> None:
        self.is_held_back = True  # as it is afterwards anyway; the judge looks more closely then
        for work in works:
            self.run_steps([attempts for attempts in work.steps if attempts.wanted])
            work.steps = []
        hold_back(self, works, error)

    stack.enter_context(patch.object(TurnLoop, "_hold_back", broken))


def _do_not_fence(stack: ExitStack) -> None:
    stack.enter_context(patch.dict(SQL, {"worker_may_write": "SELECT 1 WHERE ?1 > 0"}))


def _leave_no_permits(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Permits, "leave", lambda *_args: None))


def _fire_twice(stack: ExitStack) -> None:
    deliver = Activator.deliver

    def broken(self: Activator, run: LoadedRun, entry: Entry, work: UnitOfWork, **options: Any) -> None:
        deliver(self, run, entry, work, **options)
        if entry.kind == "timer" and entry.op:  # not a tick, which is no operation's
            work.changes.append(entry)

    stack.enter_context(patch.object(Activator, "deliver", broken))


def _fire_early(stack: ExitStack) -> None:
    pop_due, pop_run = LoadedRun.pop_due, RunCache.pop_due
    stack.enter_context(patch.object(LoadedRun, "pop_due", lambda self, now: pop_due(self, now + 5_000)))
    stack.enter_context(patch.object(RunCache, "pop_due", lambda self, now: pop_run(self, now + 5_000)))


def _skip_children(stack: ExitStack) -> None:
    load = Loader._load

    def broken(self: Loader, snapshot: RunSnapshot) -> None:
        if snapshot.record.parent is None:
            load(self, snapshot)

    stack.enter_context(patch.object(Loader, "_load", broken))


def _replay_by_arrival(stack: ExitStack) -> None:
    replay = Execution.replay

    def broken(self: Execution, entries: Sequence[Entry], *, restarted: bool = False) -> None:
        replay(self, sorted(entries, key=lambda entry: entry.op or 1 << 60), restarted=restarted)

    stack.enter_context(patch.object(Execution, "replay", broken))


def _lose_letters(stack: ExitStack) -> None:
    def lost(self: World, *_arguments: Any) -> None:
        """Neither letter nor tick arrives."""

    stack.enter_context(patch.object(World, "send_letter", lost))
    stack.enter_context(patch.object(World, "_tick", lost))


def _leave_no_note(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Ownership, "tell_owner", lambda *_arguments: None))


def _give_without_a_word(stack: ExitStack) -> None:
    """A run is made another worker's own at the enqueue, and that worker is not told so."""
    stack.enter_context(patch.object(Ownership, "give", lambda *_arguments: None))


def _give_to_the_dead(stack: ExitStack) -> None:
    """A run is given to a worker that has ended."""
    sql = SQL["idle_workers"]
    broken = sql.replace("worker.ended_at IS NULL", "worker.ended_at IS NOT NULL")
    assert broken != sql
    stack.enter_context(patch.dict(SQL, {"idle_workers": broken}))
    stack.enter_context(patch.object(SqliteMembership, "is_active", lambda *_arguments: True))


def _forget_what_was_given(stack: ExitStack) -> None:
    """A worker reads that a run was made its own, and does not begin it."""
    take = Inbox.take

    def broken(self: Inbox) -> list[int]:
        take(self)
        return []

    stack.enter_context(patch.object(Inbox, "take", broken))


def _release_with_news(stack: ExitStack) -> None:
    sql = SQL["runs_released"]
    before, found, _ = sql.partition("AND NOT EXISTS (SELECT 1 FROM stepwell_wakes")
    assert found
    stack.enter_context(patch.dict(SQL, {"runs_released": before}))


def _claim_what_is_owned(stack: ExitStack) -> None:
    sql = SQL["runs_claimed"]
    broken = sql.replace("owner IS NULL", "1")
    assert broken != sql
    stack.enter_context(patch.dict(SQL, {"runs_claimed": broken}))


def _forget_attempts(stack: ExitStack) -> None:
    """A crash resets the count of attempts."""
    load = Loader._load

    def broken(self: Loader, snapshot: RunSnapshot) -> None:
        kept = [entry for entry in snapshot.entries if entry.kind not in ("attempt_failed", "step_started")]
        load(self, replace(snapshot, entries=kept))

    stack.enter_context(patch.object(Loader, "_load", broken))


def _count_outside(stack: ExitStack) -> None:
    """What may be taken is counted before the transaction that takes it."""
    add = QueueScheduler._add

    class Stale:
        """Facts of which the counts are old."""

        def __init__(self, facts: Any, known: Any) -> None:
            self._facts = facts
            self._known = known

        def state(self, queue: str) -> Any:
            now = self._facts.state(queue)
            if now is None or self._known is None:
                return now
            old = self._known
            return replace(now, running=min(now.running, old.running), starts=min(now.starts, old.starts))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._facts, name)

    def broken(self: QueueScheduler, name: str, choose: Any, released: Any, asked: Any, *rest: Any) -> None:
        with self._reads.queue_facts() as facts:
            known = facts.state(name)
        add(self, name, lambda facts: choose(Stale(facts, known)), released, asked, *rest)

    stack.enter_context(patch.object(QueueScheduler, "_add", broken))


def _ignore_pauses(stack: ExitStack) -> None:
    state = SqlFacts.state

    def broken(self: SqlFacts, queue: str) -> Any:
        found = state(self, queue)
        return None if found is None else replace(found, paused=False)

    stack.enter_context(patch.object(SqlFacts, "state", broken))


def _ignore_keys(stack: ExitStack) -> None:
    """A start does not look who has its dedup key, and takes it from whoever has."""
    find = Entries.find_dedup

    def broken(self: Entries, entry: Any) -> None:
        found = find(self, entry)
        if found is not None:
            self._execute("UPDATE stepwell_entries SET dedup = NULL, latest_at = NULL WHERE run = ?", (found[0],))

    stack.enter_context(patch.object(Entries, "find_dedup", broken))


def _do_not_put_off(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Entries, "put_off", lambda *_arguments: None))


def _forget_starts_of_partitions(stack: ExitStack) -> None:
    stack.enter_context(patch.dict(SQL, {"partition_starts_logged": "SELECT ?1, ?2, ?3"}))


def _fill_batches_too_far(stack: ExitStack) -> None:
    collect = Entries.collect

    def broken(self: Entries, run: int, workflow: str, entry: Any, payload: Any, items: int) -> None:
        collect(self, run, workflow, replace(entry, batch_size=entry.batch_size + 1), payload, items)

    stack.enter_context(patch.object(Entries, "collect", broken))


def _stop_too_early(stack: ExitStack) -> None:
    begin = LoadedRun.__init__

    def broken(self: LoadedRun, record: RunRecord, execution: Execution) -> None:
        begin(self, record, execution)
        if self.deadline_at is not None:
            self.deadline_at -= 5_000

    stack.enter_context(patch.object(LoadedRun, "__init__", broken))


def _keep_no_deadline_of_what_waits(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Unstarted, "end_overdue", lambda _self: None))


def _forget_what_was_started(stack: ExitStack) -> None:
    """A transaction is committed, and nobody brings to life what it started."""

    def none(self: Enlisted) -> list[Callable[[], None]]:  # noqa: ARG001 - the method's own signature
        return []

    stack.enter_context(patch.object(Enlisted, "events", none))


def _take_back_too_much(stack: ExitStack) -> None:
    """A savepoint that is undone takes back what the transaction gathered before it."""
    stack.enter_context(patch.object(Writer, "_write_gathered", lambda _self, _lent: None))


def _begin_greenlets_anywhere(stack: ExitStack) -> None:
    """Code that blocks begins on the caller's loop, though its greenlets belong to the engine's thread."""
    stack.enter_context(patch.object(Loader, "needs_greenlets", lambda *_arguments: False))


def _leave_no_work(stack: ExitStack) -> None:
    """After a light turn the engine's thread is not woken: not for a timer either that the turn has set."""
    stack.enter_context(patch.object(process, "leaves_work", lambda *_arguments: False))


def _say_nothing(stack: ExitStack) -> None:
    stack.enter_context(patch.object(activation, "waits_of", lambda _run: None))


def _say_what_was(stack: ExitStack) -> None:
    """What a run waits for is written only when it is parked, not when it goes on to wait for something else."""
    rest = Activator._rest

    def broken(self: Activator, run: LoadedRun, work: UnitOfWork) -> None:
        if run.status == "waiting":
            with patch.object(activation, "waits_of", lambda _run: run.waiting_on):
                rest(self, run, work)
        else:
            rest(self, run, work)

    stack.enter_context(patch.object(Activator, "_rest", broken))


def _write_items_later(stack: ExitStack) -> None:
    """Write the item of a stream with the commit after that which records it."""
    opening = OPERATIONS.openings["stream"]

    def broken(runs: Runs, run: LoadedRun, operation: Operation, work: UnitOfWork) -> None:
        before = len(work.changes)
        opening(runs, run, operation, work)
        items, work.changes[before:] = work.changes[before:], []
        work.afterwards(lambda: runs.batch.lone_work().changes.extend(items))

    stack.enter_context(patch.dict(OPERATIONS.openings, {"stream": broken}))


def _write_items_twice(stack: ExitStack) -> None:
    """Write the last item of a stream again where a run is read from its journal."""
    load = Loader._load

    def broken(self: Loader, snapshot: RunSnapshot) -> None:
        load(self, snapshot)
        last = [entry for entry in snapshot.entries if entry.kind == "streamed"][-1:]
        if last and snapshot.record.key in self._runs.memory:
            again = StreamWritten(last[0].run, last[0].name, last[0].op, 0, self._runs.now, ("0",))
            self._runs.batch.work_of(self._runs.memory.runs[snapshot.record.key]).changes.append(again)

    stack.enter_context(patch.object(Loader, "_load", broken))


def _take_updates_again(stack: ExitStack) -> None:
    """That an update was taken on is not written beside it, so it comes again with the next replay."""
    append = Messages._message_taken

    def broken(self: Messages, change: MessageTaken) -> None:
        if change.op is None:
            append(self, change)

    init = Messages.__init__

    def begun(self: Messages, *arguments: Any) -> None:
        init(self, *arguments)
        self.handlers[MessageTaken] = partial(broken, self)

    stack.enter_context(patch.object(Messages, "__init__", begun))


def _take_updates_on_unseen(stack: ExitStack) -> None:
    """An update that is taken on as it comes is not written among the messages: its key is not known afterwards."""
    init = Messages.__init__

    def begun(self: Messages, *arguments: Any) -> None:
        init(self, *arguments)
        assert UpdateTakenOn in self.handlers
        self.handlers[UpdateTakenOn] = lambda _change: None

    stack.enter_context(patch.object(Messages, "__init__", begun))


def _answer_without_writing(stack: ExitStack) -> None:
    """Whoever asked for an update hears of its end, and nothing of that is in the file."""
    sql = SQL["update_answered"]
    broken = sql.replace("answered_at = ?2, answer = ?3, failed = ?4", "taken_at = taken_at")
    assert broken != sql
    stack.enter_context(patch.dict(SQL, {"update_answered": broken}))


_MISSED: Final = (
    "an end wakes who waits for it",
    "a message wakes its receiver",
    "a run goes on",
    "a cancellation reaches its run",
)

CONTROLS: Final[dict[str, Break]] = {
    "acknowledge before commit": Break(_acknowledge_early, ("what is acknowledged is durable",)),
    "a step starts before its commit": Break(act_early, ("at most once means that the intent is recorded",)),
    "a step starts though its commit failed": Break(_act_on_a_failed_commit, ("a step follows a commit",)),
    "no epoch in writes": Break(_do_not_fence, ("a fenced worker does not write",)),
    "a timer that fires twice": Break(_fire_twice, ("an operation has one outcome",)),
    "a timer that fires 5 ms early": Break(_fire_early, ("a timer is never early",)),
    "recovery that skips a child": Break(_skip_children, ("what is owned is in memory",)),
    "replay in arrival order": Break(_replay_by_arrival, ("a journal replays",)),
    "wake-up lost without the fallback": Break(_lose_letters, ("callers are answered", "workers leave")),
    "no note for the owner of a run": Break(_leave_no_note, _MISSED),
    "a run is given without a word": Break(_give_without_a_word, ("what is owned is in memory",)),
    "a run is given to who has ended": Break(_give_to_the_dead, ("an owner lives",)),
    "a run that was given is forgotten": Break(_forget_what_was_given, _MISSED),
    "a run is parked although there is news": Break(_release_with_news, ("a note has a reader",)),
    "a run is claimed although it has an owner": Break(_claim_what_is_owned, ("what is in memory is owned",)),
    "a crash makes attempts forgotten": Break(
        _forget_attempts, ("a step is executed once where nothing is lost", "at most once")
    ),
    "a queue limit counted outside the transaction": Break(_count_outside, ("the concurrency of a queue is kept",)),
    "a permit is free though its attempt goes on": Break(_leave_no_permits, ("the concurrency of a limit is kept",)),
    "a paused queue gives": Break(_ignore_pauses, ("a queue that is paused gives nothing",)),
    "a dedup key is not looked at": Break(_ignore_keys, ("a dedup key belongs to one run",)),
    "a debounced start is not put off": Break(_do_not_put_off, ("a start that debounces puts off the run",)),
    "the starts of a partition are not logged": Break(_forget_starts_of_partitions, ("a rate is kept",)),
    "a batch takes one too many": Break(_fill_batches_too_far, ("a batch is full, or its time is over",)),
    "a deadline that comes 5 ms early": Break(_stop_too_early, ("a deadline is not early",)),
    "a deadline is not kept in a queue": Break(_keep_no_deadline_of_what_waits, ("a deadline is kept",)),
    "a transaction's starts are forgotten": Break(_forget_what_was_started, ("what is owned is in memory",)),
    "an undone savepoint takes back too much": Break(
        _take_back_too_much, ("a run goes on", "an end wakes who waits for it")
    ),
    "greenlets on a caller's loop": Break(_begin_greenlets_anywhere, ("greenlets belong to the engine's thread",)),
    "a light turn wakes nobody": Break(
        _leave_no_work, ("callers are answered", "a run goes on", "a timer fires", "workers leave")
    ),
    "an update is taken on without a note": Break(_take_updates_again, ("an update is carried out once",)),
    "an update that is taken on at once is not recorded": Break(
        _take_updates_on_unseen, ("an update is carried out once", "what is acknowledged is durable")
    ),
    "an answer is not written": Break(_answer_without_writing, ("what is acknowledged is durable",)),
    "a reason that is out of date": Break(_say_what_was, ("a row says what its run waits for",)),
    "an item of a stream is lost at a crash": Break(_write_items_later, ("an item of a stream is written once",)),
    "an item of a stream is written by a replay": Break(_write_items_twice, ("an item of a stream is written once",)),
    "a run is parked without a word": Break(
        _say_nothing, ("whatever does not run says why", "a row says what its run waits for")
    ),
    **STORY_CONTROLS,
}


@contextmanager
def broken_engine(name: str) -> Generator[None]:
    """Break the engine in the way that `name` of `CONTROLS` says. Raises where what it takes away has another name."""
    with ExitStack() as stack:
        CONTROLS[name].apply(stack)
        yield


def world_for(name: str, plan: Plan) -> Plan:
    """Return the plan in which a broken engine lives: where runs must meet in a queue or at a limit, all go there."""
    if CONTROLS[name].story:
        plan = with_story(plan, CONTROLS[name].story)
        return _with_crashes(plan) if CONTROLS[name].crashes else plan
    if name == "a permit is free though its attempt goes on":
        return _all_cancelled_in_calls(plan)
    if "given" in name:
        return with_clients(plan, random.Random(plan.seed))
    if name == "a step starts though its commit failed":
        # It takes a commit that fails between two steps of a run: one in hundreds of worlds as they are.
        full = tuple(Action(at, "full", number=4_000) for at in range(2_000, 200_000, 9_000))
        return plan.but(actions=tuple(sorted((*plan.actions, *full), key=lambda action: action.at)))
    if name == "a deadline is not kept in a queue":
        places = tuple((run_id, ["sim.one", "", 0, 0]) for run_id, _, _ in plan.runs)
        return plan.but(places=places, deadlines=tuple((run_id, 1_000) for run_id, _, _ in plan.runs[1:]))
    if name != "a queue limit counted outside the transaction":
        return plan
    places = tuple((run_id, ["sim.one", "", 0, 0]) for run_id, _, _ in plan.runs)
    actions = tuple(dataclasses.replace(action, at=index) for index, action in enumerate(plan.actions))
    weather = dataclasses.replace(plan.weather, crossing=0.5)
    return plan.but(places=places, actions=actions, weather=weather, workers=(Worker(), Worker(), Worker()))


def _with_crashes(plan: Plan) -> Plan:
    """Return a plan whose only worker dies again and again, while its steps take their time."""
    crashes = tuple(Action(at, "crash") for at in range(20_000, plan.horizon, 40_000))
    actions = tuple(sorted((*plan.actions, *crashes), key=lambda action: action.at))
    return plan.but(actions=actions, workers=(Worker(),), weather=dataclasses.replace(plan.weather, step_time=20_000))


def _all_cancelled_in_calls(plan: Plan) -> Plan:
    """Return a plan whose runs do nothing but call the step under a limit, and are cancelled one by one."""
    ids = [run_id for run_id, _, _ in plan.runs]
    runs = tuple((run_id, "async", ["step", index, "limited", 0]) for index, run_id in enumerate(ids, 1))
    starts = [Action(index, "start", target=run_id) for index, run_id in enumerate(ids)]
    cancels = [Action(20_000 * index, "cancel", target=run_id) for index, run_id in enumerate(ids, 1)]
    weather = dataclasses.replace(plan.weather, step_time=300_000, turn_delay=100)
    actions = (*starts, *cancels)
    return plan.but(runs=runs, actions=actions, weather=weather, workers=(Worker(),), places=(), deadlines=())
