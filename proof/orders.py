"""The work that the processes of `proof.crew` do: runs that use all that the engine offers, and how each must end.

A run is given a number and a list of actions, and returns a list with one result for each; `expected` says which. What
may differ from one life to the next (who won a race, which execution of a step was recorded) is checked by
`proof.verdict` against the log.

The **log** is a file of lines that steps append outside of the database, each with one write: ``B`` when an execution
begins, ``E`` when it ends, ``F`` when it forks, with run, operation, step, attempt, the execution's token, the
microseconds of the machine's steady clock, and a text. The **token**, worker and number, goes into the step's result
too. So the journal tells which execution was recorded, and the log when it began.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
import warnings
from random import Random
from typing import Any, Final

from stepwell import (
    Limit,
    Queue,
    Rate,
    Retry,
    RunCancelled,
    StepInfo,
    current,
    now,
    publish,
    receive,
    send,
    start,
    step,
    sync,
    transaction,
    workflow,
)

#: How often each action is chosen.
ACTIONS: Final = {
    "step": 6, "thread": 3, "timer": 3, "letter": 4, "book": 4, "children": 2, "gather": 2, "retry": 2, "race": 2,
    "publish": 2, "report": 1, "timeout": 1, "cancel": 1,
}  # fmt: skip
#: What a `def` workflow does here.
SYNC_ACTIONS: Final = frozenset({"step", "thread", "timer", "letter", "book", "publish"})
TABLES: Final = (
    "CREATE TABLE ledger (run TEXT, label INTEGER) STRICT",
    "CREATE TABLE placed (run TEXT) STRICT",
)
#: How long a timer takes, in seconds.
NAP_SECONDS: Final = 0.02
CHILDREN: Final = 2
#: The steady clock that the engine's time comes from: see `stepwell.model.clock`.
STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

#: How long a child that a worker leaves behind is there, in seconds: longer than a crew.
_CHILD_SECONDS: Final = 300


class Log:
    """Where this process's steps write: a descriptor opened to append, and who it is."""

    def __init__(self) -> None:
        self.descriptor = -1
        self.name = "nobody"
        #: The longest that a step takes, in seconds.
        self.longest_seconds = 0.004
        #: The version of the code that this process runs; see `changing`.
        self.version = 1
        self._numbers = itertools.count(1)
        self._forks = False

    def open(self, path: str, name: str, *, forks: bool) -> None:
        """Write to the file at `path` from now on, as the worker `name`; have the first step leave a child behind."""
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.name = name
        self._forks = forks

    def begin(self, text: str) -> str:
        """Note the begin of the step that is executing; return the execution's token."""
        if self._forks:
            self._forks = False
            self._leave_child()
        token = f"{self.name}.{next(self._numbers)}"
        self._write("B", token, text)
        return token

    def end(self, token: str) -> None:
        """Note the end of the step that is executing."""
        self._write("E", token, "-")

    def _leave_child(self) -> None:
        """Fork a child that does nothing; whoever reads the log ends it, or it ends when nobody needs it any more."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: the child needs none of them
            pid = os.fork()
        if not pid:
            # A worker that is killed right now notes nothing, and nobody ends its child.
            time.sleep(_CHILD_SECONDS)
            os._exit(0)
        self._write("F", "-", str(pid))

    def _write(self, what: str, token: str, text: str) -> None:
        info = current()
        assert isinstance(info, StepInfo)
        line = f"{what} {info.run_id} {info.operation} {info.step} {info.attempt} {token} {steady()} {text}\n"
        os.write(self.descriptor, line.encode())


LOG: Final = Log()


def steady() -> int:
    """Return the steady clock's microseconds."""
    return time.clock_gettime_ns(STEADY) // 1000


def actions_of(seed: int) -> list[str]:
    """Return the actions of a run."""
    chance = Random(seed)
    return chance.choices(list(ACTIONS), list(ACTIONS.values()), k=chance.randint(2, 8))


def letters_in(actions: list[str]) -> int:
    """Return how many letters the run waits for."""
    return actions.count("letter")


def expected(number: int, actions: list[str]) -> list[Any]:
    """Return the result of a run."""
    letters = itertools.count()
    found: list[Any] = []
    for index, action in enumerate(actions):
        match action:
            case "step" | "thread" | "retry":
                found.append(f"{number}.{index}")
            case "letter":
                found.append(next(letters))
            case "children":
                found.append([f"child {number}.{index}.{child}" for child in range(CHILDREN)])
            case "gather":
                found.append([f"{number}.{index}.{part}" for part in range(3)])
            case _:
                found.append(action)
    return found


# --- steps ------------------------------------------------------------------------------------------------------------


@step(name="work")
async def work(text: str) -> list[str]:
    """Do something that takes a moment."""
    token = LOG.begin(text)
    await asyncio.sleep(random.uniform(0, LOG.longest_seconds))
    LOG.end(token)
    return [text, token]


@step(name="work_in_thread")
def work_in_thread(text: str) -> list[str]:
    """Do something that takes a moment, in a thread."""
    token = LOG.begin(text)
    time.sleep(random.uniform(0, LOG.longest_seconds))
    LOG.end(token)
    return [text, token]


