"""Engines that are broken in what stories are about (see `proof.sim.stories`); a part of `proof.sim.controls`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from msgspec.structs import replace

from stepwell.definitions.queues import QueueSettings
from stepwell.errors import StepwellError
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.operations import map as operation_map
from stepwell.operations.calling_run import calling_run
from stepwell.operations.saga import Compensations
from stepwell.operations.table import OPERATIONS
from stepwell.runtime.serving.bulk_requests import BulkRequests
from stepwell.runtime.serving.requests import DeleteRun, SettleStep
from stepwell.runtime.serving.schedule_requests import ScheduleRequests, TriggerSchedule
from stepwell.runtime.serving.settle_requests import SettleRequests
from stepwell.runtime.turn import TurnLoop
from stepwell.store.bulk_acts import BulkRecord
from stepwell.store.changes import Change, RunCreated
from stepwell.store.queues import Lane
from stepwell.store.sql.bulk_acts import BulkActs
from stepwell.store.sql.chapters import Chapters
from stepwell.store.sql.successors import Successors
from stepwell.store.sqlite.statements import SQL
from stepwell.worker.arriving import step_outcomes
from stepwell.worker.arriving.inbox import Inbox
from stepwell.worker.repair.settlements import Settler
from stepwell.worker.rules import queue_policy, schedule_policy
from stepwell.worker.rules.schedule_policy import Advance
from stepwell.worker.running import activation, failure_hooks
from stepwell.worker.running.starting import add_start
from stepwell.worker.scheduling.schedules import Schedules
from stepwell.worker.state.runs import Runs
from stepwell.worker.state.unit_of_work import Reply, UnitOfWork


class Break(NamedTuple):
    """A way to break the engine, and the promises of which one must be seen broken: anything else proves nothing.

    `story`: what happens beside in the worlds in which it must be seen; with `crashes`, a worker of each dies often.
    """

    apply: Callable[[ExitStack], None]
    reasons: tuple[str, ...]
    story: str = ""
    crashes: bool = False


def broken_sql(stack: ExitStack, name: str, before: str, after: str) -> None:
    """Have a statement differ. Raises where it has no such part."""
    sql = SQL[name]
    assert before in sql, name
    stack.enter_context(patch.dict(SQL, {name: sql.replace(before, after)}))


def act_early(stack: ExitStack) -> None:
    """Steps start before the commit that they follow."""
    commit = TurnLoop._commit_together

    def broken(self: TurnLoop, works: list[UnitOfWork]) -> None:
        for work in works:
            self.run_steps(list(work.steps))
            work.steps = []
        commit(self, works)

    stack.enter_context(patch.object(TurnLoop, "_commit_together", broken))


def _answer_twice(stack: ExitStack) -> None:
    broken_sql(stack, "promise_answered", "AND state = 'open'", "")


def _do_not_look_for_answers(stack: ExitStack) -> None:
    """A run that is read again is not told what has become of its promises meanwhile."""
    stack.enter_context(patch.dict(OPERATIONS.looks, {"promise": lambda *_arguments: []}))


def _tell_of_failures_later(stack: ExitStack) -> None:
    """Whoever is to hear of a failure is started by the commit after that of the failure."""

    def broken(runs: Runs, start: RunCreated, work: UnitOfWork, on_commit: Any) -> None:
        work.afterwards(lambda: add_start(runs, start, runs.batch.lone_work(), on_commit))

    stack.enter_context(patch.object(failure_hooks, "add_start", broken))


def _bear_one_more(stack: ExitStack) -> None:
    bearable = operation_map._bearable
    stack.enter_context(patch.object(operation_map, "_bearable", lambda *arguments: bearable(*arguments) + 1))


def _pause_what_goes_on(stack: ExitStack) -> None:
    """That a run in no memory is to pause is noted, and it goes on when it is due."""
    broken_sql(stack, "run_paused", "status = iif(owner IS NULL, 'paused', status), ", "")
    broken_sql(stack, "run_paused", "wake_at = iif(owner IS NULL, NULL, wake_at)", "wake_at = wake_at")


def _lose_unread_messages(stack: ExitStack) -> None:
    """What nobody has received is not there any more for the next chapter."""
    begin = Chapters.begin

    def broken(self: Chapters, run: int, how: str, at: int) -> int:
        self._execute("DELETE FROM stepwell_messages WHERE run = ? AND taken_at IS NULL", (run,))
        return begin(self, run, how, at)

    stack.enter_context(patch.object(Chapters, "begin", broken))


def _replay_all_chapters(stack: ExitStack) -> None:
    broken_sql(stack, "run_continued", "journal_from = ?4", "journal_from = journal_from")


def _keep_too_little(stack: ExitStack) -> None:
    """A rewind loses the last entry of those that it is to keep."""
    but_last = "AND position <> (SELECT max(value) FROM json_each(?2)) AND run = ?1 ORDER"
    broken_sql(stack, "entries_copied", "AND run = ?1 ORDER", but_last)


def _fork_other_results(stack: ExitStack) -> None:
    broken_sql(stack, "entries_forked", "value, attempt, started_at\nFROM", "'0', attempt, started_at\nFROM")


def _fork_what_is_over(stack: ExitStack) -> None:
    """A fork begins with a chapter that was rewound since it was looked at."""
    present = "AND position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?2)"
    broken_sql(stack, "entries_forked", present, "")


def _forget_compensations(stack: ExitStack) -> None:
    """What undoes work is forgotten when the run is read from its journal."""
    undo = Compensations.undo

    def broken(self: Compensations, *arguments: Any, **named: Any) -> None:
        if calling_run("undo()").recorded_next() is None:
            undo(self, *arguments, **named)

    stack.enter_context(patch.object(Compensations, "undo", broken))


def _settle_early(stack: ExitStack) -> None:
    """Whoever says how a step ended is told that this is recorded before it is."""
    settle = SettleRequests.settle

    def broken(self: SettleRequests, request: SettleStep, reply: Reply) -> None:
        reply(None, None)
        settle(self, request, lambda _value, _error: None)

    stack.enter_context(patch.object(SettleRequests, "settle", broken))


def _drop_settlements(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Settler, "take", lambda *_arguments: None))


def _tick_in_two_commits(stack: ExitStack) -> None:
    """That a tick is done with is one commit, the run that it starts the next."""
    changes = Schedules._changes

    def broken(self: Schedules, decision: Advance) -> list[Change]:
        both = changes(self, decision)
        starts = [change for change in both if isinstance(change, RunCreated)]
        for start in starts:
            self._runs.batch.lone_work().then(start, lambda _created: None)
        return [change for change in both if change not in starts]

    stack.enter_context(patch.object(Schedules, "_changes", broken))


def _let_runs_overlap(stack: ExitStack) -> None:
    """What a schedule knows of its runs is forgotten with each decision."""
    look = schedule_policy._Deciding.look_at_runs

    def broken(self: schedule_policy._Deciding) -> None:
        look(self)
        self._running = []

    stack.enter_context(patch.object(schedule_policy._Deciding, "look_at_runs", broken))


def _count_only_what_has_begun(stack: ExitStack) -> None:
    """Ticks that wait for the run before them do not count towards the limit, and are started though it is reached."""
    stack.enter_context(patch.object(schedule_policy, "is_spent", lambda *_arguments: False))
    start = schedule_policy._Deciding.start_buffered

    def broken(self: schedule_policy._Deciding) -> None:
        self._over = False
        start(self)

    stack.enter_context(patch.object(schedule_policy._Deciding, "start_buffered", broken))


def _tick_on_after_failures(stack: ExitStack) -> None:
    stack.enter_context(patch.object(schedule_policy._Deciding, "_note_failure", lambda *_arguments: None))


def _leave_out_of_backfills(stack: ExitStack) -> None:
    """A tick of a backfill whose turn comes while a run is under way is left out."""
    take = schedule_policy._Deciding.take_backfills

    def broken(self: schedule_policy._Deciding) -> bool:
        self._backfills = [replace(each, overlap="skip") for each in self._backfills]
        return take(self)

    stack.enter_context(patch.object(schedule_policy._Deciding, "take_backfills", broken))


def _trigger_early(stack: ExitStack) -> None:
    """Whoever asks for a run now is told that it is there before it is."""
    trigger = ScheduleRequests._trigger

    def broken(self: ScheduleRequests, request: TriggerSchedule, reply: Reply) -> None:
        reply(None, None)
        trigger(self, request, lambda _value, _error: None)

    stack.enter_context(patch.object(ScheduleRequests, "_trigger", broken))


def _leave_acts_to_the_dead(stack: ExitStack) -> None:
    stack.enter_context(patch.object(BulkRequests, "take_over", lambda _self: None))


def _leave_out_a_page(stack: ExitStack) -> None:
    """An act on many runs has come further than it has acted."""
    broken_sql(stack, "bulk_advanced", "SET before_key = ?4", "SET before_key = ?4 - 1")


def _act_after_the_page(stack: ExitStack) -> None:
    """That a page of an act is done with is one commit, what is done to its runs the next."""
    act = BulkRequests._act

    def broken(self: BulkRequests, row: BulkRecord, run_id: str, _reply: Reply) -> None:
        def late() -> None:
            with suppress(StepwellError):
                act(self, row, run_id, lambda _value, _error: None)

        self._worker.batch.lone_work().afterwards(late)

    stack.enter_context(patch.object(BulkRequests, "_act", broken))


def _keep_terminated(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Inbox, "drop_terminated", lambda _self: None))


def _begin_no_successor(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Successors, "succeed", lambda *_arguments: None))


def _count_no_entries_of_before(stack: ExitStack) -> None:
    """The length of a journal is forgotten when it is read again, and so is the limit of the workflow."""
    stack.enter_context(patch.object(activation, "limit_of", lambda _workflow, limit: limit))


def _forget_tries(stack: ExitStack) -> None:
    """What the file has of a poll is not read with its run."""
    stack.enter_context(patch.object(step_outcomes, "remembered", lambda _history, _row: None))


def _forget_progress(stack: ExitStack) -> None:
    """What the file has of how far a step is is not read with its run."""
    history = step_outcomes.attempt_history
    stack.enter_context(
        patch(
            "stepwell.worker.arriving.loader.attempt_history",
            lambda codec, entries, _progress: history(codec, entries, ()),
        )
    )


def _say_nothing_last(stack: ExitStack) -> None:
    """What an attempt said last is not written with its end."""
    stack.enter_context(patch.object(step_outcomes, "tell_last", lambda *_arguments, **_named: None))


def _move_in_words_only(stack: ExitStack) -> None:
    """Who moves a run that waits in a queue is told that it was, and it stands where it did."""
    broken_sql(stack, "entry_rescheduled", "ready_at = ?2,", "ready_at = ready_at,")


def _delete_early(stack: ExitStack) -> None:
    """Whoever deletes a run is told that it is gone before it is."""
    delete = BulkRequests.delete

    def broken(self: BulkRequests, request: DeleteRun, reply: Reply) -> None:
        reply(None, None)
        delete(self, request, lambda _value, _error: None)

    stack.enter_context(patch.object(BulkRequests, "delete", broken))


def _delete_what_has_begun(stack: ExitStack) -> None:
    found = BulkActs._found

    def broken(self: BulkActs, run_id: str) -> RunRecord:
        run = found(self, run_id)
        return run if run.status in ENDED else replace(run, started_at=None, status="pending")

    stack.enter_context(patch.object(BulkActs, "_found", broken))


def _take_all_of_a_partition(stack: ExitStack) -> None:
    """What a worker has of each partition is not counted."""
    able = queue_policy._able

    def broken(groups: list[list[Lane]], settings: QueueSettings, _there: object) -> list[int]:
        return able(groups, replace(settings, partition_per_worker=None), {})

    stack.enter_context(patch.object(queue_policy, "_able", broken))


STORY_CONTROLS: Final[dict[str, Break]] = {
    "a promise is answered twice": Break(
        _answer_twice, ("what is acknowledged is durable", "a run is told the answer"), "promises"
    ),
    "an answer is not looked for after a crash": Break(_do_not_look_for_answers, ("a run goes on",), "promises"),
    "a failure is told of by a commit of its own": Break(
        _tell_of_failures_later, ("each failure has one run that is told",), "failures"
    ),
    "one failure too many is borne": Break(_bear_one_more, ("so many failures are borne",), "fan-out"),
    "a run that is to pause goes on": Break(_pause_what_goes_on, ("a pause reaches its run",), "pauses"),
    "unread messages stay behind in a chapter": Break(_lose_unread_messages, ("no message is lost",), "chapters"),
    "a chapter begins with those before it": Break(
        _replay_all_chapters, ("no run is halted without need",), "chapters"
    ),
    "a rewind keeps too little": Break(_keep_too_little, ("what a rewind keeps is what there was",), "rewinding"),
    "a fork has other results": Break(_fork_other_results, ("what a rewind keeps is what there was",), "rewinding"),
    "a fork of a chapter that is over": Break(
        _fork_what_is_over, ("what a rewind keeps is what there was",), "rewinding"
    ),
    "compensations are forgotten by a crash": Break(
        _forget_compensations, ("a saga is undone in reverse",), "sagas", crashes=True
    ),
    "a settlement is acknowledged before it is recorded": Break(
        _settle_early, ("what is acknowledged is durable",), "settling"
    ),
    "a tick and its run are two commits": Break(_tick_in_two_commits, ("a tick has one run",), "schedules"),
    "the runs of a schedule are not looked at": Break(
        _let_runs_overlap, ("the runs of a schedule do not overlap",), "schedules"
    ),
    "a limit of runs counts only what has begun": Break(
        _count_only_what_has_begun, ("the limit of a schedule is kept",), "schedules"
    ),
    "a schedule goes on after a failure": Break(
        _tick_on_after_failures, ("a failure pauses its schedule",), "schedules"
    ),
    "a backfill leaves ticks out": Break(_leave_out_of_backfills, ("a backfill does each tick",), "schedules"),
    "a trigger is acknowledged before its run is there": Break(
        _trigger_early, ("what is acknowledged is durable",), "schedules"
    ),
    "an act on many runs dies with its worker": Break(
        _leave_acts_to_the_dead, ("an act on many runs goes on",), "bulk acts", crashes=True
    ),
    "an act on many runs leaves some out": Break(
        _leave_out_a_page, ("an act on many runs leaves none out",), "bulk acts"
    ),
    "an act on many runs is noted before it is done": Break(
        _act_after_the_page, ("an act on many runs leaves none out",), "bulk acts", crashes=True
    ),
    "nobody looks for what was terminated": Break(_keep_terminated, ("what has ended leaves memory",), "bulk acts"),
    "what is to follow a run does not": Break(_begin_no_successor, ("the last start stands",), "starting"),
    "the limit of a journal is not looked at": Break(
        _count_no_entries_of_before, ("a journal keeps to its limit",), "long journals"
    ),
    "a poll forgets its tries at a crash": Break(_forget_tries, ("a poll keeps its tries",), "polling", crashes=True),
    "how far a step is is forgotten at a crash": Break(
        _forget_progress, ("progress outlives attempts",), "progress", crashes=True
    ),
    "the last word of an attempt is not written": Break(
        _say_nothing_last, ("what a step said last stands with its end", "progress outlives attempts"), "progress"
    ),
    "a run is moved in its queue in words only": Break(
        _move_in_words_only, ("what is acknowledged is durable",), "lines"
    ),
    "a deletion is acknowledged before it is recorded": Break(
        _delete_early, ("what is acknowledged is durable",), "lines"
    ),
    "a run that has begun is deleted": Break(_delete_what_has_begun, ("what has begun is not deleted",), "lines"),
    "a worker takes all of a partition": Break(
        _take_all_of_a_partition, ("a worker takes no more of a partition than its share",), "lines"
    ),
    "a job is executed before it is recorded": Break(act_early, ("a step follows a commit",), "jobs"),
    "what was said of a step is dropped": Break(
        _drop_settlements, ("what was said of a step is taken",), "settling", crashes=True
    ),
}
