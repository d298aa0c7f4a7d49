"""A run whose write the store refuses is read again, and halted where that happens again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
import pytest

from stepwell import PayloadTooLarge, RunHalted, receive, step, workflow
from stepwell.store.changes import RunFinished
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Outcome, Unit
from stepwell.testing import TestEngine

executed: list[int] = []
to_refuse: list[int] = []


@step
async def act(number: int) -> int:
    executed.append(number)
    return number


@workflow
async def acts(number: int) -> int:
    return await act(number)


@workflow
async def waits_and_acts() -> int:
    await receive("go")
    return await act(1)


@pytest.fixture
def engine(database: Path) -> Iterator[TestEngine]:
    """Yield an engine whose store refuses as many writes that end a run as `to_refuse` has."""
    commit = SqliteStore.commit

    def commits(store: SqliteStore, units: Sequence[Unit], claim: Any) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for unit in units:
            if to_refuse and any(isinstance(change, RunFinished) for change in unit.changes):
                outcomes.append(PayloadTooLarge(f"no room for number {to_refuse.pop()}"))
            else:
                outcomes += commit(store, [unit], claim)
        return outcomes

    executed.clear()
    with TestEngine(database) as engine, patch.object(SqliteStore, "commit", commits):
        yield engine


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_whose_write_was_refused_once_or_twice_is_read_again_and_goes_on(engine: TestEngine, times: int) -> None:
    to_refuse[:] = range(times)
    assert engine.start(acts, 7).result(60) == 7
    assert to_refuse == []
    assert executed == [7], "the result of the step was recorded apart"


def test_a_run_whose_writes_are_refused_three_times_is_halted_and_after_a_resume_goes_on(engine: TestEngine) -> None:
    to_refuse[:] = [5, 4, 3, 2, 1]
    run = engine.start(acts, 7)
    with pytest.raises(RunHalted, match="its writes were refused 3 times: no room for number 3"):
        run.result(60)
    to_refuse.clear()
    run.resume()
    assert run.result(60) == 7
    assert executed == [7]


def test_a_run_whose_steps_cannot_be_recorded_is_halted_though_other_writes_of_its_go_through(database: Path) -> None:
    executed.clear()
    with TestEngine(database) as engine:
        engine.start(waits_and_acts, id="run")
        engine.idle()
    connection = apsw.Connection(str(database))
    connection.pragma("foreign_keys", 0)
    connection.execute("DELETE FROM stepwell_journal_kinds WHERE kind = 'step'")  # as a damaged page may have it
    connection.close()
    with TestEngine(database) as engine:
        run = engine.get("run")
        run.send("go")
        with pytest.raises(RunHalted, match=r"its writes were refused 3 times: (.|\n)*FOREIGN KEY"):
            run.result(60)
    assert executed == [1, 1, 1]
