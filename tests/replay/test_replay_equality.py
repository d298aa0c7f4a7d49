"""Whatever a workflow does, replaying any prefix of its journal brings it to the same place, and to the same end.

Workflows are random trees that one interpreting workflow executes. `World` is a tiny engine without a disk: it answers
the operations that an `Execution` issues in a random order, and keeps what it delivered. Then the journal is cut at
every point: the prefix is replayed into a new `Execution`, and the rest is delivered to it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import anyio
import msgspec
import pytest
from anyio import to_thread
from anyio.streams.memory import MemoryObjectSendStream
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import stepwell
from stepwell import Retry, patched, publish, receive, send, sleep_until, step, workflow
from stepwell.model.clock import MICROSECONDS
from stepwell.model.journal import ABANDONED, CUT_OFF, TICK, AttemptFailure, Entry, EntryKind, Payload
from stepwell.model.run import RunRecord
from stepwell.operations.child import ChildStart
from stepwell.operations.table import OPERATIONS
from stepwell.replay.execution import Execution
from stepwell.replay.operation import CodeOutcome, Operation
from stepwell.testing import TestEngine
from stepwell.values.codec import Codec
from stepwell.values.failure import failure_json

MILLISECOND = MICROSECONDS // 1000
CODEC = Codec(compress_above_bytes=1 << 30)

# --- what the trees can do --------------------------------------------------------------------------------------------


@step(name="echo")
async def echo(value: Any) -> Any:
    return value


@step(name="echo in a thread")
def echo_sync(value: Any) -> Any:
    return value


@step(name="flaky", retry=Retry(attempts=5, delay=0.01))
async def flaky(value: str, fails: int) -> str:
    info = stepwell.current()
    assert isinstance(info, stepwell.StepInfo)
    if info.attempt <= fails:
        raise ConnectionError(f"attempt {info.attempt}")
    return value


@step(name="broken")
async def broken(value: int) -> int:
    raise LookupError(f"no {value}")


@workflow(name="leaf")
async def leaf(value: int) -> list[Any]:
    await asyncio.sleep(value / 1000)
    if value % 5 == 0:
        raise LookupError(f"leaf {value}")
    return [value, await echo(value)]


@workflow(name="interpreter")
async def interpreter(tree: Any) -> Any:
    return await interpret(tree, [])


Node = list[Any]
Handler = Callable[..., Coroutine[Any, Any, Any]]
HANDLERS: dict[str, Handler] = {}


def node(handler: Handler) -> Handler:
    HANDLERS[handler.__name__] = handler
    return handler


async def interpret(tree: Node, trail: list[Any]) -> Any:
    """Execute a tree; `trail` collects, in the order of happening, what ends where."""
    kind, *rest = tree
    try:
        result = await HANDLERS[f"do_{kind}"](trail, *rest)
    except (LookupError, ConnectionError, stepwell.StepwellError, ExceptionGroup) as error:
        result = f"{type(error).__name__}: {error}"
    trail.append([kind, result])
    return result if kind != "trail" else list(trail)


def spread(trees: list[Node], trail: list[Any]) -> list[Coroutine[Any, Any, Any]]:
    return [interpret(tree, trail) for tree in trees]


@node
async def do_step(_: list[Any], value: int) -> Any:
    return await echo(value)


@node
async def do_sync(_: list[Any], value: int) -> Any:
    return echo_sync(value)


@node
async def do_thread(_: list[Any], value: int) -> Any:
    return await asyncio.to_thread(echo_sync, value)


@node
async def do_flaky(_: list[Any], value: int, fails: int) -> Any:
    return await flaky(str(value), fails)


@node
async def do_broken(_: list[Any], value: int) -> Any:
    return await broken(value)


@node
async def do_sleep(_: list[Any], milliseconds: int) -> Any:
    return await asyncio.sleep(milliseconds / 1000, "slept")


@node
async def do_sleep_until(_: list[Any], milliseconds: int) -> Any:
    return await sleep_until(stepwell.now() + timedelta(milliseconds=milliseconds))


@node
async def do_draw(_: list[Any]) -> Any:
    drawn = [stepwell.random(), str(stepwell.uuid4()), stepwell.now().isoformat()]
    return await echo(drawn) == drawn  # other numbers on replay would have another fingerprint


@node
async def do_publish(_: list[Any], value: int) -> Any:
    return await publish(f"key {value}", value)


@node
async def do_patched(_: list[Any], value: int) -> Any:
    return patched(f"patch {value}")


@node
async def do_child(_: list[Any], value: int) -> Any:
    return await leaf(value)


@node
async def do_start(_: list[Any], value: int) -> Any:
    child = await stepwell.start(leaf, value)
    between = await echo(value)
    return [between, await child.result()]


@node
async def do_receive(_: list[Any], value: int, milliseconds: int) -> Any:
    return await receive(f"name {value}", Any, timeout=milliseconds / 1000, default="nothing came")


@node
async def do_send(_: list[Any], value: int) -> Any:
    return await send("somebody", f"name {value}", value)


@node
async def do_sequence(trail: list[Any], trees: list[Node]) -> Any:
    return [await interpret(tree, trail) for tree in trees]


@node
async def do_loop(trail: list[Any], times: int, tree: Node) -> Any:
    return [await interpret(tree, trail) for _ in range(times)]


@node
async def do_gather(trail: list[Any], trees: list[Node]) -> Any:
    return await asyncio.gather(*spread(trees, trail))


@node
async def do_group(trail: list[Any], trees: list[Node]) -> Any:
    async with asyncio.TaskGroup() as group:
        members = [group.create_task(one) for one in spread(trees, trail)]
    return [member.result() for member in members]


@node
async def do_race(trail: list[Any], trees: list[Node]) -> Any:
    racers = {asyncio.create_task(one) for one in spread(trees, trail)}
    await echo([racer.get_name() for racer in racers])  # in the set's own order: it must be the same again
    done, left = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    ends = await asyncio.gather(*left, return_exceptions=True)
    return [[task.result() for task in done], [repr(end) for end in ends]]


@node
async def do_completed(trail: list[Any], trees: list[Node]) -> Any:
    return [await one for one in asyncio.as_completed(spread(trees, trail))]


@node
async def do_timeout(trail: list[Any], milliseconds: int, tree: Node) -> Any:
    try:
        async with asyncio.timeout(milliseconds / 1000):
            return await interpret(tree, trail)
    except TimeoutError:
        return "time is up"


@node
async def do_cancel(trail: list[Any], tree: Node) -> Any:
    task = asyncio.create_task(interpret(tree, trail))
    await echo("meanwhile")
    task.cancel()
    return [repr(end) for end in await asyncio.gather(task, return_exceptions=True)]


@node
async def do_cleanup(trail: list[Any], value: int, tree: Node) -> Any:
    try:
        return await interpret(tree, trail)
    finally:
        trail.append(await echo(["clean", value]))


@node
async def do_shield(trail: list[Any], milliseconds: int, tree: Node) -> Any:
    task = asyncio.create_task(interpret(tree, trail))
    try:
        async with asyncio.timeout(milliseconds / 1000):
            return await asyncio.shield(task)
    except TimeoutError:
        return ["late", await task]


@node
async def do_poll(trail: list[Any], tree: Node) -> Any:
    task = asyncio.create_task(interpret(tree, trail))
    rounds = 0
    while not task.done():
        rounds += 1
        await asyncio.sleep(0)
    return [await echo(rounds), await task]  # how often it went round must be the same again


@node
async def do_queue(trail: list[Any], trees: list[Node]) -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def produce(tree: Node) -> None:
        await queue.put(await interpret(tree, trail))

    producers = [asyncio.create_task(produce(tree)) for tree in trees]
    found = [await queue.get() for _ in producers]
    await asyncio.gather(*producers)
    return found


@node
async def do_semaphore(trail: list[Any], trees: list[Node]) -> Any:
    semaphore = asyncio.Semaphore(2)

    async def guarded(tree: Node) -> Any:
        async with semaphore:
            return await interpret(tree, trail)

    return await asyncio.gather(*map(guarded, trees))


# --- the same with anyio ----------------------------------------------------------------------------------------------


@node
async def do_anyio_group(trail: list[Any], trees: list[Node]) -> Any:
    found: dict[int, Any] = {}

    async def member(number: int, tree: Node) -> None:
        with anyio.CancelScope():  # a scope in a set of scopes
            found[number] = await interpret(tree, trail)

    async with anyio.create_task_group() as group:
        for number, tree in enumerate(trees):
            group.start_soon(member, number, tree)
    return [[number, result] for number, result in found.items()]


@node
async def do_scope(trail: list[Any], milliseconds: int, trees: list[Node]) -> Any:
    with anyio.move_on_after(milliseconds / 1000) as scope:
        await do_anyio_group(trail, trees)
    return scope.cancelled_caught


@node
async def do_stream(trail: list[Any], trees: list[Node]) -> Any:
    send_stream, receive_stream = anyio.create_memory_object_stream[Any](1)
    found: list[Any] = []

    async def produce(tree: Node, out: MemoryObjectSendStream[Any]) -> None:
        async with out:
            await out.send(await interpret(tree, trail))

    async with anyio.create_task_group() as group, send_stream:
        for tree in trees:
            group.start_soon(produce, tree, send_stream.clone())
        await send_stream.aclose()
        async with receive_stream:
            found += [item async for item in receive_stream]
    return found


@node
async def do_guarded(trail: list[Any], trees: list[Node]) -> Any:
    lock, limiter = anyio.Lock(), anyio.CapacityLimiter(2)

    async def guarded(number: int, tree: Node) -> None:
        async with limiter:
            await interpret(tree, trail)
        async with lock:
            await echo(number)

    async with anyio.create_task_group() as group:
        for number, tree in enumerate(trees):
            group.start_soon(guarded, number, tree)


@node
async def do_in_thread(_: list[Any], value: int) -> Any:
    return await to_thread.run_sync(echo_sync, value)


# --- what code leaves behind ------------------------------------------------------------------------------------------


async def yielding(trees: list[Node], trail: list[Any], name: str) -> AsyncGenerator[Any, None]:
    """Yield what trees come to; clean up with a step."""
    try:
        for tree in trees:
            yield await interpret(tree, trail)
    finally:
        trail.append([name, await echo("closed")])


@node
async def do_break(trail: list[Any], trees: list[Node]) -> Any:
    async for found in yielding(trees, trail, "break"):
        return found
    return "empty"


@node
async def do_break_in_cycle(trail: list[Any], trees: list[Node]) -> Any:
    cycle: list[Any] = []
    cycle += [cycle, yielding(trees, trail, "cycle")]
    found = await anext(cycle[1], "empty")
    del cycle
    return found


@node
async def do_keep(trail: list[Any], trees: list[Node]) -> Any:
    kept.append(yielding(trees, trail, "keep"))  # to the end of the run
    return await anext(kept[-1], "empty")


kept: list[AsyncGenerator[Any, None]] = []


@node
async def do_collect(_: list[Any], generation: int) -> Any:
    gc.collect(generation)


@node
async def do_eager(trail: list[Any], trees: list[Node]) -> Any:
    if not hasattr(asyncio, "eager_task_factory"):
        return await do_gather(trail, trees)
    loop = asyncio.get_running_loop()
    kind: Any = asyncio.Task
    return [await task for task in [kind(one, loop=loop, eager_start=True) for one in spread(trees, trail)]]


@node
async def do_plain_tasks(trail: list[Any], trees: list[Node]) -> Any:
    return [await task for task in [asyncio.Task(one) for one in spread(trees, trail)]]


@node
async def do_callback(trail: list[Any], tree: Node) -> Any:
    task = asyncio.create_task(interpret(tree, trail))
    task.add_done_callback(lambda _: trail.append(["done", echo_sync("called back")]))
    await task


@node
async def do_map(_: list[Any], count: int, limit: int) -> Any:
    return await stepwell.map(echo, range(count), limit=limit)


@node
async def do_trail(trail: list[Any], tree: Node) -> Any:
    await interpret(tree, trail)


small = st.integers(0, 12)
LEAVES = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "step",
                "sync",
                "thread",
                "in_thread",
                "broken",
                "sleep",
                "sleep_until",
                "publish",
                "patched",
                "child",
                "start",
                "send",
            ]
        ),
        small,
    ),
    st.tuples(st.just("flaky"), small, st.integers(0, 6)),
    st.tuples(st.just("receive"), small, small),
    st.tuples(st.just("map"), st.integers(0, 4), st.integers(1, 3)),
    st.just(("draw",)),
    st.tuples(st.just("collect"), st.integers(0, 1)),
).map(list)


def _branches(trees: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(trees, min_size=1, max_size=4)
    wide = [
        "sequence",
        "gather",
        "group",
        "race",
        "completed",
        "queue",
        "semaphore",
        "anyio_group",
        "stream",
        "guarded",
        "break",
        "break_in_cycle",
        "keep",
        "eager",
        "plain_tasks",
    ]
    return st.one_of(
        st.tuples(st.sampled_from(wide), several),
        st.tuples(st.just("loop"), st.integers(0, 3), trees),
        st.tuples(st.just("scope"), small, several),
        st.tuples(st.sampled_from(["timeout", "shield", "cleanup"]), small, trees),
        st.tuples(st.sampled_from(["cancel", "poll", "callback"]), trees),
    ).map(list)


TREES = st.recursive(LEAVES, _branches, max_leaves=8).map(lambda tree: ["trail", tree])


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have code that goes round without waiting interrupted soon, and much other code as well."""
    monkeypatch.setattr("stepwell.replay.loop.MAX_TURNS", 20)
    kept.clear()


