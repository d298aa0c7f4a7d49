"""Backups are whole, made beside writers, and looked through; a file that is not whole is told from one that is."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    FileInUse,
    FileNotUsable,
    InvalidArgument,
    Queue,
    StorageFull,
    publish,
    receive,
    restore,
    step,
    verify,
    workflow,
)
from stepwell.store.sqlite.file import copying
from stepwell.store.sqlite.file.connecting import translate

LINE = Queue("backup.line", concurrency=1)
LONG = "long " * 2000


@step(name="backup.twice")
def twice(number: int) -> int:
    return 2 * number


@workflow(name="backup.adds")
async def adds(number: int, text: str = "") -> int:
    first = twice(number)
    await publish("text", text)
    return first + await receive("more", int)


def fill(path: Path) -> None:
    """Make a file with runs of many kinds: over, waiting, queued, one with large payloads."""
    with Engine(path, workflows=[adds]) as engine:
        for number in range(5):
            engine.start(adds, number, id=f"over-{number}")
            engine.send(f"over-{number}", "more", 1)
        for number in range(5):
            assert engine.get(f"over-{number}").result(60) == 2 * number + 1
        engine.start(adds, 1, LONG, id="waits")
        assert engine.get("waits").value("text", timeout=60) == LONG
    with Engine(path, workflows=[]) as engine:
        engine.start(adds, 1, id="queued", queue=LINE)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    fill(path)
    return path


# --- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["copy.db", "copy.db.gz"])
def test_a_backup_is_one_whole_file_that_an_engine_goes_on_with(orders: Path, name: str) -> None:
    with Engine(orders, workflows=[]) as engine:
        made = engine.backup(orders.with_name(name))
    copy = Path(made.path)
    assert made.size_bytes == copy.stat().st_size
    assert (made.runs, made.entries) == (7, 17)
    assert not [path for path in orders.parent.iterdir() if "partial" in path.name]
    assert verify(copy).ok
    if copy.suffix == ".gz":
        copy.with_suffix("").write_bytes(gzip.decompress(copy.read_bytes()))
        copy = copy.with_suffix("")
    assert not Path(f"{copy}-wal").exists()
    with Engine(copy, workflows=[adds]) as engine:
        engine.send("waits", "more", 3)
        assert engine.get("waits").result(60) == 5
    with Engine(orders, workflows=[]) as engine:
        assert engine.get("waits").status == "waiting"


def test_a_backup_beside_a_writer_has_all_that_was_acknowledged_before_and_is_whole(orders: Path) -> None:
    stop, acknowledged = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            engine.start(adds, 1, LONG, id=f"new-{acknowledged[0]}")
            acknowledged[0] += 1

    with Engine(orders, workflows=[]) as engine:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                before = acknowledged[0]
                made = engine.backup(orders.with_name(f"{number}.db"))
                assert verify(made.path).ok
                assert made.runs >= 7 + before
        finally:
            stop.set()
            writer.join()


def test_an_async_engine_makes_backups_while_its_loop_goes_on(orders: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(orders, workflows=[]) as engine:
            made = await engine.backup(orders.with_name("copy.db"))
            assert verify(made.path).ok

    asyncio.run(main())


def test_a_backup_tells_its_progress(orders: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with Engine(orders, workflows=[]) as engine:
        engine.backup(orders.with_name("copy.db.gz"), progress=lambda *each: told.append(each))
    kinds = [what.partition(" ")[0] for what, _, _ in told]
    assert list(dict.fromkeys(kinds)) == ["copying", "checking", "compressing"]
    assert all(0 <= done <= of for _, done, of in told)


def test_nothing_is_overwritten_unless_that_is_said(orders: Path) -> None:
    target = orders.with_name("copy.db")
    target.write_text("something dear")
    with Engine(orders, workflows=[]) as engine:
        with pytest.raises(InvalidArgument, match="is there already"):
            engine.backup(target)
        assert target.read_text() == "something dear"
        engine.backup(target, overwrite=True)
    assert verify(target).ok


def test_a_target_that_the_system_refuses_is_refused_in_words(orders: Path) -> None:
    target = orders.with_name("x" * 250)  # a name of its own, and too long with any ending
    with Engine(orders, workflows=[]) as engine, pytest.raises(FileNotUsable, match="cannot be written: File name too"):
        engine.backup(target)


@pytest.mark.parametrize("name", ["copy.db", "copy.db.gz"])
def test_a_disk_that_becomes_full_meanwhile_leaves_nothing_and_says_whose_it_is(
    orders: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_paths: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copying, "publish", full)
    target = orders.with_name(name)
    with Engine(orders, workflows=[]) as engine, pytest.raises(StorageFull, match=f"{name}' is full"):
        engine.backup(target)
    assert not [*orders.parent.glob("copy*")]


def test_what_is_told_the_progress_may_fail(orders: Path) -> None:
    def fails(*_told: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody listens")

    with Engine(orders, workflows=[]) as engine, pytest.raises(BrokenPipeError):
        engine.backup(orders.with_name("copy.db"), progress=fails)
    assert not [*orders.parent.glob("copy*")]


def test_no_room_to_unpack_is_no_damage(orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = orders.with_name("copy.db.gz")
    with Engine(orders, workflows=[]) as engine:
        engine.backup(packed)

    def full(*_files: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StorageFull, match="was not unpacked: the disk of"):
        verify(packed)


def test_no_room_for_the_index_of_the_log_is_a_full_disk(tmp_path: Path) -> None:
    class NoIndex(apsw.IOError):
        extendedresult = apsw.SQLITE_IOERR_SHMSIZE

    assert isinstance(translate(NoIndex("disk I/O error"), str(tmp_path)), StorageFull)


def test_two_backups_at_once_do_not_write_into_one_another(orders: Path) -> None:
    target = orders.with_name("copy.db")
    refused: list[str] = []
    with Engine(orders, workflows=[]) as engine:

        def second(*_told: object) -> None:
            with pytest.raises(FileInUse) as caught:
                engine.backup(target, overwrite=True)
            refused.append(str(caught.value))

        engine.backup(target, progress=second)
        assert {text.partition(";")[0] for text in refused} == {
            f"A backup to {str(target)!r} is under way already (in this process)"
        }
        assert verify(target).ok
        engine.backup(target, overwrite=True)
    assert not [*orders.parent.glob("*-partial*")]


#: Makes a backup, and stands still in its middle until it is told to go on.
STANDS_STILL = """
import sys
from stepwell import Engine

