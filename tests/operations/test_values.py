"""Published values: read from outside, waited for, exactly what the run said last."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from stepwell import (
    AsyncEngine,
    InvalidArgument,
    RunCancelled,
    RunEnded,
    RunNotFound,
    SerializationError,
    publish,
    receive,
    step,
    sync,
    workflow,
)
from stepwell.runtime.serving.requests import WaitForRun, WaitForValue
from stepwell.runtime.serving.waiters import Waiters
from stepwell.testing import TestEngine
from stepwell.worker.state.commit_batch import CommitBatch
from stepwell.worker.state.run_cache import RunCache


@workflow
async def reports(steps: int) -> None:
    for number in range(steps):
        await publish("progress", {"done": number})
        await asyncio.sleep(1)


def test_the_last_published_value_is_read(engine: TestEngine) -> None:
    run = engine.start(reports, 3)
    for number in range(3):
        assert run.value("progress", 60) == {"done": number}
        engine.advance(1)
    run.result(60)
    assert run.value("progress") == {"done": 2}


def test_a_value_survives_crashes_and_the_end_of_its_run(engine: TestEngine) -> None:
    run = engine.start(reports, 2)
    engine.idle()
    engine.crash()
    engine.reopen()
    assert run.value("progress") == {"done": 0}
    engine.advance(5)
    engine.crash()
    engine.reopen()
    assert run.value("progress") == {"done": 1}


def test_keys_do_not_mix_nor_do_runs(engine: TestEngine) -> None:
    @workflow
    async def says(what: str) -> None:
        await publish("a", what)
        await publish("b", what * 2)

    runs = [engine.start(says, what) for what in ("x", "y")]
    assert [[run.value(key, 60) for key in ("a", "b")] for run in runs] == [["x", "xx"], ["y", "yy"]]


def test_many_wait_for_a_value_that_comes_later(engine: TestEngine) -> None:
    @workflow
    async def later() -> None:
        await receive("go on")
        await publish("a", 1)
        await receive("end")

    run = engine.start(later)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(run.value, "a", 10) for _ in range(8)]
        run.send("go on")
        assert [each.result() for each in waiting] == [1] * 8


def test_a_value_that_is_published_with_the_runs_end_reaches_those_who_wait(engine: TestEngine) -> None:
    @workflow
    async def last_words() -> None:
        await receive("go on")
        await publish("a", 1)

    for _ in range(20):
        run = engine.start(last_words)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run.value, "a", 10)
            run.send("go on")
            assert waiting.result() == 1


def test_a_run_that_ends_without_the_value_says_so_to_those_who_wait(engine: TestEngine) -> None:
    @workflow
    async def silent() -> None:
        await receive("go on")

    run = engine.start(silent, id="silent")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.value, "a", 10)
        run.send("go on")
        with pytest.raises(RunEnded, match=r"'silent'.*'a'"):
            waiting.result()
    with pytest.raises(RunEnded, match="'a'"):
        run.value("a")


def test_a_cancelled_run_keeps_what_it_published(engine: TestEngine) -> None:
    run = engine.start(reports, 10)
    engine.advance(3)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    assert run.value("progress") == {"done": 3}


def test_waiting_for_a_value_times_out_and_can_be_repeated(engine: TestEngine) -> None:
    @workflow
    async def later() -> None:
        await receive("go on")
        await publish("a", None)
        await receive("end")

    run = engine.start(later)
    with pytest.raises(TimeoutError, match="'a'"):
        run.value("a", 0.01)
    run.send("go on")
    assert run.value("a", 60) is None


def test_what_cannot_be_published_is_refused_in_the_workflow_and_named(engine: TestEngine) -> None:
    @workflow
    async def bad() -> None:
        await publish("thing", {"deep": [object()]})

    with pytest.raises(SerializationError, match="'thing'") as caught:
        engine.start(bad).result(60)
    assert "deep" in str(caught.value)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", 5])
def test_a_key_that_is_no_name_is_refused(engine: TestEngine, key: Any) -> None:
    @workflow
    async def bad() -> None:
        await publish(key, 1)

    run = engine.start(bad)
    with pytest.raises(InvalidArgument, match="key of a published value"):
        run.result(60)
    with pytest.raises(InvalidArgument, match="key of a published value"):
        run.value(key)


def test_sync_workflows_publish_too(engine: TestEngine) -> None:
    @workflow
    def plain() -> None:
        sync.publish("a", [1, 2])

    assert engine.start(plain).value("a", 60) == [1, 2]


def test_steps_see_what_their_run_published_before(engine: TestEngine) -> None:
    @step
    def look() -> Any:
        return engine.get("run").value("a", 60)

    @workflow
    async def looks() -> Any:
        await publish("a", 5)
        return look()

    assert engine.start(looks, id="run").result(60) == 5


def test_values_of_unknown_runs_are_refused(engine: TestEngine, tmp_path: Path) -> None:
    run = engine.start(reports, 1, id="only here")
    with TestEngine(tmp_path / "other.db") as other:
        run._engine = other
        with pytest.raises(RunNotFound, match="only here"):
            run.value("progress", 1)


def test_the_async_engine_reads_and_waits_for_values(database: Path) -> None:
    @workflow
    async def later() -> None:
        await receive("go on")
        await publish("a", 1)
        await receive("end")

    async def main() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(later)
            with pytest.raises(TimeoutError):
                await run.value("a", 0.01)
            waiting = asyncio.create_task(run.value("a", 60))
            await run.send("go on")
            assert await waiting == 1
            assert await run.value("a") == 1

    asyncio.run(main())


@pytest.mark.parametrize("waits_for_the_end_too", [False, True])
def test_a_value_that_another_process_publishes_with_its_end_while_it_is_looked_for_arrives(
    engine: TestEngine, *, waits_for_the_end_too: bool
) -> None:
    @workflow
    async def ends_with_a_value() -> None:
        await publish("last", "word")

    run = engine.start(ends_with_a_value)
    run.result(60)
    ended = engine._session.reads.record(run.id)

    class Behind:
        """Sees the commit of the value and the end from its second look at the file on."""

        looks = 0

        def _see(self, seen: Any, before: Any) -> Any:
            self.looks += 1
            return seen if self.looks > 2 else before

        def run_by_id(self, _id: str) -> Any:
            return replace(ended, status="running", ended_at=None)

        def value(self, _run: int, _name: str) -> Any:
            return self._see(('"word"',), None)

        def records(self, _keys: Any) -> Any:
            return self._see([ended], [replace(ended, status="running", ended_at=None)])

        def gone_among(self, _runs: Any) -> list[int]:
            return []

        def over_among(self, _ids: Any) -> Any:
            return self._see([ended], [])

    store: Any = SimpleNamespace(
        reads=Behind(), notifications=SimpleNamespace(listen=lambda _on: None), location="here"
    )
    waiters = Waiters(store, RunCache(), CommitBatch(), set())
    told: list[Any] = []
    waiters.value(WaitForValue(ended.id, "last"), lambda *reply: told.append(reply))
    if waits_for_the_end_too:
        waiters.run(WaitForRun(ended.id), lambda *_: None)
    waiters.look(None)
    waiters.look(None)
    assert told == [('"word"', None)]