# --- an engine without a disk -----------------------------------------------------------------------------------------


#: The kind and the value of an entry.
Answer = tuple[EntryKind, Payload]


def blocks(tree: Any) -> bool:
    """Tell whether a tree calls a sync step in the middle of async code, which needs greenlets."""
    return isinstance(tree, list) and (tree[:1] in (["sync"], ["callback"]) or any(map(blocks, tree)))


class Joining(Execution):
    """Takes note of which entries it is told together with the next one."""

    joined: ClassVar[list[Entry]] = []

    def deliver(self, entry: Entry, *, more: bool = False) -> None:
        if more:
            self.joined.append(entry)
        super().deliver(entry, more=more)


class World:
    """Answers the operations of one run in a random order, and keeps what it delivered."""

    def __init__(self, tree: Node, seed: int) -> None:
        self.tree = tree
        self.chance = random.Random(seed)
        self.record = RunRecord(
            1, "run", "interpreter", "running", CODEC.encode_arguments((tree,), {}, "the tree"), 0, 1, 1, started_at=1
        )
        self.journal: list[Entry] = []
        self.joined: set[int] = set()  # places in the journal of entries that are told together with the next one
        self.now = 1
        self.cancel_at = self.chance.choice([None, None, 5 * MILLISECOND])
        self._answers: list[tuple[int, int, Operation, list[Answer]]] = []

    def execution(self, kind: type[Execution] = Execution) -> Execution:
        greenlets = blocks(self.tree) or self.chance.random() < 0.3
        return kind(self.record, interpreter, CODEC, OPERATIONS.kinds, greenlets=greenlets)

    def play(self) -> Execution:
        """Carry a run from its beginning to its end."""
        run = self.execution()
        run.begin()
        opened = 0
        while run.outcome is None:
            assert run.halted is None, run.halted
            for operation in run.issued[opened:]:
                if operation.number in run.pending:
                    self._answer(operation)
            opened = len(run.issued)
            self._deliver_next(run)
        return run

    def _deliver_next(self, run: Execution) -> None:
        self._answers = [answer for answer in self._answers if answer[2].number in run.pending]
        if run.loop.abandoned:
            self._log(run, Entry(1, 0, "timer", f"{ABANDONED}{run.loop.abandoned[0]}", 0, self.now))
            return
        patches = any(answer[2].kind == "patch" for answer in self._answers)  # the engine delivers them at once
        if run.spins and not patches and (not self._answers or self.chance.random() < 0.5):
            self.now += self.chance.choice([0, MILLISECOND])
            self._log(run, Entry(1, 0, "timer", TICK, 0, self.now))
            return
        assert self._answers, f"the run is stuck\n{json.dumps(self.tree)}"
        answer = min(self._answers, key=lambda each: each[:2])
        due, _, operation, outcomes = answer
        if self.cancel_at is not None and self.cancel_at <= due:
            self.now, self.cancel_at = max(self.now, self.cancel_at), None
            self._log(run, Entry(1, 0, "cancel", "enough", 0, self.now))
            return
        self.now = max(self.now, due)
        if operation.kind == "timer":
            self._fire(run, due)
            return
        kind, value = outcomes.pop(0)
        if not outcomes:
            self._answers.remove(answer)
        else:
            self._answers[self._answers.index(answer)] = (due + self._delay(), self.chance.getrandbits(30), *answer[2:])
        self._log(run, Entry(1, operation.number, kind, operation.name, operation.fingerprint, self.now, value))

    def _fire(self, run: Execution, due: int) -> None:
        """Deliver the timers that are due at one instant, as the engine does: together."""
        timers = [each for each in self._answers if each[2].kind == "timer" and each[0] == due]
        self._answers = [each for each in self._answers if each not in timers]
        for place, (_, _, operation, _) in enumerate(sorted(timers, key=lambda each: each[2].number), 1):
            self._log(run, Entry(1, operation.number, "timer", operation.name, 0, self.now), more=place < len(timers))

    def _log(self, run: Execution, entry: Entry, *, more: bool = False) -> None:
        if more:
            self.joined.add(len(self.journal))
        self.journal.append(entry)
        run.deliver(entry, more=more)

    def _delay(self) -> int:
        return self.chance.choice([0, 0, 1, 3, 8]) * MILLISECOND

    def _answer(self, operation: Operation) -> None:
        due, outcomes = self.now + self._delay(), list(self._outcomes(operation))
        if operation.kind == "timer":
            due = operation.detail
        elif operation.kind in ("publish", "send", "start"):
            due = self.now
        elif operation.kind == "patch":
            due = 0  # before all others, as the engine does
        if outcomes:
            self._answers.append((due, self.chance.getrandbits(30), operation, outcomes))

    def _outcomes(self, operation: Operation) -> Iterator[Answer]:
        match operation.kind:
            case "step":
                yield from self._attempts(operation)
            case "timer":
                yield "timer", None
            case "receive":
                if self.chance.random() < 0.5:
                    yield "message", CODEC.encode(self.chance.randrange(100), "a message")
            case "send":
                missing = failure_json(stepwell.RunNotFound("nobody there"))
                answers: list[Answer] = [("sent", None), ("send_failed", missing)]
                yield self.chance.choice(answers)
            case "publish":
                yield "published", None
            case "start":
                assert isinstance(operation.detail, ChildStart)
                yield "child", CODEC.encode(f"run/{operation.number}", "an id")
            case "result":
                failed = self.chance.random() < 0.3
                yield ("result_failed", failure_json(LookupError("child"))) if failed else ("result", "[1,2]")
            case _:
                yield "patched", None

    def _attempts(self, operation: Operation) -> Iterator[Answer]:
        arguments = operation.detail.args
        failure = failure_json(LookupError(f"no {arguments[0]}"))
        if self.chance.random() < 0.2:
            yield "step_started", None
        if operation.name == "flaky":
            lost = msgspec.json.encode(AttemptFailure(msgspec.Raw(failure.encode()), 0, 0)).decode()
            for _ in range(min(arguments[1], 4)):
                yield "attempt_failed", lost
        if operation.name == "broken" or (operation.name == "flaky" and arguments[1] > 4):
            yield "step_failed", failure
        else:
            yield "step", CODEC.encode(arguments[0], "a result")


