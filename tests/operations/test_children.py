"""Runs that start runs: calling, handles, ids, ends that spread, bounded fan-out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import stepwell
from stepwell import (
    ChildRun,
    InvalidArgument,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunHalted,
    StepwellError,
    current,
    receive,
    start,
    step,
    workflow,
)
from stepwell.runtime.serving.requests import Asked, OutgoingMessage, SendMessage
from stepwell.testing import TestEngine

happened: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    happened.clear()


@pytest.fixture(params=[0, 1000], ids=["parked", "resident"], name="memory")
def _memory(request: pytest.FixtureRequest, engine: TestEngine) -> TestEngine:
    """Return an engine that keeps waiting runs in memory, or does not."""
    return engine.reopen(max_waiting_in_memory=request.param)


@step
def note(what: str) -> None:
    happened.append(what)


@workflow
async def add(left: int, right: int = 0) -> int:
    await asyncio.sleep(1)
    return left + right


@workflow
def add_plainly(left: int, right: int = 0) -> int:
    stepwell.sync.sleep(1)
    return left + right


@workflow
async def wait_for_word() -> str:
    try:
        return await receive("word", str)
    except asyncio.CancelledError:
        note(f"{current().run_id} cancelled")
        raise


class Broken(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@workflow
async def fail(code: int) -> None:
    await asyncio.sleep(1)
    raise Broken(code)


# --- calling ----------------------------------------------------------------------------------------------------------


def test_a_called_workflow_is_a_run_of_its_own(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[int]:
        return [await add(1, 2), add_plainly(3, right=4)]

    run = memory.start(parent, id="parent")
    memory.advance(2)
    assert run.result(60) == [3, 7]
    children = memory.list(id_prefix="parent/")
    assert [child.result(60) for child in children] == [7, 3]
    assert [child.workflow for child in children] == [add_plainly.name, add.name]


def test_children_run_side_by_side(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[int]:
        return list(await asyncio.gather(*(add(number, 1) for number in range(20))))

    run = memory.start(parent)
    memory.advance(1)
    assert run.result(60) == list(range(1, 21))


def test_children_survive_crashes_and_are_started_once(memory: TestEngine) -> None:
    @workflow
    async def parent() -> int:
        total = 0
        for number in range(3):
            total += await add(number)
            await asyncio.sleep(1)
        return total

    run = memory.start(parent)
    for _ in range(12):
        memory.advance(0.5)
        memory.crash()
        memory.reopen()
    memory.advance(10)
    assert run.result(60) == 3
    assert len(memory.list()) == 4


def test_a_childs_failure_is_raised_in_its_parent_with_its_attributes(memory: TestEngine) -> None:
    @workflow
    async def parent() -> int:
        try:
            await fail(42)
        except Broken as error:
            return error.code
        return 0

    run = memory.start(parent)
    memory.advance(1)
    assert run.result(60) == 42


def test_a_failure_that_is_not_caught_goes_all_the_way_up(memory: TestEngine) -> None:
    @workflow
    async def middle() -> None:
        await fail(7)

    @workflow
    async def top() -> None:
        await middle()

    run = memory.start(top)
    memory.advance(1)
    with pytest.raises(Broken, match="7"):
        run.result(60)
    assert [found.info().status for found in memory.list()] == ["failed"] * 3


def test_a_childs_failure_of_an_unknown_class_arrives_as_run_failed(engine: TestEngine) -> None:
    @workflow
    async def hidden() -> None:
        class Hidden(Exception):
            pass

        raise Hidden("the details")

    @workflow
    async def parent() -> str:
        try:
            await hidden()
        except RunFailed as error:
            return str(error)
        return ""

    assert "the details" in engine.start(parent).result(60)


def test_children_nest_two_hundred_levels_deep(memory: TestEngine) -> None:
    @workflow
    async def dig(depth: int) -> int:
        return 0 if depth == 0 else 1 + await dig(depth - 1)

    assert memory.start(dig, 200).result(60) == 200


def test_a_failure_comes_up_from_two_hundred_levels(engine: TestEngine) -> None:
    @workflow
    async def dig(depth: int) -> int:
        if depth == 0:
            raise Broken(depth)
        return 1 + await dig(depth - 1)

    with pytest.raises(Broken):
        engine.start(dig, 200).result(60)


# --- handles ----------------------------------------------------------------------------------------------------------


def test_a_started_child_is_named_by_its_parent_unless_it_has_an_id(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[Any]:
        first: ChildRun[int] = await start(add, 1, 2)
        second = await start(add, 3, 4, id="my-child")
        return [first.id, second.id, await second.result(), await first.result()]

    run = memory.start(parent, id="parent")
    memory.advance(1)
    assert run.result(60) == ["parent/1", "my-child", 7, 3]
    assert memory.get("my-child").result(60) == 7


def test_a_handle_sends_and_cancels(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[str]:
        hears, stops = await start(wait_for_word), await start(wait_for_word, id="stops")
        await hears.send("word", "hello")
        await stops.cancel("not needed")
        found = [await hears.result()]
        try:
            await stops.result()
        except RunCancelled as error:
            found.append(str(error))
        return found

    hello, cancelled = memory.start(parent).result(60)
    assert hello == "hello"
    assert "not needed" in cancelled
    assert happened == ["stops cancelled"]


def test_the_result_of_a_child_can_be_asked_for_again_and_after_its_end(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[int]:
        child = await start(add, 1, 2)
        first = await child.result()
        await asyncio.sleep(10)
        return [first, await child.result(), *(await asyncio.gather(child.result(), child.result()))]

    run = memory.start(parent)
    memory.advance(20)
    assert run.result(60) == [3, 3, 3, 3]


def test_waiting_for_a_child_can_time_out_and_the_child_goes_on(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[Any]:
        child = await start(wait_for_word)
        try:
            async with asyncio.timeout(5):
                await child.result()
        except TimeoutError:
            await child.send("word", "late")
        return ["timed out", await child.result()]

    run = memory.start(parent)
    memory.advance(5)
    assert run.result(60) == ["timed out", "late"]
    assert happened == []


def test_start_outside_of_a_workflow_is_refused() -> None:
    with pytest.raises(StepwellError, match=r"start\(\).*engine"):
        asyncio.run(start(add, 1, 2))


@pytest.mark.parametrize("child_id", ["", "x" * 256, 5, "line\nbreak"])
def test_an_id_that_is_no_id_is_refused(engine: TestEngine, child_id: Any) -> None:
    @workflow
    async def parent() -> None:
        await start(add, 1, 2, id=child_id)

    with pytest.raises(InvalidArgument, match="id of a run"):
        engine.start(parent).result(60)
    assert len(engine.list()) == 1


def test_only_workflows_and_steps_can_be_started(engine: TestEngine) -> None:
    def plain(what: str) -> None: ...

    wrong: Any = plain

    @workflow
    async def parent() -> None:
        await start(wrong, "x")

    with pytest.raises(InvalidArgument, match="@workflow"):
        engine.start(parent).result(60)


# --- ids that are taken -----------------------------------------------------------------------------------------------


def test_an_id_with_the_same_workflow_and_input_is_the_same_child_for_everyone(memory: TestEngine) -> None:
    @workflow
    async def parent(number: int) -> int:
        child = await start(add, 1, 2, id="shared", detached=True)
        return number + await child.result()

    runs = [memory.start(parent, number) for number in range(5)]
    memory.advance(1)
    assert [run.result(60) for run in runs] == [3, 4, 5, 6, 7]
    assert len(memory.list(workflow=add)) == 1


def test_two_tasks_of_a_run_that_start_the_same_id_share_the_child(memory: TestEngine) -> None:
    @workflow
    async def parent() -> list[int]:
        async def ask() -> int:
            return await (await start(add, 1, 2, id="shared")).result()

        return list(await asyncio.gather(ask(), ask(), ask()))

    run = memory.start(parent)
    memory.advance(1)
    assert run.result(60) == [3, 3, 3]
    assert len(memory.list()) == 2


def test_a_run_that_waits_for_a_halted_child_says_so(memory: TestEngine) -> None:
    @workflow
    async def odd() -> Any:
        return object()

    @workflow
    async def parent() -> None:
        await asyncio.sleep(5)
        await odd()

    run = memory.start(parent)
    memory.idle()
    assert "a timer until" in (run.info().reason or "")
    memory.advance(5)
    child = memory.list(status="halted")[0]
    assert run.info().status == "waiting"
    assert (run.info().reason or "").startswith(f"its child, run {child.id!r}, is halted: ResultNotSerializable: ")


@pytest.mark.parametrize("first", ["absent", "present"])
def test_of_ends_in_one_commit_each_is_told_whoever_else_is_not_in_memory(engine: TestEngine, first: str) -> None:
    engine.reopen(max_waiting_in_memory=1)

    @workflow
    async def child() -> str:
        return await receive("go", str)

    @workflow
    async def parent(name: str) -> str:
        async with asyncio.TaskGroup() as group:
            result = group.create_task(start_child(name))
        return result.result()

    async def start_child(name: str) -> str:
        return await (await start(child, id=f"{name}'s child", detached=True)).result()

    runs = [engine.start(parent, name) for name in ("absent", "present")]
    engine.idle()
    ended = sorted(["absent", "present"], key=lambda name: name != first)
    with engine.transaction() as tx:
        for name in ended:
            tx.send(f"{name}'s child", "go", name)
    assert [run.result(60) for run in runs] == ["absent", "present"]


@pytest.mark.parametrize("crash", [False, True], ids=["", "after a crash"])
def test_an_id_that_belongs_to_another_run_is_a_conflict(memory: TestEngine, crash: bool) -> None:
    @workflow
    async def parent() -> list[str]:
        found = []
        for definition, argument in ((add, 9), (fail, 1)):
            try:
                await start(definition, argument, id="taken")
            except RunConflict as error:
                found.append(str(error))
        await asyncio.sleep(5)
        return found

    memory.start(add, 1, 2, id="taken")
    run = memory.start(parent)
    memory.idle()
    if crash:
        memory.crash()
        memory.reopen()
    memory.advance(5)
    messages = run.result(60)
    assert len(messages) == 2
    assert all("'taken'" in message for message in messages)
    assert memory.get("taken").result(60) == 3


# --- ends that spread -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize("ending", ["returns", "raises", "is cancelled"])
def test_an_attached_child_ends_with_its_parent_and_a_detached_one_goes_on(
    memory: TestEngine, detached: bool, ending: str
) -> None:
    @workflow
    async def parent() -> None:
        await start(wait_for_word, id="child", detached=detached)
        if ending == "raises":
            raise Broken(1)
        if ending == "is cancelled":
            await asyncio.sleep(10**6)

    run = memory.start(parent, id="parent")
    memory.idle()
    if ending == "is cancelled":
        run.cancel()
    expected: dict[str, type[Exception]] = {"raises": Broken, "is cancelled": RunCancelled}
    with pytest.raises(expected[ending]) if ending in expected else contextlib.nullcontext():
        run.result(60)
    child = memory.get("child")
    if detached:
        memory.idle()
        child.send("word", "still here")
        assert child.result(60) == "still here"
    else:
        with pytest.raises(RunCancelled, match="'parent'"):
            child.result(60)
        assert happened == ["child cancelled"]


def test_grandchildren_end_with_the_grandparent(memory: TestEngine) -> None:
    @workflow
    async def middle() -> None:
        await start(wait_for_word, id="grandchild")
        await asyncio.sleep(10**6)

    @workflow
    async def top() -> None:
        await start(middle, id="child")
        await asyncio.sleep(10)

    run = memory.start(top)
    memory.advance(10)
    run.result(60)
    for name in ("child", "grandchild"):
        with pytest.raises(RunCancelled):
            memory.get(name).result(60)


def test_cancelling_a_parent_cancels_the_child_that_it_called(memory: TestEngine) -> None:
    @workflow
    async def parent() -> str:
        return await wait_for_word()

    run = memory.start(parent, id="parent")
    memory.idle()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    with pytest.raises(RunCancelled):
        memory.get("parent/1").result(60)
    assert happened == ["parent/1 cancelled"]


def test_cancelling_the_task_that_called_a_child_cancels_the_child_alone(memory: TestEngine) -> None:
    @workflow
    async def parent() -> str:
        tasks = [asyncio.create_task(wait_for_word()) for _ in range(2)]
        await asyncio.sleep(1)
        tasks[0].cancel()
        return await tasks[1]

    run = memory.start(parent, id="parent")
    memory.advance(1)
    second, first = memory.list(id_prefix="parent/")
    with pytest.raises(RunCancelled):
        first.result(60)
    second.send("word", "mine")
    assert run.result(60) == "mine"


def test_a_child_that_is_cancelled_from_outside_raises_run_cancelled_in_its_parent(memory: TestEngine) -> None:
    @workflow
    async def parent() -> str:
        try:
            return await wait_for_word()
        except RunCancelled as error:
            return str(error)

    run = memory.start(parent, id="parent")
    memory.idle()
    memory.get("parent/1").cancel("from outside")
    assert "from outside" in run.result(60)


def test_a_pending_child_that_is_cancelled_tells_its_parent_at_once(memory: TestEngine) -> None:
    @workflow
    async def unserved() -> None:
        happened.append("ran")

    @workflow
    async def parent() -> str:
        try:
            await unserved()
        except RunCancelled as error:
            return str(error)
        return ""

    memory.reopen(workflows=[parent])
    run = memory.start(parent, id="parent")
    memory.idle()
    child = memory.get("parent/1")
    assert child.status == "pending"
    child.cancel("never mind")
    assert "never mind" in run.result(60)
    assert happened == []


def test_a_halted_child_that_is_cancelled_tells_its_parent_and_ends_its_own_children(memory: TestEngine) -> None:
    @workflow
    async def broken() -> Any:
        await start(wait_for_word, id="grandchild")
        return object()

    @workflow
    async def parent() -> str:
        child = await start(broken, id="child")
        try:
            await child.result()
        except RunCancelled as error:
            return str(error)
        return ""

    run = memory.start(parent)
    memory.idle()
    with pytest.raises(RunHalted):
        memory.get("child").result(60)
    memory.get("child").cancel("hopeless")
    assert "hopeless" in run.result(60)
    with pytest.raises(RunCancelled):
        memory.get("grandchild").result(60)


def test_a_parent_waits_while_its_child_is_halted_and_goes_on_when_it_is_mended(memory: TestEngine) -> None:
    results: list[Any] = [object(), 5]

    @workflow
    async def mended() -> Any:
        return results.pop(0)

    @workflow
    async def parent() -> Any:
        return await mended()

    run = memory.start(parent, id="parent")
    memory.idle()
    assert run.status == "waiting"
    memory.get("parent/1").resume()
    assert run.result(60) == 5


def test_a_child_whose_start_was_dropped_with_its_parents_work_is_started_after_all(engine: TestEngine) -> None:
    @workflow
    async def three() -> int:
        return 3

    @workflow
    async def parent() -> int:
        await receive("go")
        return await (await start(three, id="child")).result()

    run = engine.start(parent)
    engine.idle()
    engine_thread, key = engine._session.engine_thread, engine._session.reads.record(run.id).key
    refused: list[BaseException | None] = []

    def fail_after_the_message() -> None:
        request = SendMessage(run.id, OutgoingMessage("go", "null", None))
        engine_thread.turn_loop.gate.serve(Asked(request, lambda _value, error: refused.append(error)))
        engine_thread.worker.halt_broken(key, RuntimeError("a defect"))

    engine_thread.post(fail_after_the_message)
    with pytest.raises(RunHalted, match="a defect"):
        run.result()
    assert isinstance(refused[0], StepwellError)
    run.resume()
    run.send("go")
    assert run.result(20) == 3


# --- map --------------------------------------------------------------------------------------------------------------


def test_map_returns_the_results_in_order_whatever_the_order_of_ending(memory: TestEngine) -> None:
    @workflow
    async def slow_first(number: int) -> int:
        await asyncio.sleep(10 - number)
        return number * number

    @workflow
    async def parent() -> list[int]:
        return await stepwell.map(slow_first, range(10))

    run = memory.start(parent)
    memory.advance(10)
    assert run.result(60) == [number * number for number in range(10)]


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_map_never_has_more_under_way_than_its_limit(memory: TestEngine, limit: int) -> None:
    @workflow
    async def parent() -> int:
        return sum(await stepwell.map(add, range(20), limit=limit))

    run = memory.start(parent)
    most = 0
    memory.idle()
    for _ in range(20):
        most = max(most, len(memory.list(status=["pending", "running", "waiting"], workflow=add)))
        memory.advance(1)
    assert run.result(60) == sum(range(20))
    assert most == min(limit, 20)


def test_map_calls_steps_too(memory: TestEngine) -> None:
    @step
    def square(number: int) -> int:
        return number * number

    @workflow
    async def parent() -> list[int]:
        return await stepwell.map(square, [1, 2, 3], limit=2)

    assert memory.start(parent).result(60) == [1, 4, 9]


def test_the_first_failure_of_a_map_is_raised_alone_and_what_is_under_way_is_cancelled(memory: TestEngine) -> None:
    @workflow
    async def uneven(number: int) -> None:
        if number == 2:
            await asyncio.sleep(5)
            raise Broken(number)
        await wait_for_word()

    @workflow
    async def parent() -> int:
        try:
            await stepwell.map(uneven, range(100), limit=4)
        except Broken as error:
            return error.code
        return -1

    run = memory.start(parent)
    memory.advance(5)
    assert run.result(60) == 2
    memory.idle()
    assert not memory.list(status=["pending", "running", "waiting"])
    assert len(memory.list(workflow=uneven)) == 4
    assert len(happened) == 3


def test_a_map_goes_on_after_a_crash_where_it_stopped(memory: TestEngine) -> None:
    @step
    def square(number: int) -> int:
        happened.append(str(number))
        return number * number

    @workflow
    async def each(number: int) -> int:
        await asyncio.sleep(1)
        return square(number)

    @workflow
    async def parent() -> list[int]:
        return await stepwell.map(each, range(9), limit=3)

    run = memory.start(parent)
    for _ in range(3):
        memory.advance(1)
        memory.crash()
        memory.reopen()
    assert run.result(60) == [number * number for number in range(9)]
    assert sorted(happened) == [str(number) for number in range(9)]


def test_an_empty_map_is_an_empty_list(engine: TestEngine) -> None:
    @workflow
    async def parent() -> list[int]:
        return await stepwell.map(add, [])

    assert engine.start(parent).result(60) == []


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3"])
def test_an_absurd_limit_is_refused(engine: TestEngine, limit: Any) -> None:
    @workflow
    async def parent() -> list[int]:
        return await stepwell.map(add, [1], limit=limit)

    with pytest.raises(InvalidArgument, match="limit"):
        engine.start(parent).result(60)


@workflow
async def own_parent() -> str:
    try:
        await start(own_parent, id=current().run_id)
    except InvalidArgument as error:
        return str(error)
    return "started"


def test_a_run_cannot_be_its_own_child(engine: TestEngine) -> None:
    assert engine.start(own_parent, id="a").result(timeout=30).startswith("run 'a' cannot be a child of its own")
