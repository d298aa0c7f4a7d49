"""The garbage collector and the engine's turns: it waits while many runs are carried on, and only then."""

from __future__ import annotations

import gc
from pathlib import Path

from stepwell import Engine, step, workflow

_seen: list[bool] = []


@step(name="collector_in_turns.nothing")
async def nothing() -> None:
    """Do nothing."""


@workflow(name="collector_in_turns.looks")
async def looks() -> bool:
    """Tell whether the collector is on while this is carried on."""
    await nothing()
    _seen.append(gc.isenabled())
    return _seen[-1]


def test_the_collector_waits_while_many_runs_are_carried_on_and_is_on_otherwise(tmp_path: Path) -> None:
    collections = 0

    def count(phase: str, _info: dict[str, int]) -> None:
        nonlocal collections
        collections += phase == "start"

    with Engine(tmp_path / "runs.db", durability="normal", workflows=[looks]) as engine:
        _seen.clear()
        gc.callbacks.append(count)
        try:
            with engine.transaction() as tx:
                runs = [tx.start(looks) for _ in range(600)]
            assert {run.result(60) for run in runs} >= {False}
        finally:
            gc.callbacks.remove(count)
        assert collections  # between turns it has its turn
        assert [engine.start(looks).result(60) for _ in range(3)][-1]
    assert gc.isenabled()


def test_the_collector_stays_off_where_the_program_has_switched_it_off(tmp_path: Path) -> None:
    with Engine(tmp_path / "runs.db", durability="normal", workflows=[looks]) as engine:
        gc.disable()
        try:
            with engine.transaction() as tx:
                runs = [tx.start(looks) for _ in range(300)]
            assert not any(run.result(60) for run in runs)
            assert not gc.isenabled()
        finally:
            gc.enable()
