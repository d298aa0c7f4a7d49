"""Executing isolated steps in child processes, which are made as needed, kept, and used again.

A child is busy with one attempt, or idle. It is started as a fresh interpreter (`stepwell.child`), never forked, so it
holds none of the engine's locks, connections and threads. Whatever becomes of it concerns the one attempt only; an
attempt that has to end ends together with its process, and its end is reported when the process is gone, so that two
attempts of one call never overlap.

All of it happens on the engine's loop, which costs no hand-over between threads. Only starting a child, and waiting for
its end, is left to a thread of its own: starting takes a millisecond or two, and Linux kills a child that asked for it
(PR_SET_PDEATHSIG) when the *thread* that started it ends. That thread does not reap the child: until the loop has, the
process id cannot come to mean another process, so signals hit the right one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from stepwell import child as wire
from stepwell.attempts import Attempts
from stepwell.codec import Codec
from stepwell.errors import SerializationError, StepFailed, StepProcessDied, StepwellError
from stepwell.failure import decode_failure
from stepwell.runner import Finished, time_limit, timed_out

#: How long a child has to end after SIGTERM, until SIGKILL ends it, in seconds: for `finally` blocks.
KILL_GRACE_SECONDS: Final = 1.0
#: How long starting a child and importing the step's module may take, in seconds; not part of the step's timeout.
START_SECONDS: Final = 120.0

_READ_BYTES: Final = 1 << 18
#: What is kept of a crash report; the innermost frames come first in it.
_REPORT_BYTES: Final = 4_000
#: No limit: arguments of steps are not recorded, and need not be compressed for a pipe.
_UNLIMITED: Final = sys.maxsize

#: The engine's copy of the package is put first only for this import; `stepwell.child` then takes the parent's path.
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, {path!r}); from stepwell.child import main; main({pipe}, {life}, {parent})"
)

_encode = msgspec.json.encode
#: The command line options of this interpreter: what `multiprocessing` asks for the same purpose.
_interpreter_flags: Callable[[], list[str]] = vars(subprocess)["_args_from_interpreter_flags"]

_Key = tuple[str, str, str]


class _Child:
    """One child process, as its parent sees it."""

    def __init__(self) -> None:
        self.pipe, self.their_pipe = socket.socketpair()
        try:
            self.their_lifeline, self.lifeline = os.pipe()
        except OSError:
            self.pipe.close()
            self.their_pipe.close()
            raise
        self.pipe.setblocking(False)
        self.received = bytearray()
        self.unsent = bytearray()
        #: Steps that it has imported.
        self.known: set[_Key] = set()
        self.attempts: Attempts | None = None
        self.has_answered = False
        self.timer: asyncio.TimerHandle | None = None
        #: Set once it has to end, or will; why, where that was decided here.
        self.stopping = False
        self.why: Literal["timeout", "start", "dropped", "refused"] | None = None
        # Set by its thread.
        self.process: subprocess.Popen[bytes] | None = None
        self.failure: Exception | None = None
        self.reaped_elsewhere = False
        self.thread: threading.Thread | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and to those that it started."""
        if self.process is not None and self.process.returncode is None and not self.reaped_elsewhere:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM where only zombies are left
                os.killpg(self.process.pid, number)

    def let_go(self) -> None:
        """Close the pipes: an idle child ends by itself, any other is killed by its own thread."""
        self.pipe.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def reap(self) -> int | None:
        """Take the exit code of a process that has ended, and kill what it left behind; None where nobody knows it."""
        if self.process is None:
            return None
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        return None if self.reaped_elsewhere else code


