"""Streams: what workflow code and steps write, who reads it and when, and what becomes of what is repeated."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Engine,
    InvalidArgument,
    Retry,
    RunNotFound,
    SerializationError,
    StepwellError,
    StreamClosed,
    StreamFull,
    StreamItem,
    current,
    publish,
    step,
    stream,
    sync,
    transaction,
    workflow,
)
from stepwell.store.sql.streams import StreamReader as SqlStreamReader
from stepwell.testing import TestEngine
from stepwell.values.own_tables import Connection

AGAIN = Retry(attempts=3, delay=0)


# --- what is written --------------------------------------------------------------------------------------------------


@step(name="streams.awaits")
async def awaits(words: list[str]) -> None:
    for word in words:
        await stream("words", str).write(word)


@step(name="streams.blocks")
def blocks(words: list[str]) -> None:
    for word in words:
        sync.stream("words", str).write(word)


@step(name="streams.apart", isolate="process")
def apart(words: list[str]) -> None:
    sync.stream("words", str).write_many(words)
    sync.publish("last", words[-1])


@step(name="streams.awaits_apart", isolate="process")
async def awaits_apart(words: list[str]) -> None:
    await asyncio.gather(*(stream("words", str).write(word) for word in words))
    await publish("last", words[-1])


@transaction(name="streams.transacts")
def transacts(connection: Connection, words: list[str]) -> None:
    connection.execute("CREATE TABLE said (word TEXT)")
    for word in words:
        connection.execute("INSERT INTO said VALUES (?)", (word,))
        sync.stream("words", str).write(word)
        sync.publish("last", word)


@workflow(name="streams.by_step")
async def by_step(how: str) -> None:
    if how == "transacts":
        transacts(["one", "two"])
    elif how == "blocks":
        blocks(["one", "two"])
    elif how == "apart":
        apart(["one", "two"])
    elif how == "awaits_apart":
        await awaits_apart(["one", "two"])
    else:
        await awaits(["one", "two"])


@pytest.mark.parametrize("how", ["awaits", "blocks", "transacts", "apart", "awaits_apart"])
def test_a_step_writes_wherever_it_executes(engine: TestEngine, how: str) -> None:
    run = engine.start(by_step, how)
    items = list(run.stream("words", str, timeout=30).items())
    run.result(30)
    assert sorted(item.value for item in items) == ["one", "two"]
    assert {(item.operation, item.attempt) for item in items} == {(1, 1)}
    if how in ("apart", "awaits_apart", "transacts"):
        assert run.value("last") == "two"


@workflow(name="streams.writes")
async def writes(number: int) -> int:
    words = stream("words", str)
    for count in range(number):
        await words.write(f"word {count}")
        await asyncio.sleep(60)
    return number


@workflow(name="streams.writes_blocking")
def writes_blocking(number: int) -> int:
    for count in range(number):
        sync.stream("words", str).write(f"word {count}")
        sync.sleep(60)
    return number


@pytest.mark.parametrize("code", [writes, writes_blocking])
def test_what_a_workflow_writes_is_written_once_through_any_number_of_crashes(
    engine: TestEngine, code: Callable[..., Any]
) -> None:
    run = engine.start(code, 3, id="w")
    for _ in range(3):
        engine.idle()
        engine.crash()
        engine.reopen()
        engine.advance(60)
    run = engine.get("w")
    assert run.result(30) == 3
    items = list(run.stream("words", str).items())
    assert [item.value for item in items] == ["word 0", "word 1", "word 2"]
    assert [item.offset for item in items] == [0, 1, 2]
    assert {item.attempt for item in items} == {0}


def test_a_step_that_is_called_outside_of_any_run_writes_nothing() -> None:
    asyncio.run(awaits(["one"]))
    blocks(["one"])


def test_outside_of_steps_and_workflows_nothing_can_be_written() -> None:
    with pytest.raises(StepwellError, match="outside of a workflow"):
        sync.stream("words").write("one")


@step(name="streams.blocks_its_loop")
async def blocks_its_loop() -> str:
    with pytest.raises(StepwellError, match=r"await stepwell\.stream"):
        sync.stream("words").write("one")
    with pytest.raises(StepwellError, match=r"await stepwell\.publish"):
        sync.publish("words", "one")
    return "refused"


def test_an_async_step_is_told_to_await_what_would_block_its_loop(engine: TestEngine) -> None:
    @workflow(name="streams.blocked")
    async def blocked() -> str:
        return await blocks_its_loop()

    assert engine.start(blocked).result(30) == "refused"


# --- what is repeated -------------------------------------------------------------------------------------------------


@step(name="streams.fails_twice", retry=AGAIN)
async def fails_twice() -> None:
    words = stream("words", str)
    await words.write(f"attempt {current().attempt}")
    if current().attempt == 2:
        await words.close()
    if current().attempt < 3:
        raise ValueError("not yet")
    await words.write("done")


@workflow(name="streams.repeats")
async def repeats() -> None:
    await stream("words").write("first")
    await fails_twice()


def test_items_carry_their_attempt_and_a_reader_can_ask_for_the_last_one(engine: TestEngine) -> None:
    run = engine.start(repeats)
    run.result(30)
    items = list(run.stream("words").items())
    assert [(item.value, item.attempt) for item in items] == [
        ("first", 0), ("attempt 1", 1), ("attempt 2", 2), ("attempt 3", 3), ("done", 3),
    ]  # fmt: skip
    last = run.stream("words", last_attempt=True)
    assert [item.offset for item in last.items()] == [0, 3, 4]
    assert list(last) == ["first", "attempt 3", "done"]


class Held:
    """Where a step waits until the test lets it go on; a crash leaves it there."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()


