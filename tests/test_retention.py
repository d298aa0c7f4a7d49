"""Ended runs are kept as long as was asked for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from stepwell import AsyncEngine, Engine, InvalidArgument, RunNotFound, receive, workflow
from stepwell.testing import VirtualClock


@workflow
async def short(number: int) -> int:
    return number


@workflow
async def patient() -> str:
    return await receive("go", str)


def test_purge_deletes_what_ended_long_ago_and_nothing_else(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "test.db", clock=clock) as engine:
        engine.start(short, 1, id="old").result(60)
        waiting = engine.start(patient, id="waiting")
        clock.advance(timedelta(days=10))
        engine.start(short, 2, id="new").result(60)
        assert engine.purge(timedelta(days=5)) == 1
        with pytest.raises(RunNotFound):
            engine.get("old")
        assert engine.get("new").result(60) == 2
        waiting.send("go", "on")
        assert waiting.result(60) == "on"


def test_an_id_is_free_again_after_its_run_was_purged(tmp_path: Path) -> None:
    with Engine(tmp_path / "test.db", clock=(clock := VirtualClock())) as engine:
        engine.start(short, 1, id="same").result(60)
        clock.advance(1)
        assert engine.purge(0) == 1
        assert engine.start(short, 2, id="same").result(60) == 2


def test_more_runs_than_one_transaction_deletes_are_all_purged(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "test.db", clock=clock) as engine:
        with engine.transaction() as tx:
            runs = [tx.start(short, number) for number in range(1200)]
        assert [run.result(60) for run in runs] == list(range(1200))
        clock.advance(10)
        assert engine.purge(5) == 1200
        assert engine.list() == []


def test_retention_purges_by_itself_when_the_engine_opens(tmp_path: Path) -> None:
    clock = VirtualClock()
    with Engine(tmp_path / "test.db", clock=clock) as engine:
        engine.start(short, 1, id="old").result(60)
    clock.advance(timedelta(days=40))
    with Engine(tmp_path / "test.db", clock=clock, retention=timedelta(days=30)) as engine:
        engine.start(short, 2, id="new").result(60)
        assert [run.id for run in engine.list()] == ["new"]


def test_purge_can_be_awaited(tmp_path: Path) -> None:
    async def main() -> int:
        clock = VirtualClock()
        async with AsyncEngine(tmp_path / "test.db", clock=clock) as engine:
            await (await engine.start(short, 1)).result(60)
            clock.advance(2)
            return await engine.purge(1)

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("retention", [-1, "a week", float("nan")])
def test_a_retention_that_is_no_duration_is_refused(tmp_path: Path, retention: object) -> None:
    with pytest.raises(InvalidArgument, match="retention"):
        Engine(tmp_path / "test.db", retention=retention)  # type: ignore[arg-type]
    assert not (tmp_path / "test.db").exists()
