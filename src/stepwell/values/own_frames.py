"""Tracebacks without this package's own frames: between those of a workflow and those of what it calls stand dozens.

What is recorded of a failure leaves them out, so the log does as well. It also matters that they go: a frame keeps the
one that called it, and so the event loop's variables, as long as the exception lives.
"""

from __future__ import annotations

import types
from typing import Final, cast

from stepwell.errors import StepwellError
from stepwell.package import ROOT

#: How many exceptions are looked at: causes, contexts and members of groups.
_MAX_ERRORS: Final = 100


def is_own(frame: types.FrameType) -> bool:
    """Tell whether a frame executes code of this package."""
    return frame.f_code.co_filename.startswith(ROOT)


def drop_own_frames(error: BaseException) -> None:
    """Take this package's frames out of an exception's traceback, of its causes', and of its members'.

    Where there are no others, an error of this package has no traceback then, and another one keeps what it has: that
    may be a defect of ours.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    for each in left:  # which grows meanwhile
        if each is None or id(each) in seen or len(seen) == _MAX_ERRORS:
            continue
        seen.add(id(each))
        kept = _without_own(each.__traceback__)
        if kept is not None or isinstance(each, StepwellError):
            each.__traceback__ = kept
        left += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", each).exceptions


def _without_own(start: types.TracebackType | None) -> types.TracebackType | None:
    entries: list[types.TracebackType] = []
    while start is not None:
        entries.append(start)
        start = start.tb_next
    kept: types.TracebackType | None = None
    for entry in reversed(entries):
        if not is_own(entry.tb_frame):
            kept = types.TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept
