"""The read side of a store for people: what engines, the command line and tools show, without ever writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from stepwell.model.acts import ActRecord
from stepwell.model.attributes import Attribute
from stepwell.model.chapters import ChapterRecord
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import RunRecord
from stepwell.store.bulk_acts import BulkRecord
from stepwell.store.overview import OverviewReads
from stepwell.store.progress import ProgressReads
from stepwell.store.promises import PromiseReads
from stepwell.store.queues import QueueReads, Standing
from stepwell.store.schedules import ScheduleReads
from stepwell.store.streams import StreamReads

#: How a value is compared with that of a filter.
Comparison: TypeAlias = Literal["=", "<", ">", "<=", ">="]
#: By which time runs are ordered; with a dash the last comes first. The order of creation is that of keys.
RunOrder: TypeAlias = Literal["-created", "created", "-started", "started", "-ended", "ended"]
#: What runs are counted by.
CountGroup: TypeAlias = Literal["status", "workflow", "queue"]


class AttributeMatch(msgspec.Struct, frozen=True):
    """What an attribute must be: one of `any`, each a kind (see `stepwell.model.attributes`), a comparison, a value."""

    name: str
    any: tuple[tuple[str, Comparison, str | int | float], ...]


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs `Inspector.list_runs` returns, in which order. Unset fields do not restrict.

    `id_prefix` matches the beginning of the id; `started_since` leaves out what began before, or has not begun;
    `roots` leaves out children; `before_key` continues a listing after the last run of a page: its key and, in the
    order of a time, `before_time`. Runs that have no such time are left out then. Unless it `is_exact`, the order of
    creation may be that of `created_at`: the same but where a clock was wrong.
    """

    status: tuple[Status, ...] | None = None
    workflow: str | None = None
    id_prefix: str | None = None
    parent: int | None = None
    created_after: int | None = None
    created_before: int | None = None
    before_key: int | None = None
    limit: int = 100
    started_since: int | None = None
    roots: bool = False
    id: str | None = None
    queue: str | None = None
    started_before: int | None = None
    ended_after: int | None = None
    ended_before: int | None = None
    attributes: tuple[AttributeMatch, ...] = ()
    tags: tuple[str, ...] = ()
    order: RunOrder = "-created"
    before_time: int | None = None
    is_exact: bool = True


class RunAbout(msgspec.Struct, frozen=True):
    """What is said of a run beside its row: attributes and tags, each by name, its place in a queue, its parent's id.

    Partition, priority and dedup are those of a run that stands in a queue, or that failed or was cancelled after it
    did. `attempts` counts how often it was begun: once, and with each retry, rewind and restart that is still
    remembered.
    """

    attributes: tuple[Attribute, ...] = ()
    tags: tuple[str, ...] = ()
    partition: str | None = None
    priority: int | None = None
    dedup: str | None = None
    parent: str | None = None
    attempts: int = 1


class Inspector(QueueReads, ScheduleReads, StreamReads, ProgressReads, PromiseReads, OverviewReads, Protocol):
    """The read side for people. Every call is one short read on a connection of its own; all are safe from any thread.

    What workers ask is `stepwell.store.worker_reads.WorkerReads`.
    """

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        ...

    def run_facts(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None: without its input and its result, which may have many megabytes."""
        ...

    def list_runs(self, run_filter: RunFilter) -> list[RunRecord]:
        """Return the runs that match, in its order, at most `run_filter.limit`: without their inputs and results."""
        ...

    def about(self, runs: Sequence[int]) -> dict[int, RunAbout]:
        """Return what is said of runs beside their rows, by key; nothing of those that there is nothing to say of."""
        ...

    def schema(self) -> list[str]:
        """Return what makes the tables and views of the file, in the store's language."""
        ...

    def attribute_names(self) -> list[str]:
        """Return the names of all attributes that some run has, in order."""
        ...

    def tag_names(self, most: int) -> list[str]:
        """Return tags that some run has, in order, at most so many."""
        ...

    def count_runs(self, run_filter: RunFilter) -> int:
        """Return how many runs match, at most `run_filter.limit`."""
        ...

    def count_by(self, run_filter: RunFilter, group: CountGroup) -> dict[str, int]:
        """Return how many of the runs that match are of each status, workflow or queue; those in no queue under ""."""
        ...

    def counts(self) -> dict[Status, int]:
        """Return how many runs are in each state (states without runs are left out)."""
        ...

    def journal(self, run: int, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return entries of the present chapter of a run in order, those with a position above `after`."""
        ...

    def runs_by_version(self) -> dict[tuple[str, int], int]:
        """Return how many runs in flight are of each version of a workflow, of those that have versions."""
        ...

    def chapters(self, run: int) -> list[ChapterRecord]:
        """Return the chapters of a run, the oldest first; none of a run that has had one only."""
        ...

    def journal_between(self, run: int, begin: int, end: int, *, limit: int = 1000) -> list[Entry]:
        """Return entries of a run in order, those with positions from `begin` up to, not including, `end`."""
        ...

    def acts(self, run: int) -> list[ActRecord]:
        """Return what somebody did to a run, the oldest first."""
        ...

    def bulk(self, number: int) -> BulkRecord | None:
        """Return an act on many runs, or None."""
        ...

    def bulks(self, limit: int) -> list[BulkRecord]:
        """Return the acts on many runs, the newest first."""
        ...

    def acts_of_queue(self, queue: str) -> list[ActRecord]:
        """Return what somebody did to a queue or limit, the oldest first."""
        ...

    def halted_by(self, run: int) -> Payload:
        """Return the failure that halted a run, None for one that is not halted."""
        ...

    def value(self, run: int, key: str) -> tuple[Payload, int] | None:
        """Return what the run published last under `key` and when, or None."""
        ...

    def values(self, run: int) -> dict[str, Payload]:
        """Return everything that the run has published, by key."""
        ...

    def summaries(self, run: int) -> dict[int, str]:
        """Return what calls of steps of a run are about, by the numbers of their operations."""
        ...

    def unreceived_names(self, run: int, most: int) -> list[str]:
        """Return the names of messages that were sent to a run and not received yet, at most so many."""
        ...

    def suspect_under_way(self) -> str | None:
        """Return the id of the suspect (see `Membership.reap`) that is under way, for which others wait, or None."""
        ...

    def oldest_wait(self, queue: str) -> int | None:
        """Return since when the longest waiting entry of a queue or limit has waited, or None."""
        ...

    def standing(self, run: int, op: int = 0) -> Standing | None:
        """Return how a run stands in its queue, or an operation of it (`op`) in a limit; None where it does not."""
        ...

    def partition_busy(self, queue: str, partition: str) -> int:
        """Return how many entries of a partition are running."""
        ...

    def halted_holders(self, queue: str, partition: str | None = None) -> list[str]:
        """Return the ids of the halted runs that keep a place in a queue, or in one partition of it, by age."""
        ...

    def place_holders(self, queue: str, most: int, partition: str | None = None) -> list[str]:
        """Return ids of runs that have a place in a queue, or in one partition of it, and are not halted; not all."""
        ...

    def permit_holders(self, limit: str, most: int) -> list[str]:
        """Return ids of runs in memory that have a permit, at most so many, one for each permit."""
        ...

    def permits_kept_apart(self, limit: str) -> list[str]:
        """Return the ids of the runs whose attempts keep a permit although nobody waits for them any more."""
        ...

    def held_by_worker(self, epoch: int, queue: str) -> int:
        """Return how many runs of a queue a worker has in memory, which is what `per_worker` bounds."""
        ...
