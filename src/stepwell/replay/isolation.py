"""What keeps the runs of one process apart: an object of asyncio belongs to the run whose code made it.

asyncio refuses objects of another event loop only where it has to wait for them: a lock that is free, a queue that has
something, an event that is set are used across loops without a word. In a workflow that is never right: what one run
leaves in memory for another is not there when the other is replayed. So each use of a lock, event, condition,
semaphore, barrier or queue is checked where code of a run is concerned, also one that was made outside of any run, at
the top of a module say: it would be shared by all runs, and keep what a run left in it when that run begins anew.

Tasks and futures are checked by their own classes (`stepwell.replay.tasks`), with the same message.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from asyncio import mixins
from asyncio.events import _get_running_loop
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any, Final

from stepwell.definitions.collector import is_at_work
from stepwell.errors import WorkflowIOError
from stepwell.replay.source_location import executing_at, executing_frames

#: Everything of asyncio whose state code shares with other code.
_CLASSES: Final = (
    asyncio.Lock,
    asyncio.Event,
    asyncio.Condition,
    asyncio.Semaphore,
    asyncio.BoundedSemaphore,
    asyncio.Barrier,
    asyncio.Queue,
)
#: What is checked besides the public methods, and what it shows as.
_USES: Final = {"__aenter__": "async with", "__aexit__": "async with", "_get_loop": "to wait"}
#: The parent of the first four, which has the entries.
_MANAGER: Final[Any] = asyncio.Lock.__mro__[1]


def refuse(used: object, use: str, owner: Any) -> BaseException:
    """Make the error for the use of an object that belongs to `owner`, the run of another loop, or to no run (None).

    Clean-up that the collector executes ends without a word (see `stepwell.definitions.collector`).
    """
    if is_at_work():
        return GeneratorExit()
    user: Any = getattr(_get_running_loop(), "host", None)
    if owner is None:
        whose = "was made outside of the run"
    elif user is not None and owner.run_id == user.run_id:
        whose = "was made before this run left memory and began anew"
    else:
        whose = f"belongs to run {owner.run_id!r}"
    where = "code outside of that run" if user is None else f"run {user.run_id!r}: workflow code"
    place = executing_at() if user is None else user.location()
    advice = (
        "Make it inside the workflow function"
        if owner is None
        else "What one run has in memory is not there when another is replayed"
    )
    return WorkflowIOError(
        f"{where} used {_described(used)}, which {whose} ({use}), at {place}. {advice}; what runs tell each "
        "other goes through the engine: messages (send, receive), published values, child runs, limits and queues"
    )


def guard_asyncio() -> None:
    """Make the locks, events and queues of this process belong to the run whose code makes them.

    Class attributes, so that it does not matter how they were imported. In programs of plain asyncio it costs each use
    a tenth of a microsecond and changes nothing.
    """
    base: Any = mixins._LoopBoundMixin
    if "__new__" in vars(base):
        return
    base.__new__ = staticmethod(_new)
    base._get_loop = _checked(base._get_loop)
    for kind in (_MANAGER, *_CLASSES):
        for name, method in list(vars(kind).items()):
            if isinstance(method, FunctionType) and (name in _USES or not name.startswith("_")):
                setattr(kind, name, _checked(method))
    # `wait_for`, `shield` and `gather` turn what they are given into futures of their loop: by this name.
    name = "_ensure_future" if hasattr(asyncio.tasks, "_ensure_future") else "ensure_future"
    setattr(asyncio.tasks, name, _checked_future(getattr(asyncio.tasks, name)))


def _new(kind: type[Any], *_args: Any, **_kwargs: Any) -> Any:
    """Make an object that belongs to a loop; of the loop whose run makes it, if one does."""
    self = object.__new__(kind)
    loop = _get_running_loop()
    if getattr(loop, "host", None) is not None:
        self._loop = loop
    return self


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    use = _USES.get(method.__name__, f"{method.__name__}()")

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop = _get_running_loop()
        bound = self._loop
        if bound is not loop or loop is None:
            owner = getattr(bound, "run", None)
            if owner is not None or getattr(loop, "host", None) is not None:
                raise refuse(self, use, owner)
        return method(self, *args, **kwargs)

    if inspect.iscoroutinefunction(method):
        _mark_as_coroutine_function(checked)
    return checked


def _checked_future(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def checked(coro_or_future: Any, *, loop: Any = None) -> Any:
        bound = getattr(coro_or_future, "_loop", None)
        owner = getattr(bound, "run", None)
        if owner is not None and loop is not None and loop is not bound:
            raise refuse(coro_or_future, "await", owner)
        return function(coro_or_future, loop=loop)

    return checked


def _mark_as_coroutine_function(function: Any) -> None:
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        coroutines: Any = asyncio.coroutines
        function._is_coroutine = coroutines._is_coroutine


def _described(used: Any) -> str:
    """Name an object by what it is and what the code calls it: its own text would show an address."""
    kind = used.__class__
    if issubclass(kind, asyncio.Task):
        return f"task {used.get_name()!r}"
    module = "asyncio" if kind.__module__.startswith(("asyncio", "_asyncio")) else kind.__module__
    name = "asyncio.Future" if issubclass(kind, asyncio.Future) else f"{module}.{kind.__qualname__}"
    called = next(_names_of(used), None)
    return name if called is None else f"{name} {called!r}"


def _names_of(used: object) -> Iterator[str]:
    """Yield what the code that is executing calls an object: global names first, local ones, then attributes."""
    frames = list(executing_frames())
    for frame in frames:
        yield from (name for name, value in list(frame.f_globals.items()) if value is used)
    for frame in frames:
        yield from (name for name, value in frame.f_locals.items() if value is used)
    for frame in frames:
        for name, value in _mentioned(frame):
            attributes = list(getattr(value, "__dict__", {}).items())
            yield from (f"{name}.{attribute}" for attribute, held in attributes if held is used)


def _mentioned(frame: FrameType) -> Iterator[tuple[str, object]]:
    yield from frame.f_locals.items()
    for name in frame.f_code.co_names:
        if name in frame.f_globals:
            yield name, frame.f_globals[name]
