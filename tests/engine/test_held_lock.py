"""Somebody keeps the writers' lock: whoever waits is told who, where and since when, and every call ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import child, line, tell
from tests.support.waiting import until

from stepwell import AsyncEngine, Engine, EngineClosed, Queue, StoreUnavailable, receive, step, workflow
from stepwell import transaction as transaction_step
from stepwell.errors import FileInUse
from stepwell.runtime import lock_watch as lock_watch_module
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.peers import writer_note, writers_lock

QUEUE = Queue("held")
#: How long a fact may take before a test fails, in seconds.
DEADLINE_SECONDS = 60

released = threading.Event()


@step
def waits_for_release() -> str:
    assert released.wait(DEADLINE_SECONDS)
    return "done"


@workflow
async def one_step() -> str:
    return await asyncio.to_thread(waits_for_release)


@workflow
async def waits(name: str = "go") -> Any:
    return await receive(name)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    released.clear()
    for module in (lock_watch_module, writers_lock):
        monkeypatch.setattr(module, "SLOW_LOCK_SECONDS", 0.05)
        monkeypatch.setattr(module, "LOCK_PATIENCE_SECONDS", 0.3)


#: Keeps a transaction open until it is told to end it; says which line that is.
HOLDER = """
import sys
from stepwell import Engine
with Engine(sys.argv[1], workflows=[]) as engine:
    print("open", flush=True)
    for _ in sys.stdin:
        with engine.transaction() as tx:
            tx.execute("CREATE TABLE IF NOT EXISTS held (x)")
            print("held", flush=True)
            sys.stdin.readline()
        print("ended", flush=True)
