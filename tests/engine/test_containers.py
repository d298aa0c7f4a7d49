"""Workers in containers that share a volume: each in namespaces of its own, as far as a test may make some here.

Where nobody may make namespaces the tests run with plain processes, and the rest is up to `test_nudges`, which plays
what containers do not see of each other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from tests.support.commands import COMMAND, DEADLINE_SECONDS, Command, Desk
from tests.support.programs.flows import file_appears, hears

from stepwell import Engine

#: The namespaces that a kind of container has for itself, as options of `unshare`.
KINDS: dict[str, list[str]] = {
    "network": ["--net"],
    "process ids": ["--pid", "--fork", "--mount-proc", "--kill-child"],
    "all": ["--net", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child"],
    "all, and users": [
        "--user",
        "--map-root-user",
        "--net",
        "--uts",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ],
}


@cache
def container(kind: str) -> list[str]:
    """Return what to put before a command so that it has these namespaces; nothing where that is not allowed here."""
    command = ["unshare", *KINDS[kind]]
    for prefix in (command, [*command[:1], "--user", "--map-root-user", *command[1:]]):
        try:
            allowed = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, check=False, timeout=60)
        except OSError:
            return []
        if allowed.returncode == 0:
            return prefix
    return []


def begin_worker(desk: Desk, kind: str, *options: object) -> Command:
    worker = desk.begin(
        "worker", "flows", "--db", "orders.db", *options, command=[*container(kind), *COMMAND], group=True
    )
    worker.expect("serves")
    return worker


def innermost(process: int) -> int:
    """Return the process that a worker is, as it is numbered here: `unshare` may stand between."""
    children = Path(f"/proc/{process}/task/{process}/children")
    try:
        found = children.read_text().split()
    except OSError:  # not Linux, so there is nothing between
        return process
    return innermost(int(found[0])) if found else process


def states_seen_from(desk: Desk, kind: str) -> dict[str, str]:
    """Return the states of the workers that take work, as a command in another container of this kind shows them."""
    shown = subprocess.run(
        [*container(kind), *COMMAND, "workers", "--db", "orders.db"],
        cwd=desk.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    ).stdout
    rows = [line.split() for line in shown.splitlines()[1:]]
    return {row[0]: row[3] for row in rows if "(client)" not in row}


@pytest.mark.parametrize("kind", KINDS)
def test_workers_in_containers_see_each_other_alive_and_wake_each_other(desk: Desk, kind: str) -> None:
    first, second = (begin_worker(desk, kind, "--take-over-stalled-after", 2) for _ in range(2))
    with Engine(desk.database, workflows=[]) as engine:
        runs = [engine.start(hears) for _ in range(4)]
        for _ in range(len(runs)):
            heard_by(first, second)
        assert {worker.state for worker in engine.workers()} == {"active"}
        assert set(states_seen_from(desk, kind).values()) == {"active"}
        for run in runs:
            run.send("word", "hello")
            assert run.result(DEADLINE_SECONDS) == "hello"
        # Long enough for a worker that were taken for stalled to be fenced.
        give_up_at = time.monotonic() + 3
        while time.monotonic() < give_up_at:
            assert {worker.state for worker in engine.workers()} == {"active"}
        assert len(engine.workers()) == 3
    for worker in (first, second):
        assert "fenced" not in worker.output
        assert "has not answered" not in worker.output


def heard_by(first: Command, second: Command) -> None:
    """Wait until either worker has begun to listen once more."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < give_up_at:
        for worker in (first, second):
            if worker.has_come("listening in"):
                return
        time.sleep(0.005)
    raise AssertionError(first.output + second.output)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_killed_in_its_container_leaves_its_runs_to_the_other(desk: Desk, kind: str) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    first = begin_worker(desk, kind)
    first.expect("waiting for signal")
    # The same number in both, where each is the first process of its container.
    second = begin_worker(desk, kind)
    os.kill(innermost(first.process.pid), signal.SIGKILL)
    second.expect("waiting for signal")
    third = begin_worker(desk, kind)  # the container is started again
    (desk.folder / "signal").touch()
    with Engine(desk.database, workflows=[]) as engine:
        assert engine.get("a").result(DEADLINE_SECONDS) == "signal"
        assert [worker.state for worker in engine.workers()] == ["active"] * 3
    assert "fenced" not in second.output + third.output


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_stopped_in_its_container_is_found_and_can_be_taken_over(desk: Desk, kind: str) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    stopped = begin_worker(desk, kind)
    stopped.expect("waiting for signal")
    other = begin_worker(desk, kind)
    process = innermost(stopped.process.pid)
    os.kill(process, signal.SIGSTOP)
    states = states_seen_from(desk, kind)
    assert sorted(states.values()) == ["active", "stalled"]
    (epoch,) = [epoch for epoch, state in states.items() if state == "stalled"]
    taken = subprocess.run(
        [*container(kind), *COMMAND, "takeover", epoch, "--yes", "--db", "orders.db"],
        cwd=desk.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    assert "1 run of it can go on elsewhere" in taken.stdout
    other.expect("waiting for signal")
    (desk.folder / "signal").touch()
    os.kill(process, signal.SIGCONT)
    stopped.expect("fenced")
    with Engine(desk.database, workflows=[]) as engine:
        assert engine.get("a").result(DEADLINE_SECONDS) == "signal"
        assert {worker.state for worker in engine.workers()} == {"active"}


@pytest.mark.parametrize("kind", ["all"])
def test_a_worker_that_is_stopped_in_its_container_is_taken_over_by_one_that_was_told_to(desk: Desk, kind: str) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    stopped = begin_worker(desk, kind)
    stopped.expect("waiting for signal")
    other = begin_worker(desk, kind, "--take-over-stalled-after", 1)
    os.kill(innermost(stopped.process.pid), signal.SIGSTOP)
    other.expect("has not answered for 1 s; its runs are taken over")
    other.expect("waiting for signal")


@pytest.mark.parametrize("kind", ["all"])
def test_who_keeps_the_file_from_being_written_in_another_container_is_named(desk: Desk, kind: str) -> None:
    holding = "import sys; from stepwell import Engine; e = Engine('orders.db', workflows=[]); t = e.transaction(); "
    holding += "t.__enter__(); print('held', flush=True); sys.stdin.readline()"
    holder = subprocess.Popen(
        [*container(kind), sys.executable, "-c", holding],
        cwd=desk.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiting = desk.begin("worker", "flows", "--db", "orders.db", command=[*container(kind), *COMMAND], group=True)
        said = waiting.expect("has been writing for more than 3 s")
        assert os.uname().nodename in said.string or str(innermost(holder.pid)) in said.string
        assert "transaction() at <string>:1 in <module> since" in said.string
    finally:
        holder.kill()
        holder.communicate()
