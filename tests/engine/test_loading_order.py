"""Many runs that come to memory at once, after a death say: the first go on before the last are read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepwell import step, workflow
from stepwell.testing import TestEngine
from stepwell.worker.arriving.loader import Loader

RUNS = 12
happened: list[str] = []
dies_here = threading.Event()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    happened.clear()
    dies_here.set()
    yield
    dies_here.set()


@step
async def pass_by(number: int) -> int:
    return number


@step
async def act(number: int) -> int:
    happened.append("act")
    if dies_here.is_set():
        await asyncio.Event().wait()
    return number


@workflow
async def long(number: int, length: int) -> int:
    for passed in range(length):
        await pass_by(passed)
    return await act(number)


@pytest.mark.parametrize("length", [0, 40, 300])
def test_the_first_of_many_runs_goes_on_before_the_last_is_read(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    runs = [engine.start(long, number, length) for number in range(RUNS)]
    while happened.count("act") < RUNS:
        threading.Event().wait(0.002)
    engine.crash()
    happened.clear()
    dies_here.clear()
    load: Callable[[Loader, Any], None] = Loader._load

    def note_and_load(loader: Loader, snapshot: Any) -> None:
        happened.append("read")
        load(loader, snapshot)

    monkeypatch.setattr(Loader, "_load", note_and_load)
    engine.reopen()
    assert [run.result(60) for run in runs] == list(range(RUNS))
    assert happened.count("read") == happened.count("act") == RUNS
    before = happened[: happened.index("act")].count("read")
    assert before <= 4
    if length == 300:  # one after the other, then
        last = len(happened) - 1 - happened[::-1].index("read")
        assert happened[:last].count("act") >= RUNS - 2
