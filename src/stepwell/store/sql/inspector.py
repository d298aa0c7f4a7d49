"""The read side for people, of any SQL store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from stepwell.model.acts import ActRecord
from stepwell.model.attributes import Attribute
from stepwell.model.chapters import ChapterRecord
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import RunRecord
from stepwell.store.bulk_acts import BulkRecord
from stepwell.store.inspector import CountGroup, RunAbout, RunFilter
from stepwell.store.queues import Standing
from stepwell.store.sql.listing import count, counted, listed
from stepwell.store.sql.overview import OverviewReader
from stepwell.store.sql.progress import ProgressReader
from stepwell.store.sql.promises import PromiseReader
from stepwell.store.sql.queue_facts import to_json
from stepwell.store.sql.records import record_of
from stepwell.store.sql.streams import StreamReader

#: Partition, priority and dedup key of a run in a queue.
_Place: TypeAlias = tuple[str | None, int | None, str | None]
_NOWHERE: Final[_Place] = (None, None, None)
_COUNTED_BY: Final[dict[CountGroup, str]] = {
    "status": "runs_counted_by_status",
    "workflow": "runs_counted_by_workflow",
    "queue": "runs_counted_by_queue",
}


class SqlInspector(OverviewReader, ProgressReader, PromiseReader, StreamReader):
    """A `stepwell.store.inspector.Inspector`."""

    # --- runs --------------------------------------------------------------------------------------------------------

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        return next(map(record_of, self._rows("run_by_id", run_id)), None)

    def run_facts(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None: without its input and its result."""
        return next(map(record_of, self._rows("run_facts", run_id)), None)

    def list_runs(self, run_filter: RunFilter) -> list[RunRecord]:
        """Return the runs that match, in its order, at most `run_filter.limit`: without their inputs and results.

        How they are found: `stepwell.store.sql.listing`.
        """
        return [record_of(row) for row in listed(self._rows, run_filter)]

    def about(self, runs: Sequence[int]) -> dict[int, RunAbout]:
        """Return what is said of runs beside their rows, by key."""
        keys = to_json(list(runs))
        attributes: dict[int, list[Attribute]] = {}
        tags: dict[int, list[str]] = {}
        for run, *attribute in self._rows("attributes_of_runs", keys):
            attributes.setdefault(run, []).append(Attribute(*attribute))
        for run, tag in self._rows("tags_of_runs", keys):
            tags.setdefault(run, []).append(tag)
        places: dict[int, _Place] = {
            run: (partition, priority, dedup) for run, partition, priority, dedup in self._rows("places_of_runs", keys)
        }
        parents = dict(self._rows("parents_of_runs", keys))
        again = dict(self._rows("attempts_of_runs", keys))
        return {
            run: RunAbout(
                tuple(attributes.get(run, ())),
                tuple(tags.get(run, ())),
                *places.get(run, _NOWHERE),
                parents.get(run),
                1 + again.get(run, 0),
            )
            for run in {*attributes, *tags, *places, *parents, *again}
        }

    def schema(self) -> list[str]:
        """Return what makes the tables and views of the file, in SQL."""
        return self._firsts("schema")

    def attribute_names(self) -> list[str]:
        """Return the names of all attributes that some run has, in order."""
        return self._firsts("attribute_names")

    def tag_names(self, most: int) -> list[str]:
        """Return tags that some run has, in order, at most so many."""
        return self._firsts("tag_names", most)

    def count_runs(self, run_filter: RunFilter) -> int:
        """Return how many runs match, at most `run_filter.limit`."""
        return count(self._rows, run_filter)

    def count_by(self, run_filter: RunFilter, group: CountGroup) -> dict[str, int]:
        """Return how many of the runs that match are of each status, workflow or queue."""
        return counted(self._rows, run_filter, group)

    def counts(self) -> dict[Status, int]:
        """Return how many runs are in each state (states without runs are left out)."""
        return dict(self._rows("all_counted_by_status"))

    # --- what a run was told, and says -------------------------------------------------------------------------------

    def journal(self, run: int, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Return entries of a run in order, those with a position above `after`."""
        return [Entry(*row) for row in self._rows("journal", run, after, limit)]

    def runs_by_version(self) -> dict[tuple[str, int], int]:
        """Return how many runs in flight are of each version of a workflow, of those that have versions."""
        return {(name, version): count for name, version, count in self._rows("runs_by_version")}

    def chapters(self, run: int) -> list[ChapterRecord]:
        """Return the chapters of a run, the oldest first; none of a run that has had one only."""
        return [ChapterRecord(*row) for row in self._rows("chapters", run)]

    def journal_between(self, run: int, begin: int, end: int, *, limit: int = 1000) -> list[Entry]:
        """Return entries of a run in order, those with positions from `begin` up to, not including, `end`."""
        return [Entry(*row) for row in self._rows("journal_between", run, begin, end, limit)]

    def acts(self, run: int) -> list[ActRecord]:
        """Return what somebody did to a run, the oldest first."""
        return self._acts("acts_of_run", run)

    def bulk(self, number: int) -> BulkRecord | None:
        """Return an act on many runs, or None."""
        return next((BulkRecord(*row) for row in self._rows("bulk", number)), None)

    def bulks(self, limit: int) -> list[BulkRecord]:
        """Return the acts on many runs, the newest first."""
        return [BulkRecord(*row) for row in self._rows("bulks", limit)]

    def acts_of_queue(self, queue: str) -> list[ActRecord]:
        """Return what somebody did to a queue or limit, the oldest first."""
        return self._acts("acts_of_queue", queue)

    def _acts(self, name: str, subject: int | str) -> list[ActRecord]:
        return [ActRecord(*row) for row in self._rows(name, subject)]

    def halted_by(self, run: int) -> Payload:
        """Return the failure that halted a run, None for one that is not halted."""
        failure: Payload = self._first("halted_by", run)
        return failure

    def value(self, run: int, key: str) -> tuple[Payload, int] | None:
        """Return what the run published last under `key` and when, or None."""
        return next(iter(self._rows("value", run, key)), None)

    def values(self, run: int) -> dict[str, Payload]:
        """Return everything that the run has published, by key."""
        return dict(self._rows("values_of_run", run))

    def summaries(self, run: int) -> dict[int, str]:
        """Return what calls of steps of a run are about, by the numbers of their operations."""
        return dict(self._rows("summaries", run))

    def unreceived_names(self, run: int, most: int) -> list[str]:
        """Return the names of messages that were sent to a run and not received yet, at most so many."""
        return self._firsts("unreceived_names", run, most)

    def suspect_under_way(self) -> str | None:
        """Return the id of the suspect that is under way, for which the others wait, or None."""
        run_id: str | None = self._first("suspect_under_way")
        return run_id

    # --- queues ------------------------------------------------------------------------------------------------------

    def oldest_wait(self, queue: str) -> int | None:
        """Return since when the longest waiting entry of a queue or limit has waited, or None."""
        since: int | None = self._first("oldest_wait", queue)
        return since

    def standing(self, run: int, op: int = 0) -> Standing | None:
        """Return how a run stands in its queue, or an operation of it in a limit; None where it does not."""
        return next((Standing(*row) for row in self._rows("standing", run, op)), None)

    def partition_busy(self, queue: str, partition: str) -> int:
        """Return how many entries of a partition are running."""
        (busy,) = self._firsts("partition_busy", queue, partition)
        return int(busy)

    def halted_holders(self, queue: str, partition: str | None = None) -> list[str]:
        """Return the ids of the halted runs that keep a place in a queue, or in one partition of it, by age."""
        return self._firsts("halted_holders", queue, partition)

    def place_holders(self, queue: str, most: int, partition: str | None = None) -> list[str]:
        """Return ids of runs that have a place in a queue, or in one partition of it, and are not halted; not all."""
        return self._firsts("place_holders", queue, most, partition)

    def permit_holders(self, limit: str, most: int) -> list[str]:
        """Return ids of runs in memory that have a permit, at most so many, one for each permit."""
        return self._firsts("permit_holders", limit, most)

    def permits_kept_apart(self, limit: str) -> list[str]:
        """Return the ids of the runs whose attempts keep a permit although nobody waits for them any more."""
        return [str(run) for run in self._firsts("permits_kept_apart", limit)]

    def held_by_worker(self, epoch: int, queue: str) -> int:
        """Return how many runs of a queue a worker has in memory."""
        (held,) = self._firsts("held_by_worker", epoch, queue)
        return int(held)
