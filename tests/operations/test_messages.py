"""Messages between the world and runs, and between runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    InvalidArgument,
    RunEnded,
    RunHalted,
    RunNotFound,
    SerializationError,
    StepwellError,
    current,
    publish,
    receive,
    send,
    step,
    workflow,
)
from stepwell.testing import TestEngine


@dataclass
class Approval:
    by: str
    at: datetime | None = None


@workflow
async def one(name: str) -> Any:
    return await receive(name)


@workflow
async def collect(name: str, number: int) -> list[Any]:
    return [await receive(name) for _ in range(number)]


@workflow
async def nothing() -> None:
    return


@pytest.fixture(params=[0, 1000], ids=["parked", "resident"])
def memory(request: pytest.FixtureRequest, database: Path) -> Iterator[TestEngine]:
    """Yield an engine that keeps waiting runs in memory, or does not."""
    with TestEngine(database, max_waiting_in_memory=request.param) as engine:
        yield engine


# --- receiving --------------------------------------------------------------------------------------------------------


def test_a_message_arrives_as_the_type_that_the_receiver_asks_for(memory: TestEngine) -> None:
    @workflow
    async def approve() -> str:
        approval = await receive("approval", Approval)
        return f"{type(approval).__name__} by {approval.by}"

    run = memory.start(approve)
    memory.idle()
    run.send("approval", Approval("ada"))
    assert run.result(60) == "Approval by ada"


def test_messages_of_a_name_arrive_in_the_order_of_sending(memory: TestEngine) -> None:
    run = memory.start(collect, "number", 50)
    for number in range(50):
        run.send("number", number)
    assert run.result(60) == list(range(50))


def test_messages_that_come_before_the_run_asks_wait_for_it(memory: TestEngine) -> None:
    @workflow
    async def late() -> list[Any]:
        await asyncio.sleep(60)
        return [await receive("b"), await receive("a"), await receive("b")]

    run = memory.start(late)
    run.send("a", 1)
    run.send("b", 2)
    run.send("b", 3)
    memory.crash()
    memory.reopen()
    memory.advance(60)
    assert run.result(60) == [2, 1, 3]


def test_names_do_not_mix(memory: TestEngine) -> None:
    run = memory.start(one, "wanted")
    run.send("other", 1)
    memory.idle()
    assert run.status == "waiting"
    run.send("wanted", 2)
    assert run.result(60) == 2


def test_two_receivers_of_one_name_are_served_in_the_order_of_asking(memory: TestEngine) -> None:
    @workflow
    async def two() -> list[list[int]]:
        async def take(who: int) -> list[int]:
            return [who, await receive("number", int), await receive("number", int)]

        return list(await asyncio.gather(take(1), take(2)))

    run = memory.start(two)
    memory.idle()
    for number in range(4):
        run.send("number", number)
    assert run.result(60) == [[1, 0, 2], [2, 1, 3]]


def test_a_receiver_that_was_cancelled_takes_no_message(memory: TestEngine) -> None:
    @workflow
    async def picky() -> list[Any]:
        task = asyncio.create_task(receive("number"))
        await asyncio.sleep(1)
        task.cancel()
        await publish("cancelled", True)
        return [await receive("number"), await receive("number")]

    run = memory.start(picky)
    memory.advance(1)
    run.value("cancelled", 60)
    run.send("number", 1)
    run.send("number", 2)
    assert run.result(60) == [1, 2]


def test_a_message_reaches_a_run_that_is_parked_out_of_memory(database: Path) -> None:
    with TestEngine(database, max_waiting_in_memory=0) as engine:
        runs = [engine.start(one, "go", id=f"run-{number}") for number in range(20)]
        engine.idle()
        assert not engine.in_memory
        for number, run in enumerate(runs):
            run.send("go", number)
        assert [run.result(60) for run in runs] == list(range(20))


def test_a_received_message_is_not_received_again_after_a_crash(memory: TestEngine) -> None:
    @workflow
    async def slow() -> list[int]:
        found = []
        for _ in range(3):
            found.append(await receive("number", int))
            await asyncio.sleep(1)
        return found

    run = memory.start(slow)
    for number in range(3):
        run.send("number", number)
    for _ in range(3):
        memory.idle()
        memory.crash()
        memory.reopen()
        memory.advance(1)
    assert run.result(60) == [0, 1, 2]
    assert [entry.value for entry in run.journal() if entry.kind == "message"] == [0, 1, 2]


# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_after_the_timeout_receive_returns_none_or_the_default(memory: TestEngine) -> None:
    @workflow
    async def waits() -> list[Any]:
        return [
            await receive("never", int, timeout=1),
            await receive("never", int, timeout=timedelta(days=3), default=-1),
        ]

    run = memory.start(waits)
    memory.advance(timedelta(days=3))
    assert run.status == "waiting"
    memory.advance(1)
    assert run.result(60) == [None, -1]


def test_a_message_just_before_the_timeout_is_received_and_one_after_it_waits_for_the_next(memory: TestEngine) -> None:
    @workflow
    async def waits() -> list[Any]:
        first = await receive("number", int, timeout=10)
        second = await receive("number", int, timeout=10, default="late")
        return [first, second, await receive("number", int)]

    run = memory.start(waits)
    memory.advance(9.999999)
    run.send("number", 1)
    memory.idle()
    memory.advance(10)
    run.send("number", 2)
    assert run.result(60) == [1, "late", 2]


def test_a_timeout_of_zero_takes_what_is_there_and_does_not_wait(memory: TestEngine) -> None:
    @workflow
    async def polls() -> list[Any]:
        await asyncio.sleep(1)
        return [await receive("a", timeout=0, default="none"), await receive("b", timeout=0, default="none")]

    run = memory.start(polls, messages=[("a", 1)])
    memory.advance(1)
    assert run.result(60) == [1, "none"]


def test_a_none_that_was_sent_is_told_from_a_timeout_by_the_default(engine: TestEngine) -> None:
    @workflow
    async def waits() -> list[Any]:
        return [await receive("a", timeout=5, default="timeout")]

    assert engine.start(waits, messages=[("a", None)]).result(60) == [None]


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "5"])
def test_an_absurd_timeout_is_refused(engine: TestEngine, timeout: Any) -> None:
    @workflow
    async def waits(given: Any) -> None:
        await receive("a", timeout=float(given) if given != "5" else given)

    with pytest.raises(InvalidArgument, match="timeout"):
        engine.start(waits, str(timeout)).result(60)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_second_message_with_the_same_key_is_dropped(memory: TestEngine) -> None:
    run = memory.start(collect, "number", 3)
    run.send("number", 1, key="a")
    run.send("number", 2, key="a")
    run.send("number", 3, key="b")
    memory.idle()
    memory.crash()
    memory.reopen()
    run.send("number", 4, key="a")
    run.send("number", 5)
    assert run.result(60) == [1, 3, 5]


def test_a_key_counts_for_one_run_only(engine: TestEngine) -> None:
    runs = [engine.start(one, "number") for _ in range(2)]
    for number, run in enumerate(runs):
        run.send("number", number, key="same")
    assert [run.result(60) for run in runs] == [0, 1]


# --- sending from outside ---------------------------------------------------------------------------------------------


def test_a_message_to_a_run_that_does_not_exist_is_refused_with_advice(engine: TestEngine) -> None:
    with pytest.raises(RunNotFound, match="ghost"):
        engine.send("ghost", "a", 1)


def test_a_message_to_an_ended_run_is_refused(engine: TestEngine) -> None:
    run = engine.start(nothing, id="done")
    run.result(60)
    with pytest.raises(RunEnded, match="done"):
        run.send("a", 1)


def test_start_takes_messages_along(memory: TestEngine) -> None:
    run = memory.start(collect, "number", 3, messages=[("number", 1), ("number", 2, "key"), ("number", 3, "key")])
    memory.idle()
    assert run.status == "waiting"
    run.send("number", 4)
    assert run.result(60) == [1, 2, 4]


def test_messages_of_a_start_that_found_the_run_are_sent_to_it(memory: TestEngine) -> None:
    run = memory.start(collect, "number", 2, id="run", messages=[("number", 1, "first")])
    memory.start(collect, "number", 2, id="run", messages=[("number", 1, "first"), ("number", 2, "second")])
    assert run.result(60) == [1, 2]


def test_a_value_that_cannot_be_sent_is_refused_and_named(engine: TestEngine) -> None:
    run = engine.start(one, "a", id="run-7")
    with pytest.raises(SerializationError, match=r"message 'a' to run 'run-7'"):
        run.send("a", {"deep": [object()]})
    run.send("a", 5)
    assert run.result(60) == 5


@pytest.mark.parametrize("name", ["", "x" * 256, "tab\t", 5, None])
def test_a_name_or_key_that_is_no_name_is_refused(engine: TestEngine, name: Any) -> None:
    run = engine.start(one, "a")
    with pytest.raises(InvalidArgument):
        run.send(name, 1)
    if name is not None:
        with pytest.raises(InvalidArgument):
            run.send("a", 1, key=name)


def test_a_message_of_another_type_than_asked_for_halts_the_run_without_losing_it(engine: TestEngine) -> None:
    @workflow
    async def approve() -> bool:
        return await receive("approval", bool)

    run = engine.start(approve, id="run")
    engine.idle()
    run.send("approval", "perhaps")
    with pytest.raises(RunHalted, match=r"(?s)approval.*The sender gave another type than receive"):
        run.result(60)
    assert run.status == "halted"


# --- sending from runs ------------------------------------------------------------------------------------------------


def test_a_run_sends_to_another(memory: TestEngine) -> None:
    @workflow
    async def tell(whom: str) -> None:
        for number in range(5):
            await send(whom, "number", number)

    run = memory.start(collect, "number", 5, id="hears")
    memory.start(tell, "hears").result(60)
    assert run.result(60) == [0, 1, 2, 3, 4]


def test_two_runs_play_ping_pong_across_crashes(memory: TestEngine) -> None:
    @workflow
    async def player(other: str, serves: bool) -> list[int]:
        seen: list[int] = []
        if serves:
            await send(other, "ball", 0)
        while not seen or seen[-1] < 9:
            ball = await receive("ball", int)
            seen.append(ball)
            await asyncio.sleep(1)
            if ball < 10:
                await send(other, "ball", ball + 1)
        return seen

    left = memory.start(player, "right", False, id="left")
    memory.idle()
    right = memory.start(player, "left", True, id="right")
    for _ in range(12):
        memory.advance(1)
        memory.crash()
        memory.reopen()
    memory.advance(20)
    assert left.result(60) == [0, 2, 4, 6, 8, 10]
    assert right.result(60) == [1, 3, 5, 7, 9]


def test_a_message_sent_by_a_run_is_sent_once_even_if_it_replays(memory: TestEngine) -> None:
    @workflow
    async def tell() -> None:
        await send("hears", "number", 1)
        await asyncio.sleep(10)
        await send("hears", "number", 2)

    run = memory.start(collect, "number", 2, id="hears")
    memory.start(tell)
    memory.idle()
    memory.crash()
    memory.reopen()
    memory.advance(10)
    assert run.result(60) == [1, 2]


def test_sending_to_a_run_that_does_not_exist_or_has_ended_raises_in_the_workflow(engine: TestEngine) -> None:
    engine.start(nothing, id="done").result(60)

    @workflow
    async def tells() -> list[str]:
        found = []
        for whom in ("ghost", "done"):
            try:
                await send(whom, "a", 1)
            except (RunNotFound, RunEnded) as error:
                found.append(f"{type(error).__name__} {whom in str(error)}")
        await asyncio.sleep(1)
        return found

    run = engine.start(tells)
    engine.idle()
    engine.crash()
    engine.reopen()
    engine.advance(1)
    assert run.result(60) == ["RunNotFound True", "RunEnded True"]


def test_a_run_sends_to_itself(engine: TestEngine) -> None:
    @workflow
    async def monologue() -> list[Any]:
        me = current().run_id
        await send(me, "a", 1)
        await send(me, "a", 2)
        return [await receive("a"), await receive("a")]

    assert engine.start(monologue).result(60) == [1, 2]


def test_messages_from_inside_and_outside_keep_the_order_in_which_they_were_sent(engine: TestEngine) -> None:
    @workflow
    async def tell() -> None:
        await send("hears", "word", "b")

    run = engine.start(collect, "word", 3, id="hears")
    engine.idle()
    run.send("word", "a")
    engine.start(tell).result(60)
    run.send("word", "c")
    assert run.result(60) == ["a", "b", "c"]


def test_a_key_dedups_messages_from_runs_too(engine: TestEngine) -> None:
    @workflow
    async def tell(value: int) -> None:
        await send("hears", "word", value, key="once")

    run = engine.start(collect, "word", 2, id="hears")
    engine.start(tell, 1).result(60)
    engine.start(tell, 2).result(60)
    run.send("word", 3)
    assert run.result(60) == [1, 3]


def test_a_step_sends_through_the_engine(engine: TestEngine) -> None:
    @step
    def tell() -> None:
        engine.send("hears", "a", "from a step")

    @workflow
    async def tells() -> None:
        tell()

    run = engine.start(one, "a", id="hears")
    engine.start(tells).result(60)
    assert run.result(60) == "from a step"


def test_the_operations_of_workflows_are_refused_elsewhere() -> None:
    async def main() -> None:
        with pytest.raises(StepwellError, match=r"receive\(\) was called outside of a workflow"):
            await receive("a")
        with pytest.raises(StepwellError, match=r"engine\.send"):
            await send("run", "a")

    asyncio.run(main())
    with pytest.raises(StepwellError, match="outside"):
        stepwell.sync.receive("a")
