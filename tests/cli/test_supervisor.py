"""`stepwell worker --processes N`: each process serves, the dead are replaced, all are told to stop, none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.support.commands import DEADLINE_SECONDS, Command, Desk
from tests.support.programs.flows import file_appears, going_round, hanging, hears

from stepwell import Engine
from stepwell.cli.supervisor import LONG_LIFE_SECONDS, LONGEST_DELAY_SECONDS, Backoff

SERVES = r"\(process (\d+)\) serves"


def supervised(desk: Desk, *options: object, processes: int = 2, group: bool = False) -> tuple[Command, list[int]]:
    """Start a supervisor; return it and the pids of its workers once all serve."""
    command = desk.begin("worker", "flows", "--db", "orders.db", "--processes", processes, *options, group=group)
    return command, [int(command.expect(SERVES).group(1)) for _ in range(processes)]


def test_a_worker_that_dies_young_is_replaced_after_delays_that_double_up_to_a_limit() -> None:
    backoff = Backoff()
    delays = [backoff.delay_after(0.1) for _ in range(10)]
    assert delays[:4] == [0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == delays[-2] == LONGEST_DELAY_SECONDS
    assert backoff.delay_after(LONG_LIFE_SECONDS) == 0
    assert backoff.delay_after(0.1) == 0.25


def test_each_process_is_a_worker_of_the_file_and_the_supervisor_is_none(desk: Desk) -> None:
    command, pids = supervised(desk, processes=3)
    assert len({*pids, command.process.pid}) == 4
    assert sorted(worker["pid"] for worker in desk.read("workers")) == sorted(pids)
    command.signal(signal.SIGTERM)
    assert command.end() == 0
    assert "all workers have ended" in command.output
    assert desk.read("workers") == []


def test_runs_of_a_killed_worker_go_on_in_another_and_it_is_replaced(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    command, pids = supervised(desk)
    first = int(command.expect(r"waiting for signal in (\d+)").group(1))
    assert first in pids
    os.kill(first, signal.SIGKILL)
    command.expect(rf"worker process {first} was killed by SIGKILL after .* s; another one starts in 0.25 s")
    second = int(command.expect(r"waiting for signal in (\d+)").group(1))
    assert second != first
    assert int(command.expect(SERVES).group(1)) not in pids
    (desk.folder / "signal").touch()
    command.signal(signal.SIGTERM)
    assert command.end() == 0
    assert desk.read("show", "a")["status"] == "completed"


def test_one_worker_that_is_told_to_stop_drains_and_is_replaced(desk: Desk) -> None:
    command, pids = supervised(desk)
    os.kill(pids[0], signal.SIGTERM)
    command.expect(rf"worker process {pids[0]} ended with exit code 0 after .*; another one starts")
    assert int(command.expect(SERVES).group(1)) not in pids
    command.signal(signal.SIGTERM)
    assert command.end() == 0


def test_all_workers_drain_at_the_first_signal(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    command, _ = supervised(desk)
    command.expect("waiting for signal")
    command.signal(signal.SIGTERM)
    command.expect("all workers drain")
    command.expect("drains .the supervisor said so.")
    command.expect("drains .the supervisor said so.")
    (desk.folder / "signal").touch()
    assert command.end() == 0
    assert desk.read("show", "a")["result"] == "signal"


def test_workers_drain_although_a_run_goes_round_for_ever(desk: Desk) -> None:
    desk.start_runs(("a", going_round))
    command, _ = supervised(desk)
    command.expect("going round")
    command.signal(signal.SIGTERM)
    assert command.end() == 0
    assert desk.read("show", "a")["status"] == "waiting"  # for the next worker


def test_a_signal_to_the_whole_process_group_counts_once(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    command, _ = supervised(desk, group=True)
    command.expect("waiting for signal")
    os.killpg(command.process.pid, signal.SIGINT)
    command.expect("all workers drain")
    command.expect(r"worker \d+ drains")
    (desk.folder / "signal").touch()
    assert command.end() == 0, command.output
    assert "at once" not in command.output.replace("a second signal ends them at once", "")


def test_a_second_signal_ends_all_workers_at_once(desk: Desk) -> None:
    desk.start_runs(("a", hanging))
    command, _ = supervised(desk)
    command.expect("hanging")
    command.signal(signal.SIGTERM)
    command.expect("all workers drain")
    command.signal(signal.SIGINT)
    assert command.end() == 128 + signal.SIGINT
    assert "all workers end at once" in command.output


def test_a_third_signal_kills_workers_that_do_not_even_hear(desk: Desk) -> None:
    command, pids = supervised(desk)
    os.kill(pids[1], signal.SIGSTOP)
    for line in ("all workers drain", "all workers end at once", f"worker process {pids[1]} did not end in time"):
        command.signal(signal.SIGTERM)
        command.expect(line)
    assert command.end() == 128 + signal.SIGTERM


def test_workers_drain_when_their_supervisor_is_killed(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    command, _ = supervised(desk)
    command.expect("waiting for signal")
    command.signal(signal.SIGKILL)
    command.expect("drains .the supervisor is gone.")
    command.expect("drains .the supervisor is gone.")
    (desk.folder / "signal").touch()
    assert command.end() == -signal.SIGKILL  # its output has ended: no worker is left
    assert desk.read("show", "a")["status"] == "completed"


@pytest.mark.parametrize(
    ("module", "source", "code", "expected"),
    [
        ("broken", "raise ValueError('no luck')", 2, "importing 'broken' failed: ValueError: no luck"),
        ("lethal", "import os\nos.kill(os.getpid(), 9)", 137, "was killed by SIGKILL after"),
        ("ending", "import os\nos._exit(0)", 1, "ended with exit code 0 after"),
    ],
)
def test_a_first_worker_that_does_not_get_ready_ends_the_command_and_says_so_once(
    desk: Desk, module: str, source: str, code: int, expected: str
) -> None:
    (desk.folder / f"{module}.py").write_text(source)
    done = desk.run("worker", module, "--processes", "4")
    assert done.returncode == code
    assert done.stderr.count(expected) == 1
    assert "before it was ready" in done.stderr


def test_a_worker_that_drains_leaves_its_waiting_runs_to_others_at_once(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"), ("b", hears))
    draining = desk.worker()
    draining.expect("waiting for signal")
    draining.expect("listening")
    other = desk.worker()
    draining.signal(signal.SIGTERM)
    draining.expect("drains")
    with Engine(desk.database, workflows=[]) as engine:
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        while {worker.pid: worker.runs for worker in engine.workers()}[draining.process.pid] != 1:
            assert time.monotonic() < give_up_at, "the run that waits was not let go of"
        engine.send("b", "word", "now")
        assert engine.get("b").result(DEADLINE_SECONDS) == "now"
    other.expect(f"heard now in {other.process.pid}")
    (desk.folder / "signal").touch()
    assert draining.end() == 0
    assert "heard" not in draining.output


def test_a_stalled_worker_is_shown_and_loses_its_runs_only_to_a_command(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    stalled = desk.worker()
    stalled.expect("waiting for signal")
    other = desk.worker()
    stalled.signal(signal.SIGSTOP)
    (epoch,) = [worker["epoch"] for worker in desk.read("workers") if worker["state"] == "stalled"]
    assert desk.run("takeover", epoch, answer="n\n").returncode == 1
    refused = desk.run("takeover", epoch + 1000, "--yes")
    assert (refused.returncode, "has no worker" in refused.stderr) == (2, True)
    taken = desk.run("takeover", epoch, answer="y\n")
    assert "is stalled and has 1 run." in taken.stderr
    assert (taken.returncode, taken.stdout) == (0, f"worker {epoch} is fenced; 1 run of it can go on elsewhere\n")
    other.expect("waiting for signal")
    (desk.folder / "signal").touch()
    stalled.signal(signal.SIGCONT)
    for worker in (stalled, other):
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert desk.read("show", "a")["status"] == "completed"


def test_nobody_is_taken_over_where_nobody_can_be_asked(desk: Desk) -> None:
    desk.worker()
    ((epoch, state),) = [(worker["epoch"], worker["state"]) for worker in desk.read("workers")]
    assert state == "active"
    done = desk.run("takeover", epoch)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was done" in done.stderr
    shown = desk.run("workers").stdout.splitlines()
    assert shown[0].split() == ["EPOCH", "PID", "HOST", "STATE", "RUNS", "SINCE"]
    assert shown[1].split()[0] == str(epoch)


def test_the_supervisor_does_without_the_engine() -> None:
    program = "import sys, stepwell.cli.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"apsw", "asyncio", "msgspec", "stepwell.api.engine"} & set(done.stdout.split())
