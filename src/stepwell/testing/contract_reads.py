"""The part of a store's contract about the read side.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import threading

import msgspec
import pytest

from stepwell.model.journal import Entry
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.model.run import RunRecord
from stepwell.store.bulk_acts import RunDeleted
from stepwell.store.changes import CancelRequested, MessageSent, RunFinished, RunMoved
from stepwell.store.claims import RunsClaimed
from stepwell.store.inspector import RunFilter
from stepwell.store.store import Unit
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step


class ReadContract(StoreFixtures):
    """What the two read sides find."""

    # --- reading -----------------------------------------------------------------------------------------------------

    def test_the_journal_is_in_order_and_can_be_paged(self, worker: Worker) -> None:
        key, other = worker.create("a"), worker.create("b")
        entries = [step(run, op, value=f"{op}") for op in range(1, 301) for run in (key, other)]
        worker.commit(*(Unit([entry]) for entry in entries))
        read = worker.read.journal(key)
        assert [entry.op for entry in read] == list(range(1, 301))
        assert [entry.position for entry in read] == sorted({entry.position for entry in read})
        page = worker.read.journal(key, after=read[9].position, limit=5)
        assert page == read[10:15]
        assert page[0] == Entry(key, 11, "step", "shop.pay", 0xFFFFFFFF, NOW + 11, "11", 1, NOW, page[0].position)

    def test_runs_load_in_the_order_asked_for_with_what_belongs_to_each(self, worker: Worker) -> None:
        keys = [worker.create(f"r{number}") for number in range(5)]
        for op in (1, 2):
            worker.commit(*(Unit([step(key, op, value=f"{key}/{op}")]) for key in keys))
        worker.apply(MessageSent("r3", "m", None, NOW))
        asked = [keys[3], keys[0] + 999, keys[1], keys[4]]
        loaded = worker.reads.load(asked)
        assert [snapshot.record for snapshot in loaded] == [worker.record(keys[index]) for index in (3, 1, 4)]
        assert [[entry.value for entry in snapshot.entries] for snapshot in loaded] == [
            [f"{keys[index]}/1", f"{keys[index]}/2"] for index in (3, 1, 4)
        ]
        assert [len(snapshot.messages) for snapshot in loaded] == [1, 0, 0]
        assert worker.reads.load([]) == []

    def test_the_next_wake_up_is_that_of_a_parked_run_of_the_workflows_asked_for(self, worker: Worker) -> None:
        ours = ["shop.checkout", "other"]
        assert worker.reads.next_wake(ours, 0) is None
        keys = [worker.parked(f"r{number}", wake_at=NOW + delay) for number, delay in enumerate((30, 10, 20))]
        worker.parked("never")
        worker.parked("other", wake_at=NOW + 25, workflow="other")
        worker.parked("foreign", wake_at=NOW + 5, workflow="foreign")
        resident = worker.create("resident")
        worker.apply(RunMoved(resident, "waiting", NOW, wake_at=NOW + 1))
        found = [worker.reads.next_wake(ours, NOW + after) for after in (0, 10, 20, 25, 30)]
        assert found == [NOW + 10, NOW + 20, NOW + 25, NOW + 30, None]
        worker.apply(RunsClaimed([keys[1]], NOW + 11))
        assert worker.reads.next_wake(ours, 0) == NOW + 20
        assert worker.reads.next_wake([], 0) is None

    def test_deadlines_are_those_of_runs_that_nobody_has_begun(self, worker: Worker) -> None:
        assert worker.reads.next_deadline() is None
        names = {"c": 30, "a": 10, "b": 20, "d": 30}
        keys = {name: worker.create(name, "pending", deadline_at=NOW + after) for name, after in names.items()}
        worker.create("timeless", "pending")
        for status in STATUSES:
            if status != "pending":
                worker.create(status, status, deadline_at=NOW + 1)
        handed_over = worker.create("handed over", deadline_at=NOW + 1)
        worker.apply(RunMoved(handed_over, "pending", NOW))
        assert worker.reads.next_deadline() == NOW + 10
        found = [worker.reads.overdue(NOW + after, 9) for after in (9, 10, 29, 30)]
        wanted = [[], ["a"], ["a", "b"], ["a", "b", "c", "d"]]
        assert found == [[worker.record(keys[name]) for name in these] for these in wanted]
        assert worker.reads.overdue(NOW + 99, 2) == found[2]
        worker.apply(RunsClaimed([keys["a"]], NOW), RunFinished(keys["b"], "cancelled", NOW))
        assert worker.reads.next_deadline() == NOW + 30
        worker.apply(CancelRequested("timeless", NOW + 20, None), CancelRequested("d", NOW + 21, None))
        assert worker.reads.next_deadline() == NOW + 20
        assert [record.id for record in worker.reads.overdue(NOW + 30, 9)] == ["timeless", "d", "c"]
        worker.apply(CancelRequested("a", NOW + 5, None))
        assert worker.reads.next_deadline() == NOW + 20

    def test_halted_runs_are_found_oldest_first_by_workflow(self, worker: Worker) -> None:
        for status in STATUSES:
            worker.create(f"{status}-other", status, workflow="other")
        keys = [worker.create(f"h{number}", "halted") for number in range(2)]
        assert worker.reads.halted(["shop.checkout", "unknown"], 5) == keys
        assert worker.reads.halted(["shop.checkout"], 0) == []
        assert worker.reads.halted([], 5) == []
        assert worker.read.counts() == {status: 3 if status == "halted" else 1 for status in STATUSES}

    def test_runs_that_are_due_for_nobody_are_found(self, worker: Worker) -> None:
        names = ["a", "b", "c", "d", "e"]
        keys = {name: worker.parked(name, wake_at=NOW + 5, workflow=name) for name in names}
        worker.parked("later", wake_at=NOW + 6, workflow="a")
        worker.create("pending", "pending", workflow="a")
        worker.apply(RunsClaimed([keys["e"]], NOW))
        assert sorted(worker.reads.stranded(["b", "d"], NOW + 5, 10)) == [keys["a"], keys["c"]]
        assert len(worker.reads.stranded(["b"], NOW + 5, 2)) == 2
        assert sorted(worker.reads.stranded([], NOW + 5, 10)) == [keys[name] for name in "abcd"]
        assert worker.reads.stranded(names, NOW + 9, 10) == []
        assert worker.reads.stranded([], NOW + 4, 10) == []

    def test_those_of_many_runs_that_have_ended_or_are_halted_are_found(self, worker: Worker) -> None:
        settled: list[Status] = ["completed", "failed", "cancelled", "halted"]
        keys = [worker.create(status, status) for status in STATUSES]
        found = worker.reads.over_among([*STATUSES, "unknown"])
        expected = [worker.record(key) for key, status in zip(keys, STATUSES, strict=True) if status in settled]
        assert sorted(found, key=lambda record: record.key) == expected
        assert worker.reads.over_among(["running"]) == worker.reads.over_among([]) == []

    def test_those_that_were_deleted_are_found_also_where_another_run_has_the_key(self, worker: Worker) -> None:
        kept, gone = (worker.create(name, "completed") for name in ("kept", "gone"))
        worker.apply(RunDeleted("gone", NOW, "Ada"))
        other = worker.create("other")
        wanted = [(kept, "kept"), (gone, "gone"), (other, "gone"), (other, "other")]
        assert set(worker.reads.gone_among(wanted)) == {gone, other}
        assert worker.reads.gone_among([(kept, "kept"), (other, "other")]) == worker.reads.gone_among([]) == []

    @pytest.mark.parametrize(
        ("run_filter", "expected"),
        [
            (RunFilter(), "f e d c b a"),
            (RunFilter(limit=2), "f e"),
            (RunFilter(status=("failed",)), "e c"),
            (RunFilter(status=("running", "failed")), "e c a"),
            (RunFilter(status=("running", "failed"), limit=2), "e c"),
            (RunFilter(status=("completed", "failed")), "e d c"),
            (RunFilter(status=("failed",), workflow="other"), "e"),
            (RunFilter(status=()), ""),
            (RunFilter(workflow="other"), "f e"),
            (RunFilter(id_prefix="order-"), "d c b"),
            (RunFilter(id_prefix="order-", status=("failed",)), "c"),
            (RunFilter(id_prefix="order_"), ""),
            (RunFilter(created_after=NOW + 1, created_before=NOW + 4), "d c"),
        ],
    )
    def test_runs_are_listed_newest_first_by_any_filter(
        self, worker: Worker, run_filter: RunFilter, expected: str
    ) -> None:
        statuses: list[Status] = ["running", "waiting", "failed", "completed", "failed", "cancelled"]
        prefixes = ["", "order-", "order-", "order-", "", ""]
        keys = {
            worker.create(
                prefixes[n] + "abcdef"[n], statuses[n], at=NOW + n, workflow="other" if n > 3 else "shop.checkout"
            ): "abcdef"[n]
            for n in range(6)
        }
        assert " ".join(keys[record.key] for record in worker.read.list_runs(run_filter)) == expected

    def test_listings_go_on_after_a_page_and_find_children(self, worker: Worker) -> None:
        parent = worker.create("p")
        keys = [worker.create(f"c{n}", parent=parent, parent_op=n) for n in range(5)]
        keys_of = [record.key for record in worker.read.list_runs(RunFilter(parent=parent))]
        assert keys_of == keys[::-1]
        for base in (RunFilter(parent=parent), RunFilter(status=("running",)), RunFilter(), RunFilter(id_prefix="c")):
            page = msgspec.structs.replace(base, before_key=keys[2])
            assert [record.key for record in worker.read.list_runs(page)][:2] == [keys[1], keys[0]]

    def test_positions_rise_in_the_order_of_commits(self, worker: Worker, other: Worker) -> None:
        run, done = worker.create("a"), threading.Event()
        seen: list[list[int]] = []

        def watch() -> None:
            while not done.is_set():
                (snapshot,) = worker.reads.load([run])
                seen.append([message.position for message in snapshot.messages])

        def send(sender: Worker) -> None:
            for number in range(20):
                sender.apply(MessageSent("a", "m", f"{number}", NOW))

        watching = threading.Thread(target=watch)
        sending = [threading.Thread(target=send, args=(sender,)) for sender in (worker, other)]
        watching.start()
        for thread in sending:
            thread.start()
        for thread in sending:
            thread.join()
        done.set()
        watching.join()
        (snapshot,) = worker.reads.load([run])
        positions = [message.position for message in snapshot.messages]
        assert positions == sorted(set(positions))
        assert len(positions) == 40
        # Nothing ever appears below what was there before.
        assert all(found == positions[: len(found)] for found in seen)

    def test_reads_work_from_any_thread_while_a_transaction_is_open(self, worker: Worker) -> None:
        key = worker.create("a")
        seen: list[RunRecord | None] = []
        with worker.writing(), worker.store.transaction(worker.claim) as tx:
            tx.apply([RunMoved(key, "waiting", NOW + 1)])
            thread = threading.Thread(target=lambda: seen.append(next(iter(worker.reads.records([key])), None)))
            thread.start()
            thread.join()
        assert seen[0] is not None
        assert seen[0].status == "running"
