"""Start a worker, kill it, start it again: twice, at random points; then judge what is left.

An uninterrupted run of the same job goes on beside it in a process and a file of its own, to compare the reports.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from indexer import ledger
from indexer.analysis import Report, find_packages
from indexer.console import Progress, print_report, print_verdict
from indexer.verdict import Evidence, Worker, judge
from indexer.worker import Event
from indexer.workflows import EXECUTIONS_VARIABLE, PACE_VARIABLE, Job

#: Where the two kills may fall, as shares of all files.
KILL_RANGES = ((0.15, 0.45), (0.55, 0.85))

#: Below this many files the run would be over before it can be killed: its steps are slowed down, one after another.
SMALL_TREE = 1_000

#: A worker that records nothing for so long counts as stuck.
PATIENCE_SECONDS = 60.0

#: How often the driver looks at the journal, seconds.
LOOK_SECONDS = 0.01


class DemoError(Exception):
    """The demo cannot go on, for the reason in the message."""


@dataclass(slots=True)
class WorkerProcess:
    """A worker with its side files; `database`, `executions` outlive it and are the next worker's too."""

    process: subprocess.Popen[bytes]
    database: Path
    output: Path
    errors: Path

    def events(self) -> dict[str, Event]:
        """Return what the worker has said so far; raise `DemoError` if it ended in another way than by being done."""
        code = self.process.poll()
        events = ledger.read_events(self.output)
        if code is not None and "done" not in events:
            raise DemoError(f"worker {self.process.pid} ended with code {code}:\n{self.errors.read_text()}")
        return events

    def report(self) -> Report:
        """Wait for the worker's end and return its report; raise `DemoError` if it ended without one, or badly."""
        code = self.process.wait()
        done = self.events().get("done")
        if code != 0 or done is None or done.report is None:
            raise DemoError(f"worker {self.process.pid} ended with code {code}:\n{self.errors.read_text()}")
        return done.report

    def kill(self) -> None:
        """End it as a power switch would; raise `DemoError` if it was faster and has ended by itself."""
        self.process.send_signal(signal.SIGKILL)
        if self.process.wait() != -signal.SIGKILL:
            raise DemoError(f"worker {self.process.pid} was done before it could be killed")


@dataclass(frozen=True, slots=True)
class Site:
    """Where one run lives: its Stepwell file, its log of executions, its workers' output."""

    directory: Path
    job: Job
    pace_seconds: float

    @property
    def database(self) -> Path:
        """The Stepwell file."""
        return self.directory / "index.db"

    @property
    def executions(self) -> Path:
        """The log to which every true execution of a step adds a line."""
        return self.directory / "executions.jsonl"

    @contextmanager
    def worker(self) -> Iterator[WorkerProcess]:
        """Start a worker; leaving the context, however it happens, leaves no process behind."""
        self.directory.mkdir(parents=True, exist_ok=True)
        number = len(list(self.directory.glob("worker-*.out"))) + 1
        output, errors = self.directory / f"worker-{number}.out", self.directory / f"worker-{number}.err"
        path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {
            "PYTHONPATH": path,
            EXECUTIONS_VARIABLE: str(self.executions),
            PACE_VARIABLE: str(self.pace_seconds),
        }
        command = [sys.executable, "-m", "indexer.worker", str(self.database), msgspec.json.encode(self.job).decode()]
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
        try:
            yield WorkerProcess(process, self.database, output, errors)
        finally:
            process.kill()
            process.wait()


def demonstrate(root: Path, without: list[str], directory: Path, seed: int) -> bool:
    """Index `root`, killing the worker twice; print everything; return whether all promises held.

    `directory` takes the files of the two runs. Raises `DemoError` where the demo could not be carried out.
    """
    began = time.monotonic()
    listing = find_packages(root, without)
    total = listing.count()
    if total == 0:
        raise DemoError(f"there are no .py files below {root}")
    left_out = f" (without {', '.join(without)})" if without else ""
    print(f"Indexing {total:,} files in {len(listing.packages):,} packages of {root}{left_out}")
    print("An uninterrupted run of the same job goes on beside it, in a process and a file of its own, for comparison")
    job, pace_seconds = Job(str(root), without), 0.0
    if total < SMALL_TREE:
        job, pace_seconds = replace(job, packages_at_once=1, files_at_once=1), min(0.1, 4 / total)
        print(f"The tree is small: each step is given {pace_seconds * 1000:.0f} ms, so that there is time for kills")
    site, beside = (Site(directory / name, job, pace_seconds) for name in ("killed", "uninterrupted"))
    progress = Progress(total)
    with beside.worker() as control:
        workers, report = _run_with_kills(site, progress, random.Random(seed))
        uninterrupted = control.report()
    evidence = Evidence(
        files=frozenset(path for package in listing.packages for path in package.files),
        workers=workers,
        recorded=ledger.read_recorded(site.database),
        executions=ledger.read_executions(site.executions),
        report=report,
        uninterrupted=uninterrupted,
    )
    verdict = judge(evidence)
    print_report(report)
    print_verdict(verdict, progress.kills, total, time.monotonic() - began)
    return not verdict.failures


def _run_with_kills(site: Site, progress: Progress, chance: random.Random) -> tuple[list[Worker], Report]:
    """Run the job to its end through all kills; return the workers in order and the report."""
    workers: list[Worker] = []
    for bounds in KILL_RANGES:
        point = int(progress.total * chance.uniform(*bounds))
        if progress.kills:  # a tree of a few files: the next kill comes at least one file later, if there is one
            point = max(point, min(progress.kills[-1] + 1, progress.total - 1))
        with site.worker() as worker:
            _watch(worker, site, progress, until=point)
            opening_at = worker.events()["opening"].at
            worker.kill()
        recorded = len(ledger.read_recorded(site.database))
        workers.append(Worker(worker.process.pid, opening_at, recorded))
        progress.kills.append(recorded)
        progress.say(
            f"  killed worker {worker.process.pid} at {recorded:,} of {progress.total:,} files; starting another"
        )
    with site.worker() as worker:
        _watch(worker, site, progress)
        report = worker.report()
        workers.append(Worker(worker.process.pid, worker.events()["opening"].at))
    progress.finish()
    return workers, report


def _watch(worker: WorkerProcess, site: Site, progress: Progress, until: float = math.inf) -> None:
    """Show the worker's progress until it is done, or until so many files are recorded."""
    last, last_at = -1, time.monotonic()
    while True:
        events = worker.events()
        if "opened" in events:
            recorded = ledger.count_recorded(site.database)
            progress.show(recorded)
            if recorded >= until or "done" in events:
                return
            if recorded != last:
                last, last_at = recorded, time.monotonic()
        if time.monotonic() - last_at > PATIENCE_SECONDS:
            raise DemoError(f"worker {worker.process.pid} recorded nothing for {PATIENCE_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
