"""A run's operations with their times: what a waterfall shows, made from a journal without its values.

The journal says when something was delivered to the code and, of steps, when each attempt began. When a timer was set,
or the code began to wait for a message, it does not say; that is reckoned from what stands around it: operations are
issued in the order of their numbers, in answer to what was delivered last.

Pure. Times are microseconds by the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from stepwell.model.journal import OpKind
from stepwell.model.waits import Wait
from stepwell.operations.table import OPERATIONS
from stepwell.store.overview import EntryOutline

#: What has become of an operation, or of an attempt.
Outcome: TypeAlias = Literal["done", "failed", "open", "cut off"]

_KINDS: Final = OPERATIONS.kinds


class Attempt(msgspec.Struct, frozen=True):
    """One execution of a step. `ended_at` is None while it is under way, as far as the file knows."""

    number: int
    started_at: int
    ended_at: int | None
    outcome: Outcome


class OutlinedOperation(msgspec.Struct, frozen=True):
    """One operation of a run.

    `issued_at` is when the code asked for it, as far as that can be told; `ended_at` when its answer was delivered.
    `size_bytes` is that of its value, as it stands in the file. `waits_until`: it waits, until then if nothing comes.
    `summary`: what the call of a step is about, as its author said.
    """

    number: int
    kind: OpKind
    name: str
    issued_at: int
    ended_at: int | None
    outcome: Outcome
    attempts: list[Attempt]
    size_bytes: int
    waits_until: int | None = None
    summary: str = ""


class Outline(msgspec.Struct, frozen=True):
    """The operations of a run's present chapter in the order of their numbers.

    `created_at`, `started_at` and `ended_at` are those of the run; `ends_at` is where the picture ends: the run's end,
    or now. `is_cut`: its journal goes on beyond what was read.
    """

    operations: list[OutlinedOperation]
    created_at: int
    started_at: int | None
    ends_at: int
    has_ended: bool
    is_cut: bool


class Span(msgspec.Struct, frozen=True):
    """The times of a run, which its outline is drawn between."""

    created_at: int
    started_at: int | None
    ended_at: int | None
    now: int
    ahead: int


class _Found:
    """What the entries of one operation say."""

    __slots__ = ("attempts", "ended_at", "first_at", "is_instant", "kind", "name", "outcome", "size")

    def __init__(self, entry: EntryOutline) -> None:
        kind = _KINDS.of_entry(entry.kind)
        self.kind = kind.name
        # Nothing of it is waited for: it is done with the commit in which it was issued.
        self.is_instant = kind.waits is None
        self.name = entry.name
        self.first_at = entry.started_at or entry.at
        self.ended_at: int | None = None
        self.outcome: Outcome = "open"
        self.attempts: dict[int, Attempt] = {}
        self.size = 0

    def add(self, entry: EntryOutline) -> None:
        """Note what an entry says. One that is history only tells of an attempt, any other one is the answer."""
        history, failed = entry.kind in _KINDS.undelivered, entry.kind in _KINDS.failures
        self.size += entry.size_bytes or 0
        if not history:
            self.ended_at, self.outcome = entry.at, "failed" if failed else "done"
        if not entry.attempt:
            return
        began = entry.started_at or entry.at
        self.first_at = min(self.first_at, began)
        if not history:
            attempt = Attempt(entry.attempt, began, entry.at, self.outcome)
        elif entry.kind in _KINDS.valueless:  # it is under way, or the code gave it up
            cut = entry.size_bytes is not None
            attempt = Attempt(entry.attempt, began, entry.at if cut else None, "cut off" if cut else "open")
        else:
            attempt = Attempt(entry.attempt, began, entry.at, "failed")
        self.attempts[entry.attempt] = attempt


def outline_of(
    entries: Iterable[EntryOutline],
    waits: Sequence[Wait],
    span: Span,
    summaries: Mapping[int, str],
    *,
    is_cut: bool,
) -> Outline:
    """Return the operations of a run: those of its journal, and those that it `waits` for.

    `summaries` are what calls of steps are about, by the numbers of their operations.
    """
    found: dict[int, _Found] = {}
    deliveries = [span.started_at or span.created_at]
    for entry in entries:
        if not entry.op:
            deliveries.append(entry.at)
            continue
        if entry.op not in found:
            found[entry.op] = _Found(entry)
        found[entry.op].add(entry)
        if entry.kind not in _KINDS.undelivered:
            deliveries.append(entry.at)
    waiting = {wait.op: wait for wait in waits if wait.op}
    end = span.ended_at or span.now
    issued = _issued(found, waiting, sorted(deliveries), end)
    operations = [
        replace(
            _operation(number, found.get(number), waiting.get(number), issued[number], span.ahead),
            summary=summaries.get(number, ""),
        )
        for number in sorted(found.keys() | waiting.keys())
    ]
    ahead, began = span.ahead, span.started_at
    return Outline(
        operations,
        span.created_at - ahead,
        None if began is None else began - ahead,
        end - ahead,
        span.ended_at is not None,
        is_cut,
    )


def _issued(found: dict[int, _Found], waiting: dict[int, Wait], deliveries: list[int], end: int) -> dict[int, int]:
    """Return when each operation was issued: with the last delivery before anything is known of it or a later one."""
    issued: dict[int, int] = {}
    latest, place = end, len(deliveries) - 1
    for number in sorted(found.keys() | waiting.keys(), reverse=True):
        one = found.get(number)
        if one is not None:
            latest = min(latest, one.first_at)
        # Its own answer, and what is delivered with it, is not what it was issued in answer to.
        answered = one is not None and not one.is_instant and not one.attempts and one.ended_at == latest
        while place > 0 and (deliveries[place] > latest or (answered and deliveries[place] == latest)):
            place -= 1
        issued[number] = min(deliveries[place], latest)
    return issued


def _operation(number: int, one: _Found | None, wait: Wait | None, issued_at: int, ahead: int) -> OutlinedOperation:
    until = None if wait is None or wait.until is None else wait.until - ahead
    if one is None:
        assert wait is not None
        return OutlinedOperation(number, wait.kind, wait.name, issued_at - ahead, None, "open", [], 0, until)
    attempts = [
        Attempt(
            each.number,
            each.started_at - ahead,
            None if each.ended_at is None else each.ended_at - ahead,
            each.outcome,
        )
        for each in one.attempts.values()
    ]
    ended_at = None if one.ended_at is None else one.ended_at - ahead
    return OutlinedOperation(
        number, one.kind, one.name, issued_at - ahead, ended_at, one.outcome, attempts, one.size, until
    )
