"""Programs that an isolated step started end with the step, however it ends, and before it is repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.executors.test_process_steps import environment, is_alive, killed_worker, result, start, told
from tests.support.programs import leaving
from tests.support.waiting import until

from stepwell import Retry, RunCancelled, StepProcessDied, StepTimeout
from stepwell.executors import keeper
from stepwell.testing import TestEngine

SCRIPT = Path(leaving.__file__)
KINDS = list(leaving.KINDS)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for the ids of programs; those that are left in the end are killed."""
    folder = tmp_path / "programs"
    folder.mkdir()
    yield folder
    for pid in programs(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def programs(folder: Path) -> list[int]:
    return [int(file.read_text()) for file in folder.iterdir() if file.suffix != ".new" and file.read_text()]


def assert_ended(folder: Path, kind: str) -> None:
    found = programs(folder)
    assert len(found) == (2 if kind == "that starts others" else 1)
    assert [pid for pid in found if is_alive(pid)] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["returns", "raises", "exits", "is killed"])
def test_a_program_has_ended_when_the_end_of_its_step_is_known(
    engine: TestEngine, folder: Path, kind: str, end: str
) -> None:
    run = start(engine, leaving.starts, str(folder), kind, end)
    if end == "returns":
        assert run.result(60) == "left it alone"
    else:
        with pytest.raises(ValueError if end == "raises" else StepProcessDied):
            run.result(60)
    assert_ended(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_ends_with_the_time_of_its_step(engine: TestEngine, folder: Path, kind: str) -> None:
    with pytest.raises(StepTimeout):
        result(engine, leaving.starts, str(folder), kind, "waits", timeout=2)
    assert_ended(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_ends_with_its_run_when_that_is_cancelled(engine: TestEngine, folder: Path, kind: str) -> None:
    run = start(engine, leaving.starts, str(folder), kind, "waits")
    until((folder / "waits").exists)
    (folder / "waits").unlink()
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    engine.idle()
    assert_ended(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_ends_with_the_engine(engine: TestEngine, folder: Path, kind: str) -> None:
    start(engine, leaving.starts, str(folder), kind, "waits")
    until((folder / "waits").exists)
    (folder / "waits").unlink()
    engine.close(timeout=0)
    assert_ended(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_ends_with_a_worker_that_is_killed(tmp_path: Path, folder: Path, kind: str) -> None:
    with killed_worker([SCRIPT, tmp_path / "a.db", folder, kind, "waits"], environment()):
        until((folder / "waits").exists)
        (folder / "waits").unlink()
    found = programs(folder)
    until(lambda: not any(is_alive(pid) for pid in found))
    assert_ended(folder, kind)


def test_a_program_ends_where_the_kernel_tells_nobody_of_the_death(tmp_path: Path, folder: Path) -> None:
    # As where there is no prctl: the module that would ask for it cannot be imported.
    blind = tmp_path / "blind"
    blind.mkdir()
    (blind / "ctypes.py").write_text("raise ImportError")
    with killed_worker([SCRIPT, tmp_path / "a.db", folder, "plain", "waits"], environment(blind)):
        until((folder / "waits").exists)
        (folder / "waits").unlink()
    found = programs(folder)
    until(lambda: not any(is_alive(pid) for pid in found))


def test_a_program_of_an_attempt_has_ended_when_the_next_attempt_begins(engine: TestEngine, folder: Path) -> None:
    run = start(
        engine, leaving.starts, str(folder), "a daemon", "raises", retry=Retry(attempts=3, delay=0, on=ValueError)
    )
    with pytest.raises(ValueError, match="left it alone"):
        run.result(60)
    assert_ended(folder, "a daemon")


def test_a_copy_of_the_child_that_holds_its_descriptors_ends_as_well(engine: TestEngine, folder: Path) -> None:
    assert result(engine, leaving.forks, str(folder)) == "left a copy"
    assert not is_alive(told(folder / "copy"))


def test_a_child_that_left_nothing_behind_is_used_again(engine: TestEngine) -> None:
    for definition in (leaving.waits_for_its_program, leaving.shares_memory):
        first = result(engine, definition)
        assert result(engine, definition) == first


def test_a_child_that_left_something_behind_is_not(engine: TestEngine, folder: Path) -> None:
    first = result(engine, leaving.waits_for_its_program)
    assert result(engine, leaving.starts, str(folder), "plain", "returns") == "left it alone"
    assert result(engine, leaving.waits_for_its_program) != first


def test_a_stopped_keeper_ends_its_child_all_the_same(engine: TestEngine, folder: Path) -> None:
    run = start(engine, leaving.starts, str(folder), "plain", "waits")
    until((folder / "waits").exists)
    (folder / "waits").unlink()
    (child,) = engine._session.engine_thread.steps.pids()
    parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    engine.idle()
    assert_ended(folder, "plain")


def test_a_child_dies_with_its_keeper(engine: TestEngine, folder: Path) -> None:
    run = start(engine, leaving.starts, str(folder), "plain", "waits")
    until((folder / "waits").exists)
    (folder / "waits").unlink()
    (child,) = engine._session.engine_thread.steps.pids()
    os.kill(int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    with pytest.raises(StepProcessDied, match="SIGKILL"):
        run.result(60)
    until(lambda: not is_alive(child))


def test_what_is_below_a_process_is_found_without_the_kernels_lists_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        listed = keeper.children_of(os.getpid())
        assert process.pid in listed
        monkeypatch.setattr(keeper, "open", _without_lists, raising=False)
        assert sorted(keeper.children_of(os.getpid())) == sorted(listed)
        process.kill()


def _without_lists(path: str, **options: Any) -> Any:
    if path.endswith("/children"):
        raise FileNotFoundError(path)
    opener: Any = open
    return opener(path, **options)


def test_the_next_worker_repeats_the_step_after_the_program_of_the_first_attempt_has_ended(
    tmp_path: Path, folder: Path
) -> None:
    with killed_worker([SCRIPT, tmp_path / "a.db", folder, "a daemon", "waits"], environment()):
        until((folder / "waits").exists)
        (folder / "waits").unlink()
    (first,) = programs(folder)
    (folder / "a daemon").unlink()
    with killed_worker([SCRIPT, tmp_path / "a.db", folder, "a daemon", "waits"], environment()):
        until((folder / "a daemon").exists)
        assert not is_alive(first)
