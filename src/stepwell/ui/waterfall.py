"""Where the bars of a run's operations stand. Pure: times in, places out, in thousandths of the width.

Long spans in which nothing executes, a sleep of three days between two steps, are folded: they take a fixed part of the
width each, so that what happened around them can be seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from stepwell.api.reading.outline import Outline, OutlinedOperation
from stepwell.api.reading.overview import StartedRun
from stepwell.model.clock import MICROSECONDS
from stepwell.model.durations import duration

#: What a bar stands for: waiting in a queue, for something to come, from the call to its execution, an attempt, or the
#: time between two attempts; or a child, from its beginning to its end.
BarKind: TypeAlias = Literal["queued", "waits", "overhead", "attempt", "between", "child"]
#: A part of a run: from when to when, in microseconds since it was created.
Window: TypeAlias = tuple[int, int]
_MAX_WINDOW_CHARS: Final = 40

_WIDTH: Final = 1000.0
#: A span in which nothing executes is folded from this share of the whole on, and takes this part of the width then.
_FOLDED_FROM: Final = 0.15
_FOLDED_FROM_SECONDS: Final = 2
_FOLD_WIDTH: Final = 40.0
#: A bar is at least so wide that it can be seen.
_NARROWEST: Final = 3.0
#: How many times stand above the bars.
_MARKS: Final = 4
#: How many operations of a child that is opened are drawn.
_OF_A_CHILD: Final = 50


class Bar(msgspec.Struct, frozen=True):
    """A bar, and what stands in its tip."""

    kind: BarKind
    outcome: str
    x: float
    width: float
    tip: str


class Row(msgspec.Struct, frozen=True):
    """An operation with its bars; `child` is the run that it started."""

    operation: OutlinedOperation
    bars: list[Bar]
    took_seconds: float | None
    child: ChildRows | None = None


class ChildRows(msgspec.Struct, frozen=True):
    """A child within the picture of its parent: where it stood and ran, and its own operations where it is opened."""

    run: StartedRun
    bars: list[Bar]
    took_seconds: float | None
    is_open: bool
    rows: list[Row]
    more: int


class Family(msgspec.Struct, frozen=True):
    """The children that are drawn, by the operations that started them, and the outlines of those that are opened."""

    children: dict[int, StartedRun] = {}
    outlines: dict[int, Outline] = {}


class Fold(msgspec.Struct, frozen=True):
    """A span that is folded, and how long it is."""

    x: float
    width: float
    seconds: float


class Axis:
    """Places times between `begin` and `end`; `busy` are spans and moments at which something happened.

    Times that are shown count from `zero`, which is `begin` unless only a part of the run is drawn.
    """

    def __init__(
        self, begin: int, end: int, busy: Iterable[tuple[int, int]], *, folds: bool, zero: int | None = None
    ) -> None:
        end = max(end, begin + 1)
        self._zero: Final = begin if zero is None else zero
        least = max(_FOLDED_FROM * (end - begin), _FOLDED_FROM_SECONDS * MICROSECONDS)
        spans = list(busy)
        # Where nothing took any time there is nothing that a fold would make room for.
        folds = folds and any(stop > start for start, stop in spans)
        gaps = [gap for gap in _gaps(begin, end, spans) if folds and gap[1] - gap[0] >= least]
        kept = (end - begin) - sum(stop - start for start, stop in gaps)
        scale = (_WIDTH - _FOLD_WIDTH * len(gaps)) / max(kept, 1)
        self._times: list[int] = [begin]
        self._places: list[float] = [0.0]
        #: Where what was folded is.
        self.folds: list[Fold] = []
        for start, stop in gaps:
            x = self._places[-1] + (start - self._times[-1]) * scale
            self.folds.append(Fold(round(x, 1), _FOLD_WIDTH, (stop - start) / MICROSECONDS))
            self._times += [start, stop]
            self._places += [x, x + _FOLD_WIDTH]
        self._times.append(end)
        self._places.append(_WIDTH)

    def x(self, at: int) -> float:
        """Return where a time is; what is outside is at the edge."""
        number = min(max(bisect_right(self._times, at), 1), len(self._times) - 1)
        start, stop = self._times[number - 1], self._times[number]
        share = min(max((at - start) / max(stop - start, 1), 0.0), 1.0)
        return self._places[number - 1] + share * (self._places[number] - self._places[number - 1])

    def time(self, x: float) -> float:
        """Return the time at a place."""
        number = min(max(bisect_right(self._places, x), 1), len(self._places) - 1)
        start, stop = self._places[number - 1], self._places[number]
        share = (x - start) / max(stop - start, 1e-9)
        return self._times[number - 1] + share * (self._times[number] - self._times[number - 1])

    def marks(self) -> list[float]:
        """Return the seconds since the beginning at evenly spread places."""
        return [(self.time(_WIDTH * number / _MARKS) - self._zero) / MICROSECONDS for number in range(_MARKS)]

    def scale(self) -> str:
        """Return which time (in microseconds since the run was created) is at which place, for whoever zooms."""
        return " ".join(f"{place:.1f}:{at - self._zero}" for place, at in zip(self._places, self._times, strict=True))


def _gaps(begin: int, end: int, busy: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans between `begin` and `end` in which nothing happened."""
    found: list[tuple[int, int]] = []
    reached = begin
    for start, stop in sorted(busy):
        if start > reached:
            found.append((reached, start))
        reached = max(reached, stop)
    if end > reached:
        found.append((reached, end))
    return found


