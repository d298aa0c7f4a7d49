"""The read side: short reads on a small pool of connections that cannot write.

No cursor outlives a call: an open one holds a snapshot, and a held snapshot keeps the write-ahead log growing.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import heapq
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar

import apsw
import msgspec

from stepwell.errors import EngineClosed, StoreError
from stepwell.model.acts import ActRecord
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import Member, MemberState, Message, Permit, RunRecord, RunSnapshot
from stepwell.store.inspector import RunFilter
from stepwell.store.queues import QueueFacts, QueueState, Standing
from stepwell.store.sql.named_sql import load
from stepwell.store.sql.queue_facts import SqliteFacts, state_of
from stepwell.store.sql.run_changes import record_of
from stepwell.store.sqlite.faults import damaged, translate_read

_SQL: Final = load("queries_read.sql")
_QUEUE_SQL: Final = load("queries_queue.sql")
_ACT_SQL: Final = load("queries_acts.sql")
_INPUT: Final = RunRecord.__struct_fields__.index("input")
_QUEUE: Final = RunRecord.__struct_fields__.index("queue")
_NO_KEY: Final = 2**63 - 1
#: Runs per snapshot in `load`: bounds how long a read holds the log, and the memory that it takes.
_LOAD_CHUNK: Final = 500
#: The states whose runs an index holds, and the query that lists them.
_LISTED_BY: Final[dict[Status, str]] = {
    "running": "runs_listed_running",
    "pending": "runs_listed_by_status",
    "halted": "runs_listed_by_status",
    "failed": "runs_listed_by_status",
}
_decode_names: Final = msgspec.json.Decoder(frozenset[str]).decode
_LAST_CHARACTER: Final = chr(sys.maxunicode)

#: How often a read is tried that meets an error of the disk.
_ATTEMPTS: Final = 3

_Row = tuple[Any, ...]
_T = TypeVar("_T")


class Readable(Protocol):
    """An open file, as far as reading needs it: that of an engine (`opening.Database`), or one open for reading only.

    The checks raise where the file must not be read any more.
    """

    @property
    def path(self) -> str:
        """The real path, for messages."""
        ...

    def check_process(self) -> None:
        """Raise `EngineClosed` in a forked child."""
        ...

    def check_identity(self) -> None:
        """Raise `FileNotUsable` where the file is not the one that was opened."""
        ...

    def connect_reader(self) -> apsw.Connection:
        """Return a further connection that cannot write."""
        ...


class SqliteInspector:
    """An `Inspector` (`stepwell.store.inspector`) on a SQLite file. Up to `max_idle` connections are kept open."""

    def __init__(self, database: Readable, *, max_idle: int = 4) -> None:
        self._database = database
        self._max_idle = max_idle
        self._mutex = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._closed = False

    def close(self) -> None:
        """Close the idle connections; those in use follow when their call ends."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # --- runs
    # ----------------------------------------------------------------------------------------------------------

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        return next(map(record_of, self._rows("run_by_id", (run_id,))), None)

    def run_by_key(self, key: int) -> RunRecord | None:
        """Return the run with this key, or None."""
        return next(map(record_of, self._rows("run_by_key", (key,))), None)

    def run_facts(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None: without its input and its result."""
        return next(map(record_of, self._rows("run_facts", (run_id,))), None)

    def run_facts_by_key(self, key: int) -> RunRecord | None:
        """Return the run with this key, or None: without its input and its result."""
        return next(map(record_of, self._rows("run_facts_by_key", (key,))), None)

    def has_ids(self, prefix: str) -> bool:
        """Tell whether the id of any run begins with `prefix`."""
        (found,) = _firsts(self._rows("has_ids", (prefix, prefix + _LAST_CHARACTER)))
        return bool(found)

    def list_runs(self, run_filter: RunFilter) -> list[RunRecord]:
        """Return the runs that match, newest first, at most `run_filter.limit`: without their inputs and results.

        Children, id prefixes and the states that need attention are found by an index. Anything else is found by
        walking back from the newest run, which is quick where matches are not rare.
        """
        statuses = run_filter.status
        if statuses is not None and run_filter.parent is None and set(statuses) <= _LISTED_BY.keys():
            found = [self._rows(_LISTED_BY[status], _parameters(run_filter, status)) for status in set(statuses)]
            newest_first = heapq.merge(*found, key=lambda row: -row[0])
            return [record_of(row) for row in islice(newest_first, run_filter.limit)]
        name = "runs_listed"
        if run_filter.parent is not None:
            name = "runs_listed_by_parent"
        elif run_filter.id_prefix:
            name = "runs_listed_by_prefix"
        encoded = None if statuses is None else _as_json(statuses)
        return [record_of(row) for row in self._rows(name, _parameters(run_filter, encoded))]

    def count_runs(self, run_filter: RunFilter) -> int:
        """Return how many runs match, at most `run_filter.limit`."""
        statuses = None if run_filter.status is None else _as_json(run_filter.status)
        count: int = self._rows("runs_counted", _parameters(run_filter, statuses))[0][0]
        return count

    def counts(self) -> dict[Status, int]:
        """Return how many runs are in each state (states without runs are left out)."""
        return dict(self._rows("counts"))

    # --- what a run was told, and says
    # ----------------------------------------------------------------------------------

    def journal(self, run: int, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return entries of a run in order, those with a position above `after`."""
        return [Entry(*row) for row in self._rows("journal", (run, after, limit))]

    def acts(self, run: int) -> list[ActRecord]:
        """Return what somebody did to a run, the oldest first."""
        return self._acts("acts_of_run", run)

    def acts_of_queue(self, queue: str) -> list[ActRecord]:
        """Return what somebody did to a queue or limit, the oldest first."""
        return self._acts("acts_of_queue", queue)

    def _acts(self, name: str, subject: int | str) -> list[ActRecord]:
        return [ActRecord(*row) for row in self._read(partial(_fetch, _ACT_SQL[name], (subject,)))]

    def halted_by(self, run: int) -> Payload:
        """Return the failure that halted a run, None for one that is not halted."""
        return next(iter(_firsts(self._rows("halted_by", (run,)))), None)

    def load(self, keys: Sequence[int]) -> list[RunSnapshot]:
        """Return the snapshots of these runs, in this order, leaving out runs that do not exist.

        Each snapshot is consistent in itself.
        """
        chunks = (keys[start : start + _LOAD_CHUNK] for start in range(0, len(keys), _LOAD_CHUNK))
        return list(chain.from_iterable(self._load_chunk(chunk) for chunk in chunks))

    def _load_chunk(self, keys: Sequence[int]) -> list[RunSnapshot]:
        return self._read(partial(_load, keys))

    def value(self, run: int, key: str) -> tuple[Payload, int] | None:
        """Return what the run published last under `key` and when, or None."""
        return next(iter(self._rows("value", (run, key))), None)

    def values(self, run: int) -> dict[str, Payload]:
        """Return everything that the run has published, by key."""
        return dict(self._rows("values_of_run", (run,)))

    # --- work
    # ------------------------------------------------------------------------------------------------------------

    def unreceived_names(self, run: int, most: int) -> list[str]:
        """Return the names of messages that were sent to a run and not received yet, at most so many."""
        return _firsts(self._rows("unreceived_names", (run, most)))

    def suspect_under_way(self) -> str | None:
        """Return the id of the suspect that is under way, for which the others wait, or None."""
        return next(iter(_firsts(self._rows("suspect_under_way"))), None)

    def halted(self, workflows: Sequence[str], crashes: int) -> list[int]:
        """Return the keys of the ``halted`` runs of these workflows that have fewer `crashes`, oldest first."""
        return _firsts(self._rows("halted", (_as_json(workflows), crashes)))

    def halted_below(self, run: int) -> list[int]:
        """Return the keys of the ``halted`` ones of a run's children that have not ended, of theirs, and so on."""
        return _firsts(self._rows("halted_below", (run,)))

    def has_work(self, workflows: Sequence[str], now: int) -> bool:
        """Tell whether a `WorkTaken` with these values would take anything."""
        return _firsts(self._rows("has_work", (_as_json(workflows), now))) == [1]

    def next_wake(self, workflows: Sequence[str], after: int) -> int | None:
        """Return the earliest `wake_at` above `after` of the waiting runs of these workflows that nobody owns."""
        (wake_at,) = _firsts(self._rows("next_wake", (_as_json(workflows), after)))
        return None if wake_at is None else int(wake_at)

    def next_deadline(self) -> int | None:
        """Return when the next run ends that nobody has begun, because of its deadline or a cancellation, or None."""
        (deadline_at,) = _firsts(self._rows("next_deadline"))
        return None if deadline_at is None else int(deadline_at)

    def overdue(self, now: int, limit: int) -> list[RunRecord]:
        """Return the runs that nobody has begun and that end by `now`, the earliest first."""
        return [record_of(row) for row in self._rows("overdue", (now, limit))]

    def stranded(self, workflows: Sequence[str], now: int, limit: int) -> list[int]:
        """Return keys of due runs that nobody owns and that belong to none of these workflows."""
        return _firsts(self._rows("stranded", (_as_json(workflows), now, limit)))

    # --- news from other workers
    # -----------------------------------------------------------------------------------------

    def news(self, epoch: int) -> list[int]:
        """Return the keys of the runs of this worker for which something arrived that it was not told in its memory."""
        return _firsts(self._rows("news", (epoch,)))

    def messages_from_others(self, run: int, epoch: int, after: int) -> list[Message]:
        """Return the unreceived messages of a run above a position that other workers than this one wrote, in order."""
        return [Message(*row) for row in self._rows("messages_from_others", (run, epoch, after))]

    def settled_among(self, ids: Sequence[str]) -> list[RunRecord]:
        """Return those of the runs with these ids that have ended or are halted."""
        return [record_of(row) for row in self._rows("settled_among", (_as_json(ids),))]

    def members(self, states_of: Callable[[list[tuple[int, int]]], Mapping[int, MemberState]]) -> list[Member]:
        """Return the workers that have not ended, by age; `states_of` tells how those with these seats are.

        A seat is an epoch and a slot. A worker without one was written by the first schema, and is gone.
        """
        rows = self._rows("workers_alive")
        states = states_of([(epoch, slot) for epoch, _, _, _, _, slot, *_ in rows if slot is not None])
        return [
            Member(
                epoch=epoch,
                pid=pid,
                host=host,
                started_at=started_at,
                takes_work=takes_work != 0,
                state=states.get(epoch, "dead"),
                runs=runs,
                workflows=None if workflows is None else _decode_names(workflows),
                queues=None if queues is None else _decode_names(queues),
            )
            for epoch, pid, host, started_at, takes_work, _, runs, workflows, queues in rows
        ]

    def wall_clock(self) -> int:
        """Return the machine's wall clock as SQLite reads it, in nanoseconds since the epoch."""
        (seconds,) = _firsts(self._rows("wall_clock"))
        return int(seconds * 1_000_000_000)

    def last_at(self) -> int:
        """Return the time of the newest journal entry, run, message or worker, 0 for an empty file."""
        (at,) = _firsts(self._rows("last_at"))
        return int(at)

    # --- queues
    # ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def queue_facts(self) -> Generator[QueueFacts, None, None]:
        """Return facts that agree with each other, for a short look."""
        with self._connection() as connection:
            execute = connection.cursor().execute
            execute(_SQL["read_begun"])
            yield SqliteFacts(execute)
            execute(_SQL["read_ended"])

    def queues(self) -> list[QueueState]:
        """Return all queues and limits, by name."""
        return [state_of(row) for row in self._queue_rows("queue_states")]

    def oldest_wait(self, queue: str) -> int | None:
        """Return since when the longest waiting entry of a queue or limit has waited, or None."""
        return next(iter(_firsts(self._queue_rows("oldest_wait", (queue,)))), None)

    def permits(self, run: int) -> list[Permit]:
        """Return the permits that operations of a run wait for, or have."""
        rows = self._queue_rows("loaded_permits", (_as_json([run]),))
        return [Permit(op, limit, granted != 0, holder) for _, op, limit, granted, holder in rows]

    def standing(self, run: int, op: int = 0) -> Standing | None:
        """Return how a run stands in its queue, or an operation of it in a limit; None where it does not."""
        return next((Standing(*row) for row in self._queue_rows("standing", (run, op))), None)

    def partition_busy(self, queue: str, partition: str) -> int:
        """Return how many entries of a partition are running."""
        (busy,) = _firsts(self._queue_rows("partition_busy", (queue, partition)))
        return int(busy)

    def halted_holders(self, queue: str, partition: str | None = None) -> list[str]:
        """Return the ids of the halted runs that keep a place in a queue, or in one partition of it, by age."""
        return _firsts(self._queue_rows("halted_holders", (queue, partition)))

    def place_holders(self, queue: str, most: int, partition: str | None = None) -> list[str]:
        """Return ids of runs that have a place in a queue, or in one partition of it, and are not halted; not all."""
        return _firsts(self._queue_rows("place_holders", (queue, most, partition)))

    def permit_holders(self, limit: str, most: int) -> list[str]:
        """Return ids of runs in memory that have a permit, at most so many, one for each permit."""
        return _firsts(self._queue_rows("permit_holders", (limit, most)))

    def permits_kept_apart(self, limit: str) -> list[str]:
        """Return the ids of the runs whose attempts keep a permit although nobody waits for them any more."""
        return [str(run) for run in _firsts(self._queue_rows("permits_kept_apart", (limit,)))]

    def held_by_worker(self, epoch: int, queue: str) -> int:
        """Return how many runs of a queue a worker has in memory."""
        (held,) = _firsts(self._queue_rows("held_by_worker", (epoch, queue)))
        return int(held)

    def queued_runs(self, queue: str, partition: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        """Return key and id of runs that are delayed or wait in a queue, those with keys above `after`, by key."""
        rows: list[Any] = self._queue_rows("queued_runs", (queue, partition, after, limit))
        return rows

    # --- connections
    # -------------------------------------------------------------------------------------------------------

    def _rows(self, name: str, parameters: _Row = ()) -> list[_Row]:
        return self._read(partial(_fetch, _SQL[name], parameters))

    def _queue_rows(self, name: str, parameters: _Row = ()) -> list[_Row]:
        return self._read(partial(_fetch, _QUEUE_SQL[name], parameters))

    def _read(self, action: Callable[[apsw.Connection], _T]) -> _T:
        """Return what `action` reads; where the disk reports an error, try with another connection."""
        for _ in range(_ATTEMPTS - 1):
            try:
                with self._connection() as connection:
                    return action(connection)
            except StoreError as error:
                if not isinstance(error.__cause__, apsw.IOError):
                    raise
        with self._connection() as connection:
            return action(connection)

    @contextlib.contextmanager
    def _connection(self) -> Generator[apsw.Connection, None, None]:
        """Lend a connection for one read. One that met an error is not used again."""
        self._database.check_process()
        connection = self._take()
        try:
            self._database.check_identity()
            yield connection
        except apsw.Error as error:
            connection.close(force=True)
            raise translate_read(error, self._database.path) from error
        except UnicodeDecodeError as error:
            connection.close(force=True)
            raise damaged(f"it holds text that is not UTF-8: {error}", self._database.path) from error
        except BaseException:
            connection.close(force=True)
            raise
        with self._mutex:
            if not self._closed and len(self._idle) < self._max_idle:
                self._idle.append(connection)
                return
        connection.close()

    def _take(self) -> apsw.Connection:
        with self._mutex:
            if self._closed:
                raise EngineClosed(f"{self._database.path}: the store is closed; open the engine again to read")
            if self._idle:
                return self._idle.pop()  # the last one used has the warmest cache
        return self._database.connect_reader()


def _fetch(statement: str, parameters: _Row, connection: apsw.Connection) -> list[_Row]:
    return connection.execute(statement, parameters).fetchall()


def _load(keys: Sequence[int], connection: apsw.Connection) -> list[RunSnapshot]:
    """Return the snapshots of a few runs, in this order, consistent in themselves."""
    encoded = (_as_json(keys),)
    execute = connection.cursor().execute
    execute(_SQL["read_begun"])
    runs: list[Any] = execute(_SQL["loaded_runs"], encoded).fetchall()
    entries: list[Any] = execute(_SQL["loaded_entries"], encoded).fetchall()
    messages: list[Any] = execute(_SQL["loaded_messages"], encoded).fetchall()
    permits: list[Any] = execute(_QUEUE_SQL["loaded_permits"], encoded).fetchall()
    items: list[Any] = []
    if any(row[_INPUT] is None and row[_QUEUE] is not None for row in runs):
        items = execute(_QUEUE_SQL["loaded_items"], encoded).fetchall()
    execute(_SQL["read_ended"])
    snapshots = {row[0]: RunSnapshot(record_of(row), [], [], [], []) for row in runs}
    for row in entries:
        snapshots[row[0]].entries.append(Entry(*row))
    for run, *fields in messages:
        snapshots[run].messages.append(Message(*fields))
    for run, op, limit, granted, holder in permits:
        snapshots[run].permits.append(Permit(op, limit, granted != 0, holder))
    for run, payload in items:
        snapshots[run].items.append(payload)
    return [snapshots[key] for key in keys if key in snapshots]


def _parameters(run_filter: RunFilter, status: str | None) -> _Row:
    """Return the parameters that all the listing queries share."""
    prefix = run_filter.id_prefix or None
    return (
        status,
        run_filter.workflow,
        prefix,
        None if prefix is None else prefix + _LAST_CHARACTER,
        run_filter.parent,
        run_filter.created_after,
        run_filter.created_before,
        _NO_KEY if run_filter.before_key is None else run_filter.before_key,
        run_filter.limit,
        run_filter.started_since,
        int(run_filter.roots),
    )


def _firsts(rows: Iterable[_Row]) -> list[Any]:
    return [row[0] for row in rows]


def _as_json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(list(values)).decode()