HELD = Held()


@step(name="streams.is_cut_off")
def is_cut_off() -> None:
    sync.stream("words").write("half")
    HELD.begun.set()
    HELD.go.wait(30)
    sync.stream("words").write("whole")


@workflow(name="streams.cut_off")
def cut_off() -> None:
    is_cut_off()


def test_what_an_attempt_wrote_that_a_crash_cut_off_is_superseded_by_its_repetition(engine: TestEngine) -> None:
    HELD.begun.clear()
    HELD.go.clear()
    engine.start(cut_off, id="w")
    assert HELD.begun.wait(30)
    engine.crash()
    HELD.go.set()
    engine.reopen()
    run = engine.get("w")
    run.result(30)
    assert list(run.stream("words")) == ["half", "half", "whole"]
    assert list(run.stream("words", last_attempt=True)) == ["half", "whole"]


@pytest.mark.parametrize("crashes", [1, 2])
def test_each_repetition_has_a_higher_attempt_so_that_a_live_reader_begins_afresh(
    engine: TestEngine, crashes: int
) -> None:
    HELD.begun.clear()
    HELD.go.clear()
    engine.start(cut_off, id="w")
    for _ in range(crashes):
        assert HELD.begun.wait(30)
        HELD.begun.clear()
        engine.crash()
        engine.reopen()
    assert HELD.begun.wait(30)
    HELD.go.set()
    run = engine.get("w")
    run.result(30)
    numbers = range(1, crashes + 2)
    assert [(item.value, item.attempt) for item in run.stream("words").items()] == [
        *(("half", number) for number in numbers), ("whole", crashes + 1),
    ]  # fmt: skip


def test_a_retried_step_goes_on_counting_the_attempts_of_its_items(engine: TestEngine) -> None:
    FAILING["fails"] = True
    run = engine.start(fails_at_the_end)
    with pytest.raises(ValueError, match="no"):
        run.result(30)
    FAILING["fails"] = False
    run.retry()
    run.result(30)
    assert [item.attempt for item in run.stream("words").items()] == [0, 1, 2]


FAILING = {"fails": True}


@step(name="streams.fails")
async def fails() -> None:
    await stream("words").write("of the step")
    await stream("words").close()
    if FAILING["fails"]:
        raise ValueError("no")


@workflow(name="streams.fails_at_the_end")
async def fails_at_the_end() -> None:
    await stream("words").write("kept")
    await stream("others").write("kept")
    await fails()


def test_a_retry_a_rewind_and_a_restart_supersede_what_they_undo(engine: TestEngine) -> None:
    FAILING["fails"] = True
    run = engine.start(fails_at_the_end)
    with pytest.raises(ValueError, match="no"):
        run.result(30)
    assert list(run.stream("words", last_attempt=True)) == ["kept", "of the step"]
    FAILING["fails"] = False
    run.retry()
    run.result(30)
    assert list(run.stream("words", last_attempt=True)) == ["kept", "of the step"]
    assert len(list(run.stream("words"))) == 3
    run.rewind(3)
    run.result(30)
    assert list(run.stream("words", last_attempt=True)) == ["kept", "of the step"]
    run.restart()
    run.result(30)
    assert [item.offset for item in run.stream("words", last_attempt=True).items()] == [4, 5]
    assert list(run.stream("others")) == ["kept", "kept"]


def test_another_chapter_goes_on_with_the_stream(engine: TestEngine) -> None:
    @workflow(name="streams.chapters")
    async def chapters(number: int) -> None:
        await stream("words").write(number)
        if number < 2:
            stepwell.continue_as_new(number + 1)
        await stream("words").close()

    run = engine.start(chapters, 0)
    run.result(30)
    assert list(run.stream("words", last_attempt=True)) == [0, 1, 2]


# --- readers ----------------------------------------------------------------------------------------------------------


