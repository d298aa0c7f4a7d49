"""The process between a worker and the child that executes its isolated steps: it ends whatever these have started.

A step may start programs, and these others, which may leave its process group and its session. When the step has to
end, or its worker is killed, they must end as well, before the step is repeated; and the child itself can see to that
no more than the worker can, once SIGKILL has hit it. So what the worker starts is a *keeper*, which forks the child
before anything else and then only waits. On Linux it is a subreaper: every program that loses its parent becomes its
child, so that all that the step has started is found below it, whatever it did. Elsewhere the process group is.

The worker holds one end of a pipe, the lifeline, and writes commands to it, one byte each; when the worker dies the
pipe ends, which ends everything. In the end the keeper ends as the child did, with its exit code or by its signal.

Nothing is imported here but the standard library, and little of that: it is there as long as the child.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, NoReturn

#: Commands: tell the child and its group to end (SIGTERM); end everything (SIGKILL).
TERMINATE: Final = b"T"
KILL: Final = b"K"

#: What Ctrl-C, a terminal that closes or a service manager may send to all processes of a program. What follows for
#: steps under way is decided by the worker, which gets them, too. Programs that a step starts have them as by default.
FOR_THE_WORKER: Final = (signal.SIGINT, signal.SIGHUP)

# See prctl(2).
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_IS_LINUX: Final = sys.platform == "linux"
#: How long everything may take to end after SIGKILL, in seconds; longer only where the kernel itself hangs.
_KILL_SECONDS: Final = 5.0
#: How often it is looked whether more has to be killed, in seconds.
_LOOK_SECONDS: Final = 0.02
#: How often the parent is looked for where the kernel does not tell of its death, in milliseconds.
_PARENT_MILLISECONDS: Final = None if _IS_LINUX else 1000
#: What wakes the keeper: a child has ended; the worker's thread has, see prctl(2); what is meant for the child.
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def part(pipe: int, lifeline: int, parent: int) -> tuple[int, int]:
    """Fork; only the child returns, with the keeper's process id and a descriptor that ends when the keeper does.

    `pipe` is the descriptor that belongs to the child, `lifeline` the one that belongs to the keeper, `parent` is the
    process that started it.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
    tether, held = os.pipe()
    woken, wakes = os.pipe()
    for descriptor in (woken, wakes):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    before: dict[signal.Signals, Any] = {number: signal.signal(number, _wake) for number in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the mask is inherited from the thread that started this process
    keeper = os.getpid()
    child = os.fork()
    if child:
        os.close(pipe)
        os.close(tether)
        _Keeper(child, lifeline, woken, parent).keep()
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        if number not in FOR_THE_WORKER or handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for descriptor in (lifeline, held, woken, wakes):
        os.close(descriptor)
    _lead_group(0)
    # Even while native code keeps Python's threads waiting.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)
    return keeper, tether


def _wake(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing: the byte that Python writes for the signal wakes the keeper, and the child is to go on."""


def _prctl(option: int, value: int) -> None:
    if _IS_LINUX:
        with contextlib.suppress(ImportError, OSError, AttributeError):  # the pipes alone will have to do
            import ctypes  # noqa: PLC0415 - for Linux only

            ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def _lead_group(pid: int) -> None:
    with contextlib.suppress(OSError):  # both sides do it, so that neither has to wait for the other
        os.setpgid(pid, 0)


class _Keeper:
    def __init__(self, child: int, lifeline: int, woken: int, parent: int) -> None:
        self._child = child
        self._lifeline = lifeline
        self._woken = woken
        self._parent = parent
        _lead_group(child)

    def keep(self) -> NoReturn:
        """Wait for the child's end, or for that of the worker."""
        try:
            while not self._child_has_ended():
                if not self._wait(_PARENT_MILLISECONDS, self._lifeline):
                    continue
                command = os.read(self._lifeline, 64)
                if not command or KILL in command:
                    break
                if TERMINATE in command:
                    self._signal_group(signal.SIGTERM)
        finally:
            self._end_all()
            _end_like(os.waitpid(self._child, 0)[1])

    def _wait(self, milliseconds: float | None, *others: int) -> bool:
        """Wait until something happens; tell whether one of the other descriptors has something to say."""
        poll = select.poll()
        for descriptor in (self._woken, *others):
            poll.register(descriptor, select.POLLIN)
        events = dict(poll.poll(milliseconds))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 1024):
                pass
        self._reap_strays()
        if os.getppid() != self._parent:
            self._end_all()
        return any(descriptor in events for descriptor in others)

    def _child_has_ended(self) -> bool:
        """Tell whether the child has ended; it is reaped last, so that its process group keeps its number."""
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13
            return _state(self._child) in "ZX"
        return os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):  # macOS: EPERM where only zombies are left
            os.killpg(self._child, number)

    def _end_all(self) -> None:
        """Kill all that is below, until there is nothing more."""
        deadline = time.monotonic() + _KILL_SECONDS
        self._signal_group(signal.SIGKILL)
        while alive := list(living_below(os.getpid())):
            for pid in alive:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            poll.poll(_LOOK_SECONDS * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 1024)
            self._reap_strays()
            self._signal_group(signal.SIGKILL)

    def _reap_strays(self) -> None:
        """Reap what was adopted and has ended; other children than the child there are none."""
        for pid in children_of(os.getpid()):
            if pid != self._child:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _end_like(status: int) -> NoReturn:
    """End as the child did."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        import resource  # noqa: PLC0415 - only where something crashed

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # that of the child is enough
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        code = 128 - code
    os._exit(code)


# --- what is below a process; nothing where the system does not tell -------------------------------------------------


def living_below(pid: int) -> Iterator[int]:
    """Yield the processes below a process that have not ended."""
    for child in children_of(pid):
        if _state(child) not in "ZX":
            yield child
        yield from living_below(child)


def children_of(pid: int) -> list[int]:
    """Return the children of a process, those that ended and were not waited for included."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - a Path costs an import
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/children") as file:  # noqa: PTH123 - as above
                found += map(int, file.read().split())
    except FileNotFoundError:  # a thread has ended; or the kernel was built without CONFIG_PROC_CHILDREN
        return [int(name) for name in _names("/proc") if name.isdigit() and _stat(name)[1] == str(pid)]
    except OSError:
        pass
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - as above
    except OSError:
        return []


def _state(pid: int) -> str:
    """Return the letter for the state of a process, X where there is none."""
    return _stat(str(pid))[0]


def _stat(pid: str) -> tuple[str, str]:
    """Return the state of a process and its parent; see proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:  # noqa: PTH123 - as above
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "X", ""
    return state, parent
