"""The deterministic event loop: asyncio without I/O and without a clock.

It runs the code of one run and nothing else. Whatever asyncio builds on a loop (tasks, `gather`, `TaskGroup`,
`timeout`, locks, queues) works as it is, and resolves in the same order whenever the same completions are delivered in
the same order, because the ready queue is first in, first out and time stands still between deliveries.

- A timer (`call_later`, `call_at`) becomes a durable operation of the host.
- `run_in_executor` of a step becomes that step.
- Everything that would reach outside raises `WorkflowIOError`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import sys
import zlib
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, Self, TypeVar, TypeVarTuple, cast

import msgspec
from greenlet import getcurrent

from stepwell.errors import InvalidArgument, WorkflowIOError
from stepwell.greenlets import GreenletCoroutine
from stepwell.retry import MAX_DURATION_SECONDS

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MICROSECONDS: Final = 1_000_000


class LoopHost(Protocol):
    """What the loop needs from the run that it serves."""

    run_id: str
    now: int  # the run's clock, microseconds since the epoch
    stopped: bool  # true once the run must not execute another callback

    def set_timer(self, handle: Handle, due: int) -> None:
        """Make a timer durable; `handle` is pushed back with `DeterministicLoop.push` when it fires."""
        ...

    def drop_timer(self, handle: Handle) -> None:
        """Forget a timer that the code cancelled."""
        ...

    def call_in_thread(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """Make `asyncio.to_thread(step, …)` a durable call, or raise `WorkflowIOError` for what is not a step."""
        ...

    def report(self, context: dict[str, Any]) -> None:
        """Log what asyncio would hand to an exception handler."""
        ...

    def location(self) -> str:
        """Return ``file:line in function`` of the code that is executing now."""
        ...


class Handle(msgspec.Struct, eq=False):
    """A callback that waits in the ready queue, or for a timer: asyncio's `Handle` and `TimerHandle` without the cost.

    `operation` is a timer's number in the run, `due` its time in microseconds since the epoch; both are 0 otherwise.
    """

    strand: Strand
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    context: contextvars.Context
    operation: int = 0
    due: int = 0
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Never run the callback."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.operation:
                self.strand.host.drop_timer(self)

    def cancelled(self) -> bool:
        """Tell whether `cancel` was called."""
        return self.is_cancelled

    def when(self) -> float:
        """Return when a timer is due, in the loop's seconds."""
        return self.due / MICROSECONDS


class WorkflowTask(asyncio.Task[T]):
    """A task whose hash is the same in every replay, so that sets of tasks iterate in the same order."""

    __slots__ = ("_stable_hash", "strand")

    strand: Strand

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        loop: DeterministicLoop,
        name: str,
        context: contextvars.Context,
        stable_hash: int,
    ) -> None:
        self._stable_hash = stable_hash
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        """Return a number drawn from the run's id and the task's place in the run."""
        return self._stable_hash


def _awaited(outermost: Any) -> Iterator[Any]:
    """Yield a task's coroutine, the one that it awaits, and so on."""
    coroutine = outermost
    if isinstance(outermost, GreenletCoroutine):
        yield outermost
        coroutine = cast("Any", outermost).inner
    while hasattr(coroutine, "cr_frame"):
        yield coroutine
        coroutine = coroutine.cr_await


def _is_closed(coroutine: Any) -> bool:
    if isinstance(coroutine, GreenletCoroutine):
        return coroutine.is_closed
    return coroutine.cr_frame is None


def _close(coroutine: Any) -> None:
    """Close a task's coroutine and what it awaits.

    Code that waits on its way out (`TaskGroup` does) makes `close` fail: what awaited it is closed then, but not it.
    """
    left = [coroutine]
    for _ in range(_MAX_CLOSES):
        awaited = [inner for each in left for inner in _awaited(each)]
        for each in awaited:
            with suppress(BaseException):  # whatever the code does on its way out, it must not act
                each.close()
        left = [each for each in awaited if not _is_closed(each)]
        if not left:
            return
    for each in left:
        _keep_for_ever(each)


def _drop_generator(_generator: object) -> None:
    """Let the collector free an async generator that the code abandoned, without executing its ``finally``.

    When that happens is chance, so nothing of a run may follow from it.
    """


def _keep_for_ever(coroutine: object) -> None:
    """Keep code that swallowed its end from ever being collected.

    The collector would try to close it again, at any time and in any thread, outside of this loop: there, an endless
    ``try … except BaseException`` never waits, so it would never give the thread back. A plain reference would not last
    to the end of the process.
    """
    import ctypes  # noqa: PLC0415 - rarely needed, and takes time to load

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


# How often code is closed that waits on its way out before it is taken for an endless loop.
_MAX_CLOSES: Final = 10


