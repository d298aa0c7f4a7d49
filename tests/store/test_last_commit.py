"""The lock file remembers the last commit, so that a log that lost its end is not taken for one that ends there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from stepwell import Engine, FileNotUsable, receive, step, workflow
from stepwell.store.sqlite.file import last_commit
from stepwell.store.sqlite.file.last_commit import LastCommit
from stepwell.testing import TestEngine


@workflow
async def listener() -> str:
    return await receive("word", str)


def crash(database: Path) -> Path:
    """Have an engine die with a few commits in its log; return the log."""
    engine = TestEngine(database)
    for number in range(5):
        engine.start(listener, id=f"run-{number}")
    engine.crash()
    return Path(f"{database}-wal")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_log_that_lost_commits_is_noticed_and_left_as_it_is(database: Path, damage: Callable[[Path], None]) -> None:
    log = crash(database)
    damage(log)
    left = log.read_bytes() if log.exists() else None
    for _ in range(2):
        with pytest.raises(FileNotUsable, match=r"lacks what was committed to it last.*put it back.*-lock"):
            Engine(database)
    assert left is None or log.read_bytes() == left


def test_a_log_that_was_put_back_is_fine(database: Path) -> None:
    log = crash(database)
    whole = log.read_bytes()
    cut(log)
    with pytest.raises(FileNotUsable):
        Engine(database)
    log.write_bytes(whole)
    with Engine(database) as engine:
        assert len(engine.list()) == 5


def test_whoever_accepts_the_loss_deletes_the_lock_file(database: Path) -> None:
    cut(crash(database))
    Path(f"{database}-lock").unlink()
    with Engine(database) as engine:
        assert len(engine.list()) < 5


def test_a_file_that_was_emptied_is_not_taken_for_a_new_one(database: Path) -> None:
    with Engine(database) as engine:
        engine.start(listener)
    database.write_bytes(b"")
    with pytest.raises(FileNotUsable, match="lacks what was committed"):
        Engine(database)


def test_an_older_copy_written_over_the_file_is_noticed(database: Path) -> None:
    with Engine(database) as engine:
        engine.start(listener, id="first")
    copy = database.read_bytes()
    with Engine(database) as engine:
        engine.start(listener, id="second")
    database.write_bytes(copy)
    for _ in range(2):
        with pytest.raises(FileNotUsable, match=r"older copy was put in its place.*delete '.*-lock'"):
            Engine(database)
    # Who restored a backup on purpose does what the message says, once.
    Path(f"{database}-lock").unlink()
    for _ in range(2):
        with Engine(database) as engine:
            assert [run.id for run in engine.list()] == ["first"]


def test_a_newer_copy_written_over_the_file_is_as_good(database: Path) -> None:
    with Engine(database) as engine:
        engine.start(listener, id="first")
        engine.purge(0)
    copy = database.read_bytes()
    database.write_bytes(copy)
    with Engine(database) as engine:
        assert [run.id for run in engine.list()] == ["first"]


def test_a_file_that_was_deleted_is_made_anew(database: Path) -> None:
    with Engine(database) as engine:
        engine.start(listener)
    database.unlink()
    with Engine(database) as engine:
        assert engine.list() == []


def test_a_process_that_dies_between_a_commit_and_the_note_of_it_raises_no_alarm(database: Path) -> None:
    with patch.object(LastCommit, "note"):
        log = crash(database)
    cut(log)
    with Engine(database) as engine:
        assert len(engine.list()) < 5


def test_a_process_that_dies_after_a_commit_which_removes_what_proves_the_one_before_raises_no_alarm(
    database: Path,
) -> None:
    @step
    def act() -> None:
        return

    @workflow
    async def acts() -> None:
        act()

    engine = TestEngine(database)
    engine.start(acts, id="run").result(60)  # its last commit is proved by the step's entry
    with patch.object(LastCommit, "note"):
        engine.advance(1)
        assert engine.purge(0) == 1
        engine.crash()
    with Engine(database) as opened:
        assert opened.list() == []


def test_what_was_noted_before_the_machine_started_again_does_not_count(database: Path) -> None:
    cut(crash(database))
    with patch.object(last_commit, "this_boot", lambda: b"another boot of."), Engine(database) as engine:
        assert len(engine.list()) < 5


def test_a_damaged_note_does_not_count(database: Path) -> None:
    crash(database)
    lock = Path(f"{database}-lock")
    content = bytearray(lock.read_bytes())
    content[last_commit.OFFSET + 60] ^= 1
    lock.write_bytes(content)
    with Engine(database) as engine:
        assert len(engine.list()) == 5


def test_a_note_of_a_newer_release_does_not_count(database: Path) -> None:
    with patch.dict(last_commit._NAMES, dict.fromkeys(last_commit._NAMES, "evidence_of_tomorrow")):
        log = crash(database)
    cut(log)
    with Engine(database) as engine:
        assert len(engine.list()) < 5
