"""A run that leaves memory, or ends, takes its code with it: whatever that code does, nothing of it acts or stays."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import stepwell
from stepwell import (
    RunCancelled,
    publish,
    receive,
    send,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

executed: list[Any] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@step
async def note(what: Any) -> Any:
    executed.append(what)
    return what


@step
def note_sync(what: Any) -> Any:
    executed.append(what)
    return what


@workflow
async def healthy(value: int) -> int:
    return int(await note(value)) + 1


def assert_alive(engine: TestEngine) -> None:
    """The engine, and the next one on the file, still do their work."""
    assert engine.start(healthy, 1).result(timeout=60) == 2
    engine.reopen()
    assert engine.start(healthy, 2).result(timeout=60) == 3


# --- code that does not let go ----------------------------------------------------------------------------------------


def never_lets_go() -> dict[str, Any]:
    """Return workflows that catch everything, in an endless loop."""

    @workflow(name="receiving")
    async def receiving() -> None:
        while True:
            try:
                await receive("never")
            except BaseException:  # noqa: BLE001 - the mistake that is tested
                await note("caught")

    @workflow(name="sleeping")
    async def sleeping() -> None:
        itself = asyncio.current_task()  # a cycle: only the garbage collector could free this frame
        while itself:
            try:
                await asyncio.sleep(3600)
            except BaseException as error:  # noqa: BLE001 - as above
                executed.append(type(error).__name__)

    @workflow(name="stepping")
    async def stepping() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            finally:
                await note("finally")
                continue  # noqa: B012 - as above

    @workflow(name="blocking")
    def blocking() -> None:
        while True:
            try:
                sync.receive("never")
            except BaseException:  # noqa: BLE001 - as above
                note_sync("caught")

    @workflow(name="publishing")
    async def publishing() -> None:
        try:
            await receive("never")
        finally:
            await publish("key", "closing")
            await send("watch", "go", "closing")
            await stepwell.start(healthy, 1, id="stray")

    return {each.name: each for each in (receiving, sleeping, stepping, blocking, publishing)}


@pytest.mark.parametrize("name", ["receiving", "sleeping", "stepping", "blocking", "publishing"])
def test_leaving_memory_is_nothing_that_code_can_act_upon(engine: TestEngine, name: str) -> None:
    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(never_lets_go()[name], id="stubborn")
    engine.idle()
    for _ in range(3):
        engine.advance(60)
    before = run.journal()
    assert before == []
    engine.close()
    gc.collect()
    engine.reopen().idle()
    assert run.journal() == before
    assert run.info().status == "waiting"
    assert [run.id for run in engine.list()] == ["stubborn"]
    assert "caught" not in executed
    assert "finally" not in executed
    assert_alive(engine)


@pytest.mark.parametrize("name", ["receiving", "sleeping", "blocking"])
def test_code_that_swallows_its_cancellation_goes_on_and_hangs_nobody(engine: TestEngine, name: str) -> None:
    run = engine.start(never_lets_go()[name], id="stubborn")
    engine.idle()
    run.cancel("please")
    engine.idle()
    assert run.info().status in ("waiting", "running")
    assert executed == (["CancelledError"] if name == "sleeping" else ["caught"])
    assert_alive(engine)


class Ballast:
    """Something that shows whether the frame that holds it is still there."""


def constructs(refs: list[weakref.ref[Ballast]]) -> dict[str, Any]:
    """Return workflows that wait inside of asyncio's and our own constructs, some of which wait on their way out."""

    def hold() -> Ballast:
        ballast = Ballast()
        refs.append(weakref.ref(ballast))
        return ballast

    async def wait() -> Any:
        ballast = hold()
        try:
            return await receive("go"), ballast
        finally:
            await note("finally")

    @workflow(name="group")
    async def group() -> None:
        ballast = hold()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait())
            tasks.create_task(wait())
        await note(bool(ballast))

    @workflow(name="mapping")
    async def mapping() -> None:
        ballast = hold()
        await stepwell.map(waiter, [1, 2, 3], limit=2)
        await note(bool(ballast))

    @workflow(name="nested")
    async def nested() -> None:
        ballast = hold()
        async with asyncio.timeout(3600), asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            inner.create_task(wait())
            outer.create_task(wait())
            await asyncio.shield(asyncio.gather(wait(), wait()))
        await note(bool(ballast))

    @workflow(name="clean-up")
    async def clean_up() -> None:
        ballast = hold()
        try:
            await wait()
        finally:
            await asyncio.gather(wait(), note(bool(ballast)))

    @workflow(name="plain")
    def plain() -> None:
        ballast = hold()
        try:
            sync.receive("go")
        finally:
            note_sync(bool(ballast))

    return {each.name: each for each in (group, mapping, nested, clean_up, plain)}


@workflow
async def waiter(_number: int) -> None:
    await receive("go")


@pytest.mark.parametrize("name", ["group", "mapping", "nested", "clean-up", "plain"])
def test_a_run_that_leaves_memory_is_freed_whatever_it_waits_in(engine: TestEngine, name: str) -> None:
    refs: list[weakref.ref[Ballast]] = []
    engine.reopen(max_waiting_in_memory=0)
    run = engine.start(constructs(refs)[name], id="run")
    engine.idle()
    gc.collect()
    assert refs
    assert [ref() for ref in refs] == [None] * len(refs)
    assert executed == []
    assert run.info().status == "waiting"
    assert_alive(engine)


@pytest.mark.parametrize("how", ["parked", "closed", "crashed"])
def test_clean_up_code_says_nothing_while_its_run_leaves_memory(
    engine: TestEngine, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    log = stepwell.get_logger("flow")
    caplog.set_level("INFO", "flow")

    @workflow(name="talks")
    async def talks() -> str:
        try:
            try:
                await asyncio.sleep(3600)
            finally:
                try:
                    async with asyncio.timeout(5):
                        await note("clean-up")
                except Exception as error:  # noqa: BLE001 - the mistake that is tested
                    log.error("clean-up failed: %r", error)  # noqa: TRY400 - as above
        finally:
            log.info("leaving")
        return "ok"

    if how == "parked":
        engine.reopen(max_waiting_in_memory=0)
    run = engine.start(talks)
    engine.idle()
    assert not [record for record in caplog.records if record.name == "flow"]
    if how != "parked":
        engine.crash() if how == "crashed" else engine.close()
        engine.reopen().idle()
    gc.collect()
    assert not [record for record in caplog.records if record.name == "flow"]
    engine.advance(3600)
    assert run.result(timeout=60) == "ok"
    assert [record.getMessage() for record in caplog.records if record.name == "flow"] == ["leaving"]
    assert executed == ["clean-up"]


def test_clean_up_of_a_cancelled_run_still_works(engine: TestEngine) -> None:
    engine.start(never_lets_go()["receiving"], id="watch")
    run = engine.start(never_lets_go()["publishing"], id="stubborn")
    engine.idle()
    run.cancel("please")
    with pytest.raises(RunCancelled, match="please"):
        run.result(timeout=60)
    assert run.value("key") == "closing"
