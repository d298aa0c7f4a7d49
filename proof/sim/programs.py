"""The workflows and steps of the simulated world: one interpreter of programs as data, and its ``def`` twin.

A program's result says all that the run has seen, so that the judge can compare it with what the program allows (see
`proof.sim.model`): each node's result begins with the node's kind and, where it has one, its number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import stepwell
from proof.sim.grammar import Node
from stepwell import current, sync
from stepwell.definitions.decorators import step, transaction, workflow
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import Batch, Limit, Queue, Rate
from stepwell.definitions.step_info import RunContext, StepInfo
from stepwell.errors import DuplicateRun, RunCancelled, RunConflict, RunEnded, RunFailed, RunNotFound, StepInterrupted
from stepwell.model.retry import Retry

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class SimError(Exception):
    """What fails on purpose."""


LIMIT: Final = Limit("sim.limit", concurrency=1)
RATED: Final = Limit("sim.rated", rate=Rate(2, per=0.05))
_QUEUES: Final = (
    Queue("sim.one", concurrency=1),
    Queue("sim.parts", concurrency=3, partition_concurrency=1, partition_rate=Rate(1, per=1)),
    Queue("sim.rate", rate=Rate(2, per=0.1)),
    Queue("sim.each", per_worker=1),
    Queue("sim.dedup", concurrency=2),
    Queue("sim.reject", concurrency=1, on_duplicate="reject"),
    Queue("sim.calm", debounce=0.05, debounce_limit=0.15),
    Queue("sim.batch", concurrency=1, batch=Batch(3, within=0.05)),
    Queue("story.line", concurrency=6, partition_per_worker=1),
)
#: All of them by name.
FLOWS: Final[dict[str, Queue | Limit]] = {flow.name: flow for flow in (LIMIT, RATED, *_QUEUES)}


def in_queue(place: list[Any] | None) -> dict[str, Any]:
    """Return the options of a start for a place in a queue; see `proof.sim.grammar.Grammar.place`."""
    if place is None:
        return {}
    name, partition, priority, delay, *rest = place
    return {
        "queue": FLOWS[name],
        "partition": partition or None,
        "priority": priority,
        "delay": delay / 1000 or None,
        "dedup": (rest[0] if rest else None) or None,
    }


def key_of(place: list[Any] | None) -> tuple[str, str]:
    """Return the queue and the dedup key of a place, empty where there is none."""
    return ("", "") if place is None else (place[0], place[4] if place[4:] else "")


class World(Protocol):
    """What the steps act upon."""

    def executed(self, info: StepInfo, number: int, flavour: str) -> None:
        """Take note that a step is executed."""
        ...


class _Outside:
    """The world in which steps act now: one at a time in a process."""

    world: World


outside: Final = _Outside()


def _act(number: int, fails: int, flavour: str) -> int:
    info = current()
    assert isinstance(info, StepInfo)
    outside.world.executed(info, number, flavour)
    if info.attempt <= fails:
        raise SimError(f"attempt {info.attempt} of node {number}")
    return number


@step(name="sim.plain")
async def plain(number: int, fails: int) -> int:
    """Act once."""
    return _act(number, fails, "plain")


@step(name="sim.retry", retry=Retry(attempts=3, delay=0.05, jitter=0.5))
async def retried(number: int, fails: int) -> int:
    """Act up to three times."""
    return _act(number, fails, "retry")


@step(name="sim.once", delivery="at-most-once")
async def once(number: int, fails: int) -> int:
    """Act at most once."""
    return _act(number, fails, "once")


@step(name="sim.sync")
def plain_sync(number: int, fails: int) -> int:
    """Act once, in a thread."""
    return _act(number, fails, "sync")


@step(name="sim.limited", limit=LIMIT, retry=Retry(attempts=2, delay=0.02))
async def limited(number: int, fails: int) -> int:
    """Act alone in the world."""
    return _act(number, fails, "limited")


@step(name="sim.rated", limit=RATED)
async def rated(number: int, fails: int) -> int:
    """Act not too often."""
    return _act(number, fails, "rated")


def _write(lent: Any, number: int, fails: int, flavour: str) -> int:
    info = current()
    assert isinstance(info, StepInfo)
    lent.execute("INSERT INTO effects (run, op, number) VALUES (?, ?, ?)", (info.run_id, info.operation, number))
    return _act(number, fails, flavour)


@transaction(name="sim.tx")
def written(lent: Any, number: int, fails: int) -> int:
    """Write a row to a table of the user's."""
    return _write(lent, number, fails, "tx")


@transaction(name="sim.txretry", retry=Retry(attempts=3, delay=0.02))
def written_at_last(lent: Any, number: int, fails: int) -> int:
    """Write a row to a table of the user's, in up to three attempts."""
    return _write(lent, number, fails, "txretry")


STEPS: Final[dict[str, Any]] = {
    "plain": plain,
    "retry": retried,
    "once": once,
    "sync": plain_sync,
    "tx": written,
    "txretry": written_at_last,
    "limited": limited,
    "rated": rated,
}


