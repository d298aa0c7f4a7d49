"""A worker that does not answer is taken over when that has lasted as long as was said, and not before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from stepwell.errors import StoreError
from stepwell.model.run import Member
from stepwell.runtime import stalls
from stepwell.runtime.stalls import ANSWER_SECONDS, StallWatch
from stepwell.store.membership import Answer, Membership

OWN, OTHER = 1, 2


class Company:
    """A store whose workers answer as the test says; asking takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answer: Answer = "answered"
        self.states = {OWN: "active", OTHER: "active"}
        self.asked: list[list[int]] = []
        self.patience: list[float] = []

    def members(self) -> list[Member]:
        return [Member(epoch, 7, "host", 0, True, cast("Any", state), 0) for epoch, state in self.states.items()]

    def ping(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:
        self.asked.append(list(epochs))
        self.patience.append(timeout_seconds)
        if self.answer == "silent" and epochs:
            self.now += timeout_seconds
        return dict.fromkeys(epochs, self.answer)


class Watch:
    def __init__(self, company: Company, limit_seconds: float) -> None:
        self.company = company
        self.taken: list[int] = []
        self.watch = StallWatch(cast("Membership", company), limit_seconds, lambda: OWN, self.taken.append)

    def look(self, after: float = 0.0) -> list[int]:
        """Look once more, some seconds later; return who was taken over by now."""
        self.company.now += after
        self.watch._look()
        return self.taken


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Company:
    company = Company()
    monkeypatch.setattr(stalls, "monotonic", lambda: company.now)
    return company


@pytest.mark.parametrize("limit", [1.0, 5.0, 60.0, 3600.0])
def test_a_stall_below_the_limit_is_borne_and_one_that_lasts_is_not(company: Company, limit: float) -> None:
    watch = Watch(company, limit)
    assert watch.look() == []
    company.answer = "silent"
    began = company.now
    while company.now < began + 0.9 * limit - ANSWER_SECONDS:
        assert watch.look(limit / 40) == []
    company.answer = "answered"
    assert watch.look() == []
    # It begins from the beginning.
    company.answer = "silent"
    began = company.now
    while watch.look(limit / 40) == []:
        assert company.now - began < 2 * limit + ANSWER_SECONDS
    assert company.now - began >= limit
    assert watch.taken == [OTHER]
    assert OWN not in {epoch for asked in company.asked for epoch in asked}


def test_one_look_never_waits_longer_than_there_is_between_two(company: Company) -> None:
    for limit in (1.0, 4.0, 600.0):
        Watch(company, limit).look()
    assert company.patience == [0.25, 1.0, ANSWER_SECONDS]


def test_who_cannot_be_asked_is_left_alone_and_mentioned_once(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    watch = Watch(company, 1.0)
    company.answer = "unreachable"
    for _ in range(10):
        assert watch.look(100) == []
    assert [message for message in caplog.messages if "cannot be asked" in message] == [
        f"worker {OTHER} lives, but cannot be asked whether it works; it keeps its runs"
    ]
    # What was not known does not count as silence.
    company.answer = "silent"
    assert watch.look() == []


def test_the_dead_are_nobodys_to_take_over(company: Company) -> None:
    company.states[OTHER] = "dead"
    company.answer = "silent"
    watch = Watch(company, 1.0)
    for _ in range(5):
        assert watch.look(10) == []
    assert company.asked == [[]] * 5


def test_who_was_taken_over_is_taken_over_once(company: Company) -> None:
    company.answer = "silent"
    watch = Watch(company, 1.0)
    watch.look()
    assert watch.look(2) == [OTHER]
    assert watch.look(0.1) == [OTHER]


def test_a_watch_goes_on_when_the_others_could_not_be_asked(
    company: Company, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(company, 1.0)
    answers = iter([StoreError("not now")])
    looked: list[bool] = []

    def look() -> None:
        looked.append(True)
        for error in answers:
            raise error
        watch.watch.stop()

    monkeypatch.setattr(stalls, "_LOOKS_PER_LIMIT", 1000)
    monkeypatch.setattr(watch.watch, "_look", look)
    watch.watch._watch()
    assert len(looked) == 2
    assert "the other workers could not be asked: not now" in caplog.text