def shown(operations: list[Operation]) -> list[tuple[Any, ...]]:
    return [(each.number, each.kind, each.name, each.fingerprint) for each in operations]


def said(outcome: CodeOutcome | None) -> Any:
    assert outcome is not None
    return outcome.cancelled, repr(outcome.error), CODEC.encode(outcome.result, "the result")


def assert_every_cut_replays(world: World, first: Execution, at_most: int = 1_000_000) -> None:
    """`first` was driven by `world` to its end. Of a journal with more entries, `at_most` cuts are tried."""
    cuts: Sequence[int] = range(len(world.journal) + 1)
    if len(cuts) > at_most:
        cuts = sorted(random.Random(len(cuts)).sample(cuts, at_most))
    for cut in cuts:
        if cut < len(world.journal) and world.journal[cut].kind == "patched":
            continue  # committed together with what is before it, always
        if cut - 1 in world.joined:
            continue
        again = world.execution()
        again.replay(world.journal[:cut])
        assert again.halted is None, again.halted
        # What was issued so far is the beginning of what the first execution issued …
        assert shown(again.issued) == shown(first.issued[: len(again.issued)])
        for place, entry in enumerate(world.journal[cut:], cut):
            # … and whatever the first one was told, this one waits for.
            assert again.outcome is None
            assert entry.op == 0 or entry.op in again.pending or entry.value == CUT_OFF  # told behind what cut it off
            again.deliver(entry, more=place in world.joined)
        assert again.halted is None
        assert shown(again.issued) == shown(first.issued)
        assert said(again.outcome) == said(first.outcome)
        again.close()


