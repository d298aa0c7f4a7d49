"""The read side of a store for workers: what they look up to decide, many runs at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from stepwell.model.journal import Payload
from stepwell.model.run import Message, Permit, RunRecord, RunSnapshot, Settlement
from stepwell.model.updates import UpdateAnswer
from stepwell.store.inspector import RunFilter
from stepwell.store.progress import ProgressReads
from stepwell.store.promises import PromiseReads
from stepwell.store.queues import QueueReads
from stepwell.store.schedules import ScheduleReads
from stepwell.store.streams import StreamReads


class WorkerReads(QueueReads, ScheduleReads, StreamReads, ProgressReads, PromiseReads, Protocol):
    """The read side for workers. Every call is one short read on a connection of its own; all are safe from any thread.

    Whoever wants to know something of several runs asks for all of them at once. `run_by_id` and `value` are for what a
    caller asks about one run.
    """

    def load(self, keys: Sequence[int]) -> list[RunSnapshot]:
        """Return the snapshots of these runs, in this order, leaving out runs that do not exist."""
        ...

    def untouched(self, keys: Sequence[int], epoch: int) -> set[int]:
        """Return those of these runs, which a worker with `epoch` has just created ``running``, that are as created.

        They are that worker's, nothing is in their journals, and no message or request to cancel has come for them.
        """
        ...

    def records(self, keys: Sequence[int]) -> list[RunRecord]:
        """Return the records of these runs, in this order, leaving out runs that do not exist."""
        ...

    def facts(self, keys: Sequence[int]) -> list[RunRecord]:
        """Return the same without inputs and results, which may have many megabytes."""
        ...

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        ...

    def matching(self, runs: RunFilter) -> list[RunRecord]:
        """Return the runs that match, newest first, without inputs and results; see `Inspector.list_runs`."""
        ...

    def has_ids(self, prefix: str) -> bool:
        """Tell whether the id of any run begins with `prefix`."""
        ...

    def value(self, run: int, key: str) -> tuple[Payload, int] | None:
        """Return what the run published last under `key` and when, or None."""
        ...

    def update(self, run: int, key: str) -> UpdateAnswer | None:
        """Return what the file has of an update of the run, by its key as a message; None where there is none."""
        ...

    def first_input(self, run: int) -> Payload:
        """Return what a run was started with, one that is in another chapter than the first."""
        ...

    def gone_among(self, runs: Sequence[tuple[int, str]]) -> list[int]:
        """Return the keys of those of these runs, each (key, id), that the file does not have any more."""
        ...

    def over_among(self, ids: Sequence[str]) -> list[RunRecord]:
        """Return those of the runs with these ids that have ended or are halted."""
        ...

    def started_steps(self) -> list[str]:
        """Return the names that runs of single steps have had in the place of a workflow's; see `definitions.jobs`."""
        ...

    def halted(self, workflows: Sequence[str], crashes: int) -> list[int]:
        """Return the keys of the ``halted`` runs of these workflows that have fewer `crashes`, oldest first."""
        ...

    def halted_below(self, run: int) -> list[int]:
        """Return the keys of the ``halted`` ones of a run's children that have not ended, of theirs, and so on."""
        ...

    def has_work(self, workflows: Sequence[str], now: int) -> bool:
        """Tell whether a `WorkTaken` with these values would take anything, but for versions that others have."""
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

    def ended_among(self, keys: Sequence[int]) -> list[int]:
        """Return the keys of those of these runs that have ended."""
        ...

    def messages_from_others(self, heard: Mapping[int, int], epoch: int) -> dict[int, list[Message]]:
        """Return the unreceived messages of runs that other workers than this one wrote, in order, by run.

        `heard` has for each run the position above which they are wanted.
        """
        ...

    def settlements(self, runs: Sequence[int]) -> dict[int, list[Settlement]]:
        """Return what people said of steps of these runs that no worker has taken yet, by run; often of none."""
        ...

    def permits(self, runs: Sequence[int]) -> dict[int, list[Permit]]:
        """Return the permits that operations of these runs wait for, or have, by run."""
        ...

    def queued_runs(self, queue: str, partition: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        """Return key and id of the runs with keys above `after` that are delayed or wait in a queue, by key.

        A `partition` of None means all.
        """
        ...
