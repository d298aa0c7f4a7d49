"""What workflow code sets in context variables, its steps see, wherever they execute; nobody else does."""

from __future__ import annotations

import asyncio
import contextvars
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from stepwell import AsyncEngine, Engine, Retry, receive, step, sync, transaction, workflow
from stepwell.testing import TestEngine

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@step
def in_thread() -> str:
    return tenant.get()


@step
async def on_loop() -> str:
    return tenant.get()


@step
async def on_loop_later() -> str:
    before = tenant.get()
    await asyncio.sleep(0)
    return before if before == tenant.get() else "changed"


@transaction
def in_transaction(_connection: object) -> str:
    return tenant.get()


@step(isolate="process")
def in_process() -> str:
    return tenant.get()


@workflow
async def asks() -> list[str]:
    tenant.set("acme")
    return [in_thread(), await on_loop(), await on_loop_later(), in_transaction(), await asyncio.to_thread(in_thread)]


@workflow
def asks_plainly() -> list[str]:
    tenant.set("acme")
    return [in_thread(), sync.call(on_loop), sync.call(on_loop_later), in_transaction(), *sync.map(asked, [1])]


@step
def asked(_number: int) -> str:
    return tenant.get()


@pytest.mark.parametrize("definition", [asks, asks_plainly], ids=["async", "plain"])
def test_every_kind_of_step_sees_what_the_workflow_set(database: Path, definition: Any) -> None:
    with Engine(database) as engine:
        for _ in range(2):  # the second on the threads and lanes that the first has used
            assert engine.start(definition).result(60) == ["acme"] * 5


@pytest.mark.parametrize("definition", [asks, asks_plainly], ids=["async", "plain"])
def test_so_do_steps_on_the_callers_loop(database: Path, definition: Any) -> None:
    async def main() -> list[str]:
        tenant.set("the caller")
        async with AsyncEngine(database) as engine:
            run = await engine.start(definition)
            found: list[str] = await run.result(60)
            return [*found, tenant.get()]

    assert asyncio.run(main()) == [*["acme"] * 5, "the caller"]


def test_each_task_of_a_workflow_has_its_own(engine: TestEngine) -> None:
    async def branch(name: str) -> list[str]:
        tenant.set(name)
        return [await on_loop(), in_thread()]

    @workflow
    async def branches() -> list[Any]:
        tenant.set("trunk")
        found = await asyncio.gather(branch("left"), branch("right"), on_loop(), asyncio.to_thread(in_thread))
        return [*found, await on_loop()]

    assert engine.start(branches).result(60) == [["left"] * 2, ["right"] * 2, "trunk", "trunk", "trunk"]


def test_a_context_that_is_handed_over_counts(engine: TestEngine) -> None:
    @workflow
    async def hands_over() -> str:
        other = contextvars.copy_context()
        other.run(tenant.set, "other")
        return await asyncio.get_running_loop().run_in_executor(None, other.run, in_thread)

    assert engine.start(hands_over).result(60) == "other"


def test_what_a_step_sets_stays_in_its_attempt(engine: TestEngine) -> None:
    seen: list[str] = []

    @step(retry=Retry(attempts=3, delay=1))
    def changes() -> None:
        seen.append(tenant.get())
        tenant.set(f"attempt {len(seen)}")
        if len(seen) < 3:
            raise ConnectionError

    @step
    async def changes_too() -> None:
        seen.append(tenant.get())
        tenant.set("changed on the loop")

    @transaction
    def changes_as_well(_connection: object) -> None:
        seen.append(tenant.get())
        tenant.set("changed in a transaction")

    @workflow
    async def calls() -> str:
        tenant.set("acme")
        changes()
        await changes_too()
        changes_as_well()
        return tenant.get()

    run = engine.start(calls)
    engine.advance(60)
    assert run.result(60) == "acme"
    assert seen == ["acme"] * 5


@pytest.mark.parametrize("memory", [1000, 0], ids=["in memory", "evicted"])
def test_replay_sets_them_again(engine: TestEngine, memory: int) -> None:
    @workflow
    async def waits() -> list[str]:
        tenant.set(await receive("tenant", str))
        first = in_thread()
        await receive("go")
        return [first, in_thread(), await on_loop(), in_transaction()]

    engine.reopen(max_waiting_in_memory=memory)
    run = engine.start(waits)
    run.send("tenant", "acme")
    engine.idle()
    engine.crash()
    engine.reopen()
    run.send("go")
    assert run.result(60) == ["acme"] * 4


def test_runs_see_neither_each_others_nor_their_starters(database: Path) -> None:
    @workflow
    async def looks_and_sets(name: str) -> list[str]:
        before = [tenant.get(), in_thread(), await on_loop()]
        tenant.set(name)
        await asyncio.sleep(0.01)
        return [*before, tenant.get(), in_thread(), await on_loop()]

    @workflow
    async def starts_others() -> list[list[str]]:
        tenant.set("parent")
        return [await looks_and_sets("child"), await looks_and_sets("second")]

    def start() -> None:
        tenant.set("starter")
        with Engine(database) as engine:
            runs = [engine.start(looks_and_sets, f"run {number}") for number in range(20)]
            with engine.transaction() as tx:
                runs.append(tx.start(looks_and_sets, "run 20"))
            for number, run in enumerate(runs):
                assert run.result(60) == [*["nobody"] * 3, *[f"run {number}"] * 3]
            assert engine.start(starts_others).result(60) == [
                [*["nobody"] * 3, *["child"] * 3],
                [*["nobody"] * 3, *["second"] * 3],
            ]

    contextvars.Context().run(start)


def test_a_step_in_a_process_of_its_own_sees_the_default(engine: TestEngine) -> None:
    @workflow
    async def calls() -> str:
        tenant.set("acme")
        return in_process()

    assert engine.start(calls).result(60) == "nobody"
