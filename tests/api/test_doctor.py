"""The doctor names what hurts, what will, and what to do, and says that the rest is as it should be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from tests.support.commands import Desk
from tests.support.programs.flows import file_appears, hanging, sum_up
from tests.support.waiting import until

from stepwell import Engine, Queue, step, workflow
from stepwell.api.doctor import Diagnosis, Finding, Severity, _of_file, _of_holders, examine
from stepwell.cli import main
from stepwell.store.sqlite.file.holders import Holder, Role
from stepwell.store.sqlite.file_facts import FileFacts, LargePayload

LINE = Queue("doctor.line")


@step(name="doctor.large")
def large() -> str:
    return "".join(chr(97 + number * number % 26) for number in range(10))


@workflow(name="doctor.works")
async def works() -> str:
    return large()


@workflow(name="doctor.halts")
async def halts() -> Any:
    return object()


def found(diagnosis: Diagnosis, about: str) -> Finding:
    (finding,) = (each for each in diagnosis.findings if each.about == about)
    return finding


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    with Engine(path, workflows=[works, halts]) as engine:
        engine.start(works, id="a").result(60)
    return path


def test_a_healthy_file_needs_nobody(orders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diagnosis = examine(orders)
    assert diagnosis.ok
    assert {finding.severity for finding in diagnosis.findings} == {"ok"}
    assert main(["doctor", "--db", str(orders)]) == 0
    shown = capsys.readouterr().out
    assert "ok       halted runs: none" in shown
    assert "doctor.large  1" in shown
    assert main(["doctor", "--db", str(orders), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["sqlite_version"] == apsw.sqlite_lib_version()


def test_halted_runs_are_a_problem_with_their_reason_and_come_first(
    orders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine(orders, workflows=[halts]) as engine:
        run = engine.start(halts, id="b")
        with pytest.raises(Exception, match="Cannot record"):
            run.result(60)
    diagnosis = examine(orders)
    assert not diagnosis.ok
    assert diagnosis.findings[0] == found(diagnosis, "halted runs")
    assert "1 run cannot go on until somebody mends something: b: ResultNotSerializable" in diagnosis.findings[0].text
    assert main(["doctor", "--db", str(orders)]) == 1
    assert capsys.readouterr().out.startswith("PROBLEM  halted runs: ")


def test_runs_without_a_worker_are_a_problem(orders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine(orders, workflows=[]) as engine:
        engine.start("nobody.has.it", id="b")
    finding = found(examine(orders), "workers")
    assert (finding.severity, "run 'b' waits for one" in finding.text) == ("problem", True)
    assert main(["doctor", "--db", str(orders)]) == 1
    assert f"Start one: `stepwell worker MODULE --db {orders}`." in capsys.readouterr().out


def test_runs_whose_workflow_no_worker_has_are_a_problem(desk: Desk) -> None:
    with Engine(desk.database, workflows=[]) as engine:
        engine.start("nobody.has.it", id="b")
    desk.worker()
    diagnosis = examine(desk.database)
    assert found(diagnosis, "workers").severity == "ok"
    assert "1 run waits for a worker with the workflow nobody.has.it" in found(diagnosis, "runs without code").text


def test_a_worker_that_is_stopped_is_a_problem(desk: Desk) -> None:
    desk.start_runs(("a", hanging))
    worker = desk.worker()
    worker.expect("hanging")
    worker.signal(signal.SIGSTOP)
    try:
        until(lambda: found_state(desk.database) == "stopped")  # the kernel says when it has stopped
        texts = [finding.text for finding in examine(desk.database).findings if finding.severity == "problem"]
        assert any(f"(process {worker.process.pid} on " in text and "stopped or hangs" in text for text in texts), texts
    finally:
        worker.signal(signal.SIGCONT)


def found_state(path: Path) -> str:
    from stepwell.store.sqlite.file.read_only import look_into

    with look_into(path) as look:
        return look.workers()[0].state


def test_a_paused_queue_in_which_runs_wait_is_a_warning(desk: Desk) -> None:
    with Engine(desk.database, workflows=[]) as engine:
        engine.start(sum_up, [1], id="a", queue=LINE)
        engine.queue(LINE).pause()
    desk.worker()
    finding = found(examine(desk.database), "queue doctor.line")
    assert (finding.severity, finding.text.partition(":")[0]) == ("warning", "1 waits")
    assert "paused" in finding.text


def test_who_has_the_file_open_is_known(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "never"))
    worker = desk.worker()
    holders = examine(desk.database).facts.holders
    if holders is not None:  # Linux
        assert worker.process.pid in {holder.pid for holder in holders}
        assert "stepwell worker flows" in next(each.command for each in holders if each.pid == worker.process.pid)


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("change", "about", "severity", "expected"),
    [
        ({"log_bytes": 65 * MEGABYTE}, "log", "warning", "65.0 MB of commits stand in"),
        ({"log_bytes": 63 * MEGABYTE}, "log", "ok", "63.0 MB"),
        ({"disk_free_bytes": 499 * MEGABYTE}, "disk", "problem", "only 499.0 MB are free"),
        ({"disk_free_bytes": 6000 * MEGABYTE, "bytes_a_day": 1e9}, "disk", "warning", "enough for 6 days"),
        ({"disk_free_bytes": 900 * MEGABYTE, "bytes_a_day": 1e9}, "disk", "problem", "only 900.0 MB"),
        ({"disk_free_bytes": 60_000 * MEGABYTE, "bytes_a_day": 1e9}, "disk", "ok", "grew by 1.0 GB"),
        ({"last_at": 3_600_000_000 * 25}, "clock", "warning", "1 day, 0:00:00 ahead"),
        ({"last_at": 3_600_500_000}, "clock", "ok", "no time in the file is ahead"),
        ({"marks": {1, 7}}, "payloads", "problem", "formats that this release does not know (7)"),
        (
            {"payloads": [LargePayload("a", "step", "s", 2 * MEGABYTE)]},
            "payloads",
            "warning",
            "step of s in run 'a' (2.0 MB)",
        ),
        ({"log_bytes": 65 * MEGABYTE, "log_pages": 9, "folded_pages": 9}, "log", "ok", "9 of 9 pages"),
        ({"log_bytes": 65 * MEGABYTE, "log_pages": 9, "folded_pages": 8}, "log", "warning", "8 of 9 pages"),
        (
            {"mount_options": "ro,relatime"},
            "file system",
            "problem",
            "ext4 at / (ro,relatime): it is mounted read-only",
        ),
        ({"mount_options": "rw,nobarrier"}, "file system", "warning", "with nobarrier a power cut"),
        ({"mount_options": "rw,errors=remount-ro"}, "file system", "ok", "which keeps its locks"),
        ({"file_system": "tmpfs at /tmp"}, "file system", "ok", "gone when the machine is restarted"),
        ({"pragmas": {"journal_mode": "delete"}}, "settings", "warning", "journal_mode delete: a program"),
        ({"compile_options": ["THREADSAFE=1", "ENABLE_X"]}, "library", "ok", "compiled with THREADSAFE=1"),
        ({"payloads": [LargePayload("a", "step", "s", 20)]}, "payloads", "ok", "in run 'a' (20 B) is the largest"),
    ],
)
def test_facts_are_judged(change: dict[str, Any], about: str, severity: Severity, expected: str) -> None:
    assert {finding.severity for finding in _of_file(HEALTHY, NOW)} == {"ok"}
    (finding,) = (each for each in _of_file(msgspec.structs.replace(HEALTHY, **change), NOW) if each.about == about)
    assert (finding.severity, expected in finding.text) == (severity, True), finding.text


@pytest.mark.parametrize(
    ("role", "pid", "severity", "expected"),
    [
        ("keeps all others out", 7, "problem", "process 7 (vi) has locked the whole file"),
        ("writes", 8, "warning", "process 8 (vi) is no worker, and keeps the lock that every commit needs"),
        ("writes", 7, "ok", "process 7 (vi)"),
        ("reads", 8, "ok", "reads the same commit all the time"),
        ("folds the log in", 8, "ok", "process 8 (vi)"),
    ],
)
def test_locks_of_others_are_judged(role: Role, pid: int, severity: Severity, expected: str) -> None:
    facts = msgspec.structs.replace(HEALTHY, holders=[Holder(pid, "vi", None, (role,))])
    (finding,) = _of_holders(facts, {7})
    assert (finding.severity, expected in finding.text) == (severity, True), finding.text


def test_a_program_that_keeps_a_transaction_open_is_named_with_since_when(orders: Path) -> None:
    program = (
        "import apsw, sys\n"
        f"connection = apsw.Connection({str(orders)!r})\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        diagnosis = examine(orders)
        other.communicate("")
    if diagnosis.facts.holders is None:  # no Linux
        return
    finding = found(diagnosis, "open in")
    assert (finding.severity, "is no worker, and keeps the lock" in finding.text) == ("warning", True)
    assert finding.text.startswith(f"process {other.pid} ({sys.executable} -c import apsw")
    assert f"since {time.strftime('%Y')}" in finding.text


HEALTHY = FileFacts(
    path="/orders.db",
    sqlite_version="3.51.3",
    compile_options=[],
    file_system="ext4 at /",
    size_bytes=10 * MEGABYTE,
    log_bytes=0,
    free_pages_bytes=0,
    disk_free_bytes=10**12,
    bytes_a_day=0.0,
    last_at=0,
    holders=[Holder(1, "init")],
    steps=[],
    payloads=[],
    marks={1},
)
NOW = 3_600_000_000
