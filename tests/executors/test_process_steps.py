"""Isolated steps: what crosses to a child process and back, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.programs import isolated
from tests.support.programs.isolated import Order
from tests.support.waiting import until

from stepwell import (
    AsyncEngine,
    DefinitionError,
    Engine,
    InvalidArgument,
    PermanentError,
    ResultNotSerializable,
    Retry,
    Run,
    RunCancelled,
    RunFailed,
    SerializationError,
    StepProcessDied,
    StepTimeout,
    step,
    transaction,
    workflow,
)
from stepwell.executors import process_pool
from stepwell.executors.child_process import ChildProcess
from stepwell.testing import TestEngine
from stepwell.values.failure import TRACEBACK_HEADER

SCRIPT = Path(isolated.__file__)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give children that are told to end as much time for it as a busy machine may need."""
    monkeypatch.setattr(process_pool, "KILL_GRACE_SECONDS", 60.0)


@contextmanager
def killed_worker(arguments: list[Any], given: dict[str, str]) -> Generator[None]:
    """Run a script in another process, which is killed at the end of the block."""
    worker = subprocess.Popen([sys.executable, *arguments], env=given)
    try:
        yield
    finally:
        worker.kill()
        worker.wait()


def told(path: Path) -> int:
    """Wait until a step has written its process's id to a file, and return it."""
    until(path.exists)
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    """Tell whether a process exists; zombies of others do not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def calling(definition: Any, *args: Any, **options: Any) -> Any:
    """Return a workflow that calls one step."""
    called = definition.options(**options) if options else definition

    @workflow
    def calls() -> Any:
        return called(*args)

    @workflow
    async def awaits() -> Any:
        return await called(*args)

    return awaits if definition.is_async else calls


def result(engine: Engine, definition: Any, *args: Any, **options: Any) -> Any:
    return engine.start(calling(definition, *args, **options)).result(60)


def start(engine: Engine, definition: Any, *args: Any, **options: Any) -> Run[Any]:
    run: Run[Any] = engine.start(calling(definition, *args, **options))
    return run


# --- what crosses -----------------------------------------------------------------------------------------------------


def test_isolated_steps_of_both_kinds_execute_in_another_process(engine: TestEngine) -> None:
    for definition in (isolated.pid, isolated.pid_async):
        found = result(engine, definition)
        assert found != os.getpid()
        assert is_alive(found)


def test_outside_of_a_run_an_isolated_step_is_the_plain_function() -> None:
    assert isolated.pid() == os.getpid()
    assert asyncio.run(isolated.pid_async()) == os.getpid()


def test_arguments_and_results_arrive_as_they_are_annotated(engine: TestEngine) -> None:
    seen = []

    @workflow
    def adds() -> Order:
        mine = Order("a", [1])
        theirs = isolated.add_line(mine, 2, twice=True)
        seen.append((mine, theirs))
        return theirs

    assert engine.start(adds).result(60) == Order("a", [1, 2, 2])
    assert seen == [(Order("a", [1]), Order("a", [1, 2, 2]))]


@pytest.mark.parametrize("size", [10, 300_000, 3_000_000])
def test_values_of_any_size_cross_both_ways(engine: TestEngine, size: int) -> None:
    text = "x" * size + "é"
    run = start(engine, isolated.anything, [text])
    assert run.result(60) == [text]
    assert run.journal()[0].value == [text]


def test_a_step_knows_which_it_is_also_in_another_process(engine: TestEngine) -> None:
    run = engine.start(calling(isolated.who_am_i), id="run")
    name = isolated.who_am_i.name
    assert run.result(60) == {"run": "run", "step": name, "attempt": 2, "operation": 1, "cancelled": False}


def test_an_exception_comes_back_with_its_class_its_attributes_and_where_it_was_raised(engine: TestEngine) -> None:
    run = start(engine, isolated.decline, 7)
    engine.idle()
    with pytest.raises(isolated.Declined, match=r"no funds \(7\)") as caught:
        run.result(60)
    assert (caught.value.reason, caught.value.code) == ("no funds", 7)
    assert isinstance(caught.value.__cause__, KeyError)
    traceback = next(note for note in caught.value.__notes__ if note.startswith(TRACEBACK_HEADER))
    assert 'raise Declined("no funds", code=code) from error' in traceback
    assert "child.py" not in traceback
    assert [entry.kind for entry in run.journal()] == ["attempt_failed"] * 4 + ["step_failed"]


def test_a_permanent_error_in_another_process_is_not_retried(engine: TestEngine) -> None:
    run = start(engine, isolated.decline, 0)
    with pytest.raises(PermanentError):
        run.result(60)
    assert [entry.kind for entry in run.journal()] == ["step_failed"]


def test_a_result_that_is_no_json_halts_the_run_as_for_every_step(engine: TestEngine) -> None:
    run = start(engine, isolated.not_plain)
    with pytest.raises(ResultNotSerializable, match=r"not_plain.*object"):
        run.result(60)
    assert run.status == "halted"


def test_arguments_that_are_no_json_fail_the_attempt_and_say_so(engine: TestEngine) -> None:
    with pytest.raises(SerializationError, match=r"the arguments of step .*anything.* is NaN"):
        result(engine, isolated.anything, [float("nan")])
    assert result(engine, isolated.anything, 1) == 1


def test_what_a_step_prints_passes_through(tmp_path: Path) -> None:
    program = tmp_path / "prints.py"
    program.write_text(
        "import sys\n"
        "from stepwell import Engine, step, workflow\n"
        "@step(isolate='process')\n"
        "def says() -> None:\n"
        "    print('to stdout')\n"
        "    print('to stderr', file=sys.stderr)\n"
        "@workflow\n"
        "def run() -> None:\n"
        "    says()\n"
        "if __name__ == '__main__':\n"
        "    with Engine(sys.argv[1]) as engine:\n"
        "        engine.start(run).result(60)\n"
    )
    done = subprocess.run(
        [sys.executable, program, tmp_path / "test.db"], capture_output=True, text=True, check=True, env=environment()
    )
    assert (done.stdout, done.stderr) == ("to stdout\n", "to stderr\n")


def test_a_child_holds_no_descriptor_of_the_database(engine: TestEngine, database: Path) -> None:
    files = [path.stat() for path in database.parent.iterdir() if path.is_file()]
    assert len(files) >= 3
    found = result(engine, isolated.inherited)
    assert len(found) >= 3
    assert not {(facts.st_dev, facts.st_ino) for facts in files} & {(device, inode) for device, inode in found}


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_a_child_is_used_again(engine: TestEngine) -> None:
    assert len({result(engine, isolated.pid) for _ in range(3)} | {result(engine, isolated.pid_async)}) == 1


def test_as_many_steps_execute_at_once_as_there_may_be_processes(database: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with TestEngine(database, step_processes=2) as engine:
        runs = [start(engine, isolated.wait_for, str(go), str(tmp_path / f"told{n}")) for n in range(3)]
        first = {told(tmp_path / f"told{n}") for n in range(2)}
        assert len(first) == 2
        assert not (tmp_path / "told2").exists()
        assert len(engine._session.engine_thread.steps.under_way()) == 3
        go.touch()
        assert {run.result(60) for run in runs} == first


def test_processes_are_a_whole_number_of_at_least_one(database: Path) -> None:
    with pytest.raises(InvalidArgument, match="step_processes"):
        Engine(database, step_processes=0)


def test_an_engine_without_isolated_steps_starts_no_process(engine: TestEngine) -> None:
    @step
    def plain() -> int:
        return os.getpid()

    assert result(engine, plain) == os.getpid()
    assert children(engine) == []


def children(engine: TestEngine) -> list[int]:
    return engine._session.engine_thread.steps.pids()


def test_the_async_engine_executes_isolated_steps_too(database: Path) -> None:
    async def main() -> int:
        async with AsyncEngine(database) as engine:
            found: int = await (await engine.start(calling(isolated.pid_async))).result(60)
            assert is_alive(found)
            return found

    assert not is_alive(asyncio.run(main()))


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_child_that_is_killed_fails_the_attempt_and_the_next_one_gets_a_new_process(engine: TestEngine) -> None:
    before = result(engine, isolated.pid)
    run = start(engine, isolated.kill_myself_once)
    engine.idle()
    after = run.result(60)
    assert before != after
    assert not is_alive(before)
    assert result(engine, isolated.pid) == after
    failed, ended = run.journal()
    assert (failed.kind, ended.kind) == ("attempt_failed", "step")
    assert "StepProcessDied" in str(failed.error)
    assert "SIGKILL" in str(failed.error)


@pytest.mark.parametrize("definition", [isolated.kill_at_first_call, isolated.kill_at_first_call_async])
@pytest.mark.parametrize("options", [{}, {"delivery": "at-most-once"}, {"timeout": 60}])
def test_a_step_whose_process_was_killed_is_not_called_again_unless_its_policy_says_so(
    engine: TestEngine, tmp_path: Path, definition: Any, options: dict[str, Any]
) -> None:
    run = start(engine, definition, str(tmp_path / "calls"), **options)
    with pytest.raises(StepProcessDied, match=r"attempt 1 was killed by SIGKILL"):
        run.result(60)
    assert (tmp_path / "calls").read_text() == "1"
    assert [entry.kind for entry in run.journal() if entry.kind != "step_started"] == ["step_failed"]
    again = start(
        engine, definition, str(tmp_path / "again"), retry=Retry(attempts=2, delay=0, on=StepProcessDied), **options
    )
    assert again.result(60) == "done"
    assert (tmp_path / "again").read_text() == "1 2"


@pytest.mark.parametrize(
    ("definition", "args", "exit_code", "says"),
    [
        (isolated.exit_with, (3,), 3, "exit code 3"),
        (isolated.exit_with, (0,), 0, "exit code 0"),
        (isolated.crash_in_native_code, (), -signal.SIGSEGV, "killed by SIGSEGV, a crash in native code"),
        (isolated.told_from_outside, (), 128 + signal.SIGTERM, "SIGTERM"),
    ],
)
def test_a_crash_is_the_error_of_its_attempt(
    engine: TestEngine, definition: Any, args: tuple[Any, ...], exit_code: int, says: str
) -> None:
    with pytest.raises(StepProcessDied, match=says) as caught:
        result(engine, definition, *args)
    assert caught.value.exit_code == exit_code
    assert definition.name in str(caught.value)
    assert "attempt 1" in str(caught.value)


def test_a_crash_in_native_code_says_in_which_line(engine: TestEngine) -> None:
    with pytest.raises(StepProcessDied) as caught:
        result(engine, isolated.crash_in_native_code)
    assert any("Segmentation fault" in note and "crash_in_native_code" in note for note in caught.value.__notes__)


def test_a_crash_leaves_other_steps_alone(engine: TestEngine, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = start(engine, isolated.wait_for, str(go), str(tmp_path / "told"))
    process = told(tmp_path / "told")
    with pytest.raises(StepProcessDied):
        result(engine, isolated.crash_in_native_code)
    go.touch()
    assert run.result(60) == process


def test_an_idle_child_that_is_killed_is_replaced(engine: TestEngine) -> None:
    first = result(engine, isolated.pid)
    os.kill(first, signal.SIGKILL)
    until(lambda: not children(engine))
    second = result(engine, isolated.pid)
    assert first != second


def test_a_process_that_cannot_be_started_fails_the_attempt(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StepProcessDied, match=r"could not be started.*nowhere"):
        result(engine, isolated.pid)
    monkeypatch.undo()
    assert is_alive(result(engine, isolated.pid))


def test_a_process_that_has_failed_to_start_before_it_was_given_the_step_fails_the_attempt(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_process = ChildProcess.start

    def start_and_wait(child: ChildProcess, ended: Callable[[], None]) -> None:
        # The pipe is closed by then, and refuses what the child is sent.
        start_process(child, ended)
        assert child.wait(60)

    monkeypatch.setattr(ChildProcess, "start", start_and_wait)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StepProcessDied, match=r"could not be started.*nowhere"):
        result(engine, isolated.pid)


def test_a_child_that_says_what_is_no_answer_is_ended(engine: TestEngine) -> None:
    with pytest.raises(StepProcessDied, match="wrote to the descriptor that belongs to Stepwell"):
        result(engine, isolated.write_into_the_pipe)


def test_a_program_that_ignores_the_ends_of_children_hears_of_them_all_the_same(engine: TestEngine) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(StepProcessDied, match="took its exit code") as caught:
            result(engine, isolated.exit_with, 3)
        assert caught.value.exit_code is None
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_when_memory_runs_out_the_kernel_shall_choose_a_child_before_the_worker(engine: TestEngine) -> None:
    found = result(engine, isolated.oom_score)
    own = isolated.oom_score()
    assert found is None or (own is not None and found > own)


# --- time is up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "definition", [isolated.spin, isolated.spin_in_native_code, isolated.ignore_being_told, isolated.clean_up_async]
)
def test_a_timeout_ends_the_process_whatever_it_does(engine: TestEngine, tmp_path: Path, definition: Any) -> None:
    run = start(engine, definition, str(tmp_path / "told"), timeout=1.0)
    process = told(tmp_path / "told")
    with pytest.raises(StepTimeout, match="attempt 1 took longer than"):
        run.result(60)
    assert not is_alive(process)  # the attempt has not ended before its process


def test_a_retry_after_a_timeout_does_not_overlap_with_what_timed_out(engine: TestEngine, tmp_path: Path) -> None:
    run = start(engine, isolated.spin, str(tmp_path / "told"), timeout=1.0, retry=Retry(attempts=2, delay=0))
    first = told(tmp_path / "told")
    (tmp_path / "told").unlink()
    second = told(tmp_path / "told")
    assert first != second
    assert not is_alive(first)
    with pytest.raises(StepTimeout, match="attempt 2"):
        run.result(60)


def test_starting_the_process_does_not_count_as_time_of_the_step(engine: TestEngine) -> None:
    # An interpreter and its imports take longer than that.
    assert result(engine, isolated.anything, 1, timeout=0.05) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("definition", [isolated.clean_up, isolated.clean_up_async])
def test_a_step_that_is_ended_can_clean_up_and_knows_that_it_is_cancelled(
    engine: TestEngine, tmp_path: Path, definition: Any
) -> None:
    run = start(engine, definition, str(tmp_path / "told"))
    process = told(tmp_path / "told")
    run.cancel()
    until(lambda: not is_alive(process))
    assert (tmp_path / "told.clean").read_text() == "True"


@pytest.mark.usefixtures("patient")
def test_a_signal_that_the_worker_blocks_reaches_its_children(database: Path, tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        engine = TestEngine(database)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with engine:
        run = start(engine, isolated.clean_up, str(tmp_path / "told"))
        process = told(tmp_path / "told")
        run.cancel()
        until(lambda: not is_alive(process))
    assert (tmp_path / "told.clean").exists()


@pytest.mark.usefixtures("patient")
def test_a_result_that_comes_although_time_is_up_is_kept(engine: TestEngine, tmp_path: Path) -> None:
    run = start(engine, isolated.answer_all_the_same, str(tmp_path / "told"), timeout=1.0)
    assert run.result(60) == "done after all"
    engine.idle()
    assert not is_alive(told(tmp_path / "told"))


def test_what_a_step_started_ends_with_it(engine: TestEngine, tmp_path: Path) -> None:
    run = start(engine, isolated.with_a_grandchild, str(tmp_path / "told"))
    grandchild = told(tmp_path / "told")
    run.cancel()
    until(lambda: not is_alive(grandchild))


# --- nobody waits any more --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", [isolated.spin, isolated.spin_in_native_code, isolated.ignore_being_told])
def test_cancelling_a_run_ends_its_step(engine: TestEngine, tmp_path: Path, definition: Any) -> None:
    run = start(engine, definition, str(tmp_path / "told"))
    process = told(tmp_path / "told")
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    until(lambda: not is_alive(process))
    engine.idle()
    assert is_alive(result(engine, isolated.pid))


def test_cancelling_a_run_takes_its_step_out_of_the_queue(database: Path, tmp_path: Path) -> None:
    with TestEngine(database, step_processes=1) as engine:
        go = tmp_path / "go"
        first = start(engine, isolated.wait_for, str(go), str(tmp_path / "first"))
        told(tmp_path / "first")
        second = start(engine, isolated.wait_for, str(go), str(tmp_path / "second"))
        second.cancel()
        with pytest.raises(RunCancelled):
            second.result(60)
        go.touch()
        assert first.result(60)
        engine.idle()
        assert not (tmp_path / "second").exists()


def test_a_step_that_is_cancelled_before_its_process_has_started_never_begins(
    engine: TestEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, go = ChildProcess._spawn, threading.Event()
    starting: list[ChildProcess] = []

    def spawn_later(child: ChildProcess) -> subprocess.Popen[bytes]:
        starting.append(child)
        assert go.wait(60)
        return spawn(child)

    monkeypatch.setattr(ChildProcess, "_spawn", spawn_later)
    run = start(engine, isolated.spin, str(tmp_path / "told"))
    until(lambda: bool(starting))
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(60)
    until(lambda: starting[0].stopping)
    go.set()
    engine.idle()
    assert children(engine) == []
    assert not (tmp_path / "told").exists()


def test_closing_the_engine_ends_idle_children(engine: TestEngine) -> None:
    process = result(engine, isolated.pid)
    engine.close()
    assert not is_alive(process)


@pytest.mark.parametrize("definition", [isolated.spin, isolated.spin_in_native_code, isolated.ignore_being_told])
def test_closing_the_engine_ends_busy_children_and_the_next_one_repeats_the_step(
    engine: TestEngine, tmp_path: Path, definition: Any
) -> None:
    run = start(engine, definition, str(tmp_path / "told"))
    process = told(tmp_path / "told")
    engine.close(timeout=0)
    assert not is_alive(process)
    (tmp_path / "told").unlink()
    engine.reopen()
    assert told(tmp_path / "told") != process
    assert engine.get(run.id).status == "running"
    engine.close(timeout=0)


def test_when_the_engine_of_a_test_crashes_its_children_die(engine: TestEngine, tmp_path: Path) -> None:
    start(engine, isolated.ignore_being_told, str(tmp_path / "told"))
    process = told(tmp_path / "told")
    engine.crash()
    assert not is_alive(process)


@pytest.mark.parametrize("name", ["spin", "wait_holding_the_lock", "ignore_being_told"])
def test_a_child_does_not_outlive_its_killed_worker(tmp_path: Path, name: str) -> None:
    arguments = [SCRIPT, tmp_path / "test.db", name, json.dumps([str(tmp_path / "told")])]
    with killed_worker(arguments, environment()):
        process = told(tmp_path / "told")
    until(lambda: not is_alive(process))


def test_the_pipe_alone_ends_a_child_whose_worker_was_killed(tmp_path: Path) -> None:
    # As where the kernel offers no death signal: the module that would ask for it cannot be imported.
    (tmp_path / "ctypes.py").write_text("raise ImportError")
    (tmp_path / "spins.py").write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from stepwell import Engine, step, workflow\n"
        "@step(isolate='process')\n"
        "def spins(path: str) -> None:\n"
        "    Path(path + '.new').write_text(str(os.getpid()))\n"
        "    os.rename(path + '.new', path)\n"
        "    while True: pass\n"
        "@workflow\n"
        "def run(path: str) -> None:\n"
        "    spins(path)\n"
        "if __name__ == '__main__':\n"
        "    with Engine(sys.argv[1]) as engine:\n"
        "        engine.start(run, sys.argv[2]).result(60)\n"
    )
    with killed_worker([tmp_path / "spins.py", tmp_path / "test.db", tmp_path / "told"], environment(tmp_path)):
        process = told(tmp_path / "told")
    until(lambda: not is_alive(process))


# --- where the step is found ------------------------------------------------------------------------------------------


def environment(*folders: Path) -> dict[str, str]:
    """Return an environment in which other processes find the package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *filter(None, sys.path)])}