# --- the promise ------------------------------------------------------------------------------------------------------


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=TREES, seed=st.integers(0, 1 << 30))
@example(tree=["trail", ["cancel", ["gather", [["loop", 1, ["sync", 0]], ["poll", ["draw"]]]]]], seed=6886)
def test_any_workflow_cut_anywhere_and_replayed_does_the_same(tree: Node, seed: int) -> None:
    world = World(tree, seed)
    first = world.play()
    assert_every_cut_replays(world, first)
    first.close()


def nested(seed: int) -> Node:
    """Return gathers in gathers whose branches have several steps each."""
    chance = random.Random(seed)

    def branch(depth: int) -> Node:
        if depth == 0 or chance.random() < 0.3:
            leaves = [chance.choice([["step", chance.randrange(99)], ["sleep", chance.randrange(9)]]) for _ in range(3)]
            return ["cleanup", depth, ["sequence", leaves]]
        kind = chance.choice(["gather", "group", "race", "completed", "semaphore", "queue", "anyio_group"])
        return ["sequence", [["step", depth], [kind, [branch(depth - 1) for _ in range(3)]], ["draw"]]]

    return ["trail", ["gather", [branch(3) for _ in range(3)]]]


@pytest.mark.parametrize("seed", range(5))
def test_nested_branches_of_several_steps_with_random_delays_replay_identically(seed: int) -> None:
    world = World(nested(seed), seed)
    first = world.play()
    # A replay of each of hundreds of entries, for hundreds of cuts, would take most of the time of this module.
    assert_every_cut_replays(world, first, at_most=50)
    first.close()


