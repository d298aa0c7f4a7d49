"""The read side of a store: what the engine, the command line and tools ask it, without ever writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from stepwell.model.acts import ActRecord
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import Message, RunRecord, RunSnapshot
from stepwell.store.queues import QueueInspector


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs `Inspector.list_runs` returns, newest first. Unset fields do not restrict.

    `id_prefix` matches the beginning of the id; `started_since` leaves out what began before, or has not begun;
    `roots` leaves out children; `before_key` continues a listing after the last key of a page.
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


class Inspector(QueueInspector, Protocol):
    """The read side. Every call is one short read on a connection of its own; all are safe from any thread."""

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        ...

    def run_by_key(self, key: int) -> RunRecord | None:
        """Return the run with this key, or None."""
        ...

    def run_facts(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None: without its input and its result, which may have many megabytes."""
        ...

    def run_facts_by_key(self, key: int) -> RunRecord | None:
        """Return the run with this key, or None: without its input and its result."""
        ...

    def has_ids(self, prefix: str) -> bool:
        """Tell whether the id of any run begins with `prefix`."""
        ...

    def list_runs(self, run_filter: RunFilter) -> list[RunRecord]:
        """Return the runs that match, newest first, at most `run_filter.limit`: without their inputs and results."""
        ...

    def count_runs(self, run_filter: RunFilter) -> int:
        """Return how many runs match, at most `run_filter.limit`."""
        ...

    def journal(self, run: int, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return entries of a run in order, those with a position above `after`."""
        ...

    def acts(self, run: int) -> list[ActRecord]:
        """Return what somebody did to a run, the oldest first."""
        ...

    def acts_of_queue(self, queue: str) -> list[ActRecord]:
        """Return what somebody did to a queue or limit, the oldest first."""
        ...

    def halted_by(self, run: int) -> Payload:
        """Return the failure that halted a run, None for one that is not halted."""
        ...

    def load(self, keys: Sequence[int]) -> list[RunSnapshot]:
        """Return the snapshots of these runs, in this order, leaving out runs that do not exist."""
        ...

    def value(self, run: int, key: str) -> tuple[Payload, int] | None:
        """Return what the run published last under `key` and when, or None."""
        ...

    def values(self, run: int) -> dict[str, Payload]:
        """Return everything that the run has published, by key."""
        ...

    def unreceived_names(self, run: int, most: int) -> list[str]:
        """Return the names of messages that were sent to a run and not received yet, at most so many."""
        ...

    def suspect_under_way(self) -> str | None:
        """Return the id of the suspect (see `Store.bury`) that is under way, for which the others wait, or None."""
        ...

    def halted(self, workflows: Sequence[str], crashes: int) -> list[int]:
        """Return the keys of the ``halted`` runs of these workflows that have fewer `crashes`, oldest first."""
        ...

    def halted_below(self, run: int) -> list[int]:
        """Return the keys of the ``halted`` ones of a run's children that have not ended, of theirs, and so on."""
        ...

    def has_work(self, workflows: Sequence[str], now: int) -> bool:
        """Tell whether a `WorkTaken` with these values would take anything."""
        ...

    def next_wake(self, workflows: Sequence[str], after: int) -> int | None:
        """Return the earliest `wake_at` above `after` of the waiting runs of these workflows that nobody owns."""
        ...

    def next_deadline(self) -> int | None:
        """Return when the next ``pending`` run ends that no worker has ever begun, or None.

        That is at its `cancel_requested_at`, else at its `deadline_at`.
        """
        ...

    def overdue(self, now: int, limit: int) -> list[RunRecord]:
        """Return those of these runs for which that is not after `now`, the earliest first, at most `limit`."""
        ...

    def stranded(self, workflows: Sequence[str], now: int, limit: int) -> list[int]:
        """Return keys of due runs that nobody owns and that belong to none of these workflows."""
        ...

    def news(self, epoch: int) -> list[int]:
        """Return the keys of the runs of this worker for which something arrived that it was not told in its memory."""
        ...

    def messages_from_others(self, run: int, epoch: int, after: int) -> list[Message]:
        """Return the unreceived messages of a run above a position that other workers than this one wrote, in order."""
        ...

    def settled_among(self, ids: Sequence[str]) -> list[RunRecord]:
        """Return those of the runs with these ids that have ended or are halted."""
        ...

    def counts(self) -> dict[Status, int]:
        """Return how many runs are in each state (states without runs are left out)."""
        ...

    def last_at(self) -> int:
        """Return the time of the newest journal entry and run, 0 for an empty file: the floor of the clock."""
        ...