@step(name="work_twice", retry=Retry(attempts=3, delay=0.005, jitter=0))
async def work_twice(text: str) -> list[str]:
    """Fail at first."""
    token = LOG.begin(text)
    await asyncio.sleep(random.uniform(0, LOG.longest_seconds))
    LOG.end(token)
    info = current()
    assert isinstance(info, StepInfo)
    if info.attempt == 1:
        raise OSError(f"not the first time ({token})")
    return [text, token]


@transaction(name="book")
def book(tx: Any, label: int) -> str:
    """Write a row of the user's own."""
    info = current()
    assert isinstance(info, StepInfo)
    tx.execute("INSERT INTO ledger VALUES (?, ?)", (info.run_id, label))
    return "book"


#: What the queues and the limit of `proof.queues` bound.
RATE: Final = Rate(20, per=0.5)
NARROW: Final = Queue("narrow", concurrency=1)
BRISK: Final = Queue("brisk", rate=RATE)
CALLS: Final = Limit("calls", concurrency=2, rate=RATE)


@step(name="call", limit=CALLS)
async def call(text: str) -> list[str]:
    """Do something that not many may do at once."""
    token = LOG.begin(text)
    await asyncio.sleep(random.uniform(0, LOG.longest_seconds))
    LOG.end(token)
    return [text, token]


# --- workflows --------------------------------------------------------------------------------------------------------


@workflow(name="part")
async def part(text: str) -> str:
    """Be a child."""
    await work(text)
    await asyncio.sleep(NAP_SECONDS)
    await work(text)
    return f"child {text}"


@workflow(name="reporter")
async def reporter(text: str, parent: str) -> None:
    """Send the parent a message."""
    await work(text)
    await send(parent, f"report {text}", "report")


@workflow(name="sleeper")
async def sleeper() -> None:
    """Wait for ever."""
    await receive("never")


@workflow(name="job")
async def job(text: str) -> str:
    """Stand in a queue."""
    return (await work(text))[0]


@workflow(name="caller")
async def caller(text: str) -> str:
    """Have a step that stands in line."""
    return (await call(text))[0]


@workflow(name="changing")
async def changing(text: str) -> list[str]:
    """Have other code in another version."""
    first = await (work if LOG.version == 1 else work_twice)(text)
    await receive("go on")
    return [first[0], work_in_thread(text)[0]]


@step(name="kill_the_worker")
async def kill_the_worker() -> None:
    """End the process that executes it."""
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)


@workflow(name="deadly")
async def deadly() -> None:
    """End every process that carries it on."""
    await kill_the_worker()


@workflow(name="order")
async def order(number: int, actions: list[str]) -> list[Any]:
    """Do what the list says."""
    results: list[Any] = []
    for index, action in enumerate(actions):
        results.append(await _act(f"{number}.{index}", index, action))
    return results


async def _act(text: str, index: int, action: str) -> Any:
    match action:
        case "step":
            return (await work(text))[0]
        case "thread":
            return work_in_thread(text)[0]
        case "retry":
            return (await work_twice(text))[0]
        case "book":
            return book(index)
        case "letter":
            return await receive("letter", int)
        case "publish":
            await publish("progress", index)
        case "timer":
            before = now()
            await asyncio.sleep(NAP_SECONDS)
            if (now() - before).total_seconds() < NAP_SECONDS - 1e-6:
                return "early"
        case "children":
            children = [await start(part, f"{text}.{child}") for child in range(CHILDREN)]
            return await asyncio.gather(*(child.result() for child in children))
        case "gather":
            found = await asyncio.gather(*(work(f"{text}.{number}") for number in range(3)))
            return [result[0] for result in found]
        case _:
            return await _act_rarely(text, action)
    return action


async def _act_rarely(text: str, action: str) -> Any:
    match action:
        case "race":
            racers = {asyncio.ensure_future(work(f"{text}.{name}")): name for name in "ab"}
            done, left = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
            # All executions of this one must have the same text, whatever came first at a replay.
            await work(f"{text}.won-by-{''.join(sorted(racers[task] for task in done))}")
            if left:
                await asyncio.wait(left)
        case "report":
            run = current()
            await start(reporter, text, run.run_id)
            return await receive(f"report {text}", str)
        case "timeout":
            try:
                async with asyncio.timeout(NAP_SECONDS):
                    await receive("never")
            except TimeoutError:
                return action
            return "no timeout"
        case "cancel":
            child = await start(sleeper)
            await child.cancel("enough")
            try:
                await child.result()
            except RunCancelled:
                return action
            return "not cancelled"
        case _:
            raise ValueError(action)
    return action


@workflow(name="order_in_sync")
def order_in_sync(number: int, actions: list[str]) -> list[Any]:
    """Do what the list says, without asyncio."""
    results: list[Any] = []
    for index, action in enumerate(actions):
        text = f"{number}.{index}"
        match action:
            case "step" | "thread":
                results.append(work_in_thread(text)[0])
            case "timer":
                sync.sleep(NAP_SECONDS)
                results.append(action)
            case "letter":
                results.append(sync.receive("letter", int))
            case "book":
                results.append(book(index))
            case "publish":
                sync.publish("progress", index)
                results.append(action)
            case _:
                raise ValueError(action)
    return results
