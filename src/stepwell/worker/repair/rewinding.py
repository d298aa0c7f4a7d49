"""What of a run's journal is kept when somebody rewinds or restarts it, and what that means for those around it.

A run is rewound to an operation: what its code issued before that is kept, the operation itself and all that was issued
after it is done anew, in another chapter. The rule goes by the numbers of operations and not by the order of entries,
so that nothing that had been asked for before is repeated, wherever its result stands.

- *Messages* that were received by what is undone can be received again, before those that nobody received.
- *Children* that were started by what is undone and have no id of their own are cancelled, and others are started in
  their place: see `stepwell.worker.state.child_ids`. One that has is found again under it.
- *Cancellations* and ticks that came after the operation was answered are undone.
- A *result* can be given in place of the recorded one, of what is kept, and of the operation itself.

Pure: from a record and a journal to a `RunRewound`. ADR 0051.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.errors import InvalidArgument, RunHalted
from stepwell.model.chapters import decode_chapter
from stepwell.model.journal import Entry, EntryKind, Payload
from stepwell.model.run import RunRecord
from stepwell.model.updates import returned
from stepwell.replay.kinds import Kinds
from stepwell.store.changes import RunRewound
from stepwell.store.replacements import Replacement
from stepwell.worker.state.executions import Executions

#: The entries whose result can be replaced, and what the replacement is.
_REPLACED: Final[dict[EntryKind, EntryKind]] = {
    "step": "step",
    "step_failed": "step",
    "message": "message",
    "result": "result",
    "result_failed": "result",
    "promise_kept": "promise_kept",
    "promise_failed": "promise_kept",
}


class Rewinding(msgspec.Struct, frozen=True):
    """What a rewind changes of one run, and what that means for its children.

    `entries` are those of the new chapter. `children` are the operations whose starts of children stay; `told` are the
    ids of those of whose end the run stays told; `failed` are those whose failure is undone; `undone` are the payloads
    with the ids of those whose start is.
    """

    change: RunRewound
    entries: list[Entry]
    children: frozenset[int]
    told: frozenset[str]
    failed: frozenset[str]
    undone: list[Payload]


class NewInput(msgspec.Struct, frozen=True):
    """What the code is given in place of what it was given so far; `fingerprint` is that of the payload's content."""

    payload: Payload
    fingerprint: int = 0


def rewound(
    record: RunRecord,
    entries: Sequence[Entry],
    to: int | None,
    now: int,
    kinds: Kinds,
    *,
    results: Mapping[int, Payload] | None = None,
    given: NewInput | None = None,
) -> Rewinding:
    """Return what becomes of a run that is rewound to operation `to`, or restarted (None).

    `entries` are those of its present chapter, in order. Of one that has not completed the
    operation behind those may be under way, or have been: all of them are kept then. Raises `InvalidArgument` for an
    operation that it does not have, or a result of one that has none.
    """
    results = results or {}
    chapter = decode_chapter(record.chapter)
    first = 1 if chapter is None else chapter.ops_before + 1
    last = max((entry.op for entry in entries), default=0)
    under_way = max(last + 1, first) if record.status != "completed" else last
    if to is not None and not first <= to <= under_way:
        has = f"those of its present chapter are {first} to {last}" if last >= first else "its present chapter has none"
        raise InvalidArgument(f"run {record.id!r} has no operation {to}; {has}, as its journal shows")
    kept = [] if to is None else _kept(entries, to, kinds, is_answered=to in results)
    remains = {entry.position for entry in kept}
    undone = [entry for entry in entries if entry.position not in remains]
    deadline_at = record.deadline_at
    replaced = [_replacement(record, kept, op, payload, kinds) for op, payload in sorted(results.items())]
    change = RunRewound(
        record.key,
        record.status,
        entries[-1].position if entries else 0,
        now,
        "restarted" if to is None else "rewound",
        [entry.position for entry in kept],
        replaced,
        returned(undone),
        given is not None,
        None if given is None else given.payload,
        max(last, first - 1),
        None if deadline_at is None or deadline_at <= now else deadline_at,
        any(entry.kind == "cancel" for entry in kept),
    )
    return Rewinding(
        change,
        [_as_replaced(entry, replaced) for entry in kept],
        frozenset(entry.op for entry in kept if entry.kind == "child"),
        frozenset(entry.name for entry in kept if entry.kind in ("result", "result_failed")),
        frozenset(entry.name for entry in undone if entry.kind == "result_failed"),
        [entry.value for entry in undone if entry.kind == "child"],
    )


def _kept(entries: Sequence[Entry], to: int, kinds: Kinds, *, is_answered: bool) -> list[Entry]:
    """Return the entries that stay where operation `to` is done anew, or `is_answered` by whoever rewinds."""
    kept: list[Entry] = []
    is_before = True  # nothing of what is undone has been delivered yet
    for entry in entries:
        is_before = is_before and entry.op < to
        is_answer = is_answered and entry.op == to and entry.kind not in kinds.undelivered
        if (entry.op == 0 and is_before) or 0 < entry.op < to or is_answer:
            kept.append(entry)
    return kept


def _replacement(record: RunRecord, kept: Sequence[Entry], op: int, payload: Payload, kinds: Kinds) -> Replacement:
    found = next((entry for entry in kept if entry.op == op and entry.kind not in kinds.undelivered), None)
    if found is None:
        raise InvalidArgument(
            f"operation {op} of run {record.id!r} has no recorded result, before the one that it is rewound to, that "
            "could be replaced"
        )
    kind = _REPLACED.get(found.kind)
    if kind is None:
        what = kinds.describe(kinds.of_entry(found.kind).name, found.name)
        raise InvalidArgument(f"operation {op} of run {record.id!r} is {what}, which has no result to replace")
    return Replacement(op, found.kind, kind, payload)


def _as_replaced(entry: Entry, replaced: Sequence[Replacement]) -> Entry:
    for one in replaced:
        if one.op == entry.op and one.was == entry.kind:
            return replace(entry, kind=one.kind, value=one.value)
    return entry


def halted_on_trial(
    executions: Executions, record: RunRecord, workflow: Workflow[..., Any], entries: Sequence[Entry]
) -> RunHalted | None:
    """Return why today's code would not go on with these entries; None where it would. Nothing else comes of it."""
    for greenlets in (False, True):
        execution = executions.of(record, workflow, greenlets=greenlets)
        execution.replay(entries)
        try:
            if not execution.needs_greenlets:
                return execution.halted
        finally:
            execution.close()
    return None