class Strand:
    """What one run has on the loop that it shares with others: the callbacks that are ready, and its tasks."""

    __slots__ = ("_hash_base", "_prune_at", "_tasks", "_tasks_made", "greenlets", "host", "hub", "ready")

    def __init__(self, host: LoopHost, *, greenlets: bool) -> None:
        self.host = host
        self.greenlets = greenlets
        self.hub = getcurrent()
        self.ready: deque[Handle] = deque()
        self._tasks_made = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 16
        self._hash_base = zlib.crc32(host.run_id.encode()) << 20

    def next_task(self) -> tuple[int, int]:
        """Return the number of the next task, and its hash."""
        self._tasks_made += 1
        return self._tasks_made, self._hash_base + self._tasks_made

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Keep a task for `unfinished_tasks`."""
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = self.unfinished_tasks()
            self._prune_at = max(16, 2 * len(self._tasks))

    def unfinished_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def forget_tasks(self) -> None:
        """Let go of all tasks; nothing of the run executes any more."""
        self._tasks = []
        self.ready.clear()

    def push(self, handle: Handle) -> None:
        """Put the handle of a timer that fired into the ready queue."""
        handle.operation = 0
        self.ready.append(handle)


def _unwrap(function: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return what is called in the end, and with what: `asyncio.to_thread` passes ``partial(context.run, step, …)``."""
    kwargs: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        args, kwargs, function = (*function.args, *args), {**function.keywords, **kwargs}, function.func
    if isinstance(getattr(function, "__self__", None), contextvars.Context) and args:
        function, args = args[0], args[1:]
    return function, args, kwargs


class _Entered:
    """A deterministic loop as the running loop of its thread, within a ``with`` block.

    A class, because `contextlib.contextmanager` takes three times as long, for every turn of the engine.
    """

    __slots__ = ("_hooks", "_loop", "_outer")

    def __init__(self, loop: DeterministicLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._outer = events._get_running_loop()
        self._hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self._loop)
        sys.set_asyncgen_hooks(None, _drop_generator)
        self._loop.entry = self

    def __exit__(self, *_error: object) -> None:
        self._loop.entry = None
        sys.set_asyncgen_hooks(*self._hooks)
        events._set_running_loop(self._outer)