with Engine(sys.argv[1], workflows=[]) as engine:
    told = []
    engine.backup(sys.argv[2], progress=lambda *_: told or (told.append(1), print("half", flush=True), input()))
"""


@pytest.mark.parametrize("dies", [False, True])
def test_a_backup_that_another_process_makes_is_left_alone_until_it_or_that_process_has_ended(
    orders: Path, dies: bool
) -> None:
    target = orders.with_name("copy.db")
    line = [sys.executable, "-c", STANDS_STILL, str(orders), str(target)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "half\n"
        with Engine(orders, workflows=[]) as engine:
            with pytest.raises(FileInUse, match=f"under way already .in process {other.pid}.; this one wrote nothing"):
                engine.backup(target, overwrite=True)
            if dies:
                other.kill()
            other.communicate("\n", timeout=60)
            assert target.exists() is not dies
            engine.backup(target, overwrite=True)
    assert verify(target).ok
    assert not [*orders.parent.glob("*-partial*")]


def test_a_restore_that_is_refused_leaves_alone_the_one_that_is_under_way(orders: Path) -> None:
    copy = orders.with_name("copy.db")
    with Engine(orders, workflows=[]) as engine:
        engine.backup(copy)
    refusals: list[object] = []

    def second(*_told: object) -> None:
        with pytest.raises(FileInUse) as caught:
            restore(copy, orders)
        refusals.append(caught)

    restore(copy, orders, progress=second)
    assert refusals
    assert verify(orders).ok


@pytest.mark.parametrize(
    ("target", "expected"),
    [("orders.db", "is the file itself"), ("nowhere/copy.db", "There is no folder"), (".", "is a folder")],
)
def test_a_target_that_cannot_be_is_refused(orders: Path, target: str, expected: str) -> None:
    before = sorted(orders.parent.iterdir())
    with Engine(orders, workflows=[]) as engine, pytest.raises(InvalidArgument, match=expected):
        engine.backup(orders.parent / target, overwrite=True)
    assert [path for path in sorted(orders.parent.iterdir()) if path.name != "orders.db-lock"] == [
        path for path in before if path.name != "orders.db-lock"
    ]


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(orders.parent)

    class Full:
        f_bavail, f_frsize = 1, found.f_frsize

    with Engine(orders, workflows=[]) as engine:
        monkeypatch.setattr(os, "statvfs", lambda _path: Full)
        with pytest.raises(StorageFull, match="Nothing was written"):
            engine.backup(orders.with_name("copy.db"))
    assert not orders.with_name("copy.db").exists()


def test_of_a_damaged_file_no_backup_is_made(orders: Path) -> None:
    tamper(orders, "UPDATE stepwell_queues SET waiting = 7")
    with Engine(orders, workflows=[]) as engine, pytest.raises(FileNotUsable, match="queues count other entries"):
        engine.backup(orders.with_name("copy.db"))
    assert [path.name for path in orders.parent.iterdir() if "copy" in path.name] == []


# --- looking through one ----------------------------------------------------------------------------------------------


OF = "FROM stepwell_runs WHERE id ="
FOLLOWING = "(run, at, fingerprint, ahead, messages_after, input) SELECT key, 1, 0, 0, 0,"
SAID = "(run, op, kind, at, value) SELECT key, 9, 'step', 1,"
PROMISED = "(token, run, op, created_at, form) SELECT 't', key, 9, 1,"
STREAM = "INSERT INTO stepwell_streams (key, run, name, next, last_op) SELECT 1, key, 's', 2, 1"
ITEM = "(stream, op, attempt, at, superseded, number, value) VALUES (1, 1, 0, 1, 0,"
TWO_ITEMS = f"INSERT INTO stepwell_stream_items {ITEM} 1, '1'), (1, 1, 0, 1, 0, 1, '1')"


def tamper(path: Path, sql: str) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("foreign_keys", 0)
    connection.pragma("ignore_check_constraints", 1)
    connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "UPDATE stepwell_runs SET owner = 999 WHERE id = 'waits'",
            "belong to workers that the file does not know: waits",
        ),
        ("DELETE FROM stepwell_entries", "wait in a queue and have no place in it: queued"),
        ("UPDATE stepwell_entries SET run = (SELECT key FROM stepwell_runs WHERE id = 'over-1')", "still have a place"),
        ("UPDATE stepwell_runs SET queue = 'other' WHERE id = 'queued'", "in another queue than the one"),
        ("UPDATE stepwell_queues SET running = 1", "queues count other entries than they have: backup.line"),
        ("UPDATE stepwell_lanes SET waiting = 4", "entries of a partition than they have: backup.line"),
        (
            "UPDATE stepwell_journal SET op = 1 WHERE run = (SELECT key FROM stepwell_runs WHERE id = 'over-2')",
            "recorded twice: over-2",
        ),
        (
            "INSERT INTO stepwell_wakes (run) SELECT key FROM stepwell_runs WHERE id = 'waits'",
            "and belong to none: waits",
        ),
        (
            "UPDATE stepwell_runs SET parent = 999, attached = 1 WHERE id = 'waits'",
            "children that end with their parent have none: waits",
        ),
        (
            f"INSERT INTO stepwell_replacements {FOLLOWING} '1' {OF} 'over-2'",
            "or were not asked to: over-2",
        ),
        (f"INSERT INTO stepwell_replacements {FOLLOWING} '{{' {OF} 'waits'", "payloads that are not JSON: waits"),
        (f"INSERT INTO stepwell_settlements {SAID} X'1E02' {OF} 'waits'", "payloads that cannot be read: waits"),
        (f"INSERT INTO stepwell_promises {PROMISED} '{{}}' {OF} 'waits'", "that their runs do not know of: waits"),
        (f"{STREAM} {OF} 'over-3'; INSERT INTO stepwell_stream_items {ITEM} 2, '1')", "offsets that are not theirs"),
        (
            f"{STREAM} {OF} 'over-3'; INSERT INTO stepwell_stream_items {ITEM} 1, '1'), (1, 1, 0, 1, 0, 1, '1')",
            "two at one",
        ),
        (f"{STREAM} {OF} 'over-3'; INSERT INTO stepwell_stream_items {ITEM} 1, '{{')", "that are not JSON: over-3"),
        (f"{STREAM} {OF} 'over-3'; INSERT INTO stepwell_stream_items {ITEM} 1, X'1E02')", "cannot be read: over-3"),
        ("UPDATE stepwell_runs SET input = '{' WHERE id = 'over-3'", "payloads that are not JSON: over-3"),
        ("UPDATE stepwell_values SET value = X'0102' WHERE value IS NOT NULL", "payloads that cannot be read: over-0"),
        ("UPDATE stepwell_runs SET input = X'1E02' WHERE id = 'over-3'", "payloads that cannot be read: over-3"),
        (
            "DELETE FROM stepwell_runs WHERE id = 'over-4'",
            "rows refer to rows that are not there: stepwell_journal row",
        ),
    ],
)
def test_what_no_constraint_says_is_found_and_named(orders: Path, sql: str, expected: str) -> None:
    assert verify(orders).problems == []
    tamper(orders, sql)
    found = verify(orders)
    assert not found.ok
    assert any(expected in problem for problem in found.problems), found.problems


def test_a_damaged_page_is_found(orders: Path) -> None:
    with orders.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096))
    try:
        assert not verify(orders).ok
    except FileNotUsable as error:
        assert "damaged" in str(error)  # noqa: PT017 - where the page of the schema was hit, nothing can be read at all


def test_of_many_places_some_are_named_and_the_others_counted(orders: Path) -> None:
    tamper(orders, "UPDATE stepwell_runs SET input = '{'")
    (problem,) = verify(orders).problems
    assert problem == ("runs have payloads that are not JSON: over-0, over-1, over-2, over-3, over-4 and 2 more")


def test_looking_through_a_file_leaves_it_as_it_was(orders: Path) -> None:
    def state() -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in orders.parent.iterdir()}

    before = state()
    assert verify(orders).ok
    assert state() == before


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: data[: len(data) // 2], "cannot be unpacked"),
        (lambda data: b"nonsense" + data, "cannot be unpacked"),
        (lambda _data: b"", "is empty|cannot be unpacked|not Stepwell's|not an SQLite"),
    ],
)
def test_a_damaged_compressed_backup_is_refused(orders: Path, damage: Callable[[bytes], bytes], expected: str) -> None:
    with Engine(orders, workflows=[]) as engine:
        target = Path(engine.backup(orders.with_name("copy.db.gz")).path)
    target.write_bytes(damage(target.read_bytes()))
    with pytest.raises(FileNotUsable, match=expected):
        verify(target)


@pytest.mark.parametrize("content", [None, b"no database\n" * 100])
def test_what_is_no_file_of_ours_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileNotUsable):
        verify(path)
