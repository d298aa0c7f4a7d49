"""Worker processes as a harness sees them: made by a nursery (`proof.crew_member`), stopped, killed, replaced."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from proof.crew_member import Order
from proof.orders import steady
from proof.patience import Patience

#: How long a process may take to do what it must, in seconds; on a machine that is busy.
PATIENCE_SECONDS: Final = 30.0


class Member:
    """A worker process."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        #: When it was killed, on the steady clock, in microseconds.
        self.killed_at: int | None = None
        # Names the process even when its number has been given to another one.
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: int) -> None:
        """Send it a signal; one that has ended does not mind."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """End it with SIGKILL; `wait` waits for the end."""
        self.killed_at = steady()
        self.send(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it, and return when all its threads stand still."""
        self.send(signal.SIGSTOP)
        patience = Patience(PATIENCE_SECONDS)
        tasks = Path(f"/proc/{self.pid}/task")
        while not all(_state(task) in "TZX" for task in tasks.iterdir()):
            if patience.is_over():
                raise TimeoutError(f"process {self.pid} does not stop")
            time.sleep(0.0002)

    def state(self) -> str:
        """Return the letter for its state, as ps(1) has it; X where it has ended."""
        return _state(Path(f"/proc/{self.pid}"))

    def is_stopped(self) -> bool:
        """Return whether it stands still."""
        return self.state() == "T"

    def go_on(self) -> None:
        """Let it run again."""
        self.send(signal.SIGCONT)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> bool:
        """Return whether it has ended, after waiting for that."""
        patience = Patience(seconds)
        while not select.select([self._descriptor], [], [], min(seconds, 1.0))[0]:
            if patience.is_over():
                return False
        return True

    def forget(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


#: How the workers of crews are broken that are not told so themselves; a key of `proof.crew_member.CONTROLS`.
broken: ContextVar[str] = ContextVar("broken", default="")


class Crew:
    """The workers of one database, which is in `folder` with their log and their words. Use it as a context manager.

    `options` are those of their engines; `forks`: each leaves a child behind; `control`: how they are broken; `prefix`:
    what their names begin with; `place`: another folder for the database.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        *,
        forks: bool = False,
        control: str = "",
        prefix: str = "w",
        place: Path | None = None,
    ) -> None:
        self.database = str((place or folder) / "orders.db")
        self.log = folder / f"log-{prefix}"
        self.words = folder / "words"
        self.present: list[Member] = []
        self._options = dict(options)
        self._forks = forks
        self._control = control or broken.get()
        self._prefix = prefix
        self._count = 0
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "proof.crew_member"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
        )

    def __enter__(self) -> Self:
        """Return the crew."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all processes."""
        for member in list(self.present):
            self.remove(member)
        self.end_orphans()
        self._nursery.communicate()

    def hire(self, more: Mapping[str, Any] | None = None, **given: Any) -> Member:
        """Have another worker start, which may not have opened the file yet.

        `more` are options of its engine beside those of the crew, `given` fields of its `Order`.
        """
        self._count += 1
        order = Order(
            f"{self._prefix}{self._count}",
            self.database,
            str(self.log),
            str(self.words),
            {**self._options, **(more or {})},
            self._forks,
            self._control,
            **given,
        )
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._nursery.stdin.flush()
        member = Member(order.name, int(self._nursery.stdout.readline()))
        self.present.append(member)
        return member

    def remove(self, member: Member) -> None:
        """Kill a worker, and wait until the kernel has done it."""
        member.kill()
        if not member.wait():
            raise TimeoutError(f"process {member.pid} survives SIGKILL")
        self.present.remove(member)
        member.forget()

    def end_orphans(self) -> None:
        """End the children that workers left behind."""
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            if line.startswith("F "):
                _end_orphan(int(line.rpartition(" ")[2]))

    def fallen(self) -> list[Member]:
        """Return the workers that ended by themselves, which none should."""
        return [member for member in self.present if member.wait(0)]

    def tell_where(self) -> None:
        """Have all processes, this one as well, write down where their threads are: something hangs."""
        for member in self.present:
            member.send(signal.SIGUSR1)
        with self.words.open("a") as words:
            faulthandler.dump_traceback(words)

    def drain(self) -> list[str]:
        """Have all end in order with SIGTERM; return the names of those that do not."""
        for member in self.present:
            member.send(signal.SIGTERM)
        return [member.name for member in self.present if not member.wait()]


def _end_orphan(pid: int) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"proof.crew_member" in command:  # and not another process that has got its number
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return
