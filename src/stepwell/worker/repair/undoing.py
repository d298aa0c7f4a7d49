"""What a retry undoes of a run that failed or was cancelled, so that it goes on from where it went wrong.

A run goes wrong where it is delivered something that it does not survive: the failure of a step or a child, or a
cancellation. That entry is found in the journal, and undone with all that was delivered after it: replay brings the run
to the moment before, and what it waited for there is done again. ADR 0034 says why it is like this.

- *Which failure* it was is found by what the run failed with: the same exception, else one that is its cause, was being
  handled, or is a member of that group. Of one that occurs several times (code that tries again by itself) the last
  counts; of several members the one that came first. A failure that came last of all counts even if the run failed with
  something else. Where nothing is found the run failed by itself, and nothing is undone.
- *Kept* are the results of steps that had begun before it: they went on beside what failed, and would be repeated; and
  the answers to promises that had been made before it, which nobody wants to be asked for twice.
- *Attempts* of what is done again are forgotten, so that its retry policy begins anew. That an attempt of another step
  was under way is kept: one that is delivered at most once must not be repeated.
- *Messages* that were received after it can be received again.
- *Sagas* that undid work after it would be forgotten with it, and the work taken for done: that is refused.

Pure: from a record and a journal to a `RunRetried`. `codec` reads the failures in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from stepwell.errors import RunUndone
from stepwell.model.journal import Entry
from stepwell.model.run import RunRecord
from stepwell.model.undone import Undone, undone_by
from stepwell.model.updates import returned
from stepwell.replay.kinds import Kinds
from stepwell.store.changes import RunRetried
from stepwell.values.failure_codec import FailureCodec
from stepwell.values.failure_info import FailureInfo
from stepwell.worker.running.run_endings import DEADLINE_REASON


class Undoing(msgspec.Struct, frozen=True):
    """What a retry changes of one run, and what that means for its children.

    `children` are the operations whose starts of children stay; `told` are the ids of those of whose end the run stays
    told; `failed` are those whose failure is undone.
    """

    change: RunRetried
    children: frozenset[int]
    told: frozenset[str]
    failed: frozenset[str]


def undo(
    codec: FailureCodec,
    record: RunRecord,
    entries: Sequence[Entry],
    now: int,
    kinds: Kinds,
    *,
    turn: int | None = None,
) -> Undoing:
    """Return what a retry of a run that failed or was cancelled undoes; `entries` are its journal, in order.

    `turn` is the index of the entry that it did not survive, where that is known. Raises `RunUndone` where a saga has
    undone something since.
    """
    turn = _turning_point(codec, record, entries, kinds) if turn is None else turn
    kept = list(entries if turn is None else entries[:turn])
    undone: list[Entry] = []
    if turn is not None:
        failure = entries[turn]
        issued = max(entry.op for entry in (*kept, failure))
        for entry in entries[turn:]:
            (kept if _went_on(entry, failure, issued) else undone).append(entry)
    taken_back = undone_by(undone)
    if taken_back is not None:
        raise _undone(record.id, taken_back, 0 if turn is None else entries[turn].op)
    again = {entry.op for entry in undone if entry.kind == "step_failed"}
    ended = {entry.op for entry in kept if entry.kind not in kinds.undelivered}
    forgotten = [
        entry for entry in kept if entry.op not in ended and (entry.op in again or entry.kind == "attempt_failed")
    ]
    deadline_at = record.deadline_at
    change = RunRetried(
        record.key,
        record.ended_at or 0,
        now,
        sorted(entry.position for entry in (*undone, *forgotten)),
        returned(undone),
        None if deadline_at is None or deadline_at <= now else deadline_at,
        any(entry.kind == "cancel" for entry in kept),
    )
    return Undoing(
        change,
        frozenset(entry.op for entry in kept if entry.kind == "child"),
        frozenset(entry.name for entry in kept if entry.kind in ("result", "result_failed")),
        frozenset(entry.name for entry in undone if entry.kind == "result_failed"),
    )


def _undone(run_id: str, taken_back: Undone, failed: int) -> RunUndone:
    stands = f"; if that work stands after all, rewind it to operation {failed}" if failed else ""
    return RunUndone(
        f"run {run_id!r} cannot be retried, for it would go on as if its work stood: the saga that begins with "
        f"operation {taken_back.first} has undone it, by {taken_back.calls}. Rewind the run to operation "
        f"{taken_back.first}, and the work is done again{stands}"
    )


def _went_on(entry: Entry, failure: Entry, issued: int) -> bool:
    """Tell whether an entry answers a step that had begun, or a promise made, before what went wrong was delivered.

    `issued` is the highest number of an operation that the code is known to have issued by then.
    """
    if entry.kind in ("promised", "promise_kept"):
        return entry.op < issued
    return entry.kind == "step" and (entry.op < issued or 0 < entry.started_at < failure.at)


def _turning_point(codec: FailureCodec, record: RunRecord, entries: Sequence[Entry], kinds: Kinds) -> int | None:
    """Return the index of the entry that a run did not survive, or None."""
    cancelled = next((index for index, entry in enumerate(entries) if entry.kind == "cancel"), None)
    if record.status == "cancelled":
        return cancelled
    if cancelled is not None and entries[cancelled].name == DEADLINE_REASON and _is_deadline(codec, record):
        return cancelled
    failures = [index for index, entry in enumerate(entries) if entry.kind in kinds.failures]
    if not failures or record.error is None:
        return None
    told = {index: codec.failure_summary(entries[index].value) for index in failures}
    found = _responsible(codec.show_failure(record.error), told)
    if found:
        return min(found)
    delivered = [index for index, entry in enumerate(entries) if entry.kind not in kinds.undelivered]
    return failures[-1] if failures[-1] == delivered[-1] else None


def _is_deadline(codec: FailureCodec, record: RunRecord) -> bool:
    return record.error is not None and codec.failure_summary(record.error)[0].endswith("RunDeadlineExceeded")


def _responsible(error: FailureInfo, told: dict[int, tuple[str, str]]) -> set[int]:
    """Return the entries, by index, that hold an exception, else those that hold what is within or behind it."""
    same = [index for index, summary in told.items() if summary == (error.type, error.message)]
    if same:
        return {max(same)}
    if error.members:
        return set(_each(error.members, told))
    behind = error.cause or error.context
    return set() if behind is None else _responsible(behind, told)


def _each(errors: Iterable[FailureInfo], told: dict[int, tuple[str, str]]) -> Iterator[int]:
    for error in errors:
        yield from _responsible(error, told)
