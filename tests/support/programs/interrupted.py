"""A program whose step computes when a signal arrives: `interrupted.py FILE KIND HOST HANDLER`.

It prints "in" when a step computes, and what the run came to. With the variable AGAIN the steps return at once.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

from stepwell import AsyncEngine, Engine, StepInterrupted, current, step, transaction, workflow


def say(text: str) -> None:
    """Tell the test, at once and in one piece."""
    os.write(1, f"{text}\n".encode())


def compute() -> str:
    """Compute until a signal handler raises something; a minute at most."""
    if "AGAIN" in os.environ:
        return "done"
    say("in")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(range(1000))
    return "late"


@step
async def first() -> str:
    return compute()


@step
async def later() -> str:
    await asyncio.sleep(0.001)
    return compute()


@step
async def group() -> str:
    async def inner() -> str:
        return compute()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(inner())
    return task.result()


@step
async def gathered() -> str:
    await asyncio.sleep(0)

    async def inner() -> str:
        await asyncio.sleep(0)
        return compute()

    return (await asyncio.gather(inner(), asyncio.sleep(0.01)))[0]


@step(delivery="at-most-once")
async def once() -> str:
    return compute()


@step
def thread() -> str:
    if "AGAIN" in os.environ:
        return "done"
    say("in")
    info: Any = current()
    while not info.cancelled:
        time.sleep(0.001)
    return "late"


@transaction
def writes(_tx: Any) -> str:
    if "AGAIN" in os.environ:
        return "done"
    say("in")
    time.sleep(0.2)
    return "late"


@step(isolate="process")
def isolated() -> str:
    if "AGAIN" in os.environ:
        return "done"
    say("in")
    time.sleep(60)
    return "late"


STEPS: dict[str, Any] = {
    "first": first, "later": later, "group": group, "gathered": gathered, "once": once, "thread": thread,
    "writes": writes, "isolated": isolated,
}  # fmt: skip


@step
async def quick() -> None:
    """Return at once, so that the workflow's code goes on where that ended."""


@workflow
async def calls(kind: str) -> str:
    if kind == "code":
        await quick()
        return compute()
    try:
        result = STEPS[kind]()
        return str(result if isinstance(result, str) else await result)
    except StepInterrupted:
        return "interrupted"


class Told(Exception):
    """What a handler raises that knows nothing of asyncio."""


class ToldHard(BaseException):
    """The same, and `except Exception` does not see it."""


def leave(code: int, _signal: int, _frame: FrameType | None) -> NoReturn:
    """Exit, as most handlers of SIGTERM do."""
    sys.exit(code)


class Handler:
    """Handlers of all shapes."""

    def method(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        raise Told("by a method")

    def __call__(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        raise Told("by an object")

    @staticmethod
    def hard(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise ToldHard("by a function")

    @staticmethod
    def inner(_signal: int, _frame: FrameType | None) -> NoReturn:
        def deeper() -> NoReturn:
            raise Told("by what it calls")

        deeper()


HANDLERS: dict[str, Any] = {
    "interrupt": signal.default_int_handler, "exit": functools.partial(leave, 7), "method": Handler().method,
    "object": Handler(), "hard": Handler.hard, "inner": Handler.inner,
}  # fmt: skip


async def in_asyncio(path: str, kind: str) -> None:
    async with AsyncEngine(path) as engine:
        run = await engine.start(calls, kind, id="x")
        say(await run.result())


def in_a_notebook(path: str, kind: str) -> None:
    """Go on with the loop after an interrupt, as a notebook does."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(in_asyncio(path, kind))
    except (KeyboardInterrupt, SystemExit) as error:
        os.environ["AGAIN"] = "1"
        say(type(error).__name__)
    loop.run_until_complete(asyncio.gather(*(task for task in asyncio.all_tasks(loop) if "in_asyncio" in repr(task))))


def in_threads(path: str, kind: str) -> None:
    engine = Engine(path)
    try:
        say(engine.start(calls, kind, id="x").result())
    finally:
        engine.close(timeout=0)


def main(path: str, kind: str, host: str, handler: str) -> None:
    signal.signal(signal.SIGTERM, HANDLERS[handler])
    match host:
        case "asyncio.run":
            asyncio.run(in_asyncio(path, kind))
        case "run_until_complete":
            asyncio.new_event_loop().run_until_complete(in_asyncio(path, kind))
        case "notebook":
            in_a_notebook(path, kind)
        case _:
            in_threads(path, kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
