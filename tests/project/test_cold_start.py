"""What a first run does not use is not imported by it: each module is 0.2 to 1 ms of every start of a process."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell
from stepwell import Engine, Retry, workflow

_BENCH = Path(__file__).parents[2] / "bench" / "cold.py"

#: Executed around the small program: prints what is imported after it.
_PROGRAM = """\
import gc, runpy, sys
def look(phase, _info):
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    if phase == "start" and frame is not None and "stepwell.importing" in sys.modules:
        collected.append(len(sys.modules))
collected = []
gc.callbacks.append(look)
sys.argv = ["cold.py", {file!r}]
runpy.run_path({program!r}, run_name="__main__")
print("collected:", collected)
print("imported:", *sys.modules)
"""


@workflow(name="cold.look")
async def cold_look() -> int:
    return 1


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = _PROGRAM.format(file=str(tmp_path_factory.mktemp("cold") / "runs.db"), program=str(_BENCH))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def imported(said: str) -> set[str]:
    return set(said.partition("imported:")[2].split())


def test_the_collector_does_not_look_through_what_a_first_run_is_importing(said: str) -> None:
    collected = said.partition("collected: [")[2].partition("]")[0]
    # It looks once after a pause; without pauses dozens of times, for each 700 objects.
    assert len(collected.split(",")) <= 1, collected


@pytest.mark.parametrize(
    "module",
    [
        "difflib",  # for names that somebody misspelt
        "ctypes",  # for code that has to be ended, and what the kernel is asked directly
        "shlex",  # for messages about other processes
        "faulthandler",  # for steps in child processes
        "sqlite3",  # never: a second SQLite in one process
        "cronsim",  # for schedules
        "zoneinfo",
        "stepwell.model.calendar",
        "stepwell.api.backup",
        "stepwell.api.reading.bulk",
        "stepwell.api.asking.filters",
        "stepwell.api.reading.reasons",
        "stepwell.api.reading.why",
        "stepwell.cli",
        "stepwell.executors.child_main",
        "stepwell.executors.process_pool",
        "stepwell.runtime.serving.archiving",
        "stepwell.runtime.serving.fork_requests",
        "stepwell.runtime.serving.purging",
        "stepwell.runtime.serving.queue_requests",
        "stepwell.runtime.serving.rewind_requests",
        "stepwell.runtime.serving.settle_requests",
        "stepwell.runtime.serving.stream_requests",
        "stepwell.runtime.serving.update_requests",
        "stepwell.sync",
        "stepwell.testing",
        "stepwell.values.promise_form",
    ],
)
def test_a_first_run_does_not_import(module: str, imported: set[str]) -> None:
    assert "stepwell.runtime.engine_thread" in imported  # it did run
    assert module not in imported


#: Executed in place of `stepwell list`: prints what is imported after it.
_LOOK = """\
import sys
from stepwell.cli import main
assert main(["list", "--db", {file!r}]) == 0
print("imported:", *sys.modules)
"""


def test_a_command_that_looks_imports_nothing_that_executes(tmp_path: Path) -> None:
    file = str(tmp_path / "runs.db")
    with Engine(file, workflows=[cold_look]) as engine:
        engine.start(cold_look, id="cold-1").result(60)
    done = subprocess.run([sys.executable, "-c", _LOOK.format(file=file)], capture_output=True, text=True, check=True)
    shown, _, imported = done.stdout.partition("imported:")
    assert "cold-1" in shown
    executing = {"stepwell.worker.worker", "stepwell.replay.loop", "stepwell.operations.table", "stepwell.api.engine"}
    assert {"asyncio", "socket", "rich", *executing} & set(imported.split()) == set()


def test_named_tuples_are_few_in_what_a_first_run_imports(imported: set[str]) -> None:
    source = Path(__file__).parents[2] / "src" / "stepwell"
    found = {
        f"{path.relative_to(source)}:{line.split('(')[0].removeprefix('class ')}"
        for path in source.rglob("*.py")
        if ".".join(("stepwell", *path.relative_to(source).with_suffix("").parts)) in imported
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("class ") and "(NamedTuple)" in line
    }
    # Each is compiled when it is defined, 0.3 ms; a frozen struct takes 0.02 ms. These are taken apart as tuples.
    assert found == {
        "model/acts.py:Actor",
        "replay/divergence.py:Given",
        "store/notifications.py:Notification",
        "store/sqlite/file/locking.py:Holder",
        "store/sqlite/file/locking.py:Identity",
        "store/sqlite/peers/datagrams.py:Letter",
        "store/sqlite/peers/membership.py:Seat",
    }


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_waits_while_a_name_is_imported_and_is_then_as_it_was(
    monkeypatch: pytest.MonkeyPatch, *, collects: bool
) -> None:
    seen: list[bool] = []

    def imports(name: str) -> object:
        seen.append(gc.isenabled())
        return sys.modules[name]

    monkeypatch.setattr(stepwell, "import_module", imports)
    was = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        assert stepwell.__getattr__("Retry") is Retry
        with pytest.raises(AttributeError):
            stepwell.__getattr__("Retries")
        assert gc.isenabled() is collects
    finally:
        (gc.enable if was else gc.disable)()
    assert seen == [False]