def micros() -> int:
    """Return the run's time, in microseconds; off by one at most."""
    return (stepwell.now() - _EPOCH) // _MICROSECOND


class Me:
    """The run that interprets a program: its id, and what it counts."""

    def __init__(self) -> None:
        context = current()
        assert isinstance(context, RunContext)
        self.id = context.run_id
        self._sent: Counter[str] = Counter()

    def message(self, number: int, name: str) -> list[Any]:
        """Return the next message to send under this name."""
        self._sent[name] += 1
        return [self.id, number, self._sent[name] - 1]


def _how(error: BaseException) -> str:
    if isinstance(error, RunNotFound):
        return "RunNotFound"
    return "cancelled" if isinstance(error, RunCancelled) else "failed"


def _ended(number: int, child_id: str, error: BaseException) -> Node:
    return ["child", number, child_id, _how(error)]


# --- async ------------------------------------------------------------------------------------------------------------


@workflow(name="sim.async")
async def program(node: list[Any]) -> list[Any]:
    """Interpret a program, and answer updates meanwhile."""
    asked: list[int] = []

    def is_new(number: int) -> None:
        if number in asked:
            raise SimError(f"update {number} came before")

    @stepwell.update(validate=is_new)
    async def note(number: int) -> list[int]:
        asked.append(number)
        return [await plain(number, 0), len(asked)]

    return await _run(node, Me())


async def _run(node: Node, me: Me) -> Node:
    match node:
        case ["seq", parts]:
            return ["seq", [await _run(part, me) for part in parts]]
        case ["all" | "group" | "race", _]:
            return await _run_together(node, me)
        case ["limit", number, milliseconds, part]:
            began = micros()
            try:
                async with asyncio.timeout(milliseconds / 1000):
                    value = await _run(part, me)
            except TimeoutError:
                return ["limit", number, began, micros(), None]
            return ["limit", number, began, micros(), value]
        case ["final", part, last]:
            try:
                value = await _run(part, me)
            finally:
                await _run(last, me)
            return ["final", value]
        case ["catch", part]:
            try:
                return ["catch", await _run(part, me)]
            except SimError:
                return ["catch", None]
        case ["fail", number]:
            raise SimError(f"node {number}")
        case _:
            return await _run_leaf(node, me)


