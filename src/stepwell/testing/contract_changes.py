"""The part of a store's contract about units and each kind of change.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.errors import ClaimLost, RunConflict, RunEnded, RunNotFound, StoreError
from stepwell.model.lifecycle import ENDED, IllegalTransition, Status
from stepwell.model.run import RunRecord
from stepwell.model.updates import UpdateAnswer, marked
from stepwell.store.changes import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    Created,
    MessageSent,
    MessageTaken,
    RunCreated,
    RunFinished,
    RunMoved,
    Sent,
    UpdateAnswered,
    UpdateTakenOn,
    ValuePublished,
    WatchAdded,
)
from stepwell.store.claims import RunWoken
from stepwell.store.store import Lent, Unit
from stepwell.store.streams import StreamWritten
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step


class ChangeContract(StoreFixtures):
    """What `Store.commit` does with every kind of change."""

    # --- units -------------------------------------------------------------------------------------------------------

    def test_a_unit_is_applied_wholly_or_not_at_all(self, worker: Worker) -> None:
        run = worker.create("a")
        with pytest.raises(RunNotFound):
            worker.apply(step(run, 1), ValuePublished(run, "k", "1", NOW), MessageSent("nobody", "m", "1", NOW))
        assert worker.read.journal(run) == []
        assert worker.read.values(run) == {}

    def test_a_unit_that_is_refused_fails_alone(self, worker: Worker) -> None:
        run = worker.create("a")
        good, bad, better = worker.commit(
            Unit([step(run, 1)]), Unit([step(run, 2), RunMoved(run + 999, "waiting", NOW)]), Unit([step(run, 3)])
        )
        assert (good, better) == ([None], [None])
        assert isinstance(bad, RunNotFound)
        assert [entry.op for entry in worker.read.journal(run)] == [1, 3]

    def test_an_entry_of_a_run_that_does_not_exist_is_refused(self, worker: Worker) -> None:
        run = worker.create("a")
        refused, applied = worker.commit(Unit([step(run + 1, 1)]), Unit([step(run, 1)]))
        assert isinstance(refused, StoreError)
        assert applied == [None]

    def test_a_value_that_a_store_cannot_hold_is_refused_alone(self, worker: Worker) -> None:
        run = worker.create("a")
        refused, applied = worker.commit(Unit([step(run, 1, fingerprint=2**70)]), Unit([step(run, 2)]))
        assert isinstance(refused, StoreError)
        assert applied == [None]

    def test_a_body_runs_once_and_its_changes_are_applied(self, worker: Worker) -> None:
        run = worker.create("a")
        calls: list[int] = []

        def body(lent: Lent) -> list[Change]:
            calls.append(1)
            lent.execute("CREATE TABLE paid (amount INTEGER)")
            lent.execute("INSERT INTO paid VALUES (5)")
            return [step(run, 1)]

        refused = Unit([RunMoved(run + 9, "waiting", NOW)])
        outcomes = worker.commit(refused, Unit([], body), refused)
        assert outcomes[1] == [None]
        assert [type(outcomes[0]), type(outcomes[2])] == [RunNotFound, RunNotFound]
        assert calls == [1]
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            assert tx.lent.execute("SELECT amount FROM paid") == [(5,)]

    def test_a_body_that_raises_leaves_nothing_and_hinders_no_other(self, worker: Worker) -> None:
        run = worker.create("a")

        def body(lent: Lent) -> list[Change]:
            lent.execute("CREATE TABLE paid (amount INTEGER)")
            raise ValueError("no money")

        before, refused, after = worker.commit(Unit([step(run, 1)]), Unit([], body), Unit([step(run, 2)]))
        assert (before, after) == ([None], [None])
        assert isinstance(refused, StoreError)
        assert isinstance(refused.__cause__, ValueError)
        assert [entry.op for entry in worker.read.journal(run)] == [1, 2]
        with pytest.raises(Exception, match="paid"), worker.writing(), worker.store.transaction(worker.claim) as tx:
            tx.lent.execute("SELECT amount FROM paid")

    # --- runs --------------------------------------------------------------------------------------------------------

    def test_a_created_run_reads_as_it_was_written(self, worker: Worker) -> None:
        parent = worker.create("parent")
        key = worker.create(
            "a", deadline_at=NOW + 9, parent=parent, parent_op=3, attached=True, reason="why", input=b"\x00zip"
        )
        assert worker.read.run_by_id("a") == worker.record(key)
        assert worker.record(key) == RunRecord(
            key=key,
            id="a",
            workflow="shop.checkout",
            status="running",
            input=b"\x00zip",
            fingerprint=7,
            created_at=NOW,
            updated_at=NOW,
            started_at=NOW,
            reason="why",
            owner=worker.claim.epoch,
            deadline_at=NOW + 9,
            parent=parent,
            parent_op=3,
            attached=True,
        )
        assert worker.record(key).attached is True

    def test_a_second_creation_with_an_id_changes_nothing_and_shows_the_first(self, worker: Worker) -> None:
        key = worker.create("a")
        (created,) = worker.apply(RunCreated("a", "other", None, 8, "pending", NOW + 1))
        assert created == Created(key, worker.record(key), refused=True)
        assert worker.record(key).workflow == "shop.checkout"

    def test_a_creation_that_must_be_new_is_refused_where_the_id_exists(self, worker: Worker) -> None:
        worker.create("a")
        first, second = (RunCreated(name, "w", None, 8, "pending", NOW, must_be_new=True) for name in "ba")
        with pytest.raises(RunConflict, match="'a'"):
            worker.apply(first, second)
        assert worker.read.run_by_id("b") is None
        worker.apply(first)

    def test_the_same_id_twice_in_one_commit_makes_one_run(self, worker: Worker) -> None:
        creation = RunCreated("a", "w", None, 1, "pending", NOW)
        first, second = worker.commit(Unit([creation]), Unit([creation]))
        assert isinstance(first, list)
        assert isinstance(second, list)
        assert first[0].existing is None
        assert second[0] == Created(first[0].key, worker.record(first[0].key))

    def test_a_move_sets_state_wake_up_reason_and_owner(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(RunMoved(key, "waiting", NOW + 1, wake_at=NOW + 5, reason="sleeps"))
        record = worker.record(key)
        assert (record.status, record.updated_at, record.wake_at) == ("waiting", NOW + 1, NOW + 5)
        assert (record.reason, record.owner) == ("sleeps", worker.epoch)
        worker.apply(RunMoved(key, "running", NOW + 2))
        record = worker.record(key)
        assert (record.status, record.wake_at, record.reason) == ("running", None, None)
        assert record.owner == worker.epoch
        worker.apply(RunMoved(key, "halted", NOW + 3, reason="broken"))
        assert worker.record(key).owner is None

    def test_a_run_starts_once(self, worker: Worker) -> None:
        key = worker.create("a", "pending")
        assert worker.record(key).started_at is None
        worker.apply(RunMoved(key, "running", NOW + 1), RunMoved(key, "waiting", NOW + 2))
        worker.apply(RunMoved(key, "running", NOW + 3))
        assert worker.record(key).started_at == NOW + 1

    @pytest.mark.parametrize(
        ("status", "fields"),
        [("completed", {"result": '"ok"'}), ("failed", {"error": "{}"}), ("cancelled", {"reason": "asked"})],
    )
    def test_a_finished_run_says_how_and_when_it_ended(
        self, worker: Worker, status: Status, fields: dict[str, Any]
    ) -> None:
        key = worker.create("a")
        assert worker.apply(RunFinished(key, status, NOW + 4, **fields)) == [[]]
        record = worker.record(key)
        assert (record.status, record.ended_at, record.updated_at) == (status, NOW + 4, NOW + 4)
        assert record.owner is None
        assert {name: getattr(record, name) for name in fields} == fields

    @pytest.mark.parametrize("status", sorted(ENDED))
    def test_a_run_that_has_ended_can_neither_be_moved_nor_end_again(self, worker: Worker, status: Status) -> None:
        key = worker.create("a", status)
        before = worker.record(key)
        for change in (RunMoved(key, "running", NOW + 1), RunFinished(key, "completed", NOW + 1)):
            with pytest.raises(ClaimLost, match="'a'"):
                worker.apply(change)
        assert worker.record(key) == before

    def test_illegal_changes_are_refused(self, worker: Worker) -> None:
        running, pending = worker.create("a"), worker.create("b", "pending")
        impossible: list[Change] = [
            RunMoved(running, "completed", NOW),
            RunFinished(running, "waiting", NOW),
            RunFinished(pending, "completed", NOW),
            RunCreated("c", "w", None, 1, "completed", NOW),
        ]
        for change in impossible:
            with pytest.raises(IllegalTransition):
                worker.apply(change)
        contradictory: list[Change] = [
            RunMoved(running, "running", NOW, wake_at=NOW),
            RunMoved(running, "halted", NOW, reason=None),
            RunFinished(running, "failed", NOW, result="1"),
            RunFinished(running, "completed", NOW, error="{}"),
            MessageTaken(running, 12345, NOW),
        ]
        for change in contradictory:
            with pytest.raises(StoreError):
                worker.apply(change)
        assert worker.record(running).status == "running"
        assert worker.record(pending).status == "pending"

    def test_waking_only_ever_makes_a_waiting_run_wake_earlier(self, worker: Worker) -> None:
        later, never, running = worker.parked("a", wake_at=NOW + 50), worker.parked("b"), worker.create("c")
        worker.apply(*(RunWoken(key, NOW + 10) for key in (later, never, running)))
        assert [worker.record(key).wake_at for key in (later, never, running)] == [NOW + 10, NOW + 10, None]
        worker.apply(RunWoken(later, NOW + 20))
        assert worker.record(later).wake_at == NOW + 10

    # --- cancelling --------------------------------------------------------------------------------------------------

    def test_a_cancel_request_wakes_a_waiting_run_and_the_first_one_stays(self, worker: Worker) -> None:
        key = worker.parked("a")
        (record,) = worker.apply(CancelRequested("a", NOW + 1, "first"))
        assert record == worker.record(key)
        assert (record.cancel_requested_at, record.cancel_reason, record.wake_at) == (NOW + 1, "first", NOW + 1)
        (record,) = worker.apply(CancelRequested("a", NOW + 2, "second"))
        assert (record.cancel_requested_at, record.cancel_reason) == (NOW + 1, "first")

    def test_a_cancel_request_without_a_reason_is_not_given_the_next_ones(self, worker: Worker) -> None:
        worker.create("a")
        worker.apply(CancelRequested("a", NOW + 1))
        (record,) = worker.apply(CancelRequested("a", NOW + 2, "second"))
        assert record.cancel_reason is None

    def test_a_run_that_has_ended_takes_no_cancel_request(self, worker: Worker) -> None:
        key = worker.create("a", "completed")
        assert worker.apply(CancelRequested("a", NOW + 1, "late")) == [worker.record(key)]
        assert worker.record(key).cancel_requested_at is None

    def test_cancelling_an_unknown_run_is_an_error(self, worker: Worker) -> None:
        with pytest.raises(RunNotFound, match="'nobody'"):
            worker.apply(CancelRequested("nobody", NOW))

    def test_the_end_of_a_parent_cancels_its_living_attached_children(self, worker: Worker) -> None:
        parent = worker.create("p")
        tie: dict[str, Any] = {"parent": parent, "parent_op": 1}
        waiting = worker.parked("waiting", attached=True, **tie)
        running = worker.create("running", attached=True, **tie)
        over = worker.create("over", "completed", attached=True, **tie)
        detached = worker.create("detached", **tie)
        assert worker.apply(ChildrenCancelled(parent, NOW + 3, "parent")) == [[waiting, running]]
        assert worker.record(waiting).wake_at == NOW + 3
        requested = [worker.record(key).cancel_requested_at for key in (waiting, running, over, detached)]
        assert requested == [NOW + 3, NOW + 3, None, None]

    # --- messages, values, watches -----------------------------------------------------------------------------------

    def test_messages_are_kept_in_the_order_of_sending(self, worker: Worker) -> None:
        key = worker.parked("a")
        sent = [worker.apply(MessageSent("a", f"m{number}", str(number), NOW + number))[0] for number in range(3)]
        assert [(one.run, one.status) for one in sent] == [(key, "waiting")] * 3
        (snapshot,) = worker.reads.load([key])
        assert [(m.position, m.name, m.value, m.sent_at) for m in snapshot.messages] == [
            (sent[number].position, f"m{number}", str(number), NOW + number) for number in range(3)
        ]
        assert snapshot.record.wake_at == NOW
        assert sorted(one.position for one in sent) == [one.position for one in sent]

    def test_a_message_that_was_taken_is_gone_and_its_position_is_not_used_again(self, worker: Worker) -> None:
        key = worker.create("a")
        (first,) = worker.apply(MessageSent("a", "m", "1", NOW))
        worker.apply(MessageTaken(key, first.position, NOW + 1), step(key, 1, kind="message", value="1"))
        assert worker.reads.load([key])[0].messages == []
        with pytest.raises(StoreError):
            worker.apply(MessageTaken(key, first.position, NOW + 2))
        (second,) = worker.apply(MessageSent("a", "m", "2", NOW))
        assert second.position > first.position

    def test_a_message_is_taken_only_by_the_run_that_it_was_sent_to(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        (sent,) = worker.apply(MessageSent("a", "m", "1", NOW))
        with pytest.raises(StoreError):
            worker.apply(MessageTaken(other, sent.position, NOW))
        assert len(worker.reads.load([key])[0].messages) == 1

    def test_a_key_dedups_a_message_before_and_after_it_was_taken(self, worker: Worker) -> None:
        key = worker.create("a")
        message = MessageSent("a", "m", "1", NOW, key="once")
        (sent,) = worker.apply(message)
        assert worker.apply(message) == [Sent(key, "running", 0, worker.epoch)]
        worker.apply(MessageTaken(key, sent.position, NOW + 1))
        assert worker.apply(message) == [Sent(key, "running", 0, worker.epoch)]
        assert worker.reads.load([key])[0].messages == []
        with pytest.raises(StoreError):
            worker.apply(MessageTaken(key, sent.position, NOW + 2))
        worker.create("b")
        assert worker.apply(MessageSent("b", "m", "1", NOW, key="once"))[0].position > 0

    def test_an_update_that_is_taken_on_as_it_comes_is_known_by_its_key(self, worker: Worker) -> None:
        key = worker.create("a")
        name, known_as = marked("add"), marked("once")
        taken = UpdateTakenOn(key, name, known_as, NOW, 1)
        worker.apply(taken, step(key, 1, kind="update", value="{}"))
        assert worker.reads.update(key, known_as) == UpdateAnswer(name, False, False, None)
        assert worker.apply(MessageSent("a", name, "{}", NOW, known_as)) == [Sent(key, "running", 0, worker.epoch)]
        with pytest.raises(ClaimLost):
            worker.apply(UpdateTakenOn(key, name, known_as, NOW, 2), step(key, 2, kind="update", value="{}"))
        assert [entry.op for entry in worker.reads.load([key])[0].entries] == [1]
        assert worker.apply(UpdateAnswered(key, NOW + 1, "7", op=1)) == [known_as]
        assert worker.reads.update(key, known_as) == UpdateAnswer(name, True, False, "7")

    def test_items_of_streams_stand_in_the_order_of_their_units_whatever_comes_between(self, worker: Worker) -> None:
        key, over = worker.create("a"), worker.create("b")
        outcomes = worker.commit(
            Unit([_items(key, "s", "1")]),
            Unit([_items(over, "s", "1", "2")]),
            Unit([_items(key, "t", "1")]),
            Unit([_items(key, "s", "2", "3")]),
            Unit([RunFinished(over, "completed", NOW)]),
            Unit([_items(over, "s", "4")]),
            Unit([_items(key, "s", "4", attempt=2, begins=True)]),
            Unit([_items(key, "s", "5", attempt=2), _items(key, "t", "2")]),
        )
        assert [isinstance(outcome, ClaimLost) for outcome in outcomes] == [number == 5 for number in range(8)]
        reads = worker.reads

        def read(run: int, name: str, *, last_attempt: bool = False) -> list[Any]:
            found = reads.stream_items(run, name, 0, 100, last_attempt=last_attempt)
            return [(item.offset, item.value) for item in found]

        assert read(key, "s") == [(number, str(number + 1)) for number in range(5)]
        assert read(key, "s", last_attempt=True) == [(3, "4"), (4, "5")]
        assert read(key, "t") == [(0, "1"), (1, "2")]
        assert read(over, "s") == [(0, "1"), (1, "2")]

    def test_messages_for_no_run_or_an_ended_one_are_errors(self, worker: Worker) -> None:
        with pytest.raises(RunNotFound, match="'nobody'"):
            worker.apply(MessageSent("nobody", "m", "1", NOW))
        key = worker.create("a")
        (sent,) = worker.apply(MessageSent("a", "m", "1", NOW, key="taken"))
        worker.apply(MessageTaken(key, sent.position, NOW), RunFinished(key, "completed", NOW))
        with pytest.raises(RunEnded, match="'a'"):
            worker.apply(MessageSent("a", "m", "1", NOW))
        # A sender that repeats itself, because it never saw the answer, is not told that it failed.
        assert worker.apply(MessageSent("a", "m", "1", NOW, key="taken")) == [Sent(key, "completed", 0)]

    def test_the_end_of_a_run_deletes_its_unreceived_messages(self, worker: Worker) -> None:
        key = worker.create("a")
        worker.apply(MessageSent("a", "m", "1", NOW), MessageSent("a", "m", "2", NOW, key="k"))
        worker.apply(RunFinished(key, "completed", NOW))
        assert worker.reads.load([key])[0].messages == []

    def test_a_published_value_replaces_the_one_before(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        worker.apply(ValuePublished(key, "x", "1", NOW), ValuePublished(key, "y", None, NOW + 1))
        worker.apply(ValuePublished(key, "x", b"2", NOW + 2), ValuePublished(other, "x", "3", NOW))
        assert worker.read.values(key) == {"x": b"2", "y": None}
        assert worker.read.value(key, "x") == (b"2", NOW + 2)
        assert worker.read.value(key, "y") == (None, NOW + 1)
        assert worker.read.value(key, "z") is None

    def test_the_end_of_a_run_wakes_its_parent_and_its_watchers_that_wait(self, worker: Worker) -> None:
        parent, waiting, busy = worker.parked("parent"), worker.parked("waiting"), worker.create("busy")
        child = worker.create("child", parent=parent, parent_op=1)
        for watcher in (busy, waiting, waiting):
            worker.apply(WatchAdded(child, watcher))
        assert worker.apply(RunFinished(child, "completed", NOW + 6)) == [[parent, waiting, busy]]
        assert [worker.record(key).wake_at for key in (parent, waiting, busy)] == [NOW + 6, NOW + 6, None]

    def test_watching_tells_the_state_of_the_watched_run(self, worker: Worker) -> None:
        watcher = worker.create("w")
        assert worker.apply(WatchAdded(worker.create("a"), watcher)) == ["running"]
        # Nothing will come from this one any more: the watcher has to know that.
        assert worker.apply(WatchAdded(worker.create("b", "completed"), watcher)) == ["completed"]
        with pytest.raises(RunNotFound):
            worker.apply(WatchAdded(watcher + 999, watcher))


def _items(run: int, name: str, *items: str, attempt: int = 1, begins: bool = False) -> StreamWritten:
    return StreamWritten(run, name, 1, attempt, NOW, items, begins=begins)