def test_each_branch_of_a_gather_gets_its_own_results_whatever_ends_first() -> None:
    branches = [["sequence", [["step", 10 * branch + place] for place in range(3)]] for branch in range(6)]
    expected = [[10 * branch + place for place in range(3)] for branch in range(6)]
    for seed in range(20):
        world = World(["gather", branches], seed)
        world.cancel_at = None
        assert world.play().outcome.result == expected  # type: ignore[union-attr]  # it has ended


# --- other processes --------------------------------------------------------------------------------------------------


def record_and_replay(path: Path) -> None:
    """In a child process: replay the journals at `path`, or, where there are none, write them."""
    chance = random.Random(3)
    shapes = ["race", "group", "completed", "gather"]
    trees = [["trail", [shapes[n % 4], [["sequence", [["sleep", chance.randrange(9)], ["step", i]]] for i in range(9)]]]
             for n in range(16)]  # fmt: skip
    worlds = [World(tree, seed) for seed, tree in enumerate([*trees, *(nested(seed) for seed in range(8))])]
    if not path.exists():
        runs = [world.play() for world in worlds]
        played = [
            (list(map(msgspec.structs.astuple, world.journal)), said(run.outcome))
            for world, run in zip(worlds, runs, strict=True)
        ]
        for run in runs:
            run.close()
        path.write_bytes(msgspec.json.encode(played))
        return
    for world, (journal, end) in zip(worlds, msgspec.json.decode(path.read_bytes()), strict=True):
        again = world.execution()
        again.replay([Entry(*fields) for fields in journal])
        assert again.halted is None, again.halted
        assert list(said(again.outcome)) == list(end)
        again.close()


