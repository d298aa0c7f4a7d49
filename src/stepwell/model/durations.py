"""How long something took, in words: the same on a terminal and in a browser. Pure."""

from __future__ import annotations

from typing import Final

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))
_MILLISECOND: Final = 0.001
_MINUTE: Final = 60
#: From here on a number is shown without a decimal point.
_MANY: Final = 100


def duration(seconds: float | None) -> str:
    """Return how long something took: ``430 ms``, ``2.31 s``, ``3 min 12 s``, ``2 d 4 h``; empty for None."""
    if seconds is None:
        return ""
    if seconds < _MILLISECOND:
        return f"{seconds * 1e6:.0f} µs" if seconds > 0 else "0 s"
    if seconds < 1:
        return f"{_three_digits(seconds * 1e3)} ms"
    if seconds < _MINUTE:
        return f"{_three_digits(seconds)} s"
    whole, parts = round(seconds), list[str]()
    for unit, length in _UNITS:
        count, whole = divmod(whole, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join([*parts, f"{whole} s"][:2])


def length_in_words(seconds: float) -> str:
    """Return a length that somebody chose, without what is nothing of it: ``1 h``, and not ``1 h 0 min``."""
    words = duration(seconds)
    for nothing in (" 0 s", " 0 min", " 0 h"):
        words = words.removesuffix(nothing)
    return words


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= _MANY else f"{number:.3g}"
