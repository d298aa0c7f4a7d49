"""How large something is, in words: the same on a terminal, in a browser and in an error. Pure."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_THOUSAND: Final = 1000


def size_in_words(number_of_bytes: float) -> str:
    """Return a size: ``512 B``, ``3.2 kB``, ``1.4 MB``; a thousand of one unit are one of the next."""
    amount, unit = float(number_of_bytes), 0
    while amount >= _THOUSAND and unit < len(_UNITS) - 1:
        amount, unit = amount / _THOUSAND, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{amount:.0f} {_UNITS[unit]}"
