"""The part of a store's contract about acts on many runs: how far each has come, and who carries it on.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

from stepwell.store.bulk_acts import BulkAdvanced, BulkBegun, BulkRecord, BulksTaken
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker

_BEGUN = BulkBegun("pause", "workflow:shop.*", "{}", NOW, 3, "Ada", "the shop is closed")


def begin(worker: Worker) -> BulkRecord:
    """Begin an act on three runs, and return its row."""
    for name in ("a", "b", "c"):
        worker.create(name)
    (number,) = worker.apply(_BEGUN)
    return row(worker, number)


def row(worker: Worker, number: int) -> BulkRecord:
    """Return the row of an act."""
    found = worker.read.bulk(number)
    assert found is not None
    return found


class BulkActContract(StoreFixtures):
    """What the store keeps of acts on many runs."""

    def test_an_act_begins_above_the_newest_run(self, worker: Worker) -> None:
        begun = begin(worker)
        later = worker.create("later")
        assert begun.before_key == later
        assert (begun.act, begun.by, begun.reason, begun.total) == ("pause", "Ada", "the shop is closed", 3)
        assert (begun.seen, begun.refused, begun.ended_at, begun.worker) == (0, 0, None, worker.epoch)

    def test_an_act_advances_page_by_page_to_its_end(self, worker: Worker) -> None:
        begun = begin(worker)
        top = begun.before_key
        pages = (
            BulkAdvanced(begun.id, top, top - 2, 2),
            BulkAdvanced(begun.id, top - 2, top - 3, 1, refused=1),
            BulkAdvanced(begun.id, top - 3, top - 3, ended_at=NOW + 5),
        )
        assert worker.apply(*pages) == [True, True, True]
        ended = row(worker, begun.id)
        assert (ended.seen, ended.refused, ended.before_key, ended.ended_at) == (3, 1, top - 3, NOW + 5)

    def test_a_page_counts_once_though_two_write_it(self, worker: Worker) -> None:
        begun = begin(worker)
        page = BulkAdvanced(begun.id, begun.before_key, begun.before_key - 2, 2)
        assert worker.apply(page, page) == [True, False]
        assert worker.apply(page) == [False]
        assert row(worker, begun.id).seen == 2

    def test_runs_that_came_between_the_count_and_the_beginning_count_as_well(self, worker: Worker) -> None:
        begun = begin(worker)
        worker.apply(BulkAdvanced(begun.id, begun.before_key, begun.before_key - 4, 4))
        assert (row(worker, begun.id).seen, row(worker, begun.id).total) == (4, 4)

    def test_an_act_that_has_ended_advances_no_more(self, worker: Worker) -> None:
        begun = begin(worker)
        last = BulkAdvanced(begun.id, begun.before_key, begun.before_key, ended_at=NOW + 5)
        assert worker.apply(last, last) == [True, False]
        assert row(worker, begun.id).ended_at == NOW + 5

    def test_an_act_whose_worker_has_died_is_taken_over_once(self, store: Store) -> None:
        worker, dead = Worker(store), Worker(store)
        begun = begin(dead)
        page = BulkAdvanced(begun.id, begun.before_key, begun.before_key - 2, 2)
        assert worker.apply(BulksTaken()) == [[]]
        assert worker.apply(page) == [False]  # it is not its own
        self.kill(dead)
        worker.reap()
        assert worker.apply(BulksTaken(), BulksTaken()) == [[begun.id], []]
        assert worker.apply(page) == [True]
        assert row(worker, begun.id).worker == worker.epoch
