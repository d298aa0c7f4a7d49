"""A waiting run that got what it does not wait for waits on as before, and says nothing else."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, receive, start, workflow
from stepwell.testing import TestEngine


@workflow
async def asks() -> None:
    await receive("approval", bool)


@workflow
async def cleans_up() -> None:
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(600)


@workflow
async def ignores() -> None:
    waiting = asyncio.ensure_future(asyncio.sleep(600))
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            continue


@workflow
async def child() -> None:
    await receive("end", bool)


@workflow
async def leaves_children_alone() -> None:
    await start(child, id="child")
    await receive("approval", bool)


@workflow
async def gives_up_waiting(other: str) -> None:
    try:
        async with asyncio.timeout(1):
            await (await start(child, id=other)).result()
    except TimeoutError:
        await receive("approval", bool)


def cancel(engine: TestEngine) -> None:
    engine.get("run").cancel()
    engine.idle()


def other_message(engine: TestEngine, key: str | None = None) -> None:
    engine.send("run", "other", 1, key=key)


def in_another_process(code: str) -> Callable[[TestEngine], None]:
    def ask(engine: TestEngine) -> None:
        program = f"import sys, stepwell\nwith stepwell.Engine(sys.argv[1], workflows=[]) as engine:\n    engine.{code}"
        subprocess.run([sys.executable, "-c", program, str(engine._path)], check=True, timeout=60)

    return ask


def let_child_end(engine: TestEngine) -> None:
    engine.send("child", "end", True)


def in_a_transaction(engine: TestEngine) -> None:
    with engine.transaction() as tx:
        tx.send("run", "other", 1)


def nothing(engine: TestEngine) -> None: ...


CASES: dict[str, tuple[Any, Callable[[TestEngine], None], Callable[[TestEngine], None]]] = {
    "a message of another name": (asks, nothing, other_message),
    "the same with a key": (asks, nothing, lambda engine: other_message(engine, "key")),
    "the same in a transaction": (asks, nothing, in_a_transaction),
    "the same from another process": (asks, nothing, in_another_process("send('run', 'other', 1)")),
    "a resume": (asks, nothing, lambda engine: engine.get("run").resume()),
    "a resume from another process": (asks, nothing, in_another_process("get('run').resume()")),
    "a second cancellation": (cleans_up, cancel, cancel),
    "a second cancellation from another process": (cleans_up, cancel, in_another_process("get('run').cancel()")),
    "a cancellation that its code ignores": (ignores, nothing, cancel),
    "the end of a child that it does not wait for": (leaves_children_alone, nothing, let_child_end),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_run_does_not_wait_for_leaves_it_waiting_as_before(database: Path, case: str) -> None:
    flow, prepare, act = CASES[case]
    with TestEngine(database) as engine:
        run = engine.start(flow, id="run")
        engine.idle()
        prepare(engine)
        before = run.info()
        assert before.status == "waiting"
        act(engine)
        engine.idle()
        after = run.info()
        assert (after.status, after.wake_at, after.waiting_on) == ("waiting", before.wake_at, before.waiting_on)
        if [wait.kind for wait in after.waiting_on] == ["message"]:  # else real time, from outside, moves the timer
            engine.reopen(workflows=[])
            assert "has come" not in (engine.get("run").info().reason or "")


def test_the_end_of_a_run_that_it_waited_for_once_leaves_it_waiting_as_before(engine: TestEngine) -> None:
    run = engine.start(gives_up_waiting, "child", id="run")
    engine.advance(2)
    assert run.info().wake_at is None
    engine.send("child", "end", True)
    engine.idle()
    assert run.info().wake_at is None


def test_a_crash_does_not_count_against_a_run_that_only_waited(engine: TestEngine) -> None:
    engine.start(leaves_children_alone, id="run")
    engine.idle()
    for _ in range(2):
        other_message(engine)
        if engine.get("child").status == "waiting":
            let_child_end(engine)
        engine.idle()
        engine.crash()
        engine.reopen()
        engine.idle()
    record = engine._session.store.inspector.run_by_id("run")
    assert record is not None
    assert (record.status, record.crashes) == ("waiting", 0)


DUE = r"; it has been due for another look since \S+ \S+: no worker has the file open: .*"


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda engine: engine.get("run").resume(), "it waits for message 'approval'" + DUE),
        (
            lambda engine: engine.send("run", "other", 1),
            r"it waits for message 'approval' \(unread are others, called 'other'\)" + DUE,
        ),
        (
            lambda engine: engine.get("run").cancel(),
            r"it was asked to cancel at .*; it waits for message 'approval'" + DUE,
        ),
        (lambda engine: engine.send("run", "approval", True), r"what it waited for has come; it has been due since .*"),
    ],
    ids=["resumed", "sent something else", "cancelled", "sent what it waits for"],
)
def test_without_a_worker_it_is_due_and_says_what_has_not_come(
    database: Path, act: Callable[[Engine], None], expected: str
) -> None:
    with Engine(database, workflows=[asks]) as engine:
        engine.start(asks, id="run")
        while engine.get("run").status != "waiting":
            pass
    with Engine(database, workflows=[]) as client:
        act(client)
        assert re.fullmatch(expected, client.get("run").info().reason or "")
