"""The deterministic event loop: asyncio without I/O and without a clock.

Each run has one of its own, which runs the run's code and nothing else. Whatever asyncio builds on a loop (tasks,
`gather`, `TaskGroup`, `timeout`, locks, queues) works as it is, and resolves in the same order whenever the same
completions are delivered in the same order, because the ready queue is first in, first out and time stands still
between deliveries.

- A timer (`call_later`, `call_at`) becomes a durable operation of the host.
- `run_in_executor` of a step becomes that step.
- Everything that would reach outside raises `WorkflowIOError`.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import zlib
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from types import AsyncGeneratorType
from typing import Any, Final, Self, TypeVarTuple

from stepwell.definitions.durable import unwrapped
from stepwell.errors import InvalidArgument, WorkflowIOError
from stepwell.model.clock import MICROSECONDS
from stepwell.model.retry import MAX_DURATION_SECONDS
from stepwell.replay.closing import MAX_CLOSES, GoneRun, close, silence
from stepwell.replay.generators import Generators
from stepwell.replay.greenlets import BlockableCall, GreenletCoroutine, forget_current_task
from stepwell.replay.isolation import refuse
from stepwell.replay.loop_host import Handle, LoopHost
from stepwell.replay.loop_methods import LoopMethods, refuse_the_rest
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.tasks import TASK_STEP, WorkflowFuture, WorkflowTask, is_done
from stepwell.replay.unretrieved import is_unretrieved, unretrieved

Ts = TypeVarTuple("Ts")

#: How many callbacks of a run are executed for one delivery before others get their turn; see
#: `stepwell.worker.running.spinning`. A replay must stop where the first execution did, so both numbers are part of the
#: journal's format: they stay.
MAX_TURNS: Final = 1000
#: How many rounds follow then, each of all callbacks that are ready. A thousand tasks whose timers fire in one instant
#: need a few rounds to come to rest; code that goes round without waiting never does.
MORE_ROUNDS: Final = 10


def _unwrap(
    function: Any, args: tuple[Any, ...]
) -> tuple[contextvars.Context | None, Any, tuple[Any, ...], dict[str, Any]]:
    """Return what is called in the end, in which context, and with what.

    `asyncio.to_thread` passes ``partial(context.run, step, …)``.
    """
    context: contextvars.Context | None = None
    function, args, kwargs = unwrapped(function, args, {})
    owner = getattr(function, "__self__", None)
    if isinstance(owner, contextvars.Context) and args:
        context = owner.copy()
        function, args, kwargs = unwrapped(args[0], args[1:], kwargs)
    return context, function, args, kwargs


class DeterministicLoop(LoopMethods):
    """The event loop of one run's code; only `drain` and `close` execute code.

    Each run has one of its own, as long as it is in memory, so that asyncio itself tells apart what belongs to whom.
    `run` is that run; `host` is the same while its code executes, and None otherwise. `is_open` is true while what
    reaches the loop comes from that code, or is a delivery to it.
    """

    #: The numbers of async generators that the code has abandoned; see `stepwell.replay.generators`.
    abandoned: Sequence[int] = ()
    # On the class, because hardly any run has any: async generators, and callbacks that wait in the middle.
    _generators: Generators | None = None
    _blocked: Sequence[BlockableCall] = ()
    _may_have_eager_tasks = False
    _looked_through = 0  # how many tasks could have been looked through since that was done

    def __init__(self, run: LoopHost, thread: LoopThread | None = None, *, greenlets: bool = False) -> None:
        self.host: LoopHost | None = None
        self.run: LoopHost = run
        self.greenlets = greenlets
        self._thread = thread or LoopThread()
        self._ready: deque[Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._tasks_made = 0
        self._prune_at = 16
        self._hash_base = zlib.crc32(run.run_id.encode()) << 20
        self.is_open = False
        self._is_closed = False

    @classmethod
    def create(cls, run: LoopHost, thread: LoopThread | None = None, *, greenlets: bool = False) -> Self:
        """Return a loop. Type checkers take the class for abstract: most of its methods are made below."""
        return cls(run, thread, greenlets=greenlets)

    # --- executing -----------------------------------------------------------------------------------------------

    def drain(self) -> bool:
        """Run callbacks until none is ready, or the run is stopped; return False then.

        Return True where callbacks are still ready after `MAX_TURNS` of them and `MORE_ROUNDS`: the code goes round
        without waiting.
        """
        thread = self._thread
        if thread.current is not self:
            if not thread.is_entered:
                with thread.entered():
                    return self.drain()
            thread.current = self
            events._set_running_loop(self)
        self.is_open = True
        run = self.host = self.run
        ready = self._ready
        greenlets = self.greenlets
        try:
            turns = rounds = 0
            limit = MAX_TURNS
            while ready and not run.stopped:
                if turns == limit:
                    if rounds == MORE_ROUNDS:
                        return True
                    rounds += 1
                    limit += len(ready)
                turns += 1
                handle = ready.popleft()
                if not handle.is_cancelled:
                    try:
                        if greenlets:
                            self._call_blockable(handle)
                        else:
                            handle.context.run(handle.callback, *handle.args)
                    except BaseException as error:  # noqa: BLE001 - a task keeps its own; this is a bare callback's
                        self.call_exception_handler({"message": "a callback raised", "exception": error})
        finally:
            if self._may_have_eager_tasks:
                self._adopt_eager_tasks()
            self.host = None
            self.is_open = False
        return False

    def _call_blockable(self, handle: Handle) -> None:
        """Call a callback so that it can wait in the middle: on a greenlet, unless its code has one of its own."""
        callback = handle.callback
        if isinstance(getattr(callback, "__self__", None), (WorkflowTask, BlockableCall)):
            handle.context.run(callback, *handle.args)
            return
        call = BlockableCall(callback, handle.context)
        if call.start(handle.args):
            self._blocked = [call, *(other for other in self._blocked if other.is_blocked)]

    def call(self, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call plain code of the run's at once, outside of its tasks: it can look, and not have anything done."""
        thread = self._thread
        if not thread.is_entered:
            with thread.entered():
                self.call(function, args, kwargs)
            return
        if thread.current is not self:
            thread.current = self
            events._set_running_loop(self)
        self.host = self.run
        try:
            contextvars.Context().run(function, *args, **kwargs)
        finally:
            self.host = None

    def ready_callbacks(self) -> list[Callable[..., Any]]:
        """Return what would be called next, in that order."""
        return [handle.callback for handle in self._ready if not handle.is_cancelled]

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Make the main task of the run, in a context of its own: what its starter had set is not recorded."""
        self.is_open = True
        return self.create_task(coroutine, name="main", context=contextvars.Context())

    def push(self, handle: Handle) -> None:
        """Put the handle of a timer that fired into the ready queue."""
        handle.operation = 0
        self._ready.append(handle)

    def unfinished_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not is_done(task)]

    def unretrieved(self, *, held: bool, most: int | None = None) -> list[tuple[str, BaseException]]:
        """Return names and exceptions of tasks that failed and that nothing asks for, each once; see the module.

        `held`: also of those that code holds. `most`: where there are more tasks, they are looked through so much the
        more rarely.
        """
        number = len(self._tasks)
        if number == 1:  # the workflow itself
            return []
        self._looked_through += most or number
        if self._looked_through < number:
            return []
        self._looked_through = 0
        return unretrieved(self._tasks, held=held)

    @property
    def has_generators(self) -> bool:
        """Whether the code of the run has begun any async generator."""
        return self._generators is not None

    @property
    def generators(self) -> Generators:
        """The async generators of the run."""
        if self._generators is None:
            self._generators = Generators()
            self.abandoned = self._generators.abandoned
        return self._generators

    def close_generator(self, number: int) -> None:
        """Close an async generator that the code has abandoned, in a task, as asyncio does."""
        generator = self.generators.take(number)
        if generator is not None:
            self.is_open = True
            task = self.create_task(self._close_generator(generator))
            self.generators.closing.add(task)
            task.add_done_callback(self.generators.closing.discard)

    def _unfinished_generators(self) -> set[Any]:
        return set() if self._generators is None else {each for _, each in self._generators.unfinished()}

    async def close_generators(self) -> None:
        """Close those that have begun and not ended, as asyncio does at the end of a program; one after another."""
        for generator in self.generators.take_unfinished():
            await self._close_generator(generator)
        if self.generators.closing:
            await asyncio.wait(self.generators.closing)

    async def _close_generator(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        try:
            await generator.aclose()
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            message = f"an error occurred while the abandoned async generator {generator.__qualname__} was closed"
            self.call_exception_handler({"message": message, "exception": error, "asyncgen": generator})

    def close(self) -> None:
        """Close what the tasks were executing; the run is stopped, so nothing durable happens on the way.

        What reaches the loop afterwards is dropped.
        """
        thread = self._thread
        if not thread.is_entered:
            with thread.entered():
                self.close()
            return
        if self.host is not None:
            raise self.missing("close", "would end the run")
        if self._is_closed:
            return
        thread.current = self
        events._set_running_loop(self)
        self.host = self.run
        self.is_open = True
        try:
            self._close_tasks()
        finally:
            self.is_open = False
            self._is_closed = True
            self._tasks = []
            self._ready.clear()
            if self._generators is not None:
                self._generators.close()
            if self.greenlets:
                forget_current_task(self)
            self.host = None
            # Without this the run would be a cycle, which waits for the garbage collector: with a thousand runs at once
            # that is a tenth of all time.
            self.run = GoneRun(self.run.run_id, self.run.now)

    def _close_tasks(self) -> None:
        if not self._blocked and self._generators is None and all(map(is_done, self._tasks)):
            return
        for call in self._blocked:
            for _ in range(MAX_CLOSES):
                with suppress(BaseException):  # whatever the code does on its way out
                    call.close()
        self._blocked = ()
        closed: set[Any] = set()
        for _ in range(MAX_CLOSES):  # what is closed may make further tasks on its way out
            tasks = [task for task in self.unfinished_tasks() if task not in closed]
            generators = self._unfinished_generators().difference(closed)
            if not tasks and not generators:
                return
            closed.update(tasks, generators)
            for task in tasks:
                silence(task)
                close(task.get_coro())
            for generator in generators:
                close(generator)

    # --- what asyncio asks of a loop -----------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` after everything that is ready already."""
        if callback.__class__ is TASK_STEP:
            self._adopt(callback)
        handle = Handle(self, callback, args, contextvars.copy_context() if context is None else context)
        if self.is_open or self._reached("call_soon()", args):
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` after everything that is ready already; the run's own code may call this, other threads not.

        A `concurrent.futures` future that is done calls it at once, in the thread that waits for it.
        """
        handle = Handle(self, callback, args, contextvars.copy_context() if context is None else context)
        if (self.is_open and self.host is not None) or self._reached("call_soon_threadsafe()"):
            self._ready.append(handle)
        return handle

    def _adopt(self, step: Any) -> None:
        """Take note of a task of asyncio's own class, which the code made itself: it is closed with the others."""
        task = step.__self__
        if task.__class__ is WorkflowTask or not self.is_open or getattr(task.get_coro(), "cr_suspended", True):
            return
        self._tasks_made = number = self._tasks_made + 1
        if task.get_name().startswith("Task-"):  # from a counter of the process, which is another in a replay
            task.set_name(f"task-{number}")
        self._add_task(task)

    def is_running(self) -> bool:
        """Return True. asyncio asks that before it starts a task eagerly, and tells the loop of no such task."""
        self._may_have_eager_tasks = True
        return True

    def _adopt_eager_tasks(self) -> None:
        self._may_have_eager_tasks = False
        self._tasks += asyncio.all_tasks(self).difference(self._tasks)

    def check_reached(self, used: object, use: str) -> None:
        """Raise `WorkflowIOError` where other code than the run's uses what belongs to it, before it has an effect."""
        if not self._is_closed or getattr(events._get_running_loop(), "host", None) is not None:
            raise refuse(used, use, self.run)

    def _reached(self, use: str, args: tuple[Any, ...] = ()) -> bool:
        """Refuse what comes from other code than the run's, or drop it, returning False, where the run is gone.

        `args` are what a callback is called with. That of a future is the future, which has been completed already, so
        that the run cannot go on as it is.
        """
        if self._is_closed:
            return False
        completed = bool(args) and asyncio.isfuture(args[0])
        error = refuse(args[0] if completed else self, use, self.run)
        if completed:
            self.run.intrude(str(error))
            self._thread.intruded.append(self.run)
        raise error

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` `delay` seconds from now, durably."""
        host = self.run
        if delay == math.inf:
            return self._never(callback, args, context)
        if not delay <= MAX_DURATION_SECONDS:  # so that NaN fails as well
            raise _too_long(delay, host)
        return self._timer(host.now + math.ceil(max(delay, 0.0) * MICROSECONDS), callback, args, context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        """Run `callback` at the time `when` of this loop's clock, durably."""
        host = self.run
        delay = when - host.now / MICROSECONDS
        if delay == math.inf:
            return self._never(callback, args, context)
        if not delay <= MAX_DURATION_SECONDS:
            raise _too_long(delay, host)
        due = math.ceil(max(when, 0.0) * MICROSECONDS)
        if due / MICROSECONDS < when:  # never early, as `time` shows it: anyio looks, and would set it again, for ever
            due += 1
        return self._timer(due, callback, args, context)

    def _timer(
        self, due: int, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> Handle:
        handle = Handle(self, callback, args, contextvars.copy_context() if context is None else context)
        if not self.is_open and not self._reached("a timer"):
            return handle
        handle.due = due
        self.run.set_timer(handle, due)
        return handle

    def _never(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> Handle:
        """Return the handle of a timer that never fires, so it is no operation: `sleep(inf)` waits to be cancelled."""
        handle = Handle(self, callback, args, contextvars.copy_context() if context is None else context)
        handle.due = math.inf
        return handle

    def time(self) -> float:
        """Return the run's clock in seconds since the epoch; it stands still while code executes."""
        return self.run.now / MICROSECONDS

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this run."""
        return WorkflowFuture(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **_options: Any
    ) -> asyncio.Task[Any]:
        """Return a task; `name` defaults to the same text in every replay."""
        if not self.is_open and not self._is_closed:
            coro.close()
            self._reached("create_task()")
        if self.greenlets and not asyncio.iscoroutine(coro):  # else asyncio's own task says so
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        self._tasks_made = number = self._tasks_made + 1
        if self._task_factory is not None:
            return self._made_by_factory(coro, name or f"task-{number}", context)
        context = contextvars.copy_context() if context is None else context
        task: WorkflowTask[Any] = WorkflowTask(
            GreenletCoroutine(coro, context) if self.greenlets else coro,
            loop=self,
            name=name or f"task-{number}",
            context=context,
            stable_hash=self._hash_base + number,
        )
        self._add_task(task)
        return task

    def _add_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [task for task in self._tasks if not is_done(task) or is_unretrieved(task)]
            self._prune_at = max(16, 2 * len(self._tasks))

    def _made_by_factory(self, coro: Any, name: str, context: contextvars.Context | None) -> asyncio.Task[Any]:
        options = {} if context is None else {"context": context}
        task: asyncio.Task[Any] = self._task_factory(self, coro, **options)
        if not task.done():
            task.set_name(name)
            self._tasks.append(task)
        return task

    def report(self, context: dict[str, Any]) -> None:
        """Log what code of the run left unhandled, once."""
        self.run.report(context)

    @property
    def run_id(self) -> str:
        """The id of the run whose code the loop executes."""
        return self.run.run_id

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], object], *args: *Ts) -> Any:
        """Make `asyncio.to_thread(step, …)` durable; anything else raises `WorkflowIOError`."""
        host = self.run
        if executor is not None:
            raise WorkflowIOError(
                f"run {host.run_id!r}: workflow code used an executor at {host.location()}; call a step instead"
            )
        context, function, positional, named = _unwrap(func, args)
        return self.create_task(host.call_in_thread(function, positional, named), context=context)

    def call_in_thread(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that calls a step, durably, for whoever would have it called in a thread."""
        _, function, positional, named = _unwrap(function, args)
        return self.run.call_in_thread(function, positional, named)

    def is_closed(self) -> bool:
        """Tell whether the run has left memory, or ended."""
        return self._is_closed


refuse_the_rest(DeterministicLoop)


def _too_long(seconds: float, host: LoopHost) -> InvalidArgument:
    return InvalidArgument(
        f"run {host.run_id!r}: workflow code set a timer of {seconds:g} seconds at {host.location()}; a timer is at "
        "most 100 years long"
    )
