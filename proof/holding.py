"""What a file of the shop holds: its facts, and what is wrong with it regardless of any fact."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import apsw

from proof.shop import MONEY, PASSING, Fact


@dataclass
class Held:
    """What a file says: the facts that it holds, and what is wrong with it regardless of any fact."""

    facts: set[Fact] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    #: (run, label) of every recorded step.
    recorded: set[tuple[str, str]] = field(default_factory=set)
    #: The journal, whole rows.
    journal: set[tuple[Any, ...]] = field(default_factory=set)
    stages: dict[str, int] = field(default_factory=dict)
    timers: Counter[str] = field(default_factory=Counter)

    def lacks(self, fact: Fact, *, purging: bool) -> bool:
        """Whether a fact that was acknowledged is missing; `purging`: passing runs may be gone."""
        match fact:
            case ("purging",):
                return False
            case ("stage", str(run_id), int(stage)):
                return self.stages.get(run_id, 0) < stage
            case ("timers", str(run_id), int(count)):
                return self.timers[run_id] < count
            case (_, str(run_id), *_) if purging and run_id.startswith(PASSING) and fact[0] != "gone":
                return False
            case ("gone", str(run_id)):
                return ("run", run_id) in self.facts
            case _:
                return fact not in self.facts


def integrity(connection: apsw.Connection) -> str:
    """Return "ok", or what SQLite's integrity check finds first."""
    rows = _rows(connection, "PRAGMA integrity_check(3)")
    return " / ".join(str(row[0]) for row in rows)


