"""What a run begins with that is forked from another one: what that would keep if it were rewound, under another id.

The other run is not touched, and may be at anything. The fork gets copies: of the entries that are kept, of the
messages that can be received, of the values that what is kept has published. Children that what is kept has started
stay children of the other run; the fork waits for them as for any run. Pure; ADR 0061.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from stepwell.errors import InvalidArgument
from stepwell.model.chapters import Chapter, decode_chapter, encode_chapter
from stepwell.model.journal import PUBLISHED, Payload
from stepwell.model.run import RunRecord
from stepwell.store.forks import Origin, RunForked
from stepwell.worker.repair.rewinding import NewInput, Rewinding


def origin_of(source: RunRecord, op: int, results: Mapping[int, Payload], given: NewInput | None) -> Origin:
    """Return where a fork of a run comes from."""
    what: list[Any] = [sorted(results.items()), None if given is None else [given.payload]]
    return Origin(source.id, op, zlib.crc32(msgspec.json.encode(what)))


def forked(
    source: RunRecord,
    plan: Rewinding,
    run_id: str,
    origin: Origin,
    given: NewInput | None,
    reason: str | None = None,
) -> RunForked:
    """Return the change that creates a fork. `plan` is what a rewind of `source`, its input complete, would keep.

    `reason`: why it will be pending. Raises `InvalidArgument` where it would wait for an answer to the other's promise.
    """
    _refuse_open_promises(source, plan)
    change = plan.change
    return RunForked(
        run_id,
        source.key,
        origin,
        change.at,
        source.input if given is None else given.payload,
        source.fingerprint if given is None else given.fingerprint,
        change.kept,
        change.replaced,
        change.returned,
        sorted({entry.name for entry in plan.entries if entry.kind == PUBLISHED}),
        change.deadline_at,
        change.stays_cancelled,
        reason,
    )


def _refuse_open_promises(source: RunRecord, plan: Rewinding) -> None:
    """A token is in somebody's hands, and is answered once: for the run that made it."""
    made = {entry.op for entry in plan.entries if entry.kind == "promised"}
    unanswered = made.difference(entry.op for entry in plan.entries if entry.kind in ("promise_kept", "promise_failed"))
    if unanswered:
        op = min(unanswered)
        raise InvalidArgument(
            f"a fork of run {source.id!r} would wait for the answer to its promise, operation {op}, which only that "
            f"run is given; fork it at operation {op} or before, so that the fork makes a promise of its own"
        )


def as_forked(source: RunRecord, change: RunForked) -> RunRecord:
    """Return the record of a fork, as far as its code depends on it, for a trial."""
    before = decode_chapter(source.chapter)
    seed, ops = (f"{source.id}:{source.created_at}", 0) if before is None else (before.seed, before.ops_before)
    clock_from = None if before is None else before.clock_from
    chapter = Chapter(1, source.started_at if clock_from is None else clock_from, seed, ops, 0)
    return replace(source, id=change.id, input=change.input, chapter=encode_chapter(chapter))