def test_steps_in_classes_and_under_other_names_are_found(engine: TestEngine) -> None:
    assert result(engine, isolated.Shop.in_a_class, 1) == 2
    assert result(engine, isolated.under_another_name, 4) == 8


def run_script(path: Path, *args: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, path, *args], capture_output=True, text=True, check=False, env=environment(), timeout=50
    )


def test_steps_and_exceptions_of_the_main_script_are_found_without_running_it_again(tmp_path: Path) -> None:
    done = run_script(SCRIPT, tmp_path / "a.db", "decline", "[5]")
    assert json.loads(done.stdout) == ["__main__", "no funds", 5]
    assert done.stderr.count("failed with Declined") == 5  # the attempts, in the log, and nothing of another process


def test_the_main_module_of_python_m_is_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.isolated", tmp_path / "a.db", "decline", "[5]"],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert json.loads(done.stdout) == ["__main__", "no funds", 5]


def test_a_script_without_a_main_guard_is_told_to_have_one(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys\n"
        "from stepwell import Engine, step, workflow\n"
        "@step(isolate='process')\n"
        "def works() -> int:\n"
        "    return 1\n"
        "@workflow\n"
        "def run() -> int:\n"
        "    return works()\n"
        "with Engine(sys.argv[1]) as engine:\n"
        "    engine.start(run).result(60)\n"
    )
    done = run_script(script, tmp_path / "a.db")
    assert "DefinitionError" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


