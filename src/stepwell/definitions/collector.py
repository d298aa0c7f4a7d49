"""The garbage collector executes code of users: clean-up of what nothing refers to any more, at a moment of chance.

That moment may be in the middle of another run's code, or in any thread. So while the collector works, nobody is taken
for the code of a run: whatever the clean-up asks of Stepwell, or of the event loop that was interrupted, ends it with
`GeneratorExit`, which is what Python itself raises in code that it closes, and says nothing about.
"""

from __future__ import annotations

import gc
from _thread import get_ident
from asyncio.events import _get_running_loop
from typing import Any, Final

#: The thread in which the collector works, 0 while it does not.
_thread = 0
#: The loop of the run that it interrupted, with its host and whether it was open; one at most.
_interrupted: Final[list[tuple[Any, Any, bool]]] = []


def is_at_work() -> bool:
    """Tell whether the code that asks was called by the collector."""
    return _thread != 0 and _thread == get_ident()


def is_clean_up() -> bool:
    """Tell whether the code that asks, which is no run's, is clean-up: by the collector, or between runs.

    Between runs a loop of a run is the running one and has no host. What a run leaves is freed there.
    """
    return is_at_work() or hasattr(_get_running_loop(), "host")


def end_clean_up() -> None:
    """Raise `GeneratorExit` in code that `is_clean_up`, so that it ends without having done anything."""
    if is_clean_up():
        raise GeneratorExit


def watch_collector() -> None:
    """Have the collector act in no run, from now on."""
    if _around not in gc.callbacks:
        gc.callbacks.append(_around)


def _around(phase: str, _info: dict[str, int]) -> None:
    global _thread  # noqa: PLW0603 - there is one collector in a process
    if phase == "start":
        _thread = get_ident()
        loop: Any = _get_running_loop()
        host = getattr(loop, "host", None)
        if host is not None:
            _interrupted.append((loop, host, loop.is_open))
            loop.host, loop.is_open = None, False
        return
    _thread = 0
    while _interrupted:
        loop, host, is_open = _interrupted.pop()
        loop.host, loop.is_open = host, is_open
