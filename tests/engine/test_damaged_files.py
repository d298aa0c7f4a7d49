"""Files that something else damaged: what cannot be read is said clearly, and holds up as little as possible."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from stepwell import RunHalted, StoreFailed, receive, step, workflow
from stepwell.testing import TestEngine


@step
async def double(number: int) -> int:
    return 2 * number


@workflow
async def waits(number: int) -> int:
    doubled = await double(number)
    return doubled + await receive("more", int)


def two_waiting_runs(database: Path) -> None:
    with TestEngine(database) as engine:
        for number in (1, 2):
            engine.start(waits, number, id=f"run-{number}")
        engine.idle()


def damage(database: Path, statement: str) -> None:
    connection = apsw.Connection(str(database))
    connection.execute(statement)
    assert connection.changes() == 1
    connection.close()


def test_text_that_is_not_utf8_is_reported_as_damage(database: Path) -> None:
    two_waiting_runs(database)
    damage(database, "UPDATE stepwell_runs SET reason = CAST(x'ff' AS TEXT) WHERE id = 'run-1'")
    with (
        TestEngine(database, workflows=[]) as engine,
        pytest.raises(StoreFailed, match=r"damaged.*not UTF-8.*backup"),
    ):
        engine.list()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stepwell_journal SET value = '{\"' WHERE op = 1 AND run = 1",
        "UPDATE stepwell_journal SET value = x'017801ff' WHERE op = 1 AND run = 1",
        "UPDATE stepwell_journal SET value = x'0900' WHERE op = 1 AND run = 1",
        "UPDATE stepwell_journal SET fingerprint = fingerprint + 1 WHERE op = 1 AND run = 1",
        "UPDATE stepwell_journal SET name = 'duoble' WHERE op = 1 AND run = 1",
        "UPDATE stepwell_runs SET input = '[1,' WHERE key = 1",
        "UPDATE stepwell_messages SET value = '4:' WHERE run = 1",
    ],
)
def test_a_run_whose_data_cannot_be_read_is_halted_and_the_others_go_on(database: Path, statement: str) -> None:
    two_waiting_runs(database)
    with TestEngine(database, workflows=[]) as engine:
        for number in (1, 2):
            engine.send(f"run-{number}", "more", 40, key="1")
    damage(database, statement)
    with TestEngine(database) as engine:
        assert engine.get("run-2").result(60) == 44
        with pytest.raises(RunHalted, match="run-1"):
            engine.get("run-1").result(60)
        assert engine.get("run-1").info().reason


def test_a_time_that_is_none_is_reported_as_damage(database: Path) -> None:
    two_waiting_runs(database)
    connection = apsw.Connection(str(database))
    (text,) = next(iter(connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'stepwell_journal'")))
    lenient = text.rpartition("STRICT")[0].rstrip(" ,\n")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'stepwell_journal'", (lenient,))
    connection.close()
    damage(database, "UPDATE stepwell_journal SET at = '{}' WHERE op = 1 AND run = 1")
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'stepwell_journal'", (text,))
    connection.close()
    with pytest.raises(StoreFailed, match=r"newest time.*damaged.*backup"):
        TestEngine(database)
