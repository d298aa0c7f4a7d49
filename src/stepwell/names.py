"""What a name may be: of a workflow, a step, a run, a message, a queue."""

from __future__ import annotations

from typing import Final

from stepwell.errors import InvalidArgument

#: The longest name, in characters.
MAX_NAME_LENGTH: Final = 255


def check_name(name: str, what: str) -> str:
    """Return `name`; raise `InvalidArgument` for one that is empty, too long, not text, or has control characters."""
    if not isinstance(name, str):
        raise InvalidArgument(f"{what} must be text, not {type(name).__name__} {name!r}")
    if not name or len(name) > MAX_NAME_LENGTH:
        raise InvalidArgument(f"{what} must have 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    if not name.isprintable():
        raise InvalidArgument(f"{what} has control characters or lone surrogates: {name!r}")
    return name
