"""Where the bars of a run's operations stand, and what they are reckoned from."""

from __future__ import annotations

from stepwell.api.reading.outline import Span, outline_of
from stepwell.model.waits import Wait
from stepwell.store.overview import EntryOutline
from stepwell.ui.waterfall import Axis, axis_of, queued_bar, rows_of

SECOND = 1_000_000


def entry(position: int, op: int, kind: str, at: float, attempt: int = 0, began: float = 0) -> EntryOutline:
    times = round(at * SECOND), attempt, round(began * SECOND)
    return EntryOutline(position, op, kind, f"{kind} {op}", *times, 10)


def span(end: float | None, now: float = 100) -> Span:
    return Span(SECOND, 2 * SECOND, None if end is None else round(end * SECOND), round(now * SECOND), 0)


def test_operations_have_the_times_of_their_journal() -> None:
    entries = [
        entry(1, 1, "attempt_failed", 3, 1, 2.1),
        entry(2, 1, "step", 5, 2, 4),
        entry(3, 2, "timer", 9),
        entry(4, 3, "published", 9),
    ]
    step, timer, published = outline_of(entries, [], span(9), {}, is_cut=False).operations
    assert (step.issued_at, step.ended_at, step.outcome) == (2 * SECOND, 5 * SECOND, "done")
    assert [(each.number, each.outcome) for each in step.attempts] == [(1, "failed"), (2, "done")]
    assert (timer.issued_at, timer.ended_at) == (5 * SECOND, 9 * SECOND)  # with the answer before it
    assert published.issued_at == published.ended_at == 9 * SECOND  # nothing of it is waited for


def test_what_is_waited_for_is_an_operation_as_well() -> None:
    (one,) = outline_of([], [Wait("message", 1, "approval")], span(None), {}, is_cut=False).operations
    assert (one.name, one.outcome, one.issued_at, one.ended_at) == ("approval", "open", 2 * SECOND, None)


def test_times_are_those_of_the_wall_clock() -> None:
    ahead = Span(5 * SECOND, 6 * SECOND, 8 * SECOND, 9 * SECOND, 4 * SECOND)
    outline = outline_of([entry(1, 1, "step", 8, 1, 7)], [], ahead, {}, is_cut=False)
    assert (outline.created_at, outline.ends_at) == (SECOND, 4 * SECOND)
    assert outline.operations[0].attempts[0].started_at == 3 * SECOND


def test_long_idle_spans_are_folded_and_times_keep_their_order() -> None:
    day = 86_400 * SECOND
    axis = Axis(0, day, [(0, SECOND), (day - SECOND, day)], folds=True)
    (fold,) = axis.folds
    assert fold.seconds == 86_398
    places = [axis.x(at) for at in (0, SECOND // 2, SECOND, day // 2, day - SECOND, day)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, 1000)
    assert axis.x(SECOND) > 400  # what happened has nearly all of the width
    assert Axis(0, day, [], folds=False).x(day // 2) == 500
    assert axis.x(-5) == 0
    assert axis.x(day * 2) == 1000


def test_nothing_is_folded_where_nothing_took_any_time() -> None:
    assert Axis(0, 86_400 * SECOND, [(0, 0), (5, 5)], folds=True).folds == []


def test_a_bar_can_be_seen_and_stays_within_the_width() -> None:
    entries = [entry(number, number, "step", 2 + number / 1e6, 1, 2 + number / 1e6) for number in range(1, 5)]
    outline = outline_of(entries, [Wait("timer", 9, until=10**15)], span(None, 1e6), {}, is_cut=False)
    axis = axis_of(outline, folds=False)
    bars = [bar for row in rows_of(outline, outline.operations, axis) for bar in row.bars if bar.kind == "attempt"]
    assert all(bar.width >= 3 and bar.x + bar.width <= 1000 for bar in bars)
    queued = queued_bar(outline, axis)
    assert queued is not None
    assert queued.x == 0


def test_an_empty_run_has_an_axis() -> None:
    outline = outline_of([], [], Span(5, None, 5, 5, 0), {}, is_cut=False)
    assert axis_of(outline, folds=True).x(5) in {0, 1000}
    assert queued_bar(outline, axis_of(outline, folds=True)) is None
