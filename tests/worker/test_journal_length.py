"""The log speaks of a journal that becomes long, and the limit halts its run, which goes on when it is raised."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import InvalidArgument, JournalTooLong, Retry, RunHalted, continue_as_new, receive, start, step, workflow
from stepwell.testing import TestEngine
from stepwell.worker.state.journal_length import MAX_JOURNAL_ENTRIES, next_look

executed: list[int] = []
failures: list[int] = []


@pytest.fixture(autouse=True)
def _afresh() -> None:
    executed.clear()
    failures.clear()


@step(name="long.part")
async def part(number: int) -> int:
    executed.append(number)
    return number


@step(name="long.once", delivery="at-most-once")
async def once(number: int) -> int:
    return number


@step(name="long.flaky", retry=Retry(attempts=1_000, delay=1, backoff=1))
async def flaky() -> int:
    failures.append(1)
    if len(failures) < 30:
        raise LookupError
    return len(failures)


@workflow(name="long.steps")
async def steps(count: int) -> int:
    for number in range(count):
        await part(number)
    return count


@workflow(name="long.sync")
def sync_steps(count: int) -> int:
    for number in range(count):
        asyncio_free(number)
    return count


@step(name="long.sync part")
def asyncio_free(number: int) -> int:
    executed.append(number)
    return number


@workflow(name="long.gathered")
async def gathered(count: int) -> int:
    await asyncio.gather(*map(part, range(count)))
    await part(count)
    return count


@workflow(name="long.timers")
async def timers(count: int) -> int:
    for _ in range(count):
        await asyncio.sleep(1)
    return count


@workflow(name="long.messages")
async def messages(count: int) -> int:
    for _ in range(count):
        await receive("go", int)
    return count


@workflow(name="long.careful")
async def careful(count: int) -> int:
    for number in range(count):
        await once(number)
    return count


@workflow(name="long.retried")
async def retried(_count: int) -> int:
    return await flaky()


@workflow(name="long.child")
async def child() -> int:
    return 1


@workflow(name="long.children")
async def children(count: int) -> int:
    for _ in range(count):
        await child()
    return count


@workflow(name="long.own limit", max_journal_entries=25)
async def own_limit(count: int) -> int:
    return await steps.function(count)


@workflow(name="long.cleans up")
async def cleans_up(count: int) -> int:
    try:
        await receive("never", int)
    finally:
        for number in range(count):
            await part(number)
    return count


def warnings(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.entries for record in caplog.records if hasattr(record, "entries")]


def halted(engine: TestEngine, run_id: str) -> JournalTooLong:
    with pytest.raises(JournalTooLong) as caught:
        engine.get(run_id).result(timeout=60)
    return caught.value


@pytest.mark.parametrize(
    ("flow", "count"),
    [
        (steps, 30),
        (sync_steps, 30),
        (gathered, 30),
        (timers, 30),
        (careful, 15),
        (retried, 30),
        (children, 15),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_kind_of_entry_counts_until_the_limit_halts_the_run_and_a_higher_one_lets_it_go_on(
    flow: Any, count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=20) as engine:
        engine.start(flow, count, id="r")
        engine.advance(40)
        error = halted(engine, "r")
        assert all(part in str(error) for part in ("run 'r'", repr(flow.name), "max_journal_entries"))
        length = len(engine.get("r").journal())
        assert length >= 20
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
        engine.reopen(max_journal_entries=1_000)
        engine.advance(40)
        assert engine.get("r").result(timeout=60) == (30 if flow is retried else count)
        assert sorted(set(executed)) == sorted(executed)  # nothing was executed twice


def test_messages_count_as_well(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=20) as engine:
        run = engine.start(messages, 30, id="r")
        for number in range(30):
            run.send("go", number)
        halted(engine, "r")
        engine.reopen(max_journal_entries=1_000)
        assert engine.get("r").result(timeout=60) == 30


def test_a_run_that_ends_with_its_last_entry_is_not_halted(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=20) as engine:
        assert engine.start(steps, 20).result(timeout=60) == 20


def test_the_log_names_run_and_workflow_from_a_tenth_of_the_limit_on_each_time_that_the_length_has_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="stepwell"), TestEngine(tmp_path / "w.db") as engine:
        engine.reopen(max_journal_entries=200)
        assert engine.start(steps, 150, id="r").result(timeout=60) == 150
    assert warnings(caplog) == [20, 40, 80]
    first = next(record for record in caplog.records if hasattr(record, "entries"))
    assert all(part in first.getMessage() for part in ("'r'", "'long.steps'", "200"))
    assert first.levelname == "WARNING"


def test_what_was_said_is_not_said_again_when_the_run_is_read_from_its_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=200) as engine:
        run = engine.start(messages, 60, id="r")
        for number in range(50):
            run.send("go", number)
        engine.advance(1)
        assert warnings(caplog) == [20, 40]
        engine.reopen(max_journal_entries=200)
        for number in range(10):
            engine.get("r").send("go", number)
        assert engine.get("r").result(timeout=60) == 60
    assert warnings(caplog) == [20, 40]


def test_the_limit_of_the_workflow_goes_before_that_of_the_engine(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=5) as engine:
        engine.start(own_limit, 30, id="r")
        assert "25 are allowed" in str(halted(engine, "r"))
        assert len(executed) == 25


def test_a_run_that_is_cancelled_may_clean_up_beyond_the_limit(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=5) as engine:
        run = engine.start(cleans_up, 20, id="r")
        engine.advance(1)
        run.cancel()
        assert run.info().status in ("running", "cancelled", "waiting")
        engine.advance(1)
        assert run.info().status == "cancelled"
        assert len(executed) == 20


def test_a_run_that_was_halted_for_its_length_can_be_cancelled(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=5) as engine:
        run = engine.start(steps, 20, id="r")
        halted(engine, "r")
        run.cancel()
        engine.advance(1)
        assert run.info().status == "cancelled"


def test_a_new_worker_halts_it_again_without_replaying_it_and_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=5) as engine:
        engine.start(steps, 20, id="r")
        halted(engine, "r")
        caplog.clear()
        replayed: list[object] = []
        monkeypatch.setattr("stepwell.replay.execution.Execution.replay", lambda *given, **_: replayed.append(given))
        engine.reopen(max_journal_entries=5)
        engine.advance(1)
        assert "5 are allowed" in str(halted(engine, "r"))
        assert not replayed
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_parent_is_told_that_its_child_is_halted_and_not_that_it_failed(tmp_path: Path) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=5) as engine:
        engine.start(starts_a_long_one, id="parent")
        engine.advance(1)
        with pytest.raises(RunHalted):
            engine.get("parent").result(timeout=60)
        assert engine.get("parent").info().status == "waiting"
        engine.reopen(max_journal_entries=1_000)
        engine.advance(1)
        for run in engine.list(status="halted"):
            run.resume()
        assert engine.get("parent").result(timeout=60) == 20


@workflow(name="long.starts a long one")
async def starts_a_long_one() -> int:
    return await (await start(steps, 20)).result()


@workflow(name="long.in chapters")
async def in_chapters(left: int) -> int:
    for number in range(15):
        await part(left + number)
    if left:
        continue_as_new(left - 15)
    return left


def test_a_new_chapter_begins_to_count_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with TestEngine(tmp_path / "w.db", max_journal_entries=20) as engine:
        assert engine.start(in_chapters, 60, id="r").result(timeout=60) == 0
        assert len(executed) == 75
    assert max(warnings(caplog)) < 20


@workflow(name="long.mended", max_journal_entries=20)
async def to_be_mended(left: int) -> int:
    for number in range(left):
        await part(number)
    return left


def test_a_run_that_was_halted_for_its_length_goes_on_as_new_when_its_code_is_mended_and_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mended(left: int) -> int:
        for number in range(min(left, 20)):
            await part(number)
        if left > 20:
            continue_as_new(left - 20)
        return left

    with TestEngine(tmp_path / "w.db") as engine:
        engine.start(to_be_mended, 30, id="r")
        halted(engine, "r")
        monkeypatch.setattr(to_be_mended, "function", mended)
        engine.get("r").resume()
        assert engine.get("r").result(timeout=60) == 10
        assert executed == [*range(20), *range(10)]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "many"])
def test_a_limit_that_is_none_is_refused(wrong: Any, tmp_path: Path) -> None:
    declare: Callable[..., Any] = workflow
    with pytest.raises(InvalidArgument, match="max_journal_entries"):
        declare(name="long.never", max_journal_entries=wrong)(steps.function)
    with pytest.raises(InvalidArgument, match="max_journal_entries"):
        TestEngine(tmp_path / "w.db", max_journal_entries=wrong)


@pytest.mark.parametrize(
    ("entries", "limit", "expected"),
    [(0, 200_000, 20_000), (20_000, 200_000, 40_000), (160_000, 200_000, 200_000), (0, 1, 1), (0, 5, 1), (3, 5, 4)],
)
def test_there_is_something_to_say_at_a_tenth_of_the_limit_and_at_its_doubles(
    entries: int, limit: int, expected: int
) -> None:
    assert next_look(entries, limit) == expected


def test_a_hundred_thousand_entries_are_allowed_by_default() -> None:
    assert MAX_JOURNAL_ENTRIES > 100_000
