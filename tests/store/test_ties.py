"""What ties a run that ends to others is the same, whether it is asked of one run or of many at once."""

from __future__ import annotations

from pathlib import Path

import apsw
import msgspec
import pytest

from stepwell import Engine, Queue, workflow
from stepwell.store.sqlite.statements import SQL

LINE = Queue("ties.line")


@workflow(name="ties.nothing")
async def nothing() -> None: ...


#: What makes each column of `run_ties` true, of the run in a queue with a message.
TIES = [
    "SELECT 1",
    "INSERT INTO stepwell_watches (run, watcher) VALUES (1, 2)",
    "INSERT INTO stepwell_wakes (run) VALUES (1)",
    "INSERT INTO stepwell_schedule_waits (run, schedule) VALUES (1, 'nightly')",
    "UPDATE stepwell_runs SET parent = 2 WHERE key = 1",
    "UPDATE stepwell_runs SET crashes = 2, suspect = 1 WHERE key = 1",
]


@pytest.mark.parametrize("sql", TIES)
def test_one_run_and_many_are_asked_alike(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[]) as engine:
        engine.start(nothing, id="a", queue=LINE, messages=[("hint", 1)])
        engine.start(nothing, id="b")
    connection = apsw.Connection(str(path))
    connection.pragma("foreign_keys", 0)
    connection.execute(sql)
    alone = [[key, *connection.execute(SQL["run_ties"], (key,)).fetchall()[0]] for key in (1, 2)]
    (together,) = connection.execute(SQL["runs_ties"], ("[1,2]",)).fetchall()[0]
    connection.close()
    assert msgspec.json.decode(str(together)) == alone
    assert alone[0] != alone[1]
