"""A run goes on as new: same id, same handle, an empty journal, and nothing of what others hold of it is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    InvalidArgument,
    Queue,
    RunCancelled,
    RunConflict,
    RunDeadlineExceeded,
    RunHalted,
    RunNotFound,
    StepwellError,
    continue_as_new,
    publish,
    receive,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine

FOREVER = 60
HANGING = threading.Event()
calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@pytest.fixture(params=[0, 1000], ids=["parked", "resident"])
def memory(request: pytest.FixtureRequest, database: Path) -> Iterator[TestEngine]:
    """Yield an engine that keeps waiting runs in memory, or does not."""
    with TestEngine(database, max_waiting_in_memory=request.param) as engine:
        yield engine


@step(name="chapters.note")
async def note(what: Any) -> Any:
    calls.append(what)
    return what


@step(name="chapters.hang")
async def hang() -> None:
    calls.append("hang")
    HANGING.set()
    await asyncio.Event().wait()


@workflow(name="chapters.counts")
async def counts(left: int, total: int = 0) -> int:
    total += await note(left)
    if left:
        continue_as_new(left - 1, kwargs={"total": total})
    return total


@workflow(name="chapters.counts-plainly")
def counts_plainly(left: int, total: int = 0) -> int:
    total += sync.call(note, left)
    if left:
        sync.continue_as_new(left - 1, total)
    return total


@pytest.mark.parametrize("counting", [counts, counts_plainly])
def test_a_run_goes_on_with_other_input_under_its_id_and_its_handle(engine: TestEngine, counting: Any) -> None:
    run = engine.start(counting, 3, id="a")
    assert run.result(FOREVER) == 6
    assert calls == [3, 2, 1, 0]
    assert engine.get("a").result(FOREVER) == 6
    assert run.info().chapter == 4
    assert [entry.kind for entry in run.journal()] == ["step"]


def test_the_chain_of_chapters_is_visible(engine: TestEngine) -> None:
    run = engine.start(counts, 2, id="a")
    run.result(FOREVER)
    chapters = run.chapters()
    assert [chapter.number for chapter in chapters] == [1, 2, 3]
    assert [chapter.beginning for chapter in chapters] == ["started", "continued", "continued"]
    assert [chapter.input for chapter in chapters] == [
        {"args": [2]},
        {"args": [1], "kwargs": {"total": 2}},
        {"args": [0], "kwargs": {"total": 3}},
    ]
    assert [one.ended_at for one in chapters] == [*(other.began_at for other in chapters[1:]), None]
    assert [[entry.value for entry in run.journal(number)] for number in (1, 2, 3)] == [[2], [1], [0]]
    assert run.journal(3) == run.journal()


def test_operations_are_counted_on(engine: TestEngine) -> None:
    run = engine.start(counts, 2)
    run.result(FOREVER)
    assert [run.journal(number)[0].operation for number in (1, 2, 3)] == [1, 2, 3]


def test_a_run_that_never_went_on_as_new_has_one_chapter(engine: TestEngine) -> None:
    run = engine.start(counts, 0)
    run.result(FOREVER)
    (chapter,) = run.chapters()
    assert (chapter.number, chapter.beginning, chapter.ended_at, chapter.input) == (1, "started", None, {"args": [0]})
    assert (run.info().chapter, run.journal(1)) == (1, run.journal())


@pytest.mark.parametrize("chapter", [0, 2, -1, "1"])
def test_a_chapter_that_a_run_does_not_have_is_refused(engine: TestEngine, chapter: Any) -> None:
    run = engine.start(counts, 0, id="a")
    run.result(FOREVER)
    with pytest.raises(InvalidArgument, match="chapter"):
        run.journal(chapter)


def test_chapters_of_no_run_are_refused(engine: TestEngine) -> None:
    run = engine.start(counts, 0, id="a")
    run.result(FOREVER)
    engine.advance(1)
    assert engine.purge(0) == 1
    with pytest.raises(RunNotFound, match="'a'"):
        run.chapters()
    assert engine.query("SELECT * FROM stepwell_chapters") == []


def test_an_async_engine_has_the_same(database: Path) -> None:
    async def check() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(counts, 2)
            assert await run.result(FOREVER) == 3
            assert [chapter.number for chapter in await run.chapters()] == [1, 2, 3]
            assert [entry.value for entry in await run.journal(1)] == [2]
            assert (await run.info()).chapter == 3

    asyncio.run(check())


# --- what goes along --------------------------------------------------------------------------------------------------


@workflow(name="chapters.hears")
async def hears(left: int, heard: list[int]) -> list[int]:
    heard = [*heard, await receive("number", int)]
    await publish("heard", heard)
    if left:
        continue_as_new(left - 1, heard)
    return heard


def test_messages_that_nobody_received_are_there_for_the_next_chapter(memory: TestEngine) -> None:
    run = memory.start(hears, 4, [], id="a", messages=[("number", number) for number in range(5)])
    assert run.result(FOREVER) == [0, 1, 2, 3, 4]


def test_each_chapter_waits_for_its_message(memory: TestEngine) -> None:
    run = memory.start(hears, 4, [], id="a")
    for number in range(5):
        memory.idle()
        run.send("number", number)
    assert run.result(FOREVER) == [0, 1, 2, 3, 4]
    assert run.info().chapter == 5


def test_the_key_of_a_message_that_an_earlier_chapter_received_stays_known(memory: TestEngine) -> None:
    run = memory.start(hears, 1, [], id="a")
    for number in (1, 1, 2):
        run.send("number", number, key=f"number {number}")
        memory.idle()
    assert run.result(FOREVER) == [1, 2]


def test_published_values_stay_until_they_are_published_anew(memory: TestEngine) -> None:
    run = memory.start(hears, 1, [], id="a")
    run.send("number", 7)
    memory.idle()
    assert (run.info().chapter, run.value("heard")) == (2, [7])


@workflow(name="chapters.child")
async def child(name: str) -> str:
    return await receive(name, str)


@workflow(name="chapters.parent")
async def parent(chapter: int) -> str:
    started = await stepwell.start(child, "word", id="the child")
    if chapter < 3:
        continue_as_new(chapter + 1)
    return await started.result()


def test_children_go_on_and_are_found_again_under_their_ids(memory: TestEngine) -> None:
    run = memory.start(parent, 1, id="a")
    memory.idle()
    assert (run.info().chapter, memory.get("the child").status) == (3, "waiting")
    memory.send("the child", "word", "hello")
    assert run.result(FOREVER) == "hello"


@workflow(name="chapters.leaves-a-child")
async def leaves_a_child(chapter: int) -> None:
    if chapter == 1:
        await stepwell.start(child, "never", id="left")
        continue_as_new(2)
    await receive("go", str)


def test_a_child_of_an_earlier_chapter_is_cancelled_when_the_run_ends(memory: TestEngine) -> None:
    run = memory.start(leaves_a_child, 1, id="a")
    memory.idle()
    assert memory.get("left").status == "waiting"
    run.send("go", "on")
    run.result(FOREVER)
    with pytest.raises(RunCancelled, match="its parent, run 'a', has ended"):
        memory.get("left").result(FOREVER)


@workflow(name="chapters.starts-children")
async def starts_children(left: int, ids: list[str]) -> list[str]:
    started = await stepwell.start(child, "word")
    ids = [*ids, started.id]
    if left:
        continue_as_new(left - 1, ids)
    return ids


def test_children_without_ids_of_their_own_are_other_ones_in_each_chapter(engine: TestEngine) -> None:
    ids = engine.start(starts_children, 3, []).result(FOREVER)
    assert len(set(ids)) == 4


@workflow(name="chapters.calls")
async def calls_a_child() -> int:
    return await counts(3)


def test_a_parent_waits_for_the_end_of_a_child_and_not_for_that_of_a_chapter(memory: TestEngine) -> None:
    assert memory.start(calls_a_child).result(FOREVER) == 6


@workflow(name="chapters.sleeps")
async def sleeps(left: int) -> str:
    await asyncio.sleep(10)
    if left:
        continue_as_new(left - 1)
    return stepwell.now().isoformat()


def test_a_deadline_is_one_of_the_run_and_not_of_a_chapter(memory: TestEngine) -> None:
    run = memory.start(sleeps, 9, deadline=25)
    memory.advance(100)
    with pytest.raises(RunDeadlineExceeded):
        run.result(FOREVER)
    assert run.info().chapter == 3


def test_the_clock_of_a_chapter_goes_on(memory: TestEngine) -> None:
    run = memory.start(sleeps, 2)
    memory.advance(100)
    took = run.info().ended_at - run.info().created_at  # type: ignore[operator]
    assert round(took.total_seconds()) == 30


LINE = Queue("chapters line", concurrency=1)


def test_a_run_keeps_its_place_in_its_queue(engine: TestEngine) -> None:
    first = engine.start(hears, 1, [], id="first", queue=LINE)
    second = engine.start(counts, 0, id="second", queue=LINE)
    first.send("number", 1)
    engine.idle()
    assert (first.info().chapter, first.status, second.status) == (2, "waiting", "pending")
    first.send("number", 2)
    assert (first.result(FOREVER), second.result(FOREVER)) == ([1, 2], 0)


def test_the_same_id_again_is_the_same_run_in_whatever_chapter_it_is(engine: TestEngine) -> None:
    run = engine.start(hears, 1, [], id="a")
    run.send("number", 1)
    engine.idle()
    assert run.info().chapter == 2
    assert engine.start(hears, 1, [], id="a").id == "a"
    with pytest.raises(RunConflict, match="other input"):
        engine.start(hears, 0, [1], id="a")  # which is the input of the present chapter


# --- what is left behind ----------------------------------------------------------------------------------------------


@workflow(name="chapters.gives-up")
async def gives_up(chapter: int) -> int:
    if chapter == 2:
        return chapter
    under_way = asyncio.create_task(hang())
    await receive("go")
    assert not under_way.done()
    return continue_as_new(2)


def test_a_step_that_is_under_way_is_given_up(engine: TestEngine) -> None:
    run = engine.start(gives_up, 1, id="a")
    assert HANGING.wait(FOREVER)
    run.send("go")
    assert run.result(FOREVER) == 2
    assert calls == ["hang"]
    assert [entry.kind for entry in run.journal(1)] == ["message", "step_started"]


@workflow(name="chapters.cleans-up")
async def cleans_up(chapter: int) -> int:
    async def member() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await note("cleaned up")

    if chapter == 1:
        async with asyncio.TaskGroup() as group:
            group.create_task(member())
            await asyncio.sleep(1)
            continue_as_new(2)
    return chapter


def test_what_is_left_is_left_as_by_any_exception(memory: TestEngine) -> None:
    run = memory.start(cleans_up, 1)
    memory.advance(1)
    assert run.result(FOREVER) == 2
    assert calls == ["cleaned up"]


async def _goes_on() -> None:
    await asyncio.sleep(1)
    continue_as_new(2)


async def _fails() -> None:
    await asyncio.sleep(1)
    raise LookupError("lost")


@workflow(name="chapters.in-a-group")
async def in_a_group(chapter: int, *, fails: bool = False) -> int:
    if chapter == 1:
        async with asyncio.TaskGroup() as group:
            group.create_task(_goes_on())
            if fails:
                group.create_task(_fails())
    return chapter


def test_a_task_of_a_group_can_end_the_chapter(engine: TestEngine) -> None:
    run = engine.start(in_a_group, 1)
    engine.advance(1)
    assert run.result(FOREVER) == 2


def test_a_run_fails_where_something_went_wrong_beside_it(engine: TestEngine) -> None:
    run = engine.start(in_a_group, 1, kwargs={"fails": True})
    engine.advance(1)
    with pytest.raises(BaseExceptionGroup) as error:
        run.result(FOREVER)
    assert error.value.subgroup(LookupError) is not None


@workflow(name="chapters.catches")
async def catches(chapter: int) -> int:
    try:
        if chapter == 1:
            continue_as_new(2)
    except Exception:  # noqa: BLE001 - what it must not catch
        return -1
    return chapter


def test_it_is_no_exception_that_code_catches_by_accident(engine: TestEngine) -> None:
    assert engine.start(catches, 1).result(FOREVER) == 2


@workflow(name="chapters.draws")
async def draws(left: int, drawn: list[float]) -> list[float]:
    drawn = [*drawn, await note(stepwell.random())]
    if left:
        continue_as_new(left - 1, drawn)
    return drawn


def test_each_chapter_has_random_numbers_of_its_own_the_same_in_every_replay(engine: TestEngine) -> None:
    run = engine.start(draws, 2, [])
    drawn = run.result(FOREVER)
    assert len(set(drawn)) == 3
    assert drawn == calls


# --- cancellation -----------------------------------------------------------------------------------------------------


@workflow(name="chapters.survives")
async def survives(chapter: int) -> str:
    try:
        return await receive("go", str)
    except asyncio.CancelledError:
        if chapter == 2:
            raise
        continue_as_new(2)


def test_a_cancellation_that_was_heard_is_not_told_again(memory: TestEngine) -> None:
    run = memory.start(survives, 1, id="a")
    memory.idle()
    run.cancel("first")
    memory.idle()
    assert (run.info().chapter, run.status, run.info().cancel_requested_at) == (2, "waiting", None)
    run.cancel("second")
    with pytest.raises(RunCancelled, match="second"):
        run.result(FOREVER)


@workflow(name="chapters.goes-on-for-ever")
async def goes_on_for_ever() -> None:
    await asyncio.sleep(1)
    continue_as_new()


def test_a_run_without_arguments_goes_on_until_it_is_cancelled(memory: TestEngine) -> None:
    run = memory.start(goes_on_for_ever, id="a")
    memory.advance(5)
    assert run.info().chapter == 6
    run.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        run.result(FOREVER)


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_in_any_chapter_repeats_nothing_of_an_earlier_one(memory: TestEngine) -> None:
    run = memory.start(hears, 3, [], id="a")
    for number in range(4):
        memory.idle()
        memory.crash()
        memory.reopen()
        run.send("number", number, key=str(number))
    assert run.result(FOREVER) == [0, 1, 2, 3]
    assert [len(run.journal(number)) for number in (1, 2, 3, 4)] == [2, 2, 2, 2]


# --- bad input --------------------------------------------------------------------------------------------------------


@workflow(name="chapters.wrongly")
async def wrongly(given: int, more: Any = ()) -> int:
    if more:
        return given
    await note("before")
    return continue_as_new(*MORE)


MORE: list[Any] = []


@pytest.mark.parametrize(
    "more", [[], [1, 2, 3], [1, object()], ["one", True]], ids=["too few", "too many", "no value", "another type"]
)
def test_arguments_that_do_not_fit_halt_the_run_before_the_chapter_ends(engine: TestEngine, more: list[Any]) -> None:
    MORE[:] = more
    run = engine.start(wrongly, 1, id="a")
    with pytest.raises(RunHalted):
        run.result(FOREVER)
    assert (run.info().chapter, len(run.journal())) == (1, 1)
    MORE[:] = [2, True]
    run.resume()
    assert run.result(FOREVER) == 2
    assert calls == ["before"]


def test_it_is_refused_outside_of_workflow_code() -> None:
    with pytest.raises(StepwellError, match="outside of a workflow"):
        continue_as_new(1)
