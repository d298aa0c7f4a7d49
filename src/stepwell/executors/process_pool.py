"""Executing isolated steps in child processes, which are made as needed, kept, and used again.

A child is busy with one attempt, or idle. It is started as a fresh interpreter (`stepwell.executors.child_main`), never
forked, so it holds none of the engine's locks, connections and threads. Whatever becomes of it concerns the one attempt
only; an attempt that has to end ends together with its process, and its end is reported when the process is gone, so
that two attempts of one call never overlap.

All of it happens on the engine's loop, which costs no hand-over between threads; only starting a child and waiting for
its end is left to a thread (`stepwell.executors.child_process`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec

from stepwell.definitions.reports import reports_of
from stepwell.definitions.saying import Outlet
from stepwell.definitions.step_call import StepCall
from stepwell.errors import SerializationError, StepFailed, StepwellError
from stepwell.executors import child_main as wire
from stepwell.executors.child_process import ChildProcess
from stepwell.executors.congestion import Congestion
from stepwell.executors.process_ends import START_SECONDS, Why, end_of, not_started
from stepwell.executors.runner import Finished, note_beginning
from stepwell.executors.time_limits import Handle, is_limited, limited
from stepwell.model.steady import monotonic
from stepwell.values.codec import Codec
from stepwell.values.failure import failure_from_json, failure_json

_log: Final = logging.getLogger("stepwell")

#: How long a child has to end after SIGTERM, until SIGKILL ends it, in seconds: for `finally` blocks.
KILL_GRACE_SECONDS: Final = 1.0

#: How long a process may take to end after SIGKILL, in seconds; longer only where the kernel itself hangs.
_KILL_SECONDS: Final = 5.0
#: How much later than its children this process may notice that it has to end, in seconds, where SIGTERM was sent to
#: all processes of the program.
_DOUBT_SECONDS: Final = 1.0
_READ_BYTES: Final = 1 << 18
#: Arguments of steps are not recorded, so only the format of the pipe limits them; they are not compressed.
_ARGUMENTS_BYTES: Final = 1 << 31

_encode = msgspec.json.encode

_Key = tuple[str, str, str]


class _Child(ChildProcess):
    """A child process and what it is busy with."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self.received = bytearray()
        self.unsent = bytearray()
        #: Steps that it has imported.
        self.known: set[_Key] = set()
        self.attempts: StepCall | None = None
        self.has_answered = False
        #: SIGTERM has told it to end.
        self.was_told = False
        #: The process in which steps execute, below its keeper.
        self.inner_pid: int | None = None
        #: What ends it when its attempt takes too long, or does not end after SIGTERM.
        self.timer: Handle | None = None
        self.why: Why | None = None


