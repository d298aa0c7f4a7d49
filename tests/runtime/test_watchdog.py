"""Code that keeps the engine's thread is named, whichever way it is executed, and closing does not wait for it."""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stepwell
from stepwell import Engine, poll_until, receive, step, workflow

_let_go = threading.Event()


class Heard(logging.Handler):
    """Waits for a line of the log."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.came = threading.Event()
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.line = record.getMessage()
            self.came.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Hear which code keeps the thread; let that code go after the test."""
    _let_go.clear()
    handler = Heard("has kept the engine's thread busy")
    logging.getLogger("stepwell").addHandler(handler)
    yield handler
    _let_go.set()
    logging.getLogger("stepwell").removeHandler(handler)


@workflow(name="watchdog.plain")
def plain() -> None:
    while not _let_go.is_set():
        pass


@workflow(name="watchdog.coroutine")
async def coroutine() -> None:
    while not _let_go.is_set():
        pass


@step(name="watchdog.step")
async def busy() -> None:
    while not _let_go.is_set():
        pass


@workflow(name="watchdog.in a step")
async def in_a_step() -> None:
    await busy()


def _looks_for_ever(_value: object) -> bool:
    while not _let_go.is_set():
        pass
    return True


@step(name="watchdog.polled")
async def polled() -> int:
    return 1


@workflow(name="watchdog.predicate")
async def predicate() -> None:
    await poll_until(polled, until=_looks_for_ever, every=1)


@workflow(name="watchdog.validator")
async def validator() -> None:
    @stepwell.update(validate=_looks_for_ever)
    def see(_value: int) -> None: ...

    await receive("close", timeout=0.1)


@pytest.mark.parametrize(
    ("flow", "named"),
    [
        (plain, "the workflow code at .*test_watchdog.py:\\d+ in plain"),
        (coroutine, "run 'busy'"),
        (in_a_step, "step 'watchdog.step' of run 'busy'"),
        (predicate, "step 'watchdog.polled' of run 'busy'"),
        (validator, "run 'busy'"),
    ],
    ids=["def workflow", "async workflow", "async step", "predicate", "validator"],
)
def test_code_that_keeps_the_thread_is_named_and_closing_does_not_wait_for_it(
    database: Path, heard: Heard, flow: Callable[[], object], named: str
) -> None:
    engine = Engine(database)
    engine.start(flow, id="busy", updates=[("see", [1], "1")] if flow is validator else ())
    assert heard.came.wait(60)
    began = time.monotonic()
    engine.close(timeout=0.1)
    assert time.monotonic() - began < 15  # with no regard to the code it takes 3 s; a commit is waited for for 20 s
    assert re.match(named, heard.line), heard.line


def test_what_closing_leaves_behind_complains_of_nothing_when_it_is_collected(
    database: Path, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(database)
    engine.start(in_a_step, id="busy")
    assert heard.came.wait(60)
    thread = engine._session.engine_thread.thread
    engine.close(timeout=0)
    _let_go.set()
    thread.join(60)
    del engine, thread
    gc.collect()
    assert "destroyed" not in caplog.text
