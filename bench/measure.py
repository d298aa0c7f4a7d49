"""What all measurements share: statistics, turns with a baseline, memory, and talking between processes.

The measured process prints its facts as lines of JSON behind a mark, so that whatever else it prints does no harm.
Imports nothing but the standard library, because the environments of peers import it, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

Facts = dict[str, Any]

_MARK: Final = "@bench "

#: A measured process that takes longer is killed, so that no benchmark hangs.
PATIENCE_SECONDS: Final = 900.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of `values` lie, the nearest one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def p50(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def in_turns(rounds: int, **subjects: Callable[[], float]) -> dict[str, list[float]]:
    """Call `subjects` in turns, `rounds` times after one round of warm-up; return what each returned, round by round.

    Every other round goes backwards, so that none of them always follows the same other.
    """
    measured: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name in _order(list(subjects), number):
            value = subjects[name]()
            if number:
                measured[name].append(value)
    return measured


async def in_async_turns(
    rounds: int, *, raw: Callable[[], float], subject: Callable[[], Awaitable[float]]
) -> dict[str, list[float]]:
    """Do what `in_turns` does, with a subject that is awaited; `raw` is called in a thread, while the loop is idle."""
    measured: dict[str, list[float]] = {"raw": [], "subject": []}
    for number in range(rounds + 1):
        for name in _order(list(measured), number):
            value = await (asyncio.to_thread(raw) if name == "raw" else subject())
            if number:
                measured[name].append(value)
    return measured


def _order(names: list[str], number: int) -> list[str]:
    return names if number % 2 else names[::-1]


def resident_bytes() -> int:
    """Return how much memory this process occupies now."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    ps = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(ps.stdout) * 1024


def occupied_bytes(database: Path) -> int:
    """Return the size of a database with the files that SQLite keeps beside it, but for the shared memory."""
    files = database.parent.glob(f"{database.name}*")
    return sum(file.stat().st_size for file in files if not file.name.endswith("-shm"))


# --- the measured process --------------------------------------------------------------------------------------------


def say(facts: Mapping[str, Any]) -> None:
    """Tell the measuring process."""
    print(_MARK + json.dumps(facts), flush=True)


def stay() -> None:
    """Say that all is prepared, and wait to be killed."""
    say({"ready": True})
    sys.stdin.read()


def obey(orders: Mapping[str, Callable[..., Facts]]) -> None:
    """Say that all is prepared; then do what the measuring process tells, line by line, until it hangs up."""
    say({"ready": True})
    for line in sys.stdin:
        order, options = json.loads(line)
        say(orders[order](**options))


def serve(phases: Mapping[str, Callable[..., Facts]]) -> None:
    """Execute the phase that the command line names, with the options that it gives as JSON, and tell the result."""
    say(phases[sys.argv[1]](**json.loads(sys.argv[2])))


# --- the measuring process -------------------------------------------------------------------------------------------


#: Where measured processes keep their bytecode. What pip installs is compiled already; a working tree may not be, and
#: where the environment forbids to write bytecode, each process would compile every module again.
_BYTECODE: Final = Path(__file__).parent / "results" / "bytecode"


def _environment() -> dict[str, str]:
    """Return the environment of measured processes."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(_BYTECODE)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    paths = [str(Path(__file__).parent.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


class Process:
    """A measured process; leaving the context, however it happens, leaves no process behind."""

    def __init__(self, command: Sequence[str], patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._command = list(command)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
        )
        self._patience = threading.Timer(patience_seconds, self._process.kill)
        self._patience.daemon = True
        self._patience.start()

    def hear(self) -> Facts:
        """Wait for the next facts; raise `RuntimeError`, with its error output, if it ends without any."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                facts: Facts = json.loads(line.removeprefix(_MARK))
                return facts
        raise self._failed(self._process.wait())

    def tell(self, order: str, **options: object) -> None:
        """Give an order to a process that obeys; `hear` returns what comes of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([order, options]) + "\n")
        self._process.stdin.flush()

    def ask(self, order: str, **options: object) -> Facts:
        """Give an order and return what comes of it."""
        self.tell(order, **options)
        return self.hear()

    def kill(self) -> None:
        """End it as a power switch would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait(self) -> None:
        """Wait for its end; raise `RuntimeError` if that is a bad one."""
        code = self._process.wait()
        if code != 0:
            raise self._failed(code)

    def _failed(self, code: int) -> RuntimeError:
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        return RuntimeError(f"{' '.join(self._command)} ended with code {code}:\n{errors[-4000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._patience.cancel()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
