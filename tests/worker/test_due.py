"""Times of its own: one object knows when the worker next has to act, whoever it is that has to."""

from __future__ import annotations

import pytest

from stepwell.runtime.retention import PERIOD, Retention
from stepwell.runtime.serving.requests import Purge, Request
from stepwell.worker.state.due import DueTimes, Earliest
from stepwell.worker.state.unit_of_work import Reply


class Part:
    """Is due once, and notes when it acted."""

    def __init__(self, name: str, at: int | None, acted: list[tuple[str, int]]) -> None:
        self._name = name
        self._at = at
        self._acted = acted

    def due_at(self) -> int | None:
        return self._at

    def advance(self, now: int) -> None:
        self._at = None
        self._acted.append((self._name, now))


@pytest.mark.parametrize(
    ("times", "expected"), [([], None), ([None], None), ([None, 7], 7), ([7, 5, None, 6], 5), ([0, 5], 0)]
)
def test_the_first_of_all_times_is_the_one_that_counts(times: list[int | None], expected: int | None) -> None:
    assert DueTimes(*(Part("a", at, []) for at in times)).due_at() == expected


def test_those_that_are_due_act_in_the_order_in_which_they_were_given_and_no_others() -> None:
    acted: list[tuple[str, int]] = []
    due = DueTimes(Part("late", 9, acted), Part("never", None, acted), Part("first", 5, acted))
    due.add(Part("added", 3, acted))
    due.advance(5)
    assert acted == [("first", 5), ("added", 5)]
    assert due.due_at() == 9


def test_what_one_of_them_makes_due_comes_at_once() -> None:
    acted: list[tuple[str, int]] = []
    later = Part("later", None, acted)

    class Wakes(Part):
        def advance(self, now: int) -> None:
            super().advance(now)
            later._at = now

    DueTimes(Wakes("wakes", 1, acted), later).advance(4)
    assert acted == [("wakes", 4), ("later", 4)]


def test_the_earliest_of_the_times_noted_is_kept() -> None:
    earliest = Earliest()
    for at, expected in [(None, None), (7, 7), (9, 7), (None, 7), (3, 3)]:
        earliest.note(at)
        assert earliest.at == expected


def test_retention_looks_at_once_and_then_some_time_after_each_answer() -> None:
    asked: list[tuple[Request, Reply]] = []
    retention = Retention(100, lambda request, reply: asked.append((request, reply)))
    assert retention.due_at() == 0
    retention.advance(1_000)
    assert retention.due_at() is None, "one look at a time"
    ((request, reply),) = asked
    assert request == Purge(900)
    reply(None, ValueError("a full disk"))
    assert retention.due_at() == 1_000 + PERIOD