async def _run_together(node: Node, me: Me) -> Node:
    kind, parts = node
    if kind == "all":
        found = await asyncio.gather(*(_run(part, me) for part in parts), return_exceptions=True)
        return ["all", [_slot(value) for value in found]]
    if kind == "race":
        tasks = [asyncio.create_task(_run(part, me)) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        return ["race", [_slot(value) for value in found]]
    slots: list[Node | None] = [None] * len(parts)

    async def fill(index: int, part: Node) -> None:
        slots[index] = await _run(part, me)

    how = "ok"
    try:
        async with asyncio.TaskGroup() as group:
            for index, part in enumerate(parts):
                group.create_task(fill(index, part))
    except* SimError:
        how = "failed"
    return ["group", how, slots]


def _slot(found: Node | BaseException) -> Node | None:
    if isinstance(found, asyncio.CancelledError):
        return None
    if isinstance(found, SimError):
        return ["failed"]
    if isinstance(found, BaseException):
        raise found
    return found


async def _run_leaf(node: Node, me: Me) -> Node:
    match node:
        case ["step", number, flavour, fails]:
            try:
                called = STEPS[flavour](number, fails)
                return ["step", number, await called if asyncio.iscoroutine(called) else called]
            except (SimError, StepInterrupted) as error:
                return ["step", number, type(error).__name__]
        case ["sleep", number, milliseconds]:
            began = micros()
            await asyncio.sleep(milliseconds / 1000)
            return ["sleep", number, began, micros()]
        case ["recv", number, name, milliseconds]:
            began = micros()
            limit = None if milliseconds is None else milliseconds / 1000
            value = await stepwell.receive(name, list[Any], timeout=limit)
            return ["recv", number, began, micros(), value]
        case ["send", number, target, name, key]:
            try:
                await stepwell.send(target, name, me.message(number, name), key=key)
            except (RunNotFound, RunEnded) as error:
                return ["send", number, type(error).__name__]
            return ["send", number, "sent"]
        case ["publish", number, key]:
            await stepwell.publish(key, [me.id, number])
            await stepwell.stream(key).write([me.id, number])
            return ["publish", number]
        case ["draw", number]:
            return ["draw", number, stepwell.random(), str(stepwell.uuid4())]
        case ["cancel", number, target]:
            with suppress(RunNotFound):
                await stepwell.ChildRun[Any](target, program).cancel(f"node {number}")
            return ["cancel", number]
        case ["join", number, target]:
            try:
                await stepwell.ChildRun[Any](target, program).result()
            except (SimError, RunFailed, RunCancelled, RunNotFound) as error:
                return ["join", number, _how(error)]
            return ["join", number, "completed"]
        case ["child", *_]:
            return await _run_child(node)
        case _:
            raise AssertionError(node)


async def _run_child(node: Node) -> Node:
    _, number, mode, flavour, part, child_id, place = node
    definition = WORKFLOWS[flavour]
    if mode == "call":
        try:
            called: Any = definition(part)
            return ["child", number, None, "completed", await called if asyncio.iscoroutine(called) else called]
        except (SimError, RunFailed, RunCancelled) as error:
            return _ended(number, "", error)
    try:
        child = await stepwell.start(definition, part, id=child_id, detached=mode == "detach", **in_queue(place))
    except (RunConflict, DuplicateRun) as error:
        return ["child", number, child_id, type(error).__name__]
    if mode != "await":
        return ["child", number, child.id, "started"]
    try:
        return ["child", number, child.id, "completed", await child.result()]
    except (SimError, RunFailed, RunCancelled) as error:
        return _ended(number, child.id, error)


@workflow(name="sim.batch")
async def collected(items: list[list[Any]]) -> list[Any]:
    """Act once for each item that was collected: whose it is, and its number."""
    return ["batch", [[owner, await plain(number, 0)] for owner, number in items]]


# --- def --------------------------------------------------------------------------------------------------------------


@workflow(name="sim.sync")
def program_sync(node: list[Any]) -> list[Any]:
    """Interpret a program without concurrency, but for the updates that come meanwhile."""
    asked: list[int] = []

    @sync.update
    def note(number: int) -> list[int]:
        asked.append(number)
        return [plain_sync(number, 0), len(asked)]

    return _run_sync(node, Me())


def _run_sync(node: Node, me: Me) -> Node:
    match node:
        case ["seq", parts]:
            return ["seq", [_run_sync(part, me) for part in parts]]
        case ["final", part, last]:
            try:
                value = _run_sync(part, me)
            finally:
                _run_sync(last, me)
            return ["final", value]
        case ["catch", part]:
            try:
                return ["catch", _run_sync(part, me)]
            except SimError:
                return ["catch", None]
        case ["fail", number]:
            raise SimError(f"node {number}")
        case _:
            return _run_leaf_sync(node, me)


def _run_leaf_sync(node: Node, me: Me) -> Node:
    match node:
        case ["step", number, flavour, fails]:
            called = STEPS[flavour]
            try:
                value = sync.call(called, number, fails) if called.is_async else called(number, fails)
            except (SimError, StepInterrupted) as error:
                return ["step", number, type(error).__name__]
            return ["step", number, value]
        case ["sleep", number, milliseconds]:
            began = micros()
            sync.sleep(milliseconds / 1000)
            return ["sleep", number, began, micros()]
        case ["recv", number, name, milliseconds]:
            began = micros()
            limit = None if milliseconds is None else milliseconds / 1000
            value = sync.receive(name, list[Any], timeout=limit)
            return ["recv", number, began, micros(), value]
        case ["send", number, target, name, key]:
            try:
                sync.send(target, name, me.message(number, name), key=key)
            except (RunNotFound, RunEnded) as error:
                return ["send", number, type(error).__name__]
            return ["send", number, "sent"]
        case ["publish", number, key]:
            sync.publish(key, [me.id, number])
            sync.stream(key).write([me.id, number])
            return ["publish", number]
        case ["draw", number]:
            return ["draw", number, sync.random(), str(sync.uuid4())]
        case ["cancel", number, target]:
            with suppress(RunNotFound):
                sync.ChildRun(stepwell.ChildRun[Any](target, program)).cancel(f"node {number}")
            return ["cancel", number]
        case ["join", number, target]:
            try:
                sync.ChildRun(stepwell.ChildRun[Any](target, program)).result()
            except (SimError, RunFailed, RunCancelled, RunNotFound) as error:
                return ["join", number, _how(error)]
            return ["join", number, "completed"]
        case ["child", *_]:
            return _run_child_sync(node)
        case _:
            raise AssertionError(node)


def _run_child_sync(node: Node) -> Node:
    _, number, mode, flavour, part, child_id, place = node
    definition = WORKFLOWS[flavour]
    if mode == "call":
        try:
            value = sync.call(definition, part) if definition.is_async else definition(part)
        except (SimError, RunFailed, RunCancelled) as error:
            return _ended(number, "", error)
        return ["child", number, None, "completed", value]
    try:
        child: Any = sync.start(definition, part, id=child_id, detached=mode == "detach", **in_queue(place))
    except (RunConflict, DuplicateRun) as error:
        return ["child", number, child_id, type(error).__name__]
    if mode != "await":
        return ["child", number, child.id, "started"]
    try:
        return ["child", number, child.id, "completed", child.result()]
    except (SimError, RunFailed, RunCancelled) as error:
        return _ended(number, child.id, error)


WORKFLOWS: Final[dict[str, Workflow[..., Any]]] = {"async": program, "sync": program_sync, "batch": collected}
