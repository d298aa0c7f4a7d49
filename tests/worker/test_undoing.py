"""What a retry forgets and what it keeps, from a journal alone."""

from __future__ import annotations

import pytest

from stepwell.model.journal import Entry, EntryKind
from stepwell.model.run import RunRecord
from stepwell.operations.table import OPERATIONS
from stepwell.values.codec import Codec
from stepwell.worker.repair.undoing import undo

CODEC = Codec()
FAILURE = CODEC.encode_failure(ValueError("went wrong"))
NOW = 1_000


def journal(*kinds: tuple[int, EntryKind]) -> list[Entry]:
    """Return entries at 10, 20, …, each with its place; those that failed hold `FAILURE`."""
    return [
        Entry(1, op, kind, f"op {op}", 0, 10 * place, FAILURE if kind == "step_failed" else None, position=place)
        for place, (op, kind) in enumerate(kinds, start=1)
    ]


def forgotten(*kinds: tuple[int, EntryKind]) -> list[int]:
    record = RunRecord(1, "r", "w", "failed", None, 0, 0, 0, error=FAILURE, ended_at=500)
    return undo(CODEC, record, journal(*kinds), NOW, OPERATIONS.kinds).change.undone


def test_the_failure_and_all_that_was_delivered_after_it_is_undone() -> None:
    assert forgotten((1, "step"), (2, "timer"), (3, "step_failed"), (4, "timer")) == [3, 4]


def test_of_another_step_failed_attempts_are_forgotten_and_that_one_is_under_way_is_kept() -> None:
    assert forgotten((1, "attempt_failed"), (1, "step_started"), (2, "step_failed")) == [1, 3]


def test_of_the_step_that_failed_all_attempts_are_forgotten() -> None:
    assert forgotten((1, "attempt_failed"), (1, "step_started"), (1, "step_failed")) == [1, 2, 3]


def test_of_a_step_that_ended_before_nothing_is_forgotten() -> None:
    assert forgotten((1, "attempt_failed"), (1, "step_started"), (1, "step"), (2, "step_failed")) == [4]


@pytest.mark.parametrize("deadline_at", [None, NOW - 1, NOW, NOW + 1])
def test_a_deadline_that_is_over_is_dropped(deadline_at: int | None) -> None:
    record = RunRecord(1, "r", "w", "failed", None, 0, 0, 0, error=FAILURE, ended_at=500, deadline_at=deadline_at)
    change = undo(CODEC, record, journal((1, "step_failed")), NOW, OPERATIONS.kinds).change
    assert change.deadline_at == (NOW + 1 if deadline_at == NOW + 1 else None)