def axis_of(outline: Outline, *, folds: bool, family: Family = Family(), window: Window | None = None) -> Axis:  # noqa: B008 - it is frozen
    """Return where the times of a run are, or of a part of it, those of its children among them."""
    begin, end = outline.created_at, outline.ends_at
    busy = [(begin, begin), (end, end), *_busy(outline)]
    for number, child in family.children.items():
        busy += [(at, at) for at in (child.created_at, child.ended_at) if at is not None]
        if number in family.outlines:
            busy += _busy(family.outlines[number])
    if window is None:
        return Axis(begin, end, busy, folds=folds)
    first, last = begin + window[0], begin + window[1]
    inside = [(max(start, first), min(stop, last)) for start, stop in busy if stop >= first and start <= last]
    return Axis(first, last, inside, folds=folds, zero=begin)


def _busy(outline: Outline) -> list[tuple[int, int]]:
    """Return when something of a run happened."""
    found: list[tuple[int, int]] = []
    if outline.started_at is not None:
        found.append((outline.started_at, outline.started_at))
    for operation in outline.operations:
        found.append((operation.issued_at, operation.issued_at))
        if operation.ended_at is not None:
            found.append((operation.ended_at, operation.ended_at))
        found += [(each.started_at, each.ended_at or outline.ends_at) for each in operation.attempts]
    return found


def window_of(text: str) -> Window | None:
    """Return the part of a run that an address names: ``12000-530000``; None for none, or nonsense."""
    first, dash, last = text.partition("-")
    if not dash or not (first.isdecimal() and last.isdecimal()) or len(text) > _MAX_WINDOW_CHARS:
        return None
    return (int(first), int(last)) if int(first) < int(last) else None


def within(operation: OutlinedOperation, outline: Outline, window: Window | None) -> bool:
    """Tell whether anything of an operation is in the part of the run that is drawn."""
    if window is None:
        return True
    ended = outline.ends_at if operation.ended_at is None else operation.ended_at
    return ended >= outline.created_at + window[0] and operation.issued_at <= outline.created_at + window[1]


def rows_of(
    outline: Outline,
    operations: Sequence[OutlinedOperation],
    axis: Axis,
    family: Family = Family(),  # noqa: B008 - it is frozen
) -> list[Row]:
    """Return these operations of a run with their bars, and with the children that they started."""
    rows = [_row(operation, axis, outline.ends_at) for operation in operations]
    return [
        replace(row, child=_child(child, family.outlines.get(row.operation.number), axis, outline.ends_at))
        if (child := family.children.get(row.operation.number)) is not None
        else row
        for row in rows
    ]


def _child(run: StartedRun, outline: Outline | None, axis: Axis, end: int) -> ChildRows:
    ended = run.ended_at if run.ended_at is not None else max(end, run.created_at)
    began = run.started_at or ended
    took = None if run.ended_at is None or run.started_at is None else (ended - run.started_at) / MICROSECONDS
    bars = [_bar("overhead", "done", run.created_at, began, axis, "until it began")] if began > run.created_at else []
    if run.started_at is not None:
        bars.append(_bar("child", run.status, began, ended, axis, f"{run.status},"))
    operations = [] if outline is None else outline.operations
    rows = [] if outline is None else rows_of(outline, operations[:_OF_A_CHILD], axis)
    return ChildRows(run, bars, took, outline is not None, rows, len(operations) - len(rows))


def queued_bar(outline: Outline, axis: Axis) -> Bar | None:
    """Return the bar of the time until a run began, None where it began at once."""
    begun = outline.started_at or outline.ends_at
    if begun - outline.created_at < MICROSECONDS // 1000:
        return None
    return _bar("queued", "done", outline.created_at, begun, axis, "until it began")


def _row(operation: OutlinedOperation, axis: Axis, end: int) -> Row:
    ended = operation.ended_at if operation.ended_at is not None else end
    took = None if operation.ended_at is None else (operation.ended_at - operation.issued_at) / MICROSECONDS
    if not operation.attempts:
        return Row(operation, [_bar("waits", operation.outcome, operation.issued_at, ended, axis, "waited")], took)
    bars: list[Bar] = []
    reached = operation.issued_at
    for attempt in operation.attempts:
        if attempt.started_at > reached:
            kind: BarKind = "between" if bars else "overhead"
            tip = "until the next attempt" if bars else "until it began"
            bars.append(_bar(kind, "done", reached, attempt.started_at, axis, tip))
        reached = attempt.ended_at if attempt.ended_at is not None else end
        tip = f"attempt {attempt.number}, {attempt.outcome},"
        bars.append(_bar("attempt", attempt.outcome, attempt.started_at, reached, axis, tip))
    if operation.ended_at is None and reached < end and operation.attempts[-1].ended_at is not None:
        bars.append(_bar("between", "open", reached, end, axis, "until the next attempt"))
    return Row(operation, bars, took)


def _bar(kind: BarKind, outcome: str, start: int, stop: int, axis: Axis, tip: str) -> Bar:
    x, end = axis.x(start), axis.x(stop)
    thin = kind in {"overhead", "between"}
    width = max(end - x, 0.0 if thin else _NARROWEST)
    return Bar(
        kind,
        outcome,
        round(min(x, _WIDTH - width), 1),
        round(width, 1),
        f"{tip} {duration((stop - start) / MICROSECONDS)}",
    )
