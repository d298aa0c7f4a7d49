"""Signals that others send to the processes of isolated steps: Ctrl-C, closed terminals, services that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.executors.test_process_steps import start, told
from tests.support.programs import isolated
from tests.support.waiting import until

from stepwell import RunFailed, StepInterrupted, StepProcessDied
from stepwell.executors import process_pool
from stepwell.executors.child_process import ChildProcess
from stepwell.executors.process_pool import ProcessPool
from stepwell.testing import TestEngine

FOR_THE_WORKER = [signal.SIGINT, signal.SIGHUP]


def lanes(engine: TestEngine) -> ProcessPool:
    found = engine._session.engine_thread.steps._processes
    assert found is not None
    return found


def keeper(engine: TestEngine) -> int:
    """Return the process id of the one keeper."""
    (child,) = lanes(engine)._children
    assert child.pid is not None
    return child.pid


def failures(engine: TestEngine, run_id: str) -> list[str]:
    return [entry.kind for entry in engine.get(run_id).journal() if entry.kind != "step_started"]


@pytest.mark.parametrize("number", FOR_THE_WORKER)
def test_what_ends_the_worker_does_not_end_a_step_that_it_may_wait_for(
    engine: TestEngine, tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    go = tmp_path / "go"
    run = start(engine, isolated.wait_for, str(go), str(tmp_path / "told"))
    process = told(tmp_path / "told")
    for pid in (process, keeper(engine)):
        os.kill(pid, number)
        os.killpg(pid, number)
    go.touch()
    assert run.result(60) == process
    for pid in (process, keeper(engine)):  # now idle
        os.kill(pid, number)
    assert start(engine, isolated.pid).result(60) == process
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [*FOR_THE_WORKER, signal.SIGTERM])
def test_a_signal_in_the_first_moments_of_a_process_does_not_end_it(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    spawn = ChildProcess._spawn

    def spawn_and_signal(child: ChildProcess) -> subprocess.Popen[bytes]:
        process = spawn(child)
        process.send_signal(number)
        return process

    monkeypatch.setattr(ChildProcess, "_spawn", spawn_and_signal)
    assert start(engine, isolated.anything, 1).result(60) == 1
    assert capfd.readouterr().err == ""


def test_programs_that_a_step_starts_have_the_usual_signals(engine: TestEngine) -> None:
    here = [str(signal.getsignal(number)) for number in FOR_THE_WORKER]  # what pytest was started with
    found = start(engine, isolated.handlers_of_a_program).result(60)
    assert [text.partition(" at ")[0] for text in found] == [text.partition(" at ")[0] for text in here]


# --- SIGTERM to all processes of a program, as service managers send it -----------------------------------------------


@pytest.mark.parametrize("definition", [isolated.spin, isolated.clean_up_async, isolated.fail_when_told])
@pytest.mark.parametrize("first", ["the worker", "the child"])
def test_a_step_whose_process_is_ended_together_with_its_worker_has_not_failed(
    engine: TestEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, definition: Any, first: str
) -> None:
    monkeypatch.setattr(process_pool, "_DOUBT_SECONDS", 60.0 if first == "the child" else 0.01)
    run = start(engine, definition, str(tmp_path / "told"))
    process = told(tmp_path / "told")
    if first == "the child":
        os.kill(process, signal.SIGTERM)
        until(lambda: bool(lanes(engine)._doubtful))
        engine.close(timeout=0)
    else:
        closing = threading.Thread(target=engine.close, args=(60,))
        closing.start()
        until(lambda: lanes(engine).draining)
        os.kill(process, signal.SIGTERM)
        closing.join(30)  # not as long as it may take: the step is not under way any more
        assert not closing.is_alive()
    (tmp_path / "told").unlink()
    engine.reopen()
    assert told(tmp_path / "told") != process
    assert failures(engine, run.id) == []
    engine.close(timeout=0)


def test_a_step_of_at_most_once_that_is_ended_together_with_its_worker_is_interrupted(
    engine: TestEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "_DOUBT_SECONDS", 60.0)
    run = start(engine, isolated.spin, str(tmp_path / "told"), delivery="at-most-once")
    os.kill(told(tmp_path / "told"), signal.SIGTERM)
    until(lambda: bool(lanes(engine)._doubtful))
    engine.close(timeout=0)
    engine.reopen()
    with pytest.raises(StepInterrupted):
        run.result(60)


@pytest.mark.parametrize("definition", [isolated.spin, isolated.fail_when_told])
def test_a_step_whose_process_alone_is_told_to_end_has_failed(
    engine: TestEngine, tmp_path: Path, definition: Any
) -> None:
    run = start(engine, definition, str(tmp_path / "told"))
    os.kill(told(tmp_path / "told"), signal.SIGTERM)
    with pytest.raises((StepProcessDied, OSError, RunFailed)):
        run.result(60)
    assert failures(engine, run.id) == ["step_failed"]
