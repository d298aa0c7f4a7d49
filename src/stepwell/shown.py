"""Values of others in messages: an error about a value must not fail because of that value, nor be as long as it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

#: How much of a value a message shows, in characters.
_LONGEST: Final = 200


def shown(value: Any) -> str:
    """Return a value as messages show it: its `repr`, shortened; its type where that fails, whatever it fails with."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # the value's own code, or one that is nested too deeply
        return f"<{type(value).__name__}, whose repr fails with {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def is_one_of(value: object, known: Container[str]) -> bool:
    """Tell whether a value is one of some texts; of what is no text (an array, say) nothing is compared or hashed."""
    return isinstance(value, str) and value in known
