"""Workflow code that asks an engine is refused at its line, whatever it asks: the answer would not be recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, Queue, WorkflowIOError, publish, receive, step, workflow
from stepwell.testing import TestEngine

line = Queue("asked-from-a-workflow", concurrency=1)


@workflow
async def target() -> None:
    await publish("key", 1)
    await receive("never")


QUESTIONS: dict[str, Callable[[Engine | TestEngine], Any]] = {
    "get": lambda engine: engine.get("target"),
    "get of no run": lambda engine: engine.get("nobody"),
    "list": lambda engine: engine.list(),
    "list a page": lambda engine: engine.list(before="target"),
    "start": lambda engine: engine.start(target),
    "send": lambda engine: engine.send("target", "name"),
    "purge": lambda engine: engine.purge(10),
    "queues": lambda engine: engine.queues(),
    "info of a queue": lambda engine: engine.queue(line).info(),
    "pause a queue": lambda engine: engine.queue(line).pause(),
    "workers": lambda engine: engine.workers(),
    "take over": lambda engine: engine.take_over(99),
    "transaction": lambda engine: engine.transaction().__enter__(),
    "close": lambda engine: engine.close(),
}
OF_A_RUN: dict[str, Callable[[Any], Any]] = {
    "status": lambda run: run.status,
    "info": lambda run: run.info(),
    "result": lambda run: run.result(timeout=1),
    "value": lambda run: run.value("key"),
    "journal": lambda run: run.journal(),
    "cancel": lambda run: run.cancel(),
    "resume": lambda run: run.resume(),
    "send to it": lambda run: run.send("name"),
}


def ask(question: str, engine: Any, run: Any) -> str:
    try:
        if question in QUESTIONS:
            QUESTIONS[question](engine)
        else:
            OF_A_RUN[question](run)
    except WorkflowIOError as error:
        return str(error)
    return "answered"


@pytest.mark.parametrize("question", [*QUESTIONS, *OF_A_RUN])
def test_a_question_to_its_own_engine_is_refused_in_workflow_code(engine: TestEngine, question: str) -> None:
    run = engine.start(target, id="target")
    engine.start(target, id="another", queue=line)
    engine.idle()

    @workflow
    async def asks() -> str:
        return ask(question, engine, run)

    @workflow
    def asks_blocking() -> str:
        return ask(question, engine, run)

    for definition in (asks, asks_blocking):
        told = str(engine.start(definition).result(timeout=60))
        assert "test_engine_in_workflows.py" in told
        assert "@step" in told
    assert [entry.kind for entry in run.journal()] == ["published"]


@pytest.mark.parametrize("question", [*QUESTIONS, *OF_A_RUN])
def test_a_question_to_another_engine_is_refused_as_well(engine: TestEngine, tmp_path: Path, question: str) -> None:
    with Engine(tmp_path / "other.db", workflows=[]) as other:
        run = other.start(target, id="target")

        @workflow
        async def asks() -> str:
            return ask(question, other, run)

        assert "@step" in str(engine.start(asks).result(timeout=60))
        assert [found.id for found in other.list()] == ["target"]
        assert run.info().cancel_requested_at is None


def test_steps_ask_the_engine_freely(engine: TestEngine) -> None:
    engine.start(target, id="target")
    engine.idle()

    @step
    def looks() -> int:
        return len(engine.list()) + len(engine.get("target").journal())

    @step
    async def looks_on_a_loop() -> str:
        return engine.get("target").status

    @workflow
    async def asks() -> list[Any]:
        return [await asyncio.to_thread(looks), await looks_on_a_loop()]

    assert engine.start(asks).result(timeout=60) == [3, "waiting"]
