"""What a signal handler raises comes after a turn of the engine, never in the middle of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stepwell.runtime import held_signals
from stepwell.runtime.held_signals import HeldSignals

_called: list[str] = []


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Have handlers that note what happened, one of which raises."""

    def raises(_number: int, _frame: object) -> None:
        _called.append("raises")
        raise SystemExit(3)

    def notes(_number: int, _frame: object) -> None:
        _called.append("notes")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGTERM, raises)
    signal.signal(signal.SIGUSR1, notes)
    _called.clear()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def turn(held: HeldSignals) -> Iterator[None]:
    held.hold()
    try:
        yield
    finally:
        held.let_go()


def _turn(held: HeldSignals) -> None:
    with turn(held):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        _called.append("the turn is over")


def _long_turn(held: HeldSignals) -> None:
    with turn(held):
        signal.raise_signal(signal.SIGTERM)
        try:
            signal.raise_signal(signal.SIGTERM)
            _called.append("not reached")
        except KeyboardInterrupt:
            _called.append("interrupted")


def test_handlers_are_called_after_the_turn_all_of_them_and_stay_installed() -> None:
    held = HeldSignals(lambda: _called.append("cut off"))
    for _ in range(2):
        with pytest.raises(SystemExit, match="3"):
            _turn(held)
        assert _called == ["the turn is over", "raises", "notes"]
        _called.clear()
    signal.raise_signal(signal.SIGUSR1)
    assert _called == ["notes"]


def test_a_handler_that_was_installed_a_moment_ago_waits_for_the_end_of_the_turn_as_well() -> None:
    held = HeldSignals(lambda: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with turn(held):
        pass
    signal.signal(signal.SIGUSR1, lambda *_: _called.append("new"))
    with turn(held):
        signal.raise_signal(signal.SIGUSR1)
        _called.append("the turn is over")
    assert _called == ["the turn is over", "new"]


@pytest.mark.parametrize(
    ("number", "handler"),
    [
        (signal.SIGUSR1, signal.SIG_IGN),
        (signal.SIGUSR2, signal.SIG_IGN),
        (signal.SIGURG, signal.SIG_DFL),  # which does nothing either
    ],
)
def test_a_handler_that_was_taken_away_a_moment_ago_is_not_called(
    number: signal.Signals, handler: signal.Handlers
) -> None:
    held = HeldSignals(lambda: None)
    before = signal.signal(number, lambda *_: _called.append("old"))
    try:
        with turn(held):
            pass
        signal.signal(number, handler)
        with turn(held):
            signal.raise_signal(number)
        assert _called == []
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_what_the_turn_raises_stays_what_it_is() -> None:
    held = HeldSignals(lambda: None)
    with pytest.raises(ValueError, match="of the turn"), turn(held):
        raise ValueError("of the turn")


def test_whoever_asks_twice_for_the_end_of_the_program_cuts_a_long_turn_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_signals, "_PATIENCE_SECONDS", -1.0)
    held = HeldSignals(lambda: _called.append("cut off"))
    with pytest.raises(SystemExit):
        _long_turn(held)
    assert _called == ["cut off", "interrupted", "raises", "raises"]


def test_a_signal_that_asks_for_no_end_never_cuts_a_turn_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_signals, "_PATIENCE_SECONDS", -1.0)
    with turn(HeldSignals(lambda: _called.append("cut off"))):
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
    assert _called == ["notes"] * 3
