"""Runs that have ended are moved into an archive: whole, once, and never lost, wherever the process is killed."""

from __future__ import annotations

import asyncio
import io
import itertools
import shutil
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.engine.test_retention import ROWS

from stepwell import (
    AsyncEngine,
    Engine,
    FileNotUsable,
    InvalidArgument,
    InvalidFilter,
    publish,
    receive,
    start,
    step,
    verify,
    workflow,
)
from stepwell.api.reading.file_reads import file_reads
from stepwell.cli import main
from stepwell.store.sqlite import archive as archive_module


@step(name="archive.double")
def double(number: int) -> int:
    return 2 * number


@workflow(name="archive.sum")
async def sum_up(number: int) -> int:
    await publish("seen", number)
    return double(number) + double(number)


@workflow(name="archive.patient")
async def patient() -> str:
    child = await start(sum_up, 7, id="child")
    await child.result()
    return await receive("go", str)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[sum_up, patient]) as engine:
        for number in range(3):
            engine.start(sum_up, number, id=f"order-{number}", tags=["vip"]).result(60)
    return path


def shown(path: Path, run: str) -> Any:
    with Engine(path, workflows=[]) as engine:
        handle = engine.get(run)
        entries = [(entry.operation, entry.kind, entry.value, entry.at) for entry in handle.journal()]
        return handle.info(), entries, handle.value("seen")


def test_what_matches_is_moved_whole_and_the_rest_stays(orders: Path, tmp_path: Path) -> None:
    before = shown(orders, "order-1")
    with Engine(orders, workflows=[]) as engine:
        done = engine.archive(tmp_path / "old.db", "id:order-1", reason="audit", by="mia")
        assert (done.path, done.runs, done.stayed, done.there) == (str(tmp_path / "old.db"), 1, 0, [])
        assert [run.id for run in engine.list()] == ["order-2", "order-0"]
        assert engine.archive(tmp_path / "old.db", "id:order-1").runs == 0
        assert engine.archive(tmp_path / "old.db", "workflow:archive.sum").runs == 2
    assert shown(tmp_path / "old.db", "order-1") == before
    with Engine(tmp_path / "old.db", workflows=[]) as engine:
        assert engine.counts() == {"completed": 3}
        assert [(act.verb, act.by, act.reason) for act in engine.get("order-1").acts()] == [
            ("archived", "mia", "audit")
        ]
        assert engine.get("order-1").result(1) == 4
    assert verify(orders).problems == verify(tmp_path / "old.db").problems == []
    assert not (tmp_path / "old.db-wal").exists()


#: What numbers rows of one table, which are given anew.
NUMBERS = {
    "stepwell_journal": ("position",),
    "stepwell_messages": ("position",),
    "stepwell_acts": ("id",),
    "stepwell_streams": ("key",),
    "stepwell_stream_items": ("position", "stream"),
    "stepwell_promises": ("number",),
}


def rows(path: Path, table: str) -> list[Any]:
    with closing(apsw.Connection(str(path))) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        kept = ", ".join(name for name in names if name not in NUMBERS.get(table, ()))
        of_before = " WHERE act <> 'archive'" if table == "stepwell_acts" else ""
        return connection.execute(f"SELECT {kept} FROM {table}{of_before} ORDER BY 1, 2").fetchall()


def test_every_table_that_refers_to_runs_is_moved(orders: Path, tmp_path: Path) -> None:
    # The two last say what is to happen to a run that has not ended; what follows one keeps it where it is.
    moved = {name: row for name, row in ROWS.items() if name[9:] not in ("watches", "batch_items", "replacements")}
    with closing(apsw.Connection(str(orders))) as connection:
        for name, row in moved.items():
            connection.execute(
                f"INSERT INTO {name} {row}".replace("'a', 'str', 'a'", "'b', 'str', 'a'").replace("'vip'", "'t'")
            )
    before = {name: rows(orders, name) for name in moved}
    assert all(before.values())
    with Engine(orders, workflows=[]) as engine:
        assert engine.archive(tmp_path / "old.db", "workflow:archive.sum").runs == 3
    for name in moved:
        assert (name, rows(orders, name)) == (name, [])
        assert (name, rows(tmp_path / "old.db", name)) == (name, before[name])


def test_a_run_stays_while_it_goes_on_or_its_parent_may_ask_for_its_result(orders: Path, tmp_path: Path) -> None:
    with Engine(orders, workflows=[sum_up, patient]) as engine:
        parent = engine.start(patient, id="parent")
        engine.run_until_idle(60)
        done = engine.archive(tmp_path / "old.db", "workflow:archive.sum")
        assert (done.runs, done.stayed) == (3, 1)
        with pytest.raises(InvalidArgument, match="waiting"):
            engine.archive(tmp_path / "old.db", "status:waiting")
        parent.send("go", "on")
        assert parent.result(60) == "on"
        assert engine.archive(tmp_path / "old.db", "ended>-1h").runs == 2
    with Engine(tmp_path / "old.db", workflows=[]) as engine:
        assert engine.get("child").info().parent == "parent"


def test_an_id_that_the_archive_has_of_another_run_stays_and_is_named(orders: Path, tmp_path: Path) -> None:
    with Engine(orders, workflows=[sum_up]) as engine:
        assert engine.archive(tmp_path / "old.db", "id:order-1").runs == 1
        engine.start(sum_up, 9, id="order-1").result(60)
        done = engine.archive(tmp_path / "old.db", "id:order-*")
        assert (done.runs, done.stayed, done.there) == (2, 1, ["order-1"])


def test_what_makes_no_sense_is_refused_before_anything_is_made(orders: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.db"
    with Engine(orders, workflows=[]) as engine:
        for text, error in (
            ("", InvalidArgument),
            ("status:runing", InvalidFilter),
            ("status:running", InvalidArgument),
        ):
            with pytest.raises(error):
                engine.archive(target, text)
        assert not target.exists()
        with pytest.raises(InvalidArgument, match="is the file itself"):
            engine.archive(orders, "id:order-1")
        with pytest.raises(FileNotUsable, match="is a folder"):
            engine.archive(tmp_path, "id:order-1")
        assert engine.counts() == {"completed": 3}


def test_an_archive_of_another_file_takes_nothing(orders: Path, tmp_path: Path) -> None:
    with Engine(tmp_path / "other.db", workflows=[sum_up]) as engine:
        engine.start(sum_up, 1, id="stranger").result(60)
        assert engine.archive(tmp_path / "old.db", "id:stranger").runs == 1
    with Engine(orders, workflows=[]) as engine:
        with pytest.raises(InvalidArgument, match="'stranger', say\\): it is an archive of another file"):
            engine.archive(tmp_path / "old.db", "id:order-*")
        assert engine.counts() == {"completed": 3}


def test_long_runs_are_moved_in_several_commits(orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_ENTRIES", 3)
    with Engine(orders, workflows=[]) as engine:
        assert engine.archive(tmp_path / "old.db", "id:order-*").runs == 3
    with Engine(tmp_path / "old.db", workflows=[]) as engine:
        assert engine.counts() == {"completed": 3}


def test_an_async_engine_archives(orders: Path, tmp_path: Path) -> None:
    async def move() -> int:
        async with AsyncEngine(orders, workflows=[]) as engine:
            return (await engine.archive(tmp_path / "old.db", "id:order-*")).runs

    assert asyncio.run(move()) == 3


#: Dies right before the commit of the archive, or right after it, before that of the file.
_DIES = """\
import os, signal, sys
from stepwell import Engine
from stepwell.store.sqlite.archive import ArchiveFile
moment, path, target = sys.argv[1:]
move, copy = ArchiveFile.move, ArchiveFile._copy
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def moves_and_dies(*arguments):
    move(*arguments)
    dies()
if moment == "before":
    ArchiveFile._copy = dies
else:
    ArchiveFile.move = moves_and_dies
with Engine(path, workflows=[]) as engine:
    engine.archive(target, "id:order-*")
"""


@pytest.mark.parametrize(("moment", "there"), [("before", []), ("between", ["order-2", "order-1", "order-0"])])
def test_a_kill_at_any_moment_loses_nothing_and_another_call_doubles_nothing(
    orders: Path, tmp_path: Path, moment: str, there: list[str]
) -> None:
    target = tmp_path / "old.db"
    before = shown(orders, "order-1")
    killed = subprocess.run([sys.executable, "-c", _DIES, moment, orders, target], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Engine(orders, workflows=[sum_up]) as engine, Engine(target, workflows=[]) as old:
        assert engine.counts() == {"completed": 3}
        assert [run.id for run in old.list()] == there
        old.close()
        assert engine.archive(target, "id:order-*").runs == 3
        assert engine.counts() == {}
    assert shown(target, "order-1") == before
    assert verify(target).problems == []


#: The command, with one run in a page; dies right before the commit of this number, in whichever file that is.
_DIES_AT = """\
import os, signal, sys
import apsw
from stepwell.cli import main
from stepwell.store.sqlite import archive
archive._ENTRIES = 3
left = int(sys.argv[1])
def counts():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
apsw.connection_hooks.append(lambda connection: connection.set_commit_hook(counts))
sys.exit(main(["archive", sys.argv[3], "id:order-*", "--yes", "--db", sys.argv[2]]))
"""


def test_the_command_is_killed_at_every_commit_and_no_run_is_lost_or_in_two_files_in_the_end(
    orders: Path, tmp_path: Path
) -> None:
    everything = shown(orders, "order-1")
    moments = []  # how many runs each file had after a kill
    for commit in itertools.count():
        folder = tmp_path / f"killed at {commit}"
        folder.mkdir()
        copy, target = folder / "orders.db", folder / "old.db"
        shutil.copy(orders, copy)
        line = [sys.executable, "-c", _DIES_AT, str(commit), str(copy), str(target)]
        ended = subprocess.run(line, check=False, stdout=subprocess.DEVNULL)
        with Engine(copy, workflows=[sum_up]) as engine:
            moments.append((runs_of(copy), runs_of(target)))
            assert runs_of(copy) | runs_of(target) == {"order-0", "order-1", "order-2"}
            engine.archive(target, "id:order-*")
            assert engine.counts() == {}
        assert shown(target, "order-1") == everything
        assert verify(target).problems == []
        assert verify(copy).problems == []
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert [len(there) for _, there in moments] == sorted(len(there) for _, there in moments)
    # Each run was in both files at one of the moments: the archive has it before the file lets go of it.
    assert set().union(*(here & there for here, there in moments)) == {"order-0", "order-1", "order-2"}


def runs_of(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with suppress(FileNotUsable), file_reads(path, "", "") as reads:  # an archive that was being made is none yet
        return {record.id for record in reads.records("")}
    return set()


def test_the_command_counts_asks_and_moves(
    orders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["archive", str(tmp_path / "old.db"), "id:order-*", "--db", str(orders)]
    assert main([*line, "--dry-run"]) == 0
    assert capsys.readouterr().out == "3 runs would be moved\n"
    assert not (tmp_path / "old.db").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(line) == 1
    assert "3 runs will be moved" in capsys.readouterr().err
    assert main([*line, "--yes", "--reason", "audit"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/old.db: 3 runs were moved there\n"
    assert main(["list", "--db", str(tmp_path / "old.db"), "--json"]) == 0
    assert '"order-2"' in capsys.readouterr().out
