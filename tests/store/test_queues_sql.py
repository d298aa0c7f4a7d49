"""The SQL of queues reads only what it returns: by indexes, however many entries wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.members import open_with_company

from stepwell.definitions.queues import QueueSettings
from stepwell.store import sqlite
from stepwell.store.changes import Change, RunCreated
from stepwell.store.queues import Entered, QueueDeclared, QueueFacts
from stepwell.store.sql import named_sql
from stepwell.store.store import Unit
from stepwell.testing.contract_kit import NOW, Worker
from stepwell.worker.rules.queue_policy import advance, take

_FOLDER = Path(sqlite.__file__).parent
_FILLED = named_sql.load(_FOLDER)
QUEUE = {name: _FILLED[name] for name in named_sql.parse((_FOLDER / "queries_queue.sql").read_text())}
#: These scan a table on purpose: the queues, which are few; and of the entries the first thousand.
WHOLE = {"queue_states", "place_holders"}


@pytest.fixture(name="worker")
def _worker(database: Path) -> Iterator[Worker]:
    worker = Worker(open_with_company(database))
    yield worker
    worker.store.close(worker.claim, NOW)


def connection_of(worker: Worker) -> Any:  # the stubs of apsw are not known in full
    store: Any = worker.store
    return store._connection


@pytest.mark.parametrize("name", sorted(QUEUE.keys() - WHOLE))
def test_no_query_of_queues_reads_a_whole_table(worker: Worker, name: str) -> None:
    sql = QUEUE[name]
    count = max([int(number) for number in re.findall(r"\?(\d+)", sql)], default=sql.count("?"))
    plan = connection_of(worker).execute(f"EXPLAIN QUERY PLAN {sql}", [None] * count).fetchall()
    scans = [row[3] for row in plan if re.search(r"SCAN stepwell_", str(row[3])) and "lanes_idle" not in str(row[3])]
    assert scans == []


def test_who_has_places_is_looked_for_among_the_oldest_entries_only() -> None:
    assert "FROM stepwell_entries ORDER BY run, op LIMIT 1000" in QUEUE["place_holders"]  # the order of the primary key


def plan_of(worker: Worker, name: str) -> list[str]:
    count = max(int(number) for number in re.findall(r"\?(\d+)", QUEUE[name]))
    rows = connection_of(worker).execute(f"EXPLAIN QUERY PLAN {QUEUE[name]}", [None] * count)
    return [str(row[3]) for row in rows]


def test_what_waits_longest_is_found_without_reading_the_entries(worker: Worker) -> None:
    searches = [step for step in plan_of(worker, "oldest_wait") if "stepwell_entries" in step]
    assert searches == [
        "SEARCH stepwell_entries USING PRIMARY KEY (run=? AND op=?)",
        "SEARCH stepwell_entries USING COVERING INDEX stepwell_entries_waiting (queue=?)",
    ]


def test_a_page_of_a_queue_is_read_in_order_and_goes_on_where_the_last_one_ended(worker: Worker) -> None:
    plan = plan_of(worker, "queued_runs")
    assert plan[0] == "SEARCH run USING INDEX stepwell_runs_by_status (status=? AND rowid>?)"
    assert not any("ORDER BY" in step for step in plan)


def test_a_decision_reads_as_much_as_it_takes(worker: Worker) -> None:
    """A thousand blocked partitions, a thousand foreign runs and a long line do not make it read more."""

    def steps_to_take(worker: Worker) -> int:
        """Return how many instructions SQLite executed to decide about one run."""
        connection = connection_of(worker)
        before = 0

        def decide(facts: QueueFacts) -> list[Change]:
            nonlocal before
            count = 0

            def tick() -> bool:
                nonlocal count
                count += 1
                return False

            connection.set_progress_handler(tick, 10)
            decision = take(facts, "q", ["w"], NOW, room=1)
            connection.set_progress_handler(None)
            before = count
            assert decision.taken == 1
            return decision.changes

        worker.commit(Unit([advance("q", NOW)], decide=decide))
        return before

    def start(names: list[tuple[str, str, str]]) -> None:
        worker.commit(
            *(
                Unit([RunCreated(run_id, workflow, None, 1, "pending", NOW, entry=Entered("q", partition))])
                for run_id, workflow, partition in names
            )
        )

    worker.apply(QueueDeclared("q", "queue", QueueSettings(partition_concurrency=1), NOW))
    start([("a", "w", "first"), ("b", "w", "first")])
    few = steps_to_take(worker)
    start([(f"{name}{number}", "w", f"p{number}") for number in range(1000) for name in "rs"])
    worker.commit(Unit([advance("q", NOW)], decide=lambda facts: take(facts, "q", ["w"], NOW, room=900).changes))
    start([(f"f{number}", "foreign", "") for number in range(2000)])
    assert steps_to_take(worker) < few + 30
