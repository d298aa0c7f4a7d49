"""The part of a store's contract about chapters: a run goes on with another journal.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from stepwell.errors import ClaimLost, InvalidArgument, RunConflict, RunEnded, RunNotEnded, RunNotFound
from stepwell.model.chapters import Beginning, decode_chapter
from stepwell.model.lifecycle import ENDED, STATUSES, Status
from stepwell.store.changes import (
    CancelRequested,
    MessageSent,
    RunContinued,
    RunFinished,
    RunMoved,
    RunRetried,
    RunRewound,
    ValuePublished,
)
from stepwell.store.forks import Origin, RunForked
from stepwell.store.replacements import Replacement
from stepwell.store.settlements import StepSettled
from stepwell.store.store import Unit
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step

LATER = NOW + 10


def continued(key: int, number: int = 2, *, heard_cancel: bool = False) -> RunContinued:
    """Return the change by which a run goes on as new."""
    return RunContinued(key, LATER, f"[{number}]", 10 * (number - 1), heard_cancel)


class ChapterContract(StoreFixtures):
    """What is told of a run in another chapter than the first, and what stays as it was."""

    def test_the_journal_is_that_of_the_present_chapter(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        worker.apply(*(step(run, op) for op in (1, 2) for run in (key, other)))
        worker.apply(step(key, 3), continued(key))
        worker.apply(step(key, 11))
        assert [entry.op for entry in worker.read.journal(key)] == [11]
        assert [entry.op for entry in worker.read.journal(other)] == [1, 2]
        (snapshot,) = worker.reads.load([key])
        assert [entry.op for entry in snapshot.entries] == [11]
        assert (snapshot.record.input, snapshot.record.status, snapshot.record.owner) == (
            *("[2]", "running", worker.epoch),
        )

    def test_what_its_code_depends_on_is_in_its_record(self, worker: Worker) -> None:
        key = worker.create("a")
        assert worker.record(key).chapter is None
        worker.apply(continued(key))
        worker.apply(continued(key, 3))
        chapter = decode_chapter(worker.record(key).chapter)
        assert chapter is not None
        assert (chapter.number, chapter.clock_from, chapter.ops_before) == (3, LATER, 20)
        facts = worker.read.run_facts("a")
        assert facts is not None
        assert facts.chapter == worker.record(key).chapter

    def test_all_chapters_are_listed_with_what_they_were_given(self, worker: Worker) -> None:
        key = worker.create("a")
        assert worker.read.chapters(key) == []
        worker.apply(step(key, 1), continued(key))
        worker.apply(step(key, 11), step(key, 12))
        worker.apply(continued(key, 3))
        chapters = worker.read.chapters(key)
        assert [(one.number, one.beginning, one.began_at, one.ended_at, one.input) for one in chapters] == [
            (1, "started", NOW, LATER, "[1]"),
            (2, "continued", LATER, LATER, "[2]"),
            (3, "continued", LATER, None, None),
        ]
        begins = [one.journal_from for one in chapters]
        between = [worker.read.journal_between(key, begin, end) for begin, end in pairwise(begins)]
        assert [[entry.op for entry in entries] for entries in between] == [[1], [11, 12]]
        assert worker.reads.first_input(key) == "[1]"

    def test_what_others_hold_of_the_run_stays(self, worker: Worker) -> None:
        key = worker.create("a")
        child = worker.create("child", parent=key, parent_op=1, attached=True)
        worker.apply(MessageSent("a", "note", "1", NOW, "k"), ValuePublished(key, "v", "7", NOW))
        worker.apply(continued(key))
        (snapshot,) = worker.reads.load([key])
        assert [message.name for message in snapshot.messages] == ["note"]
        assert worker.apply(MessageSent("a", "note", "1", LATER, "k"))[0].position == 0
        assert worker.read.value(key, "v") == ("7", NOW)
        assert (worker.record(child).parent, worker.record(child).cancel_requested_at) == (key, None)

    @pytest.mark.parametrize("heard", [True, False])
    def test_a_request_to_cancel_that_was_heard_is_done_with(self, worker: Worker, heard: bool) -> None:
        key = worker.create("a")
        worker.apply(CancelRequested("a", NOW, "enough"))
        worker.apply(continued(key, heard_cancel=heard))
        assert worker.record(key).cancel_reason == (None if heard else "enough")

    @pytest.mark.parametrize("status", STATUSES)
    def test_only_a_run_that_has_not_ended_goes_on(self, worker: Worker, status: Status) -> None:
        key = worker.create("a", status)
        if status not in ENDED:
            worker.apply(continued(key))
            assert worker.record(key).status == "running"
            return
        with pytest.raises(ClaimLost, match=status):
            worker.apply(continued(key))
        assert worker.read.chapters(key) == []

    def test_another_worker_cannot_end_a_chapter(self, worker: Worker, other: Worker) -> None:
        key = worker.create("a")
        with pytest.raises(ClaimLost, match="belongs to worker"):
            other.apply(step(key, 1), continued(key))
        assert (worker.record(key).chapter, worker.read.journal(key), worker.read.chapters(key)) == (None, [], [])

    def test_a_refused_unit_leaves_the_chapter_as_it_was(self, worker: Worker) -> None:
        key, ended = worker.create("a"), worker.create("b", "completed")
        worker.commit(Unit([step(key, 1), continued(key), RunMoved(ended, "waiting", NOW)]))
        assert (worker.record(key).chapter, worker.record(key).input, worker.read.chapters(key)) == (None, "[1]", [])

    def test_a_chapter_is_retried_as_a_run_is(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(step(key, 1), continued(key))
        worker.apply(step(key, 11), step(key, 12))
        worker.apply(RunFinished(key, "failed", LATER, error="{}"))
        last = worker.read.journal(key)[-1]
        worker.apply(RunRetried(key, LATER, LATER, undone=[last.position]))
        assert [entry.op for entry in worker.read.journal(key)] == [11]

    def test_a_rewound_run_has_copies_of_what_is_kept_in_their_order(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        worker.apply(*(step(run, op) for op in (1, 2, 3) for run in (key, other)))
        worker.apply(RunFinished(key, "failed", NOW, error="{}"))
        entries, foreign = worker.read.journal(key), worker.read.journal(other)
        kept = [entries[1].position, entries[0].position, foreign[0].position]
        replaced = [Replacement(2, "step", "step", "7"), Replacement(3, "step", "step", "8")]
        worker.apply(RunRewound(key, "failed", entries[-1].position, LATER, "rewound", kept, replaced))
        record = worker.record(key)
        assert (record.status, record.error, record.ended_at, record.owner, record.input) == (
            *("pending", None, None, None, "[1]"),
        )
        assert [(entry.op, entry.value, entry.at) for entry in worker.read.journal(key)] == [
            (1, "1", NOW + 1),
            (2, "7", NOW + 2),
        ]
        begins = [chapter.journal_from for chapter in worker.read.chapters(key)]
        assert worker.read.journal_between(key, *begins) == entries
        assert worker.take(at=LATER) == [key]

    def test_a_fork_has_copies_and_nothing_of_the_other_run_is_changed(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(continued(key))
        worker.apply(*(step(key, op) for op in (11, 12, 13)), ValuePublished(key, "v", "1", NOW))
        worker.apply(ValuePublished(key, "w", "2", NOW), MessageSent("a", "word", '"x"', NOW, "k"))
        entries, before = worker.read.journal(key), worker.record(key)
        kept, replaced = [entry.position for entry in entries[:2]], [Replacement(12, "step", "step", "7")]
        change = RunForked("b", key, Origin("a", 13, 5), LATER, "[2]", 9, kept, replaced, [("old", "3", NOW)], ["v"])
        (fork,) = worker.apply(change)
        assert (worker.read.journal(key), worker.record(key)) == (entries, before)
        (snapshot,) = worker.reads.load([fork])
        assert [(entry.op, entry.value, entry.at) for entry in snapshot.entries] == [
            (11, "1", NOW + 11),
            (12, "7", NOW + 12),
        ]
        assert [(message.name, message.value) for message in snapshot.messages] == [("old", "3"), ("word", '"x"')]
        assert (worker.reads.value(fork, "v"), worker.reads.value(fork, "w")) == (("1", NOW), None)
        record, chapter = snapshot.record, decode_chapter(snapshot.record.chapter)
        source = decode_chapter(before.chapter)
        assert (record.status, record.parent, record.owner, record.input) == ("pending", None, None, "[2]")
        assert chapter is not None
        assert source is not None
        assert (chapter.number, chapter.clock_from, chapter.seed, chapter.ops_before) == (
            *(1, source.clock_from, source.seed, source.ops_before),
        )
        (row,) = worker.read.chapters(fork)
        assert (row.beginning, row.forked_from, row.forked_op, row.forked_as) == ("forked", "a", 13, 5)
        assert worker.take(at=LATER) == [fork]

    def test_a_fork_is_refused_where_its_id_is_taken_or_what_is_kept_has_gone(self, worker: Worker) -> None:
        key, _ = worker.create("a"), worker.create("b")
        worker.apply(step(key, 1))
        (entry,) = worker.read.journal(key)
        with pytest.raises(RunConflict):
            worker.apply(RunForked("b", key, Origin("a", 2, 0), LATER, None, 0, [entry.position]))
        with pytest.raises(RunNotEnded):
            worker.apply(RunForked("c", key, Origin("a", 2, 0), LATER, None, 0, [entry.position + 1]))
        with pytest.raises(RunNotFound):
            worker.apply(RunForked("c", 99, Origin("a", 2, 0), LATER, None, 0))
        assert worker.read.run_by_id("c") is None

    def test_a_fork_is_refused_of_a_chapter_that_is_over_by_now(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(step(key, 1), RunFinished(key, "completed", NOW, result="1"))
        (entry,) = worker.read.journal(key)
        worker.apply(RunRewound(key, "completed", entry.position, LATER, "rewound", [entry.position]))
        with pytest.raises(RunNotEnded):
            worker.apply(RunForked("b", key, Origin("a", 2, 0), LATER, None, 0, [entry.position]))
        assert worker.read.run_by_id("b") is None

    def test_a_step_that_has_an_outcome_by_now_is_not_settled(self, worker: Worker) -> None:
        key, ended = worker.create("a"), worker.create("b")
        worker.apply(step(key, 1), RunFinished(ended, "completed", NOW, result="1"))
        with pytest.raises(InvalidArgument, match="has an outcome by now"):
            worker.apply(StepSettled(key, 1, "step", "7", LATER))
        with pytest.raises(RunEnded):
            worker.apply(StepSettled(ended, 1, "step", "7", LATER))
        with pytest.raises(RunNotFound):
            worker.apply(StepSettled(99, 1, "step", "7", LATER))
        worker.apply(StepSettled(key, 2, "step", "7", LATER))
        (snapshot,) = worker.reads.load([key])
        assert [(said.op, said.value) for said in snapshot.settlements] == [(2, "7")]

    @pytest.mark.parametrize("how", ["rewound", "restarted"])
    def test_clock_and_chance_of_what_is_kept_are_those_of_before(self, worker: Worker, how: Beginning) -> None:
        key = worker.create("a")
        worker.apply(step(key, 1), continued(key))
        worker.apply(step(key, 11), RunFinished(key, "completed", LATER, result="1"))
        before = decode_chapter(worker.record(key).chapter)
        (entry,) = worker.read.journal(key)
        worker.apply(RunRewound(key, "completed", entry.position, LATER, how, ops_before=11))
        chapter = decode_chapter(worker.record(key).chapter)
        assert before is not None
        assert chapter is not None
        same = (chapter.clock_from, chapter.seed, chapter.ops_before) == (
            *(before.clock_from, before.seed, before.ops_before),
        )
        assert (chapter.number, chapter.runs_before, same) == (3, key, how == "rewound")
        if how == "restarted":
            assert (chapter.clock_from, chapter.ops_before, worker.record(key).started_at) == (None, 11, None)

    def test_a_run_that_has_moved_on_is_not_rewound(self, worker: Worker, other: Worker) -> None:
        key = worker.create("a", "failed")
        with pytest.raises(RunNotEnded, match="'a' is failed now: it has moved on"):
            worker.apply(RunRewound(key, "failed", 7, LATER, "rewound"))
        with pytest.raises(RunNotEnded, match="'a' is failed now"):
            worker.apply(RunRewound(key, "completed", 0, LATER, "rewound"))
        waiting = worker.create("b", "waiting")
        with pytest.raises(RunNotEnded, match="'b' is waiting now, in the memory of another worker"):
            other.apply(RunRewound(waiting, "waiting", 0, LATER, "rewound"))
        with pytest.raises(RunNotFound):
            worker.apply(RunRewound(99, "failed", 0, LATER, "rewound"))
        assert (worker.read.chapters(key), worker.read.chapters(waiting)) == ([], [])

    def test_no_position_is_given_out_below_a_chapter(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        worker.apply(step(key, 1))
        worker.apply(*(step(other, op) for op in range(1, 6)), continued(key))
        worker.apply(*(step(other, op) for op in range(6, 9)), RunFinished(other, "completed", NOW))
        with worker.writing():
            assert worker.store.purge(LATER, 10, worker.claim) == 1
        worker.apply(step(key, 11))
        assert [entry.op for entry in worker.read.journal(key)] == [11]

    def test_chapters_are_deleted_with_their_run(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(step(key, 1), continued(key))
        worker.apply(RunFinished(key, "completed", LATER))
        with worker.writing():
            assert worker.store.purge(LATER + 1, 10, worker.claim) == 1
        assert worker.read.chapters(key) == []