def holding(connection: apsw.Connection, *, damaged: bool = False) -> Held:
    """Return what the file open on `connection` holds, and whether it is consistent in itself.

    A `damaged` file is read as far as it can be read.
    """
    held = Held()
    if not damaged and (verdict := integrity(connection)) != "ok":
        held.wrong.append(f"integrity_check: {verdict}")
        return held
    held.wrong += [f"foreign_key_check: {row}" for row in _rows(connection, "PRAGMA foreign_key_check")[:3]]
    tables = {name for (name,) in _rows(connection, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "stepwell_runs" not in tables:
        return held
    ids = dict(cast("list[tuple[int, str]]", _rows(connection, "SELECT key, id FROM stepwell_runs")))
    _hold_runs(connection, held)
    _hold_journal(connection, held, ids)
    for run, key in _rows(connection, "SELECT run, key FROM stepwell_messages WHERE key IS NOT NULL"):
        held.facts.add(("key", ids[run], key))
    for run, value in _rows(connection, "SELECT run, value FROM stepwell_values WHERE key = 'stage'"):
        held.stages[ids[run]] = int(value)
    if "placed" in tables:
        _hold_tables(connection, held)
    if "stepwell_entries" in tables:
        _hold_queues(connection, held)
    return held


def _hold_runs(connection: apsw.Connection, held: Held) -> None:
    columns = "run.id, run.status, run.cancel_requested_at, run.parent, parent.id"
    source = "stepwell_runs AS run LEFT JOIN stepwell_runs AS parent ON parent.key = run.parent"
    for run_id, status, cancel_at, parent, parent_id in _rows(connection, f"SELECT {columns} FROM {source}"):
        held.facts.add(("run", run_id))
        if status in {"completed", "failed", "cancelled"}:
            held.facts.add(("ended", run_id))
        if cancel_at is not None or status == "cancelled":
            held.facts.add(("cancelled", run_id))
        if status == "halted":
            held.wrong.append(f"run {run_id!r} is halted")
        if parent is not None and parent_id is None:
            held.wrong.append(f"child {run_id!r} has no parent")


def _hold_journal(connection: apsw.Connection, held: Held, ids: dict[int, str]) -> None:
    for row in _rows(connection, "SELECT * FROM stepwell_journal"):
        held.journal.add(row)
    query = "SELECT run, kind, value FROM stepwell_journal ORDER BY position"
    for run, kind, value in _rows(connection, query):
        run_id = ids[run]
        if kind == "timer":
            held.timers[run_id] += 1
        elif kind in {"step", "message"}:
            label = _label(value)
            if (run_id, label) in held.recorded:
                held.wrong.append(f"run {run_id!r} recorded {label!r} twice")
            held.facts.add(("label", run_id, label))
            if kind == "step":
                held.recorded.add((run_id, label))


def _hold_tables(connection: apsw.Connection, held: Held) -> None:
    """Compare the user's tables with the journal: both were written by the same transactions."""
    held.facts.add(("tables",))
    amounts = dict(cast("list[tuple[str, int]]", _rows(connection, "SELECT name, amount FROM account")))
    ledger = _rows(connection, "SELECT run, label, amount FROM ledger")
    if amounts.get("shop") != sum(amount for *_, amount in ledger) or sum(amounts.values()) != MONEY:
        held.wrong.append(f"the accounts say {amounts}, the ledger {ledger}")
    booked = {(run, label) for run, label, _ in ledger}
    recorded = {(run, label) for run, label in held.recorded if label in {"pay", "stamp"}}
    if booked != recorded:
        held.wrong.append(f"booked, but not recorded, or the other way: {sorted(booked ^ recorded, key=repr)}")
    for (run_id,) in _rows(connection, "SELECT id FROM placed"):
        held.facts.add(("placed", run_id))
        if ("run", run_id) not in held.facts:
            held.wrong.append(f"{run_id!r} was placed but not started")
        elif ("key", run_id, "go") not in held.facts:
            held.wrong.append(f"{run_id!r} was placed but not sent its message")


def _hold_queues(connection: apsw.Connection, held: Held) -> None:
    """Compare what the queues say of themselves with what stands in them."""
    said = "SELECT name, delayed, waiting, running, ifnull(concurrency, 1000000) FROM stepwell_queues"
    count = "SELECT count(*) FROM stepwell_entries WHERE queue = ? AND state = ?"
    left = "SELECT count(*) FROM stepwell_left_permits WHERE queue = ?"
    for name, *numbers, concurrency in _rows(connection, said):
        found = [
            int(cast("int", connection.execute(count, (name, state)).fetchall()[0][0]))
            for state in ("delayed", "waiting", "running")
        ]
        found[2] += int(cast("int", connection.execute(left, (name,)).fetchall()[0][0]))
        if numbers != found:
            held.wrong.append(f"queue {name!r} says delayed, waiting, running are {numbers}; they are {found}")
        if found[2] > concurrency:
            held.wrong.append(f"{found[2]} have {name!r} at once, which allows {concurrency}")
    over = (
        "SELECT run.id FROM stepwell_entries JOIN stepwell_runs AS run ON run.key = run WHERE run.ended_at IS NOT NULL"
    )
    held.wrong += [f"run {run_id!r} has ended and stands in a queue" for (run_id,) in _rows(connection, over)]


def _label(value: str | bytes) -> str:
    # Compressed JSON begins with one byte for the version of the format.
    try:
        text = value if isinstance(value, str) else zlib.decompress(value[1:])
    except zlib.error as error:  # a damaged file: as JSON that is damaged
        raise ValueError(str(error)) from None
    return str(json.loads(text)["label"])


def _rows(connection: apsw.Connection, sql: str) -> list[tuple[Any, ...]]:
    return cast("list[tuple[Any, ...]]", connection.execute(sql).fetchall())


def missing(held: Held, facts: Sequence[Fact]) -> list[Fact]:
    """Return those of the acknowledged `facts` that a file lacks."""
    purging = ("purging",) in facts
    return [fact for fact in facts if held.lacks(fact, purging=purging)]


def look_into(path: str) -> Held:
    """Return what the file at `path`, which no engine has open, holds."""
    connection = apsw.Connection(path)
    try:
        return holding(connection)
    finally:
        connection.close()
