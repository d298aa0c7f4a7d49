"""What the readings of a demo prove. Pure, so that a test can hand it every way in which durability could fail."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from indexer.analysis import Report
from indexer.ledger import Execution, Recorded


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's life. `opening_at`: when it began to open the file, microseconds since the epoch.

    `recorded` is how many files were in the journal when it was killed, None for the last worker, which was not.
    """

    pid: int
    opening_at: int
    recorded: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was observed. `recorded` and `executions` are in the order of time; `files` is the whole tree."""

    files: frozenset[str]
    workers: list[Worker]
    recorded: list[Recorded]
    executions: list[Execution]
    report: Report
    uninterrupted: Report


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence shows.

    `kept` counts the results that were in the journal at the last kill, `rerun` how many of them were executed again
    all the same, `repeated` the executions that a kill made necessary because it came before their result was recorded.
    `recoveries_seconds` are, for each restart, the seconds from opening the file to the first newly recorded step; None
    where the next kill came before one. `failures` are sentences; none means that everything held.
    """

    kept: int
    rerun: int
    repeated: int
    recoveries_seconds: list[float | None]
    failures: list[str]


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against what Stepwell promises."""
    kills = [worker.recorded for worker in evidence.workers if worker.recorded is not None]
    rerun = _executed_though_recorded(evidence)
    paths = [entry.path for entry in evidence.recorded]
    twice = [path for path, times in Counter(paths).items() if times > 1]
    failures: list[str] = []
    if rerun:
        failures.append(f"{len(rerun)} steps ran again although their result was recorded, such as {rerun[0]}")
    if twice:
        failures.append(f"{len(twice)} steps were recorded more than once, such as {twice[0]}")
    missing = sorted(evidence.files - set(paths))
    if missing:
        failures.append(f"{len(missing)} files have no recorded step, such as {missing[0]}")
    foreign = sorted(set(paths) - evidence.files)
    if foreign:
        failures.append(f"{len(foreign)} recorded files are not in the tree, such as {foreign[0]}")
    unexecuted = sorted(set(paths) - {execution.path for execution in evidence.executions})
    if unexecuted:
        failures.append(
            f"{len(unexecuted)} results are recorded of files that were never read, such as {unexecuted[0]}"
        )
    if evidence.report != evidence.uninterrupted:
        failures.append("the report differs from that of the uninterrupted run (were the sources edited meanwhile?)")
    return Verdict(
        kept=max(kills, default=0),
        rerun=len(rerun),
        repeated=len(evidence.executions) - len({execution.path for execution in evidence.executions}) - len(rerun),
        recoveries_seconds=_recoveries(evidence),
        failures=failures,
    )


def _executed_though_recorded(evidence: Evidence) -> list[str]:
    """Return the files that a worker executed although an earlier worker had left their result in the journal."""
    known_by_pid: dict[int, frozenset[str]] = {}
    known: frozenset[str] = frozenset()
    for worker in evidence.workers:
        known_by_pid[worker.pid] = known
        if worker.recorded is not None:
            known = frozenset(entry.path for entry in evidence.recorded[: worker.recorded])
    return [entry.path for entry in evidence.executions if entry.path in known_by_pid[entry.pid]]


def _recoveries(evidence: Evidence) -> list[float | None]:
    recoveries: list[float | None] = []
    for before, after in zip(evidence.workers, evidence.workers[1:], strict=False):
        position = before.recorded or 0
        end = len(evidence.recorded) if after.recorded is None else after.recorded
        first_new = evidence.recorded[position].at if position < end else None
        recoveries.append(None if first_new is None else (first_new - after.opening_at) / 1e6)
    return recoveries
