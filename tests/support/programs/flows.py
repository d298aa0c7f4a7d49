"""Workflows for the tests of the command line: they say what happens to them, and wait for what the test does."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

from stepwell import receive, step, workflow


def say(*words: object) -> None:
    # In one write, because several threads and processes have this output.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@step
async def wait_for(name: str) -> str:
    say("waiting for", name, "in", os.getpid())
    try:
        while not Path(name).exists():  # noqa: ASYNC110, ASYNC240 - the test makes it, from another process
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        say("cancelled while waiting for", name)
        raise
    return name


@step
def hang() -> None:
    say("hanging")
    threading.Event().wait()


@step
async def hang_in_a_thread_of_asyncio() -> None:
    say("hanging")
    await asyncio.to_thread(threading.Event().wait)


@step
def fork_and_terminate() -> int:
    child = os.fork()
    if not child:
        while True:
            signal.pause()
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    say("the child ended by signal", os.WTERMSIG(status))
    return os.WTERMSIG(status)


@step
def add(left: int, right: int) -> int:
    return left + right


@workflow(name="file_appears")
async def file_appears(name: str) -> str:
    return await wait_for(name)


@workflow(name="hears")
async def hears() -> str:
    say("listening in", os.getpid())
    heard = await receive("word", str)
    say("heard", heard, "in", os.getpid())
    return heard


@workflow(name="hanging")
async def hanging() -> None:
    hang()


@workflow(name="going_round")
async def going_round() -> None:
    say("going round")
    while True:  # noqa: ASYNC110 - it polls, and never waits
        await asyncio.sleep(0)


@workflow(name="hanging_thread")
async def hanging_thread() -> None:
    await hang_in_a_thread_of_asyncio()


@workflow(name="forking")
async def forking() -> int:
    return fork_and_terminate()


@workflow(name="sum_up")
async def sum_up(numbers: list[int]) -> int:
    total = 0
    for number in numbers:
        total = add(total, number)
    return total


@workflow(name="failing")
async def failing() -> None:
    raise ValueError("no luck\nat all")
