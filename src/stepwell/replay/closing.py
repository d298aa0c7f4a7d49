"""How the code of a run is closed that leaves memory, or has ended, without letting it act.

Whatever is suspended is closed at once, by the engine: what is left to the garbage collector would execute its clean-up
at any time, in any thread, in the middle of another run. The run is stopped meanwhile, so nothing durable happens.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import AsyncGeneratorType, CellType, CoroutineType, FunctionType, GeneratorType, ModuleType
from typing import Any, Final, cast

from stepwell.errors import RunEnded
from stepwell.replay.awaiting import SUSPENDED, awaited_by
from stepwell.replay.greenlets import GreenletCoroutine
from stepwell.replay.source_location import executing_at

#: How often code is closed that waits on its way out before it is taken for an endless loop.
MAX_CLOSES: Final = 10

#: What is looked into for coroutines.
_CONTAINERS: Final[frozenset[Any]] = frozenset({list, tuple, dict, set, frozenset, deque, CellType, partial})
#: How many things are looked at.
_MAX_MEMBERS: Final = 1000


def silence(task: Any) -> None:
    """Keep asyncio from complaining that a task was dropped: it was, on purpose."""
    task._log_destroy_pending = False  # asyncio's own switch for this purpose


def close(coroutine: Any) -> None:
    """Close a task's coroutine and what it awaits, or what an async generator awaits.

    Code that waits on its way out (`TaskGroup` does) makes `close` fail: what awaited it is closed then, but not it.
    """
    left = [coroutine]
    for _ in range(MAX_CLOSES):
        awaited = [inner for each in left for inner in _awaited(each)]
        for each in awaited:
            _close_unstarted(each)
        for each in awaited:
            if not isinstance(each, AsyncGeneratorType):  # freed without executing anything: see `generators`
                with suppress(BaseException):  # whatever the code does on its way out, it must not act
                    each.close()
        left = [each for each in awaited if not _is_closed(each)]
        if not left:
            return
    for each in left:
        _keep_for_ever(each)


def _awaited(outermost: Any) -> Iterator[Any]:
    """Yield what is suspended, what it awaits, and so on, as far as these are coroutines or generators."""
    coroutine: Any = outermost
    if isinstance(outermost, GreenletCoroutine):
        yield outermost
        coroutine = cast("Any", outermost).inner
    while coroutine is not None:
        if isinstance(coroutine, SUSPENDED):
            yield coroutine
        coroutine = awaited_by(coroutine)


def _close_unstarted(suspended: Any) -> None:
    """Close the coroutines that code has made and not begun to await: Python would warn of each when it is freed."""
    if isinstance(suspended, GreenletCoroutine):
        return
    # The variables, and what is in the middle of an expression; then what they contain.
    held: list[Any] = gc.get_referents(suspended)
    if suspended.__class__ is CoroutineType and _is_unstarted(suspended):
        # A method that never began has not awaited what its object holds: anyio keeps a task's coroutine so.
        held += [inner for each in held for inner in _attributes(each) if inner.__class__ is CoroutineType]
    seen: set[int] = set()
    for each in held:  # which grows meanwhile
        kind: Any = each.__class__
        if kind is CoroutineType:
            if _is_unstarted(each):
                each.close()
        elif kind in _CONTAINERS and id(each) not in seen and len(held) < _MAX_MEMBERS:
            seen.add(id(each))
            held += gc.get_referents(each)


def _attributes(held: Any) -> Iterable[Any]:
    """Return what an object keeps in its slots and its dictionary; nothing of what others share with it."""
    if isinstance(held, type | ModuleType | FunctionType):
        return ()
    return [*gc.get_referents(held), *getattr(held, "__dict__", {}).values()]


def _is_unstarted(coroutine: Any) -> bool:
    return coroutine.cr_frame is not None and not coroutine.cr_running and not coroutine.cr_suspended


def _is_closed(suspended: Any) -> bool:
    match suspended:
        case GreenletCoroutine():
            return suspended.is_closed
        case CoroutineType():
            return suspended.cr_frame is None
        case GeneratorType():
            return suspended.gi_frame is None
        case AsyncGeneratorType():  # is not closed itself; what it awaits is
            return all(map(_is_closed, [*_awaited(suspended)][1:]))
        case _:
            return True


def _keep_for_ever(coroutine: object) -> None:
    """Keep code that swallowed its end from ever being collected.

    The collector would try to close it again, at any time and in any thread, outside of this loop: there, an endless
    ``try … except BaseException`` never waits, so it would never give the thread back. A plain reference would not last
    to the end of the process.
    """
    import ctypes  # noqa: PLC0415 - rarely needed, and takes time to load

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


class GoneRun:
    """Stands for a run that has left memory: nothing that its code tries then has any effect."""

    __slots__ = ("now", "run_id", "stopped")

    def __init__(self, run_id: str, now: int) -> None:
        self.run_id = run_id
        self.now = now
        self.stopped = True

    def set_timer(self, handle: Any, due: int) -> None:
        """Do nothing: it never fires."""

    def drop_timer(self, handle: Any) -> None:
        """Do nothing."""

    def call_in_thread(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Refuse."""
        raise RunEnded(
            f"run {self.run_id!r}: {function!r} was called with {(*args, *kwargs)!r} after the run's code had ended or "
            "left memory"
        )

    def intrude(self, what: str) -> None:
        """Do nothing."""

    def report(self, context: dict[str, Any]) -> None:
        """Say nothing."""

    def location(self) -> str:
        """Return ``file:line in function`` of the code that is executing now."""
        return executing_at()