@workflow(name="streams.ten")
async def ten() -> None:
    await stream("numbers", int).write_many(range(10))


def test_a_reader_begins_anywhere(engine: TestEngine) -> None:
    run = engine.start(ten)
    run.result(30)
    assert list(run.stream("numbers", int, start=7)) == [7, 8, 9]
    assert list(run.stream("numbers", int, start=-2)) == [8, 9]
    assert list(run.stream("numbers", int, start=-99)) == list(range(10))
    assert list(run.stream("numbers", int, start=10)) == []
    assert list(run.stream("unknown")) == []
    reader = run.stream("numbers", int)
    assert list(reader) == list(reader)


def test_a_live_reader_is_told_of_each_item_and_of_the_end(engine: TestEngine) -> None:
    run = engine.start(writes, 3)
    got: list[str] = []
    for item in run.stream("words", str, timeout=30):
        got.append(item)
        engine.advance(60)
    assert got == ["word 0", "word 1", "word 2"]


def test_a_reader_that_does_not_read_holds_up_nobody_and_finds_the_rest_later(engine: TestEngine) -> None:
    run = engine.start(writes, 3)
    reader = iter(run.stream("words", str, timeout=30))
    assert next(reader) == "word 0"
    engine.advance(3600)
    assert run.status == "completed"
    assert list(reader) == ["word 1", "word 2"]


def test_a_reader_that_does_not_follow_or_has_waited_long_enough_ends(engine: TestEngine) -> None:
    run = engine.start(writes, 3)
    engine.idle()
    assert list(run.stream("words", follow=False)) == ["word 0"]
    with pytest.raises(TimeoutError, match="no further item"):
        list(run.stream("words", timeout=0.01))
    run.cancel()
    assert list(run.stream("words", timeout=30)) == ["word 0"]


def test_a_stream_is_closed_for_its_readers_and_its_writers(engine: TestEngine) -> None:
    @workflow(name="streams.closes")
    async def closes() -> str:
        words = stream("words")
        await words.write("one")
        await words.close()
        try:
            await words.write("two")
        except StreamClosed as error:
            await stepwell.receive("go")
            return str(error)
        return "written"

    run = engine.start(closes)
    assert list(run.stream("words", timeout=30)) == ["one"]
    run.send("go")
    assert "stream 'words' is closed" in run.result(30)


def test_steps_that_write_at_once_each_find_their_items_in_order_and_a_closed_stream_takes_none(
    engine: TestEngine,
) -> None:
    @step(name="streams.crowd", retry=Retry(attempts=2, delay=0))
    async def crowd(number: int) -> None:
        for index in range(20):
            await stream("all", list[int]).write([number, index])
            await stream("own", list[int]).write([number, index])
        if number == 3 and current().attempt == 1:
            raise RuntimeError("once more")

    @step(name="streams.closes")
    async def closes() -> str:
        await asyncio.gather(*(stream("own", list[int]).write([99, index]) for index in range(9)))
        await stream("own").close()
        try:
            await stream("own", list[int]).write([0, 0])
        except StreamClosed:
            return "closed"
        return "open"

    @workflow(name="streams.crowded")
    async def crowded() -> str:
        await asyncio.gather(*map(crowd, range(9)))
        return await closes()

    run = engine.start(crowded)
    assert run.result(30) == "closed"
    found = list(run.stream("all", list[int], last_attempt=True))
    for number in range(9):
        assert [item for item in found if item[0] == number] == [[number, index] for index in range(20)]
    assert len(found) == 180
    items = list(run.stream("own").items())
    assert [item.offset for item in items] == list(range(len(items)))
    assert len(items) == 10 * 20 + 9


def test_a_stream_that_grows_has_an_end_or_keeps_the_last_items(engine: TestEngine) -> None:
    @step(name="streams.floods")
    async def floods() -> str:
        await stream("few", int, keep=8).write_many(range(100))
        for number in range(3):
            await stream("full", int, limit=3).write(number)
        with pytest.raises(StreamFull, match="3 items, and 3 are allowed"):
            await stream("full", int, limit=3).write(3)
        return "full"

    @workflow(name="streams.flooded")
    async def flooded() -> str:
        try:
            await stream("mine", int, limit=3).write_many(range(4))
        except StreamFull:
            await stream("mine", int, limit=3).write_many(range(3))
            return await floods()
        return "not full"

    run = engine.start(flooded)
    assert run.result(30) == "full"
    assert [item.offset for item in run.stream("few").items()] == list(range(92, 100))
    assert list(run.stream("mine")) == list(run.stream("full")) == [0, 1, 2]
    assert run.truncate("few", before=98) == 6
    assert run.truncate("few", before=90) == run.truncate("unknown", before=9) == 0
    assert [item.offset for item in run.stream("few").items()] == [98, 99]
    assert list(run.stream("few", start=3)) == [98, 99]


