"""What the log of executions and the file, laid side by side, say about the promises; see `proof.orders` for the log.

Both have their times from one clock, so the order of an execution and a record is known without knowing when exactly
the commit was. An entry's time is that of the turn which wrote it, before its commit; at that time the worker owned the
run, and from then on nobody may begin to execute what the entry records.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

#: Steps that write to the log.
_LOGGED: Final = frozenset({"work", "work_in_thread", "work_twice", "call"})
#: Those of them that threads execute; and how long one may be kept waiting where it matters, in microseconds.
_IN_THREADS: Final = frozenset({"work_in_thread"})
_LATE_US: Final = 50_000
_TOKEN: Final = re.compile(r"\((\w+\.\d+)\)")


class Execution(NamedTuple):
    """One execution of an attempt of a step; times in microseconds of the engine's clock."""

    run: str
    operation: int
    attempt: int
    token: str
    began_at: int
    text: str
    step: str

    @property
    def worker(self) -> str:
        """The process that executed it."""
        return self.token.partition(".")[0]


class Record(NamedTuple):
    """An entry of the journal that says what became of an attempt."""

    run: str
    operation: int
    kind: str
    attempt: int
    token: str
    at: int


class Term(NamedTuple):
    """A worker's time in office: its epoch, when it came, when it ended, whether others ended it."""

    epoch: int
    pid: int
    began_at: int
    ended_at: int | None
    fenced: bool


