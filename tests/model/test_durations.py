"""How long something took, in words."""

from __future__ import annotations

import pytest

from stepwell.model.durations import duration, length_in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0, "0 s"),
        (0.000_430, "430 µs"),
        (0.001, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.1, "100 ms"),
        (0.430, "430 ms"),
        (0.9996, "1000 ms"),
        (1, "1 s"),
        (2.314, "2.31 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (192.4, "3 min 12 s"),
        (3_600, "1 h 0 min"),
        (86_400 + 59, "1 d 0 h"),
        (2 * 86_400 + 4 * 3_600 + 59 * 60, "2 d 4 h"),
    ],
)
def test_a_length_of_time_is_told_in_two_units_at_most(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(60, "1 min"), (3_600, "1 h"), (86_400, "1 d"), (90, "1 min 30 s"), (0, "0 s")]
)
def test_a_length_that_was_chosen_is_told_without_what_is_nothing_of_it(seconds: float, words: str) -> None:
    assert length_in_words(seconds) == words