def test_items_are_read_as_they_were_written_or_refused_with_their_place(engine: TestEngine) -> None:
    @workflow(name="streams.typed")
    async def typed() -> str:
        await stream("mixed").write_many([{"a": [1, None]}, None, "text", 1.5])
        try:
            await stream("numbers", int).write("one")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        except SerializationError:
            return "refused"
        return "written"

    run = engine.start(typed)
    assert run.result(30) == "refused"
    assert list(run.stream("mixed")) == [{"a": [1, None]}, None, "text", 1.5]
    assert list(run.stream("numbers")) == []
    with pytest.raises(SerializationError, match="an item of stream 'mixed'"):
        list(run.stream("mixed", int))


@pytest.mark.parametrize("options", [{"start": 1.5}, {"start": True}, {"timeout": -1}], ids=str)
def test_wrong_options_of_a_reader_are_refused_at_once(engine: TestEngine, options: dict[str, Any]) -> None:
    run = engine.start(ten)
    with pytest.raises(InvalidArgument):
        run.stream("numbers", **options)
    with pytest.raises(InvalidArgument):
        run.stream("")


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": "3"}, {"limit": 0}, {"limit": True}], ids=str)
def test_wrong_options_of_a_writer_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        stream("numbers", **options)


def test_a_deleted_run_has_no_streams_and_leaves_none_behind(engine: TestEngine) -> None:
    run = engine.start(ten)
    run.result(30)
    run.delete()
    with pytest.raises(RunNotFound):
        list(run.stream("numbers"))
    engine.start(ten).result(30)
    engine.advance(100)
    assert engine.purge(1) == 1
    assert list(engine.query("SELECT count(*) FROM stepwell_stream_items")) == [(0,)]


def test_an_async_reader_reads_in_step_with_the_writer(database: Path) -> None:
    async def main() -> tuple[list[str], list[StreamItem[str]]]:
        async with AsyncEngine(database) as engine:
            run = await engine.start(by_step, "awaits")
            live = [item async for item in run.stream("words", str)]
            return live, [item async for item in run.stream("words", str, start=1).items()]

    live, items = asyncio.run(main())
    assert live == ["one", "two"]
    assert [(item.value, item.offset) for item in items] == [("two", 1)]


def test_a_timed_out_step_cannot_write_any_more(engine: TestEngine) -> None:
    late: list[str] = []
    over = threading.Event()

    @step(name="streams.too_late", timeout=0.05)
    def too_late() -> None:
        HELD.go.wait(30)
        try:
            sync.stream("words").write("late")
        except StepwellError as error:
            late.append(str(error))
        over.set()

    @workflow(name="streams.late")
    def code() -> None:
        try:
            too_late()
        except TimeoutError:
            sync.stream("words").write("in time")

    HELD.go.clear()
    run = engine.start(code)
    run.result(30)
    HELD.go.set()
    assert over.wait(30)
    assert "is not recorded" in late[0]
    assert list(run.stream("words")) == ["in time"]


def test_an_attempt_that_was_given_up_does_not_speak_for_the_next_one(tmp_path: Path) -> None:
    next_began, said = threading.Event(), threading.Event()
    found: list[object] = []

    @step(name="streams.given up", timeout=0.1, retry=Retry(attempts=100, delay=0))
    def speaks() -> None:
        if stepwell.current().attempt > 1:
            next_began.set()
            said.wait()
            return
        next_began.wait()
        found.append((stepwell.current().attempt, stepwell.current().cancelled))
        try:
            sync.stream("words", str).write("too late")
        except StepwellError as error:
            found.append(str(error))
        said.set()

    @workflow(name="streams.gives up")
    def gives_up() -> None:
        speaks()

    with Engine(tmp_path / "test.db", workflows=[gives_up]) as engine:
        run = engine.start(gives_up)
        run.result(60)
        assert found[0] == (1, True)
        assert "its time is up, so what it writes is not recorded" in str(found[1])
        assert list(run.stream("words", str)) == []


@workflow(name="streams.says")
async def says(word: str) -> None:
    await stream("words", str).write(word)


def test_a_reader_is_not_given_what_another_run_has_written(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two looks the run is deleted, and another one begins: SQLite gives its stream the same key."""
    old = engine.start(says, "old", id="old")
    old.result(60)
    look = SqlStreamReader.stream

    def and_then(reader: SqlStreamReader, run_id: str, name: str) -> Any:
        found = look(reader, run_id, name)
        monkeypatch.undo()
        old.delete()
        engine.start(says, "new", id="new").result(60)
        return found

    monkeypatch.setattr(SqlStreamReader, "stream", and_then)
    assert list(old.stream("words", str, follow=False)) == []