class DeterministicLoop(asyncio.AbstractEventLoop):
    """The event loop of workflow code; only `drain` and `close` execute code.

    One loop serves all runs of a thread, one at a time: making it the thread's running loop costs half a microsecond
    and, in Python 3.11, a system call, so it is done once for a batch of deliveries (`entered`). `strand` is the run
    that callbacks belong to; `host` is that run while its code executes, and None otherwise.
    """

    def __init__(self) -> None:
        self.host: LoopHost | None = None
        self.strand: Strand | None = None
        self.entry: _Entered | None = None
        _order_sets_of_asyncio()

    @classmethod
    def create(cls) -> Self:
        """Return a loop. Type checkers take the class for abstract: most of its methods are made below."""
        return cls()

    # --- executing -----------------------------------------------------------------------------------------------

    def entered(self) -> _Entered:
        """Return a context manager that makes this the thread's running loop, for many calls of `drain`."""
        return _Entered(self)

    @contextmanager
    def left(self) -> Generator[None]:
        """Make the thread's running loop what it was before `entered`: for code of the user's that is no workflow's."""
        entered = self.entry
        if entered is None:
            yield
            return
        entered.__exit__()
        try:
            yield
        finally:
            entered.__enter__()

    def drain(self, strand: Strand) -> None:
        """Run a run's callbacks until none is ready, or its host is stopped."""
        if self.entry is None:
            with self.entered():
                self.drain(strand)
            return
        host = strand.host
        self.strand = strand
        self.host = host
        ready = strand.ready
        try:
            while ready and not host.stopped:
                handle = ready.popleft()
                if not handle.is_cancelled:
                    try:
                        handle.context.run(handle.callback, *handle.args)
                    except BaseException as error:  # noqa: BLE001 - a task keeps its own; this is a bare callback's
                        host.report({"message": "a callback raised", "exception": error})
        finally:
            self.host = None

    def spawn(self, strand: Strand, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Make the main task of a run."""
        self.strand = strand
        return self.create_task(coroutine, name="main")

    def close_strand(self, strand: Strand) -> None:
        """Close what a run's tasks were executing; its host is stopped, so nothing durable happens on the way."""
        if self.entry is None:
            with self.entered():
                self.close_strand(strand)
            return
        self.strand = strand
        self.host = strand.host
        try:
            closed: set[Any] = set()
            for _ in range(_MAX_CLOSES):  # what is closed may make further tasks on its way out
                tasks = [task for task in strand.unfinished_tasks() if task not in closed]
                if not tasks:
                    break
                closed.update(tasks)
                task: Any
                for task in tasks:
                    task._log_destroy_pending = False  # asyncio's own switch for this purpose
                    _close(task.get_coro())
        finally:
            strand.forget_tasks()
            self.host = self.strand = None

    def _here(self) -> Strand:
        strand = self.strand
        if strand is None:
            raise WorkflowIOError("the loop of workflow code was used outside of any run")
        return strand

    # --- what asyncio asks of a loop -----------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` after everything that is ready already."""
        strand = self.strand or self._here()
        handle = Handle(strand, callback, args, contextvars.copy_context() if context is None else context)
        strand.ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` `delay` seconds from now, durably."""
        host = self._here().host
        if not delay <= MAX_DURATION_SECONDS:  # so that NaN fails as well
            raise _too_long(delay, host)
        return self._timer(host.now + math.ceil(max(delay, 0.0) * MICROSECONDS), callback, args, context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` at the time `when` of this loop's clock, durably."""
        host = self._here().host
        delay = when - host.now / MICROSECONDS
        if not delay <= MAX_DURATION_SECONDS:
            raise _too_long(delay, host)
        return self._timer(math.ceil(max(when, 0.0) * MICROSECONDS), callback, args, context)

    def _timer(
        self, due: int, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> Handle:
        strand = self._here()
        handle = Handle(strand, callback, args, contextvars.copy_context() if context is None else context)
        handle.due = due
        strand.host.set_timer(handle, due)
        return handle

    def time(self) -> float:
        """Return the run's clock in seconds since the epoch; it stands still while code executes."""
        return self._here().host.now / MICROSECONDS

    def create_future(self) -> asyncio.Future[Any]:
        """Return a plain future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **_options: Any
    ) -> asyncio.Task[Any]:
        """Return a task; `name` defaults to the same text in every replay."""
        strand = self._here()
        number, stable_hash = strand.next_task()
        context = contextvars.copy_context() if context is None else context
        task: WorkflowTask[Any] = WorkflowTask(
            GreenletCoroutine(coro, context, strand.hub) if strand.greenlets else coro,
            loop=self,
            name=name or f"task-{number}",
            context=context,
            stable_hash=stable_hash,
        )
        task.strand = strand
        strand.add_task(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], object], *args: *Ts) -> Any:
        """Make `asyncio.to_thread(step, …)` durable; anything else raises `WorkflowIOError`."""
        host = self._here().host
        if executor is not None:
            raise WorkflowIOError(
                f"run {host.run_id!r}: workflow code used an executor at {host.location()}; call a step instead"
            )
        return self.create_task(host.call_in_thread(*_unwrap(func, args)))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand a stray exception to the log of the run that it belongs to."""
        strand = getattr(context.get("task") or context.get("future"), "strand", None)
        host = self.host if strand is None else strand.host
        if host is not None:
            host.report(context)

    default_exception_handler = call_exception_handler

    def get_debug(self) -> bool:
        """Return False: asyncio's debug mode measures real time."""
        return False

    def is_running(self) -> bool:
        """Return True: code that asks is being run by this loop."""
        return True

    def is_closed(self) -> bool:
        """Return False: the loop holds nothing that could be closed."""
        return False


def _forbidden(name: str) -> Callable[..., Any]:
    def refuse(self: DeterministicLoop, *_args: Any, **_kwargs: Any) -> Any:
        host = self._here().host
        raise WorkflowIOError(
            f"run {host.run_id!r}: workflow code used the event loop's {name}(), which reaches outside the run, "
            f"at {host.location()}; move that line into a step"
        )

    refuse.__name__ = name
    refuse.__doc__ = "Raise `WorkflowIOError`."
    return refuse


# Everything of AbstractEventLoop that the class above does not define reaches outside: sockets, pipes, threads,
# signals.
for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(DeterministicLoop):
        setattr(DeterministicLoop, _name, _forbidden(_name))


def _too_long(seconds: float, host: LoopHost) -> InvalidArgument:
    return InvalidArgument(
        f"run {host.run_id!r}: workflow code set a timer of {seconds:g} seconds at {host.location()}; a timer is at "
        "most 100 years long"
    )


def _ordered_set(items: Iterable[Any] = ()) -> Any:
    """Stand in for `set` inside asyncio.tasks: keeps the order of `items` while workflow code executes."""
    if isinstance(events._get_running_loop(), DeterministicLoop):
        return dict.fromkeys(items) or set[Any]()
    return set(items)


def _order_sets_of_asyncio() -> None:
    """Make `asyncio.as_completed` and `asyncio.wait` start coroutines in the order in which they were given.

    Both pass their argument through ``set(...)``, whose order for coroutines depends on memory addresses. The name
    `set` is looked up in the module first, so one module attribute mends every way of importing them. Outside of a
    deterministic loop it behaves as before. See docs/adr/0003-asyncio-sets.md.
    """
    asyncio.tasks.__dict__.setdefault("set", _ordered_set)
