"""What a name may be: of a workflow, a step, a run, a message, a queue."""

from __future__ import annotations

from typing import Final

from stepwell.errors import InvalidArgument
from stepwell.shown import shown

#: The longest name, in characters.
MAX_NAME_LENGTH: Final = 255
#: What shows as nothing, although Unicode counts it among the printable: the space, three fillers of Hangul and the
#: empty pattern of Braille.
_BLANKS: Final = " \u115f\u1160\u2800\u3164\uffa0"


def check_name(name: str, what: str) -> str:
    """Return `name`; raise `InvalidArgument` for one that is blank, too long, not text, or has control characters."""
    if not isinstance(name, str):
        raise InvalidArgument(f"{what} must be text, not {type(name).__name__} {shown(name)}")
    if not name or len(name) > MAX_NAME_LENGTH:
        raise InvalidArgument(f"{what} must have 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    if not name.isprintable():
        raise InvalidArgument(f"{what} has control characters or lone surrogates: {name!r}")
    if is_blank(name):
        raise InvalidArgument(f"{what} is blank: {name!r}")
    return name


def check_id(run_id: str, what: str = "the id of a run") -> str:
    """Return `run_id`, or raise `InvalidArgument` for one that is empty, too long, not text, or not printable."""
    return check_name(run_id, what)


def is_blank(text: str) -> bool:
    """Tell whether printable text shows as nothing."""
    return not text.strip(_BLANKS)


def check_text(text: str | None, what: str) -> str | None:
    """Return `text`, or None; raise `InvalidArgument` for what is no text, or text that UTF-8 cannot hold."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidArgument(f"{what} must be text, not {type(text).__name__} {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} has lone surrogates, which UTF-8 cannot hold: {text!r}") from None
    return text