def test_journals_replay_in_processes_with_other_hash_seeds_and_addresses(tmp_path: Path) -> None:
    journals = tmp_path / "journals.json"
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        # Objects that are kept alive shift the addresses from which sets of plain objects take their order.
        code = (
            "import runpy, sys, pathlib; kept = [object() for _ in range(int(sys.argv[3]) % 997)];"
            "runpy.run_path(sys.argv[1])['record_and_replay'](pathlib.Path(sys.argv[2]))"
        )
        arguments = [sys.executable, "-c", code, __file__, str(journals), seed]
        child = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert child.returncode == 0, child.stderr


# --- the real engine --------------------------------------------------------------------------------------------------


def play_on_engine(tree: Node, folder: Path, waiting: int) -> tuple[list[Entry], RunRecord, Any]:
    """Execute a tree with the real engine on a virtual clock; return its journal, its row and how it ended."""
    with TestEngine(folder / f"{waiting}.db", durability="normal", max_waiting_in_memory=waiting) as engine:
        run = engine.start(interpreter, tree, id="run")
        engine.advance(60)
        inspector = engine._session.store.inspector
        record = inspector.run_by_id("run")
        assert record is not None
        assert record.status in ("completed", "failed", "cancelled"), (record.status, record.reason, tree)
        return inspector.journal(record.key, limit=10_000), record, run.result(timeout=60)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=TREES, waiting=st.sampled_from([0, 100]))
def test_a_journal_of_the_real_engine_cut_anywhere_replays_to_the_same_end(
    tmp_path_factory: pytest.TempPathFactory, tree: Node, waiting: int
) -> None:
    journal, record, result = play_on_engine(tree, tmp_path_factory.mktemp("engine"), waiting)
    while journal and journal[-1].value == CUT_OFF:  # what was under way at the end is told behind it
        journal = journal[:-1]
    world = World(tree, 0)
    world.record, world.journal = record, journal
    Joining.joined.clear()
    first = world.execution(Joining)
    first.replay(journal)
    world.joined = {place for place, entry in enumerate(journal) if entry in Joining.joined}
    assert first.halted is None
    assert first.outcome is not None
    assert CODEC.encode(first.outcome.result, "the result") == CODEC.encode(result, "the result")
    assert_every_cut_replays(world, first)
    first.close()
    first.close()  # its unfinished tasks would be found by the garbage collector, in whichever test runs then
