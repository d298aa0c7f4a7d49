"""Answers questions of people about a file: its runs, its queues, its workers, and the reasons of their states.

Engines, the command line, and whatever else shows a file to people read it through a `ReadService`, so that all of them
say the same. `stepwell.api.reading.why`, which finds reasons for it, is the only other module outside of the engine
that reads the store. A service never writes, and every question may be asked from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack, get_args

from msgspec import UNSET
from msgspec.structs import replace

from stepwell.api.asking.acts import Act
from stepwell.api.asking.listing_options import (
    MAX_PAGE,
    Listing,
    at_least,
    checked_statuses,
    checked_workflow,
    with_defaults,
)
from stepwell.api.reading.chapters import ChapterInfo, with_present
from stepwell.api.reading.overview import EngineTime
from stepwell.api.reading.progress_views import ProgressInfo
from stepwell.api.reading.talk_reads import TalkReads
from stepwell.api.reading.views import ChildInfo, JournalEntry, OwnerInfo, QueueInfo, RunDetails, RunInfo, WorkerInfo
from stepwell.errors import InvalidArgument, QueueNotFound, RunNotFound, ScheduleNotFound, SerializationError
from stepwell.model.lifecycle import ENDED, STATUSES, Status
from stepwell.model.names import check_id, check_text
from stepwell.model.run import Member, RunRecord
from stepwell.model.schedule import ScheduleRecord
from stepwell.shown import is_one_of, shown
from stepwell.store.inspector import CountGroup, Inspector, RunAbout, RunFilter
from stepwell.store.membership import Answer
from stepwell.store.queues import QueueState
from stepwell.values.codec import Codec
from stepwell.worker.state.run_over import RunOver

if TYPE_CHECKING:  # what most programs never ask is imported with the first question, the calendar among it
    from stepwell.api.asking.filters import Filter
    from stepwell.api.reading.bulk import BulkInfo
    from stepwell.api.reading.schedule_views import ScheduleInfo
    from stepwell.api.reading.why import Reasons
    from stepwell.model.journal import Payload
    from stepwell.runtime.serving.requests import BulkAct

#: How many children `ReadService.details` shows.
_MAX_CHILDREN: Final = 20


def _unasked(_epochs: Sequence[int]) -> Mapping[int, Answer]:
    return {}


class ReadService(TalkReads):
    """Answers questions about one file, for people and for programs that show it to people.

    - `inspector` reads; `members` returns the workers of the file, `ask` asks those with these epochs whether they
      answer. `own` returns the epoch of the engine that asks, None where it is none.
    - `location` names the file in errors; `run_listing` and `queue_listing` are how whoever asks lists runs and queues.
    """

    def __init__(
        self,
        inspector: Inspector,
        codec: Codec,
        *,
        location: str,
        time_now: Callable[[], EngineTime],
        members: Callable[[], list[Member]],
        own: Callable[[], int | None] = lambda: None,
        ask: Callable[[Sequence[int]], Mapping[int, Answer]] = _unasked,
        run_listing: str = "engine.list()",
        queue_listing: str = "engine.queues()",
    ) -> None:
        super().__init__(inspector, codec, time_now, location=location, run_listing=run_listing)
        self._members: Final = members
        self._own: Final = own
        self._ask: Final = ask
        self._queue_listing: Final = queue_listing

    # --- runs --------------------------------------------------------------------------------------------------------

    def record(self, run_id: str) -> RunRecord:
        """Return a run's row, without its input and its result; raises `RunNotFound`."""
        return self._found(self._inspector.run_facts(check_id(run_id)), run_id)

    def _found(self, record: RunRecord | None, run_id: str) -> RunRecord:
        if record is None:
            raise RunNotFound(f"{self._location} has no run {run_id!r}; {self._run_listing} lists them")
        return record

    def records(self, filter: str = "", *, roots: bool = False, **options: Unpack[Listing]) -> list[RunRecord]:
        """Return the rows of the runs that match all of it, by default newest first; `roots` leaves out children.

        `filter`: see `stepwell.api.asking.filters`. Raises `InvalidFilter`, `InvalidArgument`, and `RunNotFound` where
        `before`, or the filter's parent, is no run.
        """
        listing = with_defaults(options)
        before = listing["before"]
        given = {
            "status": checked_statuses(listing["status"]),
            "workflow": checked_workflow(listing["workflow"]),
            "id_prefix": check_text(listing["id_prefix"], "id_prefix"),
            "roots": roots,
        }
        found = self.run_filter(filter)
        for name, value in given.items():
            if value and getattr(found, name) and getattr(found, name) != value:
                raise InvalidArgument(f"the filter says which {name} is meant, and so does {name}=; give one of them")
        chosen = {name: value for name, value in given.items() if value}
        page = min(at_least(listing["limit"], 1, "limit"), MAX_PAGE)
        cursor: dict[str, Any] = {}
        if before is not None:
            last = self.record(before)
            time = getattr(last, f"{found.order.removeprefix('-')}_at")
            cursor = {"before_key": last.key, "before_time": time}
        return self._inspector.list_runs(replace(found, limit=page, is_exact=False, **cursor, **chosen))

    def run_filter(self, text: str, limit: int = MAX_PAGE) -> RunFilter:
        """Return what a filter says, for a store; raises `InvalidFilter`, `RunNotFound` where its parent is no run."""
        from stepwell.api.asking.filters import parse

        found, time = parse(text), self._time()
        parent = None if found.parent is None else self.record(found.parent).key
        return found.run_filter(time.now, time.ahead, parent, limit)

    def bulk_filter(self, act: BulkAct, text: str) -> RunFilter:
        """Return which runs an act on many is for; raises `InvalidArgument`, `InvalidFilter`, `RunNotFound`."""
        from stepwell.api.reading.bulk import bulk_filter

        return self._all_of(bulk_filter(act, text))

    def archive_filter(self, text: str) -> RunFilter:
        """Return which runs are to be moved into an archive; raises as `bulk_filter`."""
        from stepwell.api.reading.bulk import archive_filter

        return self._all_of(archive_filter(text))

    def _all_of(self, found: Filter) -> RunFilter:
        time = self._time()
        parent = None if found.parent is None else self.record(found.parent).key
        # By age, whatever the order: whoever goes on with it knows how far it is by the key of a run.
        return replace(found.run_filter(time.now, time.ahead, parent, MAX_PAGE), order="-created")

    def keys(self, runs: RunFilter, before_key: int | None, limit: int) -> list[int]:
        """Return the keys of the runs that match, the newest first, after the one with this key."""
        return [record.key for record in self._inspector.list_runs(replace(runs, before_key=before_key, limit=limit))]

    def bulk(self, number: int) -> BulkInfo:
        """Return an act on many runs; raises `InvalidArgument` where there is none of this number."""
        from stepwell.api.reading.bulk import BulkInfo

        record = self._inspector.bulk(number)
        if record is None:
            raise InvalidArgument(f"{self._location} has no act on many runs with the number {number!r}")
        return BulkInfo.of(record, self._time().ahead)

    def bulks(self) -> list[BulkInfo]:
        """Return the acts on many runs, the newest first."""
        from stepwell.api.reading.bulk import BulkInfo

        ahead = self._time().ahead
        return [BulkInfo.of(record, ahead) for record in self._inspector.bulks(MAX_PAGE)]

    def counts(self, filter: str, by: CountGroup) -> dict[str, int]:
        """Return how many of the runs that match a filter are of each `by`; raises as `run_filter`."""
        if not is_one_of(by, get_args(CountGroup)):
            raise InvalidArgument(f"runs are counted by {', '.join(get_args(CountGroup))}, not by {shown(by)}")
        return self._inspector.count_by(self.run_filter(filter), by)

    def schema(self) -> str:
        """Return the SQL of the file's tables and views of ours, with its comments."""
        return ";\n\n".join(self._inspector.schema()) + ";"

    def attribute_names(self) -> list[str]:
        """Return the names of the attributes that runs have, in order."""
        return self._inspector.attribute_names()

    def tag_names(self, most: int = 1_000) -> list[str]:
        """Return tags that runs have, in order, at most so many."""
        return self._inspector.tag_names(most)

    def count(self, run_filter: RunFilter) -> int:
        """Return how many runs match."""
        return self._inspector.count_runs(run_filter)

    def info(self, run_id: str) -> RunInfo:
        """Return the facts about a run; raises `RunNotFound`."""
        record = self._found(self._inspector.run_by_id(check_id(run_id)), run_id)
        return self._with_payloads(self._infos([record])[0], record)

    def _with_payloads(self, info: RunInfo, record: RunRecord) -> RunInfo:
        return replace(info, input=self._readable(record.input), result=self._readable(record.result))

    def _readable(self, payload: Payload) -> Any:
        """Return a value as JSON shows it; unset where it is damaged, which must not hide the other facts of a run."""
        try:
            return self._codec.show(payload, "a value of the run")
        except SerializationError:
            return UNSET

    def infos(self, filter: str = "", *, roots: bool = False, **options: Unpack[Listing]) -> list[RunInfo]:
        """Return the facts about the runs that match; as `records`."""
        return self._infos(self.records(filter, roots=roots, **options))

    def _infos(self, records: Sequence[RunRecord]) -> list[RunInfo]:
        keys = [record.key for record in records]
        reasons, about = self._reasons(), self._inspector.about(keys)
        progress = self._inspector.progress(keys, ended=False)
        nothing = RunAbout()
        return [
            RunInfo.of(
                record, reasons.of(record), self._codec, about.get(record.key, nothing), progress.get(record.key, ())
            )
            for record in records
        ]

    def infos_of(self, run_ids: Sequence[str]) -> list[RunInfo]:
        """Return the facts about these runs, as far as they are there."""
        return self._infos([found for run_id in run_ids if (found := self._inspector.run_facts(run_id)) is not None])

    def details(self, run_id: str) -> RunDetails:
        """Return everything that the file has of a run; raises `RunNotFound`."""
        return replace(self.summary(run_id), journal=self.journal(run_id))

    def summary(self, run_id: str) -> RunDetails:
        """Return everything but the journal, in whose place is none; raises `RunNotFound`."""
        record, show = self._found(self._inspector.run_by_id(check_id(run_id)), run_id), self._codec.show
        failure = record.error if record.status == "failed" else self._inspector.halted_by(record.key)
        values = sorted(self._inspector.values(record.key).items())
        return RunDetails(
            info=self._infos([record])[0],
            owner=None if record.owner is None else OwnerInfo.of(record.owner, self._members()),
            input=show(record.input, "the input"),
            failure=None if failure is None else self._codec.show_failure(failure),
            result=show(record.result, "the result"),
            published={key: show(value, f"the value {key!r}") for key, value in values},
            children=self._children(record),
            acts=self._acts(record),
            journal=[],
            progress=[
                ProgressInfo.of(row, record.ahead)
                for row in self._inspector.progress([record.key], ended=True).get(record.key, ())
            ],
        )

    def _children(self, parent: RunRecord) -> list[ChildInfo]:
        """Return children that have not ended, which a run may wait for: first those that need somebody."""
        first: tuple[Status, ...] = ("halted", "paused")
        others: tuple[Status, ...] = tuple(status for status in STATUSES if status not in ENDED and status not in first)
        found: list[RunRecord] = []
        for statuses in (first, others):
            wanted = RunFilter(status=statuses, parent=parent.key, limit=_MAX_CHILDREN - len(found))
            found += self._inspector.list_runs(wanted) if wanted.limit else []
        return [ChildInfo.of(info) for info in self._infos(found)]

    def end_of(self, run_id: str) -> RunOver | None:
        """Return how a run ended; None where it has not ended, or does not exist."""
        record = self._inspector.run_by_id(run_id)
        return None if record is None or record.status not in ENDED else RunOver.of(record)

    def journal(self, run_id: str, chapter: int | None = None) -> list[JournalEntry]:
        """Return the journal of a run's present chapter, or of another one, in order; raises `RunNotFound`.

        Raises `InvalidArgument` where the run has no such chapter.
        """
        record = self.record(run_id)
        if chapter is None:
            return self._journal(record)
        chapters = with_present(self._inspector.chapters(record.key), record)
        if not 1 <= at_least(chapter, 1, "chapter") <= len(chapters):
            raise InvalidArgument(f"run {run_id!r} has no chapter {chapter}; its last one is {len(chapters)}")
        if chapter == len(chapters):
            return self._journal(record)
        found: list[JournalEntry] = []
        summaries = self._inspector.summaries(record.key)
        begin, end = chapters[chapter - 1].journal_from, chapters[chapter].journal_from
        while page := self._inspector.journal_between(record.key, begin, end):
            found += [JournalEntry.of(entry, self._codec, record.ahead, summaries) for entry in page]
            begin = page[-1].position + 1
        return found

    def chapters(self, run_id: str) -> list[ChapterInfo]:
        """Return the chapters of a run, the oldest first; raises `RunNotFound`."""
        record = self._found(self._inspector.run_by_id(check_id(run_id)), run_id)
        found = with_present(self._inspector.chapters(record.key), record)
        return [ChapterInfo.of(chapter, self._codec, record.ahead) for chapter in found]

    def _journal(self, record: RunRecord) -> list[JournalEntry]:
        entries: list[JournalEntry] = []
        summaries = self._inspector.summaries(record.key)
        after = 0
        while page := self._inspector.journal(record.key, after=after):
            entries += [JournalEntry.of(entry, self._codec, record.ahead, summaries) for entry in page]
            after = page[-1].position
        return entries

    def journal_after(self, run_id: str, position: int) -> list[JournalEntry]:
        """Return the entries of a run's present chapter with a higher position, in order, a page of them at most."""
        record = self.record(run_id)
        entries = self._inspector.journal(record.key, after=position)
        return [JournalEntry.of(entry, self._codec, record.ahead) for entry in entries]

    def acts(self, run_id: str) -> list[Act]:
        """Return what somebody did to a run, the oldest first; raises `RunNotFound`."""
        return self._acts(self.record(run_id))

    def _acts(self, record: RunRecord) -> list[Act]:
        return [Act.of(act, record.ahead) for act in self._inspector.acts(record.key)]

    # --- schedules ---------------------------------------------------------------------------------------------------

    def schedule(self, schedule: str) -> ScheduleInfo:
        """Return the facts about a schedule; raises `ScheduleNotFound`."""
        record = self._inspector.schedule(check_id(schedule, "the id of a schedule"))
        if record is None:
            import difflib

            close = difflib.get_close_matches(schedule, self.schedule_ids(), 1)
            meant = f" (is {close[0]!r} meant?)" if close else ""
            raise ScheduleNotFound(f"{self._location} has no schedule {schedule!r}{meant}")
        return self._schedule_info(record)

    def schedule_ids(self, *, declared: str | None = None) -> list[str]:
        """Return the ids of all schedules, or of those that code declared under a name."""
        return [each.id for each in self._schedules() if declared is None or each.definition.declared == declared]

    def schedules(self) -> list[ScheduleInfo]:
        """Return the facts about all schedules, by id."""
        return [self._schedule_info(record) for record in self._schedules()]

    def _schedules(self) -> Generator[ScheduleRecord]:
        page = self._inspector.schedules()
        while page:
            yield from page
            page = self._inspector.schedules(page[-1].id)

    def _schedule_info(self, record: ScheduleRecord) -> ScheduleInfo:
        from stepwell.api.reading.schedule_views import ScheduleInfo

        time, find = self._time(), self._inspector.run_facts
        # The row says which ones went on when the schedule last had something to decide.
        found = [run for run_id in record.state.running if (run := find(run_id)) is not None]
        return ScheduleInfo.of(record, time.now - time.ahead, [run.id for run in found if run.status not in ENDED])

    # --- queues ------------------------------------------------------------------------------------------------------

    def queue_names(self) -> list[str]:
        """Return the names of the queues and limits that the file knows."""
        return [state.name for state in self._inspector.queues()]

    def queues(self) -> list[QueueInfo]:
        """Return the facts about all queues and limits that the file knows, by name."""
        return self._queue_infos(self._inspector.queues())

    def queue(self, name: str) -> QueueInfo:
        """Return the facts about a queue or limit; raises `QueueNotFound` for one that nobody knows."""
        states = self._inspector.queues()
        found = self._queue_infos([state for state in states if state.name == name])
        if found:
            return found[0]
        from stepwell.definitions.queues import registered_flows

        flow = registered_flows().get(name)
        if flow is None:
            import difflib

            close = difflib.get_close_matches(name, [state.name for state in states], 1)
            meant = f" (is {close[0]!r} meant?)" if close else ""
            raise QueueNotFound(
                f"{self._location} has no queue or limit {name!r}{meant}; {self._queue_listing} lists them"
            )
        return QueueInfo.of(QueueState(flow.name, flow.kind, flow.settings))

    def _queue_infos(self, states: Sequence[QueueState]) -> list[QueueInfo]:
        reasons, now = self._reasons(), self._time().now
        return [
            QueueInfo.of(
                state,
                oldest_wait=self._inspector.oldest_wait(state.name),
                now=now,
                halted=len(reasons.halted_in(state)),
                reason=reasons.of_queue(state),
            )
            for state in states
        ]

    def acts_of_queue(self, name: str) -> list[Act]:
        """Return what somebody did to a queue or limit, the oldest first; raises `QueueNotFound`."""
        if name not in self.queue_names():
            self.queue(name)  # which raises, or knows it from its code
        ahead = self._time().ahead
        return [Act.of(act, ahead) for act in self._inspector.acts_of_queue(name)]

    # --- workers -----------------------------------------------------------------------------------------------------

    def workers(self) -> list[WorkerInfo]:
        """Return the workers of the file, oldest first; those that live are asked whether they answer."""
        members, own, ahead = self._members(), self._own(), self._time().ahead
        answers = self._ask([each.epoch for each in members if each.state == "active" and each.epoch != own])
        return [WorkerInfo.of(member, answers.get(member.epoch, "answered"), ahead) for member in members]

    def has_worker(self, epoch: int) -> bool:
        """Tell whether the file has a worker with this epoch that has not ended."""
        return any(member.epoch == epoch for member in self._members())

    def runs_by_version(self) -> dict[tuple[str, int], int]:
        """Return how many runs in flight are of each version of a workflow, of those that have versions."""
        return self._inspector.runs_by_version()

    def missing_worker(self, workflows: Sequence[str], queue: str | None) -> str | None:
        """Say which worker is missing that could carry on runs of these workflows (none: of any); None: it is there."""
        from stepwell.api.reading.reasons import nobody

        members = self._members()
        if not workflows and any(member.takes_work and member.state != "dead" for member in members):
            return None
        return nobody(members, workflows, queue)

    def _reasons(self) -> Reasons:
        from stepwell.api.reading.why import Reasons

        time = self._time()
        return Reasons(self._inspector, self._members, time.now, self._own(), time.ahead)
