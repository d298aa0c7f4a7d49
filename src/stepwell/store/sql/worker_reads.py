"""The read side for workers, of any SQL store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from stepwell.model.journal import Entry, Payload
from stepwell.model.run import Message, Permit, RunRecord, RunSnapshot, Settlement
from stepwell.model.updates import UpdateAnswer
from stepwell.store.inspector import RunFilter
from stepwell.store.sql.connection import Execute, Statements
from stepwell.store.sql.inspector import SqlInspector
from stepwell.store.sql.progress import ProgressReader, progress_row
from stepwell.store.sql.promises import PromiseReader
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.records import record_of
from stepwell.store.sql.streams import StreamReader

_INPUT: Final = RunRecord.__struct_fields__.index("input")
_QUEUE: Final = RunRecord.__struct_fields__.index("queue")
_LAST_CHARACTER: Final = chr(sys.maxunicode)
#: Runs per snapshot in `load`: bounds how long a read holds the log, and the memory that it takes.
_LOAD_CHUNK: Final = 500


class SqlWorkerReads(ProgressReader, PromiseReader, StreamReader):
    """A `stepwell.store.worker_reads.WorkerReads`."""

    # --- runs --------------------------------------------------------------------------------------------------------

    def load(self, keys: Sequence[int]) -> list[RunSnapshot]:
        """Return the snapshots of these runs, in this order, leaving out runs that do not exist.

        Each snapshot is consistent in itself.
        """
        chunks = (keys[start : start + _LOAD_CHUNK] for start in range(0, len(keys), _LOAD_CHUNK))
        return list(chain.from_iterable(self._load_chunk(chunk) for chunk in chunks))

    def _load_chunk(self, keys: Sequence[int]) -> list[RunSnapshot]:
        return self._reads.read(lambda execute: _load(keys, execute, self._sql))

    def untouched(self, keys: Sequence[int], epoch: int) -> set[int]:
        """Return those of these runs, which a worker has just created ``running``, that are as created."""
        return set(msgspec.json.decode(self._first("runs_untouched", to_json(keys), epoch), type=list[int]))

    def records(self, keys: Sequence[int]) -> list[RunRecord]:
        """Return the records of these runs, in this order, leaving out runs that do not exist."""
        return self._in_order("loaded_runs", keys)

    def facts(self, keys: Sequence[int]) -> list[RunRecord]:
        """Return the same without inputs and results."""
        return self._in_order("loaded_facts", keys)

    def _in_order(self, name: str, keys: Sequence[int]) -> list[RunRecord]:
        found = {row[0]: record_of(row) for row in self._rows(name, to_json(keys))} if keys else {}
        return [found[key] for key in keys if key in found]

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        return next(map(record_of, self._rows("run_by_id", run_id)), None)

    def matching(self, runs: RunFilter) -> list[RunRecord]:
        """Return the runs that match, newest first, without inputs and results."""
        return SqlInspector(self._reads, self._sql).list_runs(runs)

    def has_ids(self, prefix: str) -> bool:
        """Tell whether the id of any run begins with `prefix`."""
        return bool(self._first("has_ids", prefix, prefix + _LAST_CHARACTER))

    def value(self, run: int, key: str) -> tuple[Payload, int] | None:
        """Return what the run published last under `key` and when, or None."""
        return next(iter(self._rows("value", run, key)), None)

    def update(self, run: int, key: str) -> UpdateAnswer | None:
        """Return what the file has of an update of the run, by its key as a message, or None."""
        for name, is_answered, failed, payload in self._rows("update_of", run, key):
            return UpdateAnswer(name, bool(is_answered), bool(failed), payload)
        return None

    def first_input(self, run: int) -> Payload:
        """Return what a run was started with, one that is in another chapter than the first."""
        payload: Payload = self._first("first_input", run)
        return payload

    def gone_among(self, runs: Sequence[tuple[int, str]]) -> list[int]:
        """Return the keys of those of these runs that the file does not have any more."""
        return self._firsts("gone_among", to_json(runs))

    def over_among(self, ids: Sequence[str]) -> list[RunRecord]:
        """Return those of the runs with these ids that have ended or are halted."""
        return [record_of(row) for row in self._rows("over_among", to_json(ids))]

    # --- work --------------------------------------------------------------------------------------------------------

    def started_steps(self) -> list[str]:
        """Return the names that runs of single steps have had in the place of a workflow's."""
        return [name for (name,) in self._rows("started_steps")]

    def halted(self, workflows: Sequence[str], crashes: int) -> list[int]:
        """Return the keys of the ``halted`` runs of these workflows that have fewer `crashes`, oldest first."""
        return self._firsts("halted", to_json(workflows), crashes)

    def halted_below(self, run: int) -> list[int]:
        """Return the keys of the ``halted`` ones of a run's children that have not ended, of theirs, and so on."""
        return self._firsts("halted_below", run)

    def has_work(self, workflows: Sequence[str], now: int) -> bool:
        """Tell whether a `WorkTaken` with these values would take anything, but for versions that others have."""
        return bool(self._first("has_work", to_json(workflows), now))

    def next_wake(self, workflows: Sequence[str], after: int) -> int | None:
        """Return the earliest `wake_at` above `after` of the waiting runs of these workflows that nobody owns."""
        wake_at: int | None = self._first("next_wake", to_json(workflows), after)
        return wake_at

    def next_deadline(self) -> int | None:
        """Return when the next run ends that nobody has begun, because of its deadline or a cancellation, or None."""
        deadline_at: int | None = self._first("next_deadline")
        return deadline_at

    def overdue(self, now: int, limit: int) -> list[RunRecord]:
        """Return the runs that nobody has begun and that end by `now`, the earliest first."""
        return [record_of(row) for row in self._rows("overdue", now, limit)]

    def stranded(self, workflows: Sequence[str], now: int, limit: int) -> list[int]:
        """Return keys of due runs that nobody owns and that belong to none of these workflows."""
        return self._firsts("stranded", to_json(workflows), now, limit)

    # --- what other workers wrote ------------------------------------------------------------------------------------

    def news(self, epoch: int) -> list[int]:
        """Return the keys of the runs of this worker for which something arrived that it was not told in its memory."""
        return self._firsts("news", epoch)

    def ended_among(self, keys: Sequence[int]) -> list[int]:
        """Return the keys of those of these runs that have ended."""
        return self._firsts("ended_among", to_json(list(keys)))

    def messages_from_others(self, heard: Mapping[int, int], epoch: int) -> dict[int, list[Message]]:
        """Return the unreceived messages of runs above positions that other workers than this one wrote, in order."""
        found: dict[int, list[Message]] = {run: [] for run in heard}
        for run, *fields in self._rows("messages_from_others", to_json(list(heard.items())), epoch):
            found[run].append(Message(*fields))
        return found

    def settlements(self, runs: Sequence[int]) -> dict[int, list[Settlement]]:
        """Return what people said of steps of these runs that no worker has taken yet, by run; often of none."""
        found: dict[int, list[Settlement]] = {}
        for run, *fields in self._rows("settlements", to_json(runs)):
            found.setdefault(run, []).append(Settlement(*fields))
        return found

    # --- queues ------------------------------------------------------------------------------------------------------

    def permits(self, runs: Sequence[int]) -> dict[int, list[Permit]]:
        """Return the permits that operations of these runs wait for, or have."""
        found: dict[int, list[Permit]] = {run: [] for run in runs}
        for run, *fields in self._rows("loaded_permits", to_json(runs)):
            found[run].append(_permit(*fields))
        return found

    def queued_runs(self, queue: str, partition: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        """Return key and id of runs that are delayed or wait in a queue, those with keys above `after`, by key."""
        return self._rows("queued_runs", queue, partition, after, limit)


def _permit(op: int, limit: str, granted: int, holder: int | None) -> Permit:
    return Permit(op, limit, granted != 0, holder)


def _load(keys: Sequence[int], execute: Execute, sql: Statements) -> list[RunSnapshot]:
    """Return the snapshots of a few runs, in this order, consistent in themselves."""
    encoded = (to_json(keys),)
    execute(sql["read_begun"])
    runs: list[Any] = execute(sql["loaded_runs"], encoded).fetchall()
    entries: list[Any] = execute(sql["loaded_entries"], encoded).fetchall()
    messages: list[Any] = execute(sql["loaded_messages"], encoded).fetchall()
    permits: list[Any] = execute(sql["loaded_permits"], encoded).fetchall()
    items: list[Any] = []
    if any(row[_INPUT] is None and row[_QUEUE] is not None for row in runs):
        items = execute(sql["loaded_items"], encoded).fetchall()
    settlements: list[Any] = execute(sql["settlements"], encoded).fetchall()
    progress: list[Any] = execute(sql["progress"], (*encoded, 0)).fetchall()
    execute(sql["read_ended"])
    snapshots = {row[0]: RunSnapshot(record_of(row), [], [], [], [], [], []) for row in runs}
    for row in entries:
        snapshots[row[0]].entries.append(Entry(*row))
    for run, *fields in messages:
        snapshots[run].messages.append(Message(*fields))
    for run, *fields in permits:
        snapshots[run].permits.append(_permit(*fields))
    for run, payload in items:
        snapshots[run].items.append(payload)
    for run, *fields in settlements:
        snapshots[run].settlements.append(Settlement(*fields))
    for run, *fields in progress:
        snapshots[run].progress.append(progress_row(fields))
    return [snapshots[key] for key in keys if key in snapshots]
