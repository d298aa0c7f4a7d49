"""What is asked of a run that has ended is done, or refused with the reason: never ignored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stepwell import AsyncEngine, RunCancelled, RunEnded, RunNotFound, receive, workflow
from stepwell.testing import TestEngine


@workflow
async def ends(how: str) -> None:
    if how == "failed":
        raise LookupError("not there")
    if how == "cancelled":
        await receive("never")


def ended(engine: TestEngine, how: str) -> None:
    run = engine.start(ends, how, id="run")
    engine.idle()
    if how == "cancelled":
        run.cancel()
    engine.idle()
    assert run.status == how


ENDS = ["completed", "failed", "cancelled"]


@pytest.mark.parametrize("how", ENDS)
def test_resuming_what_has_ended_is_refused(engine: TestEngine, how: str) -> None:
    ended(engine, how)
    journal = engine.get("run").journal()
    with pytest.raises(RunEnded, match=rf"'run' has ended \({how}\)"):
        engine.get("run").resume()
    engine.reopen()
    with pytest.raises(RunEnded, match=how):
        engine.get("run").resume()
    assert engine.get("run").status == how
    assert engine.get("run").journal() == journal


def test_resuming_a_run_that_was_purged_is_refused(engine: TestEngine) -> None:
    ended(engine, "failed")
    run = engine.get("run")
    engine.advance(10)
    engine.purge(1)
    with pytest.raises(RunNotFound, match="purged"):
        run.resume()


def test_resuming_what_goes_on_anyway_is_no_mistake(engine: TestEngine) -> None:
    run = engine.start(ends, "cancelled")
    engine.idle()
    run.resume()
    engine.idle()
    assert run.status == "waiting"


@pytest.mark.parametrize("how", ENDS)
def test_cancel_says_whether_there_was_anything_to_stop(engine: TestEngine, how: str) -> None:
    ended(engine, how)
    run = engine.get("run")
    assert run.cancel("too late") is (how == "cancelled")
    assert run.info().reason is None
    waiting = engine.start(ends, "cancelled")
    engine.idle()
    assert waiting.cancel() is True
    with pytest.raises(RunCancelled):
        waiting.result(timeout=60)
    assert waiting.cancel() is True


def test_an_async_engine_says_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "test.db") as engine:
            run = await engine.start(ends, "completed", id="run")
            await run.result(timeout=60)
            assert await run.cancel() is False
            with pytest.raises(RunEnded, match="completed"):
                await run.resume()

    asyncio.run(main())