@dataclass
class Evidence:
    """What is known in the end. `offset` is the engine's time less the steady clock's, in microseconds."""

    executions: list[Execution] = field(default_factory=list)
    #: When executions ended, by token.
    ended: dict[str, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    unsettled: list[str] = field(default_factory=list)
    #: How often each row of the user's table is there.
    ledger: Counter[tuple[str, int]] = field(default_factory=Counter)
    runs: dict[str, str] = field(default_factory=dict)
    #: When runs moved to running first.
    started: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def gather(cls, database: str, logs: Iterable[Path], offset: int) -> Evidence:
        """Read the logs, and the file, which nobody has open."""
        found = cls()
        for log in logs:
            for line in log.read_text().splitlines() if log.exists() else ():
                what, run, operation, step, attempt, token, at, text = line.split(" ", 7)
                if what == "B":
                    began_at = int(at) + offset
                    found.executions.append(Execution(run, int(operation), int(attempt), token, began_at, text, step))
                elif what == "E":
                    found.ended[token] = int(at) + offset
        connection = apsw.Connection(database, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            found._read(connection)
        finally:
            connection.close()
        return found

    def _read(self, connection: apsw.Connection) -> None:
        if (verdict := connection.pragma("integrity_check")) != "ok":
            self.complaints.append(f"integrity_check: {verdict}")
        sql = (
            "SELECT run.id, op, kind, name, attempt, value, at FROM stepwell_journal AS entry "
            "JOIN stepwell_runs AS run ON run.key = entry.run "
            "WHERE kind = 'step' OR kind = 'attempt_failed' ORDER BY position"
        )
        for run, operation, kind, name, attempt, value, at in connection.execute(sql):
            if name in _LOGGED:
                token = json.loads(value)[1] if kind == "step" else _TOKEN.findall(value)[0]
                self.records.append(Record(run, operation, kind, attempt, token, at))
        workers = connection.execute("SELECT epoch, pid, started_at, ended_at, fenced FROM stepwell_workers")
        self.terms = [Term(epoch, pid, began, ended, bool(fenced)) for epoch, pid, began, ended, fenced in workers]
        sql = "SELECT id, status, workflow, owner, started_at FROM stepwell_runs"
        for run, status, workflow, owner, started_at in connection.execute(sql):
            self.statuses[status] += 1
            self.runs[run], self.started[run] = workflow, started_at
            if status not in ("completed", "cancelled") or owner is not None:
                self.unsettled.append(f"run {run!r} ({workflow}) is {status}, owner {owner}")
        self.ledger.update((run, label) for run, label in connection.execute("SELECT run, label FROM ledger"))
        for (run,) in connection.execute("SELECT run FROM stepwell_wakes"):
            self.complaints.append(f"a note is left for run {run}")


def judge(found: Evidence, *, pids: Mapping[str, int]) -> list[str]:
    """Return the broken promises, in words; `pids` are the processes of all workers.

    A worker that was fenced may begin steps until it finds out, because it had committed before it was stopped: no
    engine could keep it from that. What comes of them must not be recorded.
    """
    complaints = [*found.complaints, *found.unsettled]
    executions: dict[tuple[str, int], list[Execution]] = defaultdict(list)
    for execution in found.executions:
        executions[execution.run, execution.operation].append(execution)
    terms = _terms(found, pids)
    recorded: Counter[tuple[str, int]] = Counter()
    for record in found.records:
        recorded[record.run, record.operation] += record.kind == "step"
        known = [
            execution
            for execution in executions[record.run, record.operation]
            if record.kind == "step" or execution.attempt == record.attempt
        ]
        complaints += _judge_record(record, known, terms)
    complaints += [
        f"run {run!r}: operation {number} is recorded {n} times" for (run, number), n in recorded.items() if n > 1
    ]
    for (run, number), known in executions.items():
        complaints += _judge_executions(run, number, known, terms)
    complaints += [f"run {run!r}: row {label} is there {n} times" for (run, label), n in found.ledger.items() if n > 1]
    return complaints


def _terms(found: Evidence, pids: Mapping[str, int]) -> dict[str, list[Term]]:
    """Return the terms of each worker, in order.

    The number of a process may be given to another one when it has ended, so a worker's terms are sought among those
    of its number by the times of its executions.
    """
    by_pid: dict[int, list[Term]] = defaultdict(list)
    for term in sorted(found.terms):
        by_pid[term.pid].append(term)
    return {worker: by_pid[pid] for worker, pid in pids.items()}


def _term_at(terms: Sequence[Term], at: int) -> Term | None:
    index = bisect_right(terms, at, key=lambda term: term.began_at)
    return terms[index - 1] if index else None


def _judge_record(record: Record, known: list[Execution], terms: Mapping[str, Sequence[Term]]) -> Iterable[str]:
    where = f"run {record.run!r}, operation {record.operation}, attempt {record.attempt}"
    by_token = {execution.token: execution for execution in known}
    own = by_token.get(record.token)
    if own is None:
        yield f"{where}: recorded is {record.token}, which was never executed"
        return
    for execution in known:
        if execution.token == own.token or _is_ignorant(execution, terms):
            continue
        if execution.began_at > record.at:
            late = execution.began_at - record.at
            yield f"{where}: executed again by {execution.token}, {late} us after {record.token} was recorded"
        elif execution.began_at > own.began_at and execution.attempt == own.attempt:
            yield f"{where}: recorded is {record.token}, though {execution.token} began later"
    term = _term_at(terms.get(own.worker, ()), own.began_at)
    if term is not None and term.fenced and term.ended_at is not None and record.at > term.ended_at:
        late = record.at - term.ended_at
        yield f"{where}: recorded is {record.token} of worker {term.epoch}, {late} us after that one was fenced"


def _judge_executions(
    run: str, number: int, known: list[Execution], terms: Mapping[str, Sequence[Term]]
) -> Iterable[str]:
    texts = {execution.text for execution in known}
    if len(texts) > 1:
        yield f"run {run!r}, operation {number}: executed with different arguments: {sorted(texts)}"
    repeated: Counter[tuple[str, int, int | None]] = Counter()
    for execution in known:
        term = _term_at(terms.get(execution.worker, ()), execution.began_at)
        repeated[execution.worker, execution.attempt, None if term is None else term.epoch] += 1
    for (worker, attempt, epoch), count in repeated.items():
        if count > 1:
            yield f"run {run!r}, operation {number}, attempt {attempt}: executed {count} times by {worker} ({epoch})"


def _is_ignorant(execution: Execution, terms: Mapping[str, Sequence[Term]]) -> bool:
    """Return whether a worker began this after it was fenced, and before it came back as another one.

    A thread that was to execute a step, and had just looked whether anybody still wants it, may be kept waiting for a
    moment after that.
    """
    own = terms.get(execution.worker, ())
    late = _LATE_US if execution.step in _IN_THREADS else 0
    return any(
        term.fenced and term.ended_at is not None and term.ended_at < execution.began_at < until
        for term, until in zip(own, [*(next_one.began_at + late for next_one in own[1:]), 2**62], strict=True)
    )


def left_behind(database: str) -> list[str]:
    """Return the runs of a file that stands still which nobody carries on, and why, in words."""
    connection = apsw.Connection(database, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = connection.execute(
            "SELECT id, status, parent IS NOT NULL, owner, pid, worker.ended_at FROM stepwell_runs AS run "
            "LEFT JOIN stepwell_workers AS worker ON worker.epoch = run.owner "
            "WHERE status IN ('pending', 'running', 'waiting')"
        ).fetchall()
    finally:
        connection.close()
    found: list[str] = []
    for run, status, is_child, owner, pid, ended_at in rows:
        what = f"run {run!r} ({status})" + (", a child," if is_child else "")
        if owner is None:
            found.append(f"{what} has no owner, and nobody takes it up")
        elif ended_at is not None:
            found.append(f"{what} is left to a worker that has ended")
        elif _is_gone(pid):
            found.append(f"{what} is left to a worker whose process is gone")
    return found


def _is_gone(pid: Any) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def in_ignorance(found: Evidence, pids: Mapping[str, int]) -> int:
    """Return how many executions began after their worker was fenced."""
    terms = _terms(found, pids)
    return sum(_is_ignorant(execution, terms) for execution in found.executions)


def repetitions(found: Evidence) -> int:
    """Return how many executions of steps were repeated, because their results were lost with their worker."""
    attempts = {(execution.run, execution.operation, execution.attempt) for execution in found.executions}
    return len(found.executions) - len(attempts)


def takeovers(found: Evidence, killed: Mapping[str, int]) -> list[float]:
    """Return how long it took, in milliseconds, until a run of each killed worker went on elsewhere.

    `killed` says when each worker was killed, on the engine's clock. What is measured is from there to the first
    execution of a step, by another worker, of a run that had one under way: after detection, claim, commit and replay.
    """
    recorded = {record.token: record.at for record in found.records}
    by_attempt: dict[tuple[str, int, int], list[Execution]] = defaultdict(list)
    for execution in found.executions:
        by_attempt[execution.run, execution.operation, execution.attempt].append(execution)
    first: dict[str, int] = {}
    for known in by_attempt.values():
        known.sort(key=lambda execution: execution.began_at)
        for execution, following in pairwise(known):
            died_at = killed.get(execution.worker)
            if died_at is not None and execution.token not in recorded and following.began_at > died_at:
                first[execution.worker] = min(first.get(execution.worker, following.began_at), following.began_at)
    return sorted((at - killed[worker]) / 1000 for worker, at in first.items())


def most_at_once(intervals: Iterable[tuple[int, int]]) -> int:
    """Return how many of these intervals, each from a beginning to an end, overlap at most."""
    events = sorted(event for began, ended in intervals for event in ((began, 1), (ended, -1)))
    return max(accumulate(change for _, change in events), default=0)


def tightest(times: Iterable[int], count: int) -> int:
    """Return the shortest time in which `count` + 1 of these fell; a large number where there are not so many."""
    ordered = sorted(times)
    return min((later - earlier for earlier, later in zip(ordered, ordered[count:], strict=False)), default=2**62)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted `values` lie; 0 where there are none."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 2) if values else 0.0


def first_of(complaints: Sequence[str], limit: int = 160) -> str:
    """Return the first complaint, or its beginning, for the table."""
    return (complaints[0] if complaints else "nothing was noticed")[:limit]


def shown(value: Any, limit: int = 200) -> str:
    """Return a value as text of limited length."""
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