"""


class Holder:
    def __init__(self, process: Any) -> None:
        self.process = process
        self.pid: int = process.pid

    def hold(self) -> None:
        tell(self.process, "hold")
        assert line(self.process) == "held"

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def end(self) -> None:
        tell(self.process, "end")
        assert line(self.process) == "ended"


@contextmanager
def holder_of(path: Path) -> Iterator[Holder]:
    with child(HOLDER, path) as process:
        assert line(process) == "open"
        yield Holder(process)


def named(holder: Holder) -> str:
    """Return the pattern of a message that names the holder, its command, where in its code, and since when."""
    since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    return rf"process {holder.pid} \(\S*python.*\), in transaction\(\) at <string>:7 in <module> {since}, has been"


def transaction(engine: Engine) -> None:
    with engine.transaction() as tx:
        tx.execute("SELECT 1")


WRITING: dict[str, Callable[[Engine], object]] = {
    "start": lambda engine: engine.start(waits, id="other"),
    "start in a queue": lambda engine: engine.start(waits, id="other", queue=QUEUE),
    "send": lambda engine: engine.send("run", "other", 1),
    "cancel": lambda engine: engine.get("queued").cancel(),
    "purge": lambda engine: engine.purge(0),
    "pause": lambda engine: engine.queue(QUEUE).pause(),
    "cancel_waiting": lambda engine: engine.queue(QUEUE).cancel_waiting(),
    "transaction": transaction,
}


@pytest.mark.parametrize("what", WRITING)
def test_a_call_that_writes_ends_and_names_the_process_that_keeps_it_from_writing(
    database: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    with Engine(database, workflows=[waits]) as engine, holder_of(database) as holder:
        run = engine.start(waits, id="run")
        engine.start(waits, id="queued", queue=QUEUE, delay=1e6)
        holder.hold()
        with pytest.raises(StoreUnavailable, match=named(holder)):
            WRITING[what](engine)
        assert any("Waiting" in text and str(holder.pid) in text for text in caplog.messages)
        holder.end()
        run.send("go", "on")
        assert run.result(DEADLINE_SECONDS) == "on"
        assert engine.list(id_prefix="other") == []


@pytest.mark.parametrize("what", ["start", "transaction"])
def test_an_awaited_call_ends_and_names_the_process_too(
    database: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    async def main(holder: Holder) -> None:
        async with AsyncEngine(database, workflows=[waits]) as engine:
            holder.hold()
            with pytest.raises(StoreUnavailable, match=named(holder)):
                await (engine.start(waits) if what == "start" else engine.transaction().__aenter__())
            holder.end()
            run = await engine.start(waits)
            await run.send("go", 1)
            assert await run.result(DEADLINE_SECONDS) == 1

    with holder_of(database) as holder:
        asyncio.run(main(holder))
        assert any("Waiting" in text and str(holder.pid) in text for text in caplog.messages)


def test_a_request_that_belongs_to_what_a_run_did_is_kept_and_its_caller_told_so(database: Path) -> None:
    with Engine(database, workflows=[waits]) as engine, holder_of(database) as holder:
        run = engine.start(waits)
        until_waiting(run)
        holder.hold()
        with pytest.raises(StoreUnavailable, match=f"process {holder.pid} .* do not repeat it"):
            run.send("go", "on")
        holder.end()
        assert run.result(DEADLINE_SECONDS) == "on"
        assert [entry.kind for entry in run.journal()] == ["message"]


def until_waiting(run: Any) -> None:
    until(lambda: run.status == "waiting")


@transaction_step
def notes(connection: Any, text: str) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS notes (text)")
    connection.execute("INSERT INTO notes VALUES (?)", (text,))


@workflow
async def notes_when_told() -> None:
    await receive("go")
    notes("once")


def test_a_transactional_step_waits_with_the_others_and_is_called_once(database: Path) -> None:
    with Engine(database, workflows=[notes_when_told, waits]) as engine, holder_of(database) as holder:
        run = engine.start(notes_when_told)
        until_waiting(run)
        holder.hold()
        with pytest.raises(StoreUnavailable):
            run.send("go")
        with pytest.raises(StoreUnavailable):
            engine.start(waits)
        holder.end()
        run.result(DEADLINE_SECONDS)
        with engine.transaction() as tx:
            assert tx.execute("SELECT text FROM notes") == [("once",)]


def test_what_runs_did_meanwhile_is_written_when_the_lock_is_free(database: Path) -> None:
    with Engine(database, workflows=[one_step, waits]) as engine, holder_of(database) as holder:
        run = engine.start(one_step)
        holder.hold()
        released.set()
        with pytest.raises(StoreUnavailable):
            engine.start(waits)
        holder.end()
        assert run.result(DEADLINE_SECONDS) == "done"


def test_an_engine_cannot_be_opened_meanwhile_and_says_why(database: Path) -> None:
    with holder_of(database) as holder:
        holder.hold()
        holder.stop()
        with pytest.raises(FileInUse, match=rf"process {holder.pid} \(.*stopped by a signal\)"):
            Engine(database)


def test_a_thread_of_this_process_that_keeps_the_lock_is_named_with_its_line(database: Path) -> None:
    with Engine(database, workflows=[waits]) as engine:
        ended = threading.Event()

        def hold() -> None:
            with engine.transaction():
                held.set()
                ended.wait(DEADLINE_SECONDS)

        held = threading.Event()
        thread = threading.Thread(target=hold, name="holds it")
        thread.start()
        held.wait(DEADLINE_SECONDS)
        try:
            pattern = rf"this process \(thread 'holds it', in transaction\(\) at {__file__}:\d+ in .*hold\)"
            with pytest.raises(StoreUnavailable, match=pattern):
                engine.start(waits)
        finally:
            ended.set()
            thread.join()


# --- closing ----------------------------------------------------------------------------------------------------------


def close_within_transaction(engine: Engine) -> None:
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE mine (x)")
        engine.close(timeout=0.1)


def test_closing_keeps_its_time_and_names_an_open_transaction_of_its_own(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(database)
    began = time.monotonic()
    with pytest.raises(EngineClosed, match="within this transaction; nothing of it was written"):
        close_within_transaction(engine)
    assert time.monotonic() - began < 10
    assert "in transaction() at" in caplog.text
    assert "the engine closes without a last write" in caplog.text
    with Engine(database) as second, second.transaction() as tx:
        assert tx.execute("SELECT name FROM sqlite_schema WHERE name = 'mine'") == []


def test_closing_an_async_engine_keeps_its_time_too(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        engine = AsyncEngine(database)

        async def hold() -> None:
            async with engine.transaction() as tx:
                await tx.execute("CREATE TABLE mine (x)")
                held.set()
                await go_on.wait()
                await tx.execute("INSERT INTO mine VALUES (1)")

        held, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(hold())
        await held.wait()
        await asyncio.wait_for(engine.close(timeout=0.1), 10)
        go_on.set()
        with pytest.raises(EngineClosed):
            await task

    asyncio.run(main())
    assert "in transaction() at" in caplog.text


def test_closing_keeps_its_time_although_a_stopped_process_keeps_the_lock(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[BaseException] = []
    engine = Engine(database, workflows=[waits])
    with holder_of(database) as holder:
        holder.hold()
        holder.stop()

        def start() -> None:
            try:
                engine.start(waits)
            except (EngineClosed, StoreUnavailable) as error:
                answers.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        began = time.monotonic()
        engine.close(timeout=0.1)
        assert time.monotonic() - began < 10
        thread.join(DEADLINE_SECONDS)
        assert len(answers) == 1
        assert str(holder.pid) in caplog.text
    # Its lock has come free. The file can be opened again at once, and all of it works.
    with Engine(database, workflows=[waits]) as second:
        run = second.start(waits)
        run.send("go", 1)
        assert run.result(DEADLINE_SECONDS) == 1


def test_whoever_opens_a_file_again_waits_for_what_the_closed_engine_left(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(database, workflows=[waits])
    with holder_of(database) as holder:
        holder.hold()
        holder.stop()
        with pytest.raises(StoreUnavailable):
            engine.start(waits)
        engine.close(timeout=0)
        monkeypatch.setattr(locking, "DOOR_PATIENCE_SECONDS", 0.05)
        with pytest.raises(FileInUse, match="which is closed; but a thread of it still waits for another process"):
            locking.wait_for_leaving(str(database), 0.05)
    with Engine(database):
        pass


# --- the note ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def note_file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "notes", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_a_note_counts_for_the_process_that_left_it_and_only_until_it_is_taken_back(note_file: int) -> None:
    assert writer_note.read(note_file, os.getpid()) is None
    writer_note.write(note_file, "transaction() at here")
    note = writer_note.read(note_file, os.getpid())
    assert note is not None
    assert note.where == "transaction() at here"
    assert writer_note.read(note_file, os.getpid() + 1) is None  # it died, and another one writes
    writer_note.clear(note_file)
    assert writer_note.read(note_file, os.getpid()) is None


def test_a_note_from_another_container_tells_what_the_kernel_does_not(
    note_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer_note.write(note_file, "transaction() at there")
    monkeypatch.setattr(writer_note, "pid_namespace", lambda: "pid:[1]")
    note = writer_note.read(note_file, 0)
    assert note is not None
    assert f"process {os.getpid()} of another container, {os.uname().nodename}" in note.describe()
    assert "transaction() at there since" in note.describe()


@pytest.mark.parametrize("where", ["x" * 5000, "日本" * 400, "line\nbreak"])
def test_a_note_of_any_length_leaves_the_rest_of_the_lock_file_alone(note_file: int, where: str) -> None:
    os.pwrite(note_file, b"Z" * 4096, 0)
    writer_note.write(note_file, where)
    note = writer_note.read(note_file, os.getpid())
    assert note is None or note.where == where[: len(note.where)]
    assert os.pread(note_file, 2048, 2048) == b"Z" * 2048
    assert os.pread(note_file, writer_note.OFFSET, 0) == b"Z" * writer_note.OFFSET


def test_nothing_is_logged_where_the_lock_comes_free_in_time(
    database: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_watch_module, "SLOW_LOCK_SECONDS", 0.01)
    monkeypatch.setattr(lock_watch_module, "LOCK_PATIENCE_SECONDS", 0.02)
    caplog.set_level(logging.WARNING)
    with Engine(database, workflows=[waits]) as engine, engine.transaction() as tx:
        for number in range(20):
            tx.start(waits, id=f"r{number}")
    assert caplog.messages == []
