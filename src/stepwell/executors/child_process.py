"""One child process as its parent sees it: how it is started, told to end, and parted from.

It is a fresh interpreter, never a fork. What is started is its keeper (`stepwell.executors.keeper`), which ends as it
does. A thread of its own starts it and waits for its end: starting takes a millisecond or two, and Linux tells a
process that asked for it (PR_SET_PDEATHSIG) when the *thread* that started it ends. That thread does not reap the
keeper: until its owner has, the process id cannot come to mean another process, so signals hit the right one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from stepwell.executors.child_main import PROGRAM, SETUP, Setup, header, to_json
from stepwell.executors.keeper import FOR_THE_WORKER, KILL, TERMINATE
from stepwell.values.codec import Codec

#: The command line options of this interpreter: what `multiprocessing` asks for the same purpose.
_interpreter_flags: Final[Callable[[], list[str]]] = vars(subprocess)["_args_from_interpreter_flags"]


class ChildProcess:
    """A child process, and the parent's ends of its pipes. Its owner's thread calls everything.

    `greeting` must be the first that is sent through `pipe`. `failure` is why it could not be started, `stopping` says
    that it has to end, or will.
    """

    def __init__(self, codec: Codec) -> None:
        path = os.fsencode("\0".join(map(str, sys.path)))
        self._path_bytes = len(path)
        self.greeting = path + _setup(codec)
        self.pipe, self._their_pipe = socket.socketpair()
        try:
            self._their_lifeline, self._lifeline = os.pipe()
        except OSError:
            self.pipe.close()
            self._their_pipe.close()
            raise
        self.pipe.setblocking(False)
        os.set_blocking(self._lifeline, False)
        self.stopping = False
        self.failure: Exception | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reaped_elsewhere = False
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the keeper, once it is known."""
        return None if self._process is None else self._process.pid

    def start(self, ended: Callable[[], None]) -> None:
        """Start it; `ended` is called, in another thread, when it has ended or could not be started.

        Raises `RuntimeError` where there can be no further thread.
        """
        self._thread = threading.Thread(target=self._carry, args=(ended,), name="stepwell-process", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._close_their_ends()
            self.let_go()
            raise

    def _carry(self, ended: Callable[[], None]) -> None:
        # The process inherits it, until it has handlers; this thread is there for nothing else.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, *FOR_THE_WORKER))
        try:
            self._process = self._spawn()
        except Exception as error:  # noqa: BLE001 - handed on to the owner
            self.failure = error
        finally:
            self._close_their_ends()
        if self._process is not None:
            if self.stopping:  # before there was a process that could be told
                self.signal(signal.SIGKILL)
            self._reaped_elsewhere = not _wait_for_end(self._process.pid)
        ended()

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start an interpreter like this one. It has a process group of its own: Ctrl-C is not meant for it."""
        if not sys.executable:
            raise OSError("this program does not know its Python interpreter: sys.executable is empty")
        pipe, lifeline = self._their_pipe.fileno(), self._their_lifeline
        program = PROGRAM.format(pipe=pipe, lifeline=lifeline, parent=os.getpid(), size=self._path_bytes)
        return subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
            [sys.executable, *_interpreter_flags(), "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=(pipe, lifeline),
            process_group=0,
        )

    def _close_their_ends(self) -> None:
        self._their_pipe.close()
        os.close(self._their_lifeline)

    def signal(self, number: signal.Signals) -> None:
        """Have SIGTERM sent to the process and its group, or SIGKILL to all that it has started, if there is one."""
        if self._process is None or self._process.returncode is not None or self._lifeline < 0:
            return
        with contextlib.suppress(OSError):  # it has ended
            os.write(self._lifeline, KILL if number == signal.SIGKILL else TERMINATE)
            if number == signal.SIGKILL and not self._reaped_elsewhere:
                os.kill(self._process.pid, signal.SIGCONT)  # somebody may have stopped the keeper

    def wait(self, timeout: float) -> bool:
        """Wait for the end at most so many seconds; tell whether it has ended."""
        assert self._thread is not None
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def reap(self) -> int | None:
        """Take the exit code of a process that has ended; None where nobody knows it."""
        if self._process is None:
            return None
        code = self._process.wait()
        return None if self._reaped_elsewhere else code

    def let_go(self) -> None:
        """Close the pipes: an idle child then ends by itself, and any other is killed by a thread of its own."""
        self.pipe.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _setup(codec: Codec) -> bytes:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    body = msgspec.json.encode(
        Setup(
            argv=[to_json(argument) for argument in sys.argv],
            main_name=getattr(spec, "name", None),
            main_path=None if path is None else to_json(str(Path(path).absolute())),
            max_payload_bytes=codec.max_payload_bytes,
            compress_above_bytes=codec.compress_above_bytes,
        )
    )
    return header(SETUP, len(body)) + body


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
    except ChildProcessError:  # SIGCHLD is ignored in this process, say
        return False
    return True