class ProcessPool:
    """Executes isolated steps in up to `limit` processes; None: as many as there are CPUs.

    All methods are for the thread of `loop`; `close` may be called from another one once the loop has stopped.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        codec: Codec,
        finished: Finished,
        limit: int | None,
        outlet: Outlet,
    ) -> None:
        self._loop = loop
        self._outlet = outlet
        self.now: Callable[[], int] | None = None
        self._codec = codec
        self._finished = finished
        self._limit = limit or _cpus()
        self._arguments = Codec(max_payload_bytes=_ARGUMENTS_BYTES, compress_above_bytes=_ARGUMENTS_BYTES)
        self._congestion = Congestion("process", "step_processes", self._limit)
        self._queue: OrderedDict[StepCall, None] = OrderedDict()
        self._running: dict[StepCall, _Child] = {}
        self._children: list[_Child] = []
        self._idle: list[_Child] = []
        #: Those that somebody else has ended by SIGTERM, just now.
        self._doubtful: set[StepCall] = set()
        #: The engine is closing.
        self.draining = False
        self._closed = False

    # --- attempts ------------------------------------------------------------------------------------------------

    def start(self, batch: Iterable[StepCall]) -> None:
        """Execute attempts, or queue them until a process is idle."""
        for attempts in batch:
            self._queue[attempts] = None
        self._serve()

    def drop(self, batch: Iterable[StepCall]) -> None:
        """End attempts that are queued or under way; others are ignored."""
        ended: list[StepCall] = []
        for attempts in batch:
            if attempts in self._queue:
                del self._queue[attempts]
                attempts.error = asyncio.CancelledError()
                ended.append(attempts)
            elif (child := self._running.get(attempts)) is not None:
                self._stop(child, "dropped")
        if ended:
            self._finished(ended)

    def busy(self) -> list[StepCall]:
        """Return the attempts that are queued or under way; from any thread."""
        return [*self._running, *self._doubtful, *self._queue]

    def report(self, at: float, now: int) -> None:
        """Name in the log the steps that wait for a process; once a second. See `Congestion.look`."""
        self._congestion.look(list(self._queue), list(self._running), at, now)

    def pids(self) -> list[int]:
        """Return the ids of the child processes."""
        return [child.inner_pid for child in list(self._children) if child.inner_pid is not None]

    def _serve(self) -> None:
        """Give queued attempts to idle processes, and to new ones."""
        ended: list[StepCall] = []
        while self._queue and not self._closed and (self._idle or len(self._children) < self._limit):
            attempts, _ = self._queue.popitem(last=False)
            if not attempts.wanted:
                attempts.error = asyncio.CancelledError()
                ended.append(attempts)
                continue
            try:
                frame = self._frame(attempts)
                child = self._take(_key(attempts)) or self._spawn()
            except Exception as error:  # noqa: BLE001 - not JSON; out of descriptors; the attempt's in any case
                if _is_shutdown(error):
                    self._put_back(attempts)
                    break
                attempts.error = error if isinstance(error, StepwellError) else not_started(attempts, error)
                ended.append(attempts)
            else:
                self._begin(child, attempts, frame)
        if ended:
            self._finished(ended)

    def _frame(self, attempts: StepCall) -> bytes:
        module, qualname, name = _key(attempts)
        where = f"the arguments of step {name!r} in run {attempts.run_id!r}, which its process gets as JSON"
        payload = self._arguments.encode_arguments(attempts.args, attempts.kwargs, where)
        assert not isinstance(payload, bytes)
        raw = msgspec.Raw((payload or "null").encode())
        body = _encode(
            wire.Call(
                module,
                qualname,
                name,
                attempts.run_id,
                attempts.operation,
                attempts.attempt,
                attempts.started_at - attempts.ahead,
                raw,
                None if attempts.reports is None else attempts.reports.latest or attempts.reports.last,
            )
        )
        return wire.header(wire.CALL, len(body)) + body

    def _begin(self, child: _Child, attempts: StepCall, frame: bytes) -> None:
        child.attempts = attempts
        child.has_answered = False
        if is_limited(attempts) or attempts.reports is not None:
            reports_of(attempts).begin()
        self._running[attempts] = child
        if _key(attempts) in child.known:
            self._limit_time(child, attempts)
        else:
            child.timer = self._loop.call_later(START_SECONDS, self._stop, child, "start")
        self._send(child, frame)

    def _limit_time(self, child: _Child, attempts: StepCall) -> None:
        if attempts.permit is not None:
            note_beginning(attempts, self.now)
        child.timer = limited(self._loop, attempts, partial(self._stop, child, "timeout"))

    def _release(self, child: _Child) -> StepCall | None:
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
        child = _Child(self._codec)
        child.start(partial(self._tell_end, child))
        self._children.append(child)
        self._loop.add_reader(child.pipe, self._readable, child)
        self._send(child, child.greeting)
        return child

    def _tell_end(self, child: _Child) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed; `close` has reaped it, or will
            self._loop.call_soon_threadsafe(self._ended, child)

    def _stop(self, child: _Child, why: Why) -> None:
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
        """Part from a child whose process has ended, and end its attempt."""
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
        if attempts is not None and _is_shutdown(child.failure):
            self._put_back(attempts)
            return
        if attempts is not None and child.why == "refused" and child.failure is None:
            self._put_back(attempts)
        elif attempts is not None:
            if not child.has_answered:
                attempts.error = end_of(attempts, child.why, code, child.failure, bytes(child.received))
            if attempts.error is not None and _told_by_others(child, code):
                self._doubtful.add(attempts)
                self._loop.call_later(_DOUBT_SECONDS, self._settle_doubt, attempts)
            else:
                self._finished([attempts])
        self._serve()

    def _settle_doubt(self, attempts: StepCall) -> None:
        """Tell that an attempt has failed which somebody else's SIGTERM ended, unless this process is to end as well.

        Service managers send the signal to all processes of a program. So the step was cut off as by the death of the
        worker, and has not failed: the next start repeats it.
        """
        self._doubtful.discard(attempts)
        if not self.draining or not attempts.wanted:
            self._finished([attempts])

    def _put_back(self, attempts: StepCall) -> None:
        """Queue an attempt that was never begun; when Python is shutting down, for the next engine to execute it."""
        self._queue[attempts] = None
        self._queue.move_to_end(attempts, last=False)

    def close(self, grace_seconds: float = KILL_GRACE_SECONDS) -> None:
        """End all processes and wait for that; idle ones end by themselves, busy ones get SIGTERM, then SIGKILL.

        Without a grace all of them get SIGKILL at once.
        """
        self._closed = True
        for child in self._children:
            if child.timer is not None:
                child.timer.cancel()
            self._loop.remove_reader(child.pipe)
            self._loop.remove_writer(child.pipe)
            if child.attempts is not None:
                child.stopping = True
                child.signal(signal.SIGTERM if grace_seconds else signal.SIGKILL)
            with contextlib.suppress(OSError):
                child.pipe.shutdown(socket.SHUT_RDWR)
        deadline = monotonic() + grace_seconds
        for child in self._children:
            child.wait(max(0.0, deadline - monotonic()))
        for child in self._children:
            child.stopping = True
            child.signal(signal.SIGKILL)
            if child.wait(_KILL_SECONDS):
                child.reap()
            else:
                _log.error("process %s of an isolated step does not end after SIGKILL; it is left behind", child.pid)
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
        if kind == wire.STARTED:
            child.inner_pid = int(body)
            return
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
        if kind == wire.SAID:
            self._said(child, attempts, body)
            return
        if kind == wire.PROGRESS:
            self._reported(child, attempts, body)
            return
        if kind == wire.ENDING:
            child.stopping, child.was_told = True, body == wire.TOLD
            return
        try:
            _take_answer(attempts, kind, body)
        except (ValueError, SerializationError):
            self._stop(child, "garbled")
            return
        child.has_answered = True
        if child.stopping:
            return  # the end of the process ends the attempt
        self._release(child)
        self._idle.append(child)
        self._serve()
        self._finished([attempts])

    def _said(self, child: _Child, attempts: StepCall, body: bytes) -> None:
        """Have recorded what a step says, and tell its process."""
        try:
            said = wire.decode_said(body)
        except msgspec.DecodeError:
            self._stop(child, "garbled")
            return

        def heard(error: BaseException | None) -> None:
            answer = b"" if error is None else failure_json(error).encode()
            with contextlib.suppress(RuntimeError):  # the loop is closed: so is the engine
                self._loop.call_soon_threadsafe(self._tell_heard, child, attempts, answer)

        self._outlet.say(attempts, attempts.attempt, said, heard)

    def _reported(self, child: _Child, attempts: StepCall, body: bytes) -> None:
        """Have recorded how far a step is."""
        try:
            progress = wire.decode_progress(body)
        except msgspec.DecodeError:
            self._stop(child, "garbled")
            return
        if not child.stopping:
            self._outlet.report(attempts, progress)

    def _tell_heard(self, child: _Child, attempts: StepCall, answer: bytes) -> None:
        if child.attempts is attempts:
            self._send(child, wire.header(wire.HEARD, len(answer)) + answer)


def _take_answer(attempts: StepCall, kind: int, body: bytes) -> None:
    """Write down how an attempt ended."""
    attempts.error = attempts.refused = attempts.value = None
    if kind == wire.VALUE:
        attempts.value = body.decode()
    elif kind == wire.PACKED:
        attempts.value = body
    elif kind in (wire.FAILED, wire.REFUSED):
        error = failure_from_json(body, StepFailed)
        if kind == wire.REFUSED and isinstance(error, SerializationError):
            attempts.refused = error
        else:
            attempts.error = error
    elif kind != wire.NOTHING:
        raise ValueError(kind)


def _told_by_others(child: _Child, code: int | None) -> bool:
    """Tell whether SIGTERM has ended a child, and nobody here has sent it."""
    return child.why is None and (child.was_told or code in (wire.TOLD_TO_END, -signal.SIGTERM))


def _is_shutdown(error: Exception | None) -> bool:
    """Tell whether Python refuses further threads and processes because it is ending."""
    return isinstance(error, RuntimeError) and "interpreter shutdown" in str(error)


def _key(attempts: StepCall) -> _Key:
    function: Any = attempts.definition.function
    return function.__module__, function.__qualname__, attempts.name


def _cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