def test_a_step_of_an_interactive_session_says_that_it_needs_a_module(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from stepwell import Engine, step, workflow\n"
        "@step(isolate='process')\n"
        "def works() -> int:\n"
        "    return 1\n"
        "@workflow\n"
        "def run() -> int:\n"
        "    return works()\n"
        "with Engine(sys.argv[1]) as engine:\n"
        "    engine.start(run).result(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.db"], capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    assert "DefinitionError" in done.stderr
    assert "interactive session" in done.stderr


def test_a_module_that_a_child_cannot_import_is_named(engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated.pid.function, "__module__", "nowhere.to_be_found")
    with pytest.raises(DefinitionError, match=r"cannot import 'nowhere\.to_be_found': ModuleNotFoundError"):
        result(engine, isolated.pid)


def test_a_step_whose_name_a_child_does_not_find_is_named(engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated.pid, "name", "renamed")
    with pytest.raises(DefinitionError, match=r"finds no step of that name as tests\.support\.programs\.isolated\.pid"):
        result(engine, isolated.pid)


def test_what_a_child_could_not_find_is_refused_when_it_is_declared() -> None:
    with pytest.raises(DefinitionError, match=r"<locals>.*top level of a module"):

        @step(isolate="process")
        def local() -> None: ...

    with pytest.raises(DefinitionError, match="<lambda>"):
        step(isolate="process", name="lambda")(lambda: None)

    class Callee:
        def __call__(self) -> None: ...

    with pytest.raises(DefinitionError, match="Callee"):
        step(isolate="process", name="object")(Callee())


def test_a_method_cannot_be_isolated_because_its_instance_is_not_recorded() -> None:
    with pytest.raises(DefinitionError, match="instance"):
        _ = isolated.Shop().method


def test_a_transaction_cannot_be_isolated() -> None:
    @transaction
    def book(connection: Any) -> None: ...

    with pytest.raises(DefinitionError, match="transaction"):
        book.options(isolate="process")


def test_isolation_is_by_process_or_not_at_all() -> None:
    with pytest.raises(InvalidArgument, match="'process' or None"):
        step(isolate="thread")  # type: ignore[call-overload]


def test_an_option_isolates_one_call(engine: TestEngine) -> None:
    assert result(engine, isolated.not_isolated) == os.getpid()
    assert result(engine, isolated.not_isolated, isolate="process") != os.getpid()


def test_a_failure_whose_class_only_the_child_has_keeps_its_name(engine: TestEngine) -> None:
    with pytest.raises(RunFailed, match="Invalid file") as caught:
        result(engine, isolated.raise_what_only_the_child_has)
    assert caught.value.type_name == "plistlib.InvalidFileException"
