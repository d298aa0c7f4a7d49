"""Small plots: columns of counts, as places in a picture. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from stepwell.api.reading.overview import Throughput

_WIDTH: Final = 600.0
_HEIGHT: Final = 60.0
#: A count that is not nothing can be seen.
_LEAST_HEIGHT: Final = 1.5


class Column(msgspec.Struct, frozen=True):
    """A span: its place, and how high what ended in it is, and how much of that failed."""

    x: float
    width: float
    ended_y: float
    ended_height: float
    failed_height: float
    tip: str


class Plot(msgspec.Struct, frozen=True):
    """Columns in a picture of 600 by 60; `words` say what one who does not see them has of it."""

    columns: list[Column]
    most: int
    total: int
    failed: int
    words: str


def plot_of(throughput: Throughput) -> Plot:
    """Return how many runs ended in each span."""
    most, number = max(throughput.ended, default=0), len(throughput.ended)
    width = _WIDTH / max(number, 1)
    columns = [
        _column(place * width, width - 1, ended, failed, most, (number - 1 - place) * throughput.width_seconds)
        for place, (ended, failed) in enumerate(zip(throughput.ended, throughput.failed, strict=True))
        if ended
    ]
    total, failures = sum(throughput.ended), sum(throughput.failed)
    words = f"{total:,} runs ended, {failures:,} of them failed; at most {most:,} in one column"
    return Plot(columns, most, total, failures, words)


def _column(x: float, width: float, ended: int, failed: int, most: int, seconds_ago: int) -> Column:
    height = max(_LEAST_HEIGHT, _HEIGHT * ended / most)
    tip = f"{ended:,} ended, {failed:,} of them failed, {seconds_ago // 60} min ago"
    return Column(
        round(x, 2),
        round(width, 2),
        round(_HEIGHT - height, 2),
        round(height, 2),
        round(height * failed / ended, 2),
        tip,
    )
