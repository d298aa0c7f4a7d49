"""The command line as tests use it: real processes, whose output is waited for line by line.

The processes have a folder of their own with the module `flows` (support/programs/flows.py) and the file ``orders.db``.
"""

from __future__ import annotations

import io
import json
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from tests.support.programs import flows

from stepwell import Engine
from stepwell.cli import main

COMMAND = (sys.executable, "-m", "stepwell")
#: How long a fact may take to show before a test fails, in seconds. It is not waited for longer than it takes.
DEADLINE_SECONDS = 120


@contextmanager
def nothing_ignored() -> Iterator[None]:
    """Have what is started meanwhile hear signals that this process ignores, as below `nohup` or behind ``&``."""
    ignored = [each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_IGN]
    for each in ignored:
        signal.signal(each, signal.SIG_DFL)
    try:
        yield
    finally:
        for each in ignored:
            signal.signal(each, signal.SIG_IGN)


class Command:
    """A command under way. Its standard output and error are one stream of lines."""

    def __init__(self, *arguments: object, cwd: Path, command: Sequence[str] = COMMAND, group: bool = False) -> None:
        with nothing_ignored():
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=group,
            )
        self.seen: list[str] = []
        self._unexpected: list[str] = []
        self._ended = False
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _next(self, deadline: float, wanted: str) -> str | None:
        if self._ended:
            return None
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"{wanted} did not come; the output was:\n{self.output}") from None
        if line is None:
            self._ended = True
        else:
            self.seen.append(line)
            self._unexpected.append(line)
        return line

    @property
    def output(self) -> str:
        return "\n".join(self.seen)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches, among those that no call has returned yet, in whatever order they came."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            for index, line in enumerate(self._unexpected):
                if match := re.search(pattern, line):
                    del self._unexpected[index]
                    return match
            if self._next(deadline, repr(pattern)) is None:
                raise AssertionError(f"the output ended without {pattern!r}:\n{self.output}")

    def has_come(self, pattern: str) -> bool:
        """Whether a line that matches has come, among those that no call has returned yet; it is returned by none."""
        while not self._lines.empty():
            self._next(time.monotonic(), "a line")
        for index, line in enumerate(self._unexpected):
            if re.search(pattern, line):
                del self._unexpected[index]
                return True
        return False

    def expect_pid(self, pattern: str = r"\(process (\d+)\) serves") -> int:
        return int(self.expect(pattern).group(1))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait until the process has ended, and with it all that write to its output; return its exit code."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self._next(deadline, "the end of the output") is not None:
            pass
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """End it, and with it a supervisor's workers."""
        if self.process.poll() is None:
            self.process.kill()
        with suppress(AssertionError):
            self.end()


class Desk:
    """A folder in which commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "orders.db"
        self._commands: list[Command] = []
        shutil.copy(Path(flows.__file__), folder / "flows.py")

    def start_runs(self, *starts: tuple[Any, ...]) -> None:
        """Record the starts of runs, (id, workflow, arguments…) each, for a worker to find."""
        with Engine(self.database, workflows=[]) as engine:
            for run_id, flow, *arguments in starts:
                engine.start(flow, *arguments, id=run_id)

    def begin(self, *arguments: object, command: Sequence[str] = COMMAND, group: bool = False) -> Command:
        """Start a command; `group`: as a process group of its own."""
        begun = Command(*arguments, cwd=self.folder, command=command, group=group)
        self._commands.append(begun)
        return begun

    def worker(self, *options: object) -> Command:
        """Start a worker and wait until it serves."""
        command = self.begin("worker", "flows", "--db", "orders.db", *options)
        command.expect("serves")
        return command

    def run(self, name: str, *arguments: object, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the file to its end."""
        return subprocess.run(
            [*COMMAND, name, *map(str, arguments), "--db", "orders.db"],
            cwd=self.folder,
            input=answer,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_SECONDS,
        )

    def read(self, name: str, *arguments: object) -> Any:
        """Carry out a command on the file in this process, which is quick, and return the JSON that it prints."""
        output = io.StringIO()
        with redirect_stdout(output):
            assert main([name, *map(str, arguments), "--db", str(self.database), "--json"]) == 0
        return json.loads(output.getvalue())

    def clear(self) -> None:
        """Kill the commands that are still under way."""
        for command in self._commands:
            command.kill()
