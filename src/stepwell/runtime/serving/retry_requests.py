"""Serves what callers ask about runs that have ended: to bring them back, one or many.

With a run come its children whose end took it along, or
was taken along by its own: all of them in one commit, or none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

from msgspec.structs import replace

from stepwell.errors import RunEnded, RunNotEnded, RunNotFound, RunUndone, StepwellError, StoreError
from stepwell.model.acts import Actor
from stepwell.model.journal import Entry
from stepwell.model.lifecycle import ENDED, RETRIABLE, Status
from stepwell.model.run import RunRecord
from stepwell.runtime.serving.requests import Asked, RetryRuns
from stepwell.runtime.serving.run_requests import RunRequests, paused
from stepwell.store.acts import ActRecorded
from stepwell.store.changes import RunRetried, RunRewound
from stepwell.store.inspector import Inspector, RunFilter
from stepwell.worker.repair.rewinding import Rewinding
from stepwell.worker.repair.undoing import Undoing, undo
from stepwell.worker.state.failure_log import run_fields
from stepwell.worker.state.unit_of_work import Reply, UnitOfWork
from stepwell.worker.worker import Worker

#: Runs that come back together, each with the change that brings it back.
Family: TypeAlias = Sequence[tuple[RunRecord, RunRetried | RunRewound]]

_log: Final = logging.getLogger("stepwell")

#: How many runs are looked at in one event, and brought back in one commit.
_CHUNK: Final = 100
#: How many entries of a journal are read at a time.
_PAGE: Final = 5_000
_ALIVE: Final[tuple[Status, ...]] = ("pending", "waiting", "paused", "halted")


class RetryRequests:
    """Turns requests to retry into work for a worker; belongs to the worker's thread."""

    def __init__(
        self,
        worker: Worker,
        inspector: Inspector,
        runs: RunRequests,
        later: Callable[[Asked], None],
    ) -> None:
        self._worker = worker
        self._inspector = inspector
        self._runs = runs
        self._later = later
        self._coming: set[int] = set()  # the keys of those whose return is not committed yet
        self.entries_read = 0  # of all journals that were looked at

    def retry(self, run_id: str, actor: Actor, reply: Reply) -> None:
        """Serve a `RetryRun`."""
        record = self._worker.runs.find(run_id)
        if record is None:
            raise RunNotFound(f"no run has the id {run_id!r}: it was never started, or has been purged")
        if record.status == "halted":
            self._runs.resume(run_id, actor, reply)
            return
        if record.status == "paused":
            raise paused(record)
        if record.status == "completed":
            text = f"run {run_id!r} has completed, so there is nothing to retry; start another one, under another id"
            raise RunEnded(text)
        if record.status not in RETRIABLE or record.key in self._worker.batch.ending or record.key in self._coming:
            raise RunNotEnded(f"run {run_id!r} has not ended ({record.status}), so it cannot be retried")
        self._bring_back(record, actor, reply)

    def is_coming(self, key: int) -> bool:
        """Tell whether a run comes back with the commit under way."""
        return key in self._coming

    def _bring_back(self, record: RunRecord, actor: Actor, reply: Reply) -> None:
        """Add a run, and the children that come with it, to the batch as one unit. Raises as `with_children` does."""
        family = list(self._retried_family(record))
        work = self._worker.batch.lone_work()
        for each, change in family:
            work.changes += [change, ActRecorded("retry", self._worker.now, *actor, run_id=each.id)]
        self.expect(family, work)
        work.answer(reply, None)

    def expect(self, family: Family, work: UnitOfWork) -> None:
        """Have runs that come back with a unit taken up after its commit."""
        keys = {each.key for each, _ in family}
        self._coming |= keys
        work.afterwards(partial(self._back, family), lambda _error: self._coming.difference_update(keys))

    def _back(self, family: Family) -> None:
        """Have the runs that are back taken up, and say so."""
        self._coming.difference_update(record.key for record, _ in family)
        self._worker.claims.work_may_exist = True
        for record, change in family:
            if record.queue is not None:
                self._worker.runs.queue_touched(record.queue)
            if isinstance(change, RunRewound):
                continue
            text = "run %r of %r, which %s, is retried; %d entries of its journal are undone"
            what = "failed" if record.status == "failed" else "was cancelled"
            arguments = record.id, record.workflow, what, len(change.undone)
            _log.info(text, *arguments, extra=run_fields(record.id, record.workflow))

    def _retried_family(self, record: RunRecord) -> Iterator[tuple[RunRecord, RunRetried | RunRewound]]:
        entries = self.journal(record.key)
        undoing = undo(self._worker.codec, record, entries, self._worker.now, self._worker.kinds)
        return self.with_children(record, undoing)

    def with_children(
        self, record: RunRecord, undoing: Undoing | Rewinding
    ) -> Iterator[tuple[RunRecord, RunRetried | RunRewound]]:
        """Yield a run with the change that brings it back, and so its children that come along, if `undoing` is done.

        Raises `RunNotEnded` where one of them is about to end with its parent, and `RunUndone` where it has undone its
        work.
        """
        uncancelled: list[int] = []
        family: list[tuple[RunRecord, RunRetried | RunRewound]] = []
        # Only those that a part of the journal started that stays: most runs have none, and are many in an act.
        children = self._children(record.key, (*RETRIABLE, *_ALIVE, "running")) if undoing.children else ()
        for child in children:
            if child.key in self._coming or not _comes_along(record, child, undoing):
                continue
            if child.status in RETRIABLE:
                family += self._with_child(record, child)
            elif child.cancel_requested_at is not None:
                self._check_reached(record, child)
                uncancelled.append(child.key)
        change = undoing.change
        change.uncancelled.extend(uncancelled)
        yield record, change
        yield from family

    def _with_child(self, parent: RunRecord, child: RunRecord) -> list[tuple[RunRecord, RunRetried | RunRewound]]:
        """Return a child that comes along, and its own. Raises `RunUndone` with what can be done to the parent."""
        try:
            return list(self._retried_family(child))
        except RunUndone as error:
            raise RunUndone(
                f"run {parent.id!r} cannot be brought back so, for its child would come back with it. Rewind it to "
                f"operation {child.parent_op}, which started that. {error}"
            ) from None

    def _check_reached(self, parent: RunRecord, child: RunRecord) -> None:
        """Raise `RunNotEnded` where a child has heard already that it is to end with its parent."""
        heard = child.owner is not None or any(entry.kind == "cancel" for entry in self.journal(child.key))
        if heard:
            raise RunNotEnded(
                f"run {parent.id!r} cannot be retried yet: its child, run {child.id!r}, has not ended "
                f"({child.status}), but was told to, with its parent. Try again when it is over"
            )

    def journal(self, key: int) -> list[Entry]:
        """Return the journal of a run's present chapter."""
        entries: list[Entry] = []
        after = 0
        while page := self._inspector.journal(key, after=after, limit=_PAGE):
            entries += page
            self.entries_read += len(page)
            if len(page) < _PAGE:
                break
            after = page[-1].position
        return entries

    def _children(self, parent: int, statuses: Sequence[Status]) -> Iterator[RunRecord]:
        before: int | None = None
        while True:
            wanted = RunFilter(status=tuple(statuses), parent=parent, before_key=before, limit=_CHUNK)
            page = self._inspector.list_runs(wanted)
            yield from page
            if len(page) < _CHUNK:
                return
            before = page[-1].key

    # --- in bulk -------------------------------------------------------------------------------------------------

    def retry_all(self, request: RetryRuns, reply: Reply) -> None:
        """Serve a `RetryRuns`."""
        page = self._inspector.list_runs(replace(request.runs, limit=_CHUNK))
        if not page:
            reply(request.retried, None)
            return
        done: list[str] = []
        for record in page:
            try:
                self.retry(record.id, request.actor, partial(_count, done, record.id))
            except StoreError:
                raise
            except StepwellError as error:
                _count(done, record.id, None, error)
        before = page[-1].key

        def go_on() -> None:
            rest = replace(request.runs, before_key=before)
            self._later(Asked(replace(request, runs=rest, retried=request.retried + len(done)), reply))

        last = self._worker.batch.lone_work()
        last.afterwards(go_on, partial(reply, None))


def _count(done: list[str], run_id: str, _value: object, error: BaseException | None) -> None:
    if error is None:
        done.append(run_id)
    else:
        _log.warning("run %r is not retried: %s", run_id, error, extra=run_fields(run_id))


def _comes_along(parent: RunRecord, child: RunRecord, undoing: Undoing | Rewinding) -> bool:
    """Tell whether a child was started by what stays of its parent's journal, and its end is not known there.

    A detached one lives its own life, and so does any of a parent that has not ended: it comes along only if its
    failure was its parent's.
    """
    if child.parent_op not in undoing.children or child.id in undoing.told:
        return False
    ended_with_it = child.attached and parent.status in ENDED
    return ended_with_it or (child.status in ENDED and child.id in undoing.failed)