class ProcessLanes:
    """Executes isolated steps in up to `limit` processes; None: as many as there are CPUs.

    All methods are for the thread of `loop`; `close` may be called from another one once the loop has stopped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, codec: Codec, finished: Finished, limit: int | None) -> None:
        self._loop = loop
        self._codec = codec
        self._finished = finished
        self._limit = limit or _cpus()
        self._arguments = Codec(max_payload_bytes=_UNLIMITED, compress_above_bytes=_UNLIMITED)
        self._queue: OrderedDict[Attempts, None] = OrderedDict()
        self._running: dict[Attempts, _Child] = {}
        self._children: list[_Child] = []
        self._idle: list[_Child] = []
        self._closed = False

    # --- attempts ------------------------------------------------------------------------------------------------

    def start(self, batch: Iterable[Attempts]) -> None:
        """Execute attempts, or queue them until a process is idle."""
        for attempts in batch:
            self._queue[attempts] = None
        self._serve()

    def drop(self, batch: Iterable[Attempts]) -> None:
        """End attempts that are queued or under way; others are ignored."""
        ended: list[Attempts] = []
        for attempts in batch:
            if attempts in self._queue:
                del self._queue[attempts]
                attempts.error = asyncio.CancelledError()
                ended.append(attempts)
            elif (child := self._running.get(attempts)) is not None:
                self._stop(child, "dropped")
        if ended:
            self._finished(ended)

    def busy(self) -> list[Attempts]:
        """Return the attempts that are queued or under way; from any thread."""
        return [*self._running, *self._queue]

    def pids(self) -> list[int]:
        """Return the ids of the child processes."""
        return [child.process.pid for child in self._children if child.process is not None]

    def _serve(self) -> None:
        """Give queued attempts to idle processes, and to new ones."""
        ended: list[Attempts] = []
        while self._queue and not self._closed and (self._idle or len(self._children) < self._limit):
            attempts, _ = self._queue.popitem(last=False)
            if not attempts.wanted:
                attempts.error = asyncio.CancelledError()
            else:
                try:
                    frame = self._frame(attempts)
                    child = self._take(_key(attempts)) or self._spawn()
                except OSError as error:  # out of descriptors, say
                    attempts.error = _died(attempts, None, f"could not be started: {error}")
                    attempts.error.__cause__ = error
                except StepwellError as error:
                    attempts.error = error
                else:
                    self._begin(child, attempts, frame)
                    continue
            ended.append(attempts)
        if ended:
            self._finished(ended)

    def _frame(self, attempts: Attempts) -> bytes:
        module, qualname, name = _key(attempts)
        where = f"the arguments of step {name!r} in run {attempts.run_id!r}, which its process gets as JSON"
        payload = self._arguments.encode_arguments(attempts.args, attempts.kwargs, where)
        assert not isinstance(payload, bytes)
        raw = msgspec.Raw((payload or "null").encode())
        body = _encode(
            wire.Call(
                module, qualname, name, attempts.run_id, attempts.operation, attempts.attempt, attempts.started_at, raw
            )
        )
        return wire.header(wire.CALL, len(body)) + body

    def _begin(self, child: _Child, attempts: Attempts, frame: bytes) -> None:
        child.attempts = attempts
        child.has_answered = False
        self._running[attempts] = child
        if _key(attempts) in child.known:
            self._limit_time(child, attempts)
        else:
            child.timer = self._loop.call_later(START_SECONDS, self._stop, child, "start")
        self._send(child, frame)

    def _limit_time(self, child: _Child, attempts: Attempts) -> None:
        limit = time_limit(attempts)
        if limit is not None:
            child.timer = self._loop.call_later(limit, self._stop, child, "timeout")

    def _release(self, child: _Child) -> Attempts | None:
        """Part a child from its attempt."""
        attempts, child.attempts = child.attempts, None
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
        if attempts is not None:
            del self._running[attempts]
        return attempts

    # --- children ------------------------------------------------------------------------------------------------

    def _take(self, key: _Key) -> _Child | None:
        """Take the idle child that was used last, of those that have the step imported if there are any."""
        for index in range(len(self._idle) - 1, -1, -1):
            if key in self._idle[index].known:
                return self._idle.pop(index)
        return self._idle.pop() if self._idle else None

    def _spawn(self) -> _Child:
        child = _Child()
        child.thread = threading.Thread(target=self._carry, args=(child,), name="stepwell-process", daemon=True)
        try:
            child.thread.start()
        except RuntimeError as error:
            child.their_pipe.close()
            os.close(child.their_lifeline)
            child.let_go()
            raise OSError(str(error)) from error
        self._children.append(child)
        self._loop.add_reader(child.pipe, self._readable, child)
        name, path = _main()
        codec = self._codec
        setup = _encode(
            wire.Setup(list(sys.path), list(sys.argv), name, path, codec.max_payload_bytes, codec.compress_above_bytes)
        )
        self._send(child, wire.header(wire.SETUP, len(setup)) + setup)
        return child

    def _carry(self, child: _Child) -> None:
        """Start the process and wait for its end; in a thread of its own."""
        try:
            child.process = _start(child.their_pipe.fileno(), child.their_lifeline)
        except Exception as error:  # noqa: BLE001 - handed on as the attempt's
            child.failure = error
        finally:
            child.their_pipe.close()
            os.close(child.their_lifeline)
        if child.process is not None:
            if child.stopping:  # before there was a process that could be told
                child.signal(signal.SIGKILL)
            child.reaped_elsewhere = not _wait_for_end(child.process.pid)
        with contextlib.suppress(RuntimeError):  # the loop is closed; `close` reaps
            self._loop.call_soon_threadsafe(self._ended, child)

    def _stop(self, child: _Child, why: Literal["timeout", "start", "dropped", "refused"]) -> None:
        """Have a child end: SIGTERM now, SIGKILL after a grace."""
        child.why = child.why or why
        if child.stopping:
            return
        child.stopping = True
        child.signal(signal.SIGTERM)
        if child.timer is not None:
            child.timer.cancel()
        child.timer = self._loop.call_later(KILL_GRACE_SECONDS, child.signal, signal.SIGKILL)

    def _ended(self, child: _Child) -> None:
        """Part from a child whose process has ended, and settle its attempt."""
        if child not in self._children:
            return
        self._readable(child)  # what it said last
        self._loop.remove_reader(child.pipe)
        self._loop.remove_writer(child.pipe)
        self._children.remove(child)
        if child in self._idle:
            self._idle.remove(child)
        code = child.reap()
        child.let_go()
        attempts = self._release(child)
        if attempts is not None and (child.why == "refused" or isinstance(child.failure, RuntimeError)):
            self._queue[attempts] = None  # it was never begun
            self._queue.move_to_end(attempts, last=False)
            if child.failure is not None:  # Python is shutting down; the next engine executes it
                return
        elif attempts is not None:
            if not child.has_answered:
                attempts.error = _end_of(child, attempts, code)
            self._finished([attempts])
        self._serve()

    def close(self, grace_seconds: float = KILL_GRACE_SECONDS) -> None:
        """End all processes and wait for that; idle ones end by themselves, busy ones get SIGTERM, then SIGKILL."""
        self._closed = True
        for child in self._children:
            if child.timer is not None:
                child.timer.cancel()
            self._loop.remove_reader(child.pipe)
            self._loop.remove_writer(child.pipe)
            if child.attempts is not None:
                child.stopping = True
                child.signal(signal.SIGTERM)
            with contextlib.suppress(OSError):
                child.pipe.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + grace_seconds
        for child in self._children:
            assert child.thread is not None
            child.thread.join(max(0.0, deadline - time.monotonic()))
        for child in self._children:
            assert child.thread is not None
            while child.thread.is_alive():
                child.signal(signal.SIGKILL)
                child.thread.join(0.1)
            child.reap()
            child.let_go()
        self._children.clear()
        self._idle.clear()

    # --- the pipe ------------------------------------------------------------------------------------------------

    def _send(self, child: _Child, frame: bytes) -> None:
        if child.unsent:
            child.unsent += frame
            return
        try:
            sent = child.pipe.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is gone, and has seen nothing of this
            self._stop(child, "refused")
            return
        if sent < len(frame):
            child.unsent += memoryview(frame)[sent:]
            self._loop.add_writer(child.pipe, self._writable, child)

    def _writable(self, child: _Child) -> None:
        try:
            sent = child.pipe.send(child.unsent)
        except BlockingIOError:
            return
        except OSError:  # `_ended` is about to come
            sent = len(child.unsent)
        del child.unsent[:sent]
        if not child.unsent:
            self._loop.remove_writer(child.pipe)

    def _readable(self, child: _Child) -> None:
        received = child.received
        while True:
            try:
                data = child.pipe.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(child.pipe)
                break
            received += data
            if len(data) < _READ_BYTES:
                break
        while len(received) >= wire.HEADER_BYTES and received[0] != wire.CRASH_REPORT[0]:
            end = wire.HEADER_BYTES + int.from_bytes(received[1 : wire.HEADER_BYTES])
            if len(received) < end:
                return
            kind, body = received[0], bytes(memoryview(received)[wire.HEADER_BYTES : end])
            del received[:end]
            self._answered(child, kind, body)

    def _answered(self, child: _Child, kind: int, body: bytes) -> None:
        attempts = child.attempts
        if attempts is None:
            return
        if kind == wire.LOADED:
            child.known.add(_key(attempts))
            if not child.stopping:
                if child.timer is not None:
                    child.timer.cancel()
                    child.timer = None
                self._limit_time(child, attempts)
            return
        if kind == wire.ENDING:
            child.stopping = True
            return
        _take_answer(attempts, kind, body)
        child.has_answered = True
        if child.stopping:
            return  # the end of the process ends the attempt
        self._release(child)
        self._idle.append(child)
        self._serve()
        self._finished([attempts])


def _take_answer(attempts: Attempts, kind: int, body: bytes) -> None:
    """Write down how an attempt ended."""
    attempts.error = attempts.refused = attempts.value = None
    if kind == wire.VALUE:
        attempts.value = body.decode()
    elif kind == wire.PACKED:
        attempts.value = body
    elif kind != wire.NOTHING:
        error = decode_failure(body, StepFailed)
        if kind == wire.REFUSED and isinstance(error, SerializationError):
            attempts.refused = error
        else:
            attempts.error = error


def _end_of(child: _Child, attempts: Attempts, code: int | None) -> BaseException:
    """Return the error of an attempt whose process ended without an answer."""
    if child.why == "timeout":
        return timed_out(attempts)
    if child.why == "dropped":
        return asyncio.CancelledError()
    if child.why == "start":
        return _died(attempts, code, f"was ended: it had not imported the step after {START_SECONDS:g} s")
    if child.failure is not None:
        error = _died(attempts, None, f"could not be started: {child.failure}")
        error.__cause__ = child.failure
        return error
    error = _died(attempts, code, _how(code))
    if child.received:
        error.add_note(bytes(child.received[:_REPORT_BYTES]).decode(errors="replace"))
    return error


def _died(attempts: Attempts, code: int | None, how: str) -> StepProcessDied:
    return StepProcessDied(
        f"step {attempts.name!r} of run {attempts.run_id!r}: the process of attempt {attempts.attempt} {how}",
        exit_code=code,
    )


def _how(code: int | None) -> str:
    if code is None:
        return "ended, and another part of this program took its exit code"
    if code == wire.TOLD_TO_END:
        return "was told to end by SIGTERM, which somebody else sent"
    if code >= 0:
        return f"ended with exit code {code} before the step did, as os._exit() does"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {"SIGKILL": ", as the kernel does when memory runs out", "SIGTERM": ", which somebody else sent"}
    crash = ", a crash in native code" if name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT") else ""
    return f"was killed by {name}{hints.get(name, crash)}"


def _key(attempts: Attempts) -> _Key:
    function: Any = attempts.definition.function
    return function.__module__, function.__qualname__, attempts.name


def _cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _main() -> tuple[str | None, str | None]:
    """Return the module name, or else the path, of what runs as ``__main__``."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    return getattr(spec, "name", None), None if path is None else str(Path(path).absolute())


def _start(pipe: int, lifeline: int) -> subprocess.Popen[bytes]:
    """Start an interpreter like this one. It leads a process group, so that what it starts can be ended with it."""
    if not sys.executable:
        raise OSError("this program does not know its Python interpreter: sys.executable is empty")
    program = _PROGRAM.format(path=str(Path(__file__).parents[1]), pipe=pipe, life=lifeline, parent=os.getpid())
    return subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
        [sys.executable, *_interpreter_flags(), "-c", program],
        stdin=subprocess.DEVNULL,
        pass_fds=(pipe, lifeline),
        process_group=0,
    )


def _wait_for_end(pid: int) -> bool:
    """Wait until a child process has ended, and leave it to be reaped; False where something else has reaped it."""
    if sys.platform == "darwin":  # which has no waitid before Python 3.13
        import select  # noqa: PLC0415 - for macOS only

        with contextlib.suppress(OSError), contextlib.closing(select.kqueue()) as queue:  # ESRCH: it has ended already
            event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            queue.control([event], 1)
        return True
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
