"""Many runs that come to rest at once leave memory a bunch at a time: others go on in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stepwell import workflow
from stepwell.store.changes import RunCreated
from stepwell.testing import TestEngine
from stepwell.worker.arriving.loader import Loader
from stepwell.worker.state.run_cache import RunCache

NUMBER = 700


@workflow
async def sleeps() -> str:
    await asyncio.sleep(60)
    return "awake"


@pytest.mark.parametrize("closing", [False, True], ids=["beyond the limit", "at the end"])
def test_no_turn_lets_go_of_all_of_them(database: Path, monkeypatch: pytest.MonkeyPatch, closing: bool) -> None:
    left: list[int] = []
    beyond = RunCache.beyond

    def counted(cache: RunCache, limit: int, now: int | None) -> Sequence[Any]:
        runs = beyond(cache, limit, now)
        left.append(len(runs))
        return runs

    monkeypatch.setattr(RunCache, "beyond", counted)
    with TestEngine(database, max_waiting_in_memory=1_000 if closing else 10) as engine:
        with engine.transaction() as tx:
            for number in range(NUMBER):
                tx.start(sleeps, id=f"run-{number}")
        engine.idle()
        if not closing:
            assert len(engine.in_memory) <= 10
        engine.reopen()
        assert sum(left) >= NUMBER
        assert max(left) <= 250
        engine.advance(61)
        assert engine.get(f"run-{NUMBER - 1}").result(timeout=60) == "awake"


def test_runs_that_a_transaction_starts_are_begun_a_bunch_at_a_time(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = Loader.begin_started

    def counted(loader: Loader, started: Sequence[tuple[RunCreated, int]]) -> None:
        begun.append(len(started))
        begin(loader, started)

    monkeypatch.setattr(Loader, "begin_started", counted)
    with TestEngine(database) as engine:
        with engine.transaction() as tx:
            for number in range(NUMBER):
                tx.start(sleeps, id=f"run-{number}")
        engine.send(f"run-{NUMBER - 1}", "early")
        engine.get(f"run-{NUMBER - 2}").cancel()
        engine.idle()
        assert sum(begun) >= NUMBER
        assert max(begun) <= 250
        assert engine.get(f"run-{NUMBER - 2}").status == "cancelled"
        assert {engine.get(f"run-{number}").status for number in range(NUMBER - 2)} == {"waiting"}
