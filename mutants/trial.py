"""Runs tests against mutants: a plugin of pytest that, once all tests are collected, forks for each mutant.

The parent never runs a test: it has no threads, and each child begins where collecting ended. Nothing is written but
below a temporary folder.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from mutants.swap import NothingToChangeError, note_what_is_reached, swap

#: How much longer a mutant's tests may take than they took before: first in CPU time, then, for those that wait for
#: what never comes, by the clock of a busy machine.
_PATIENCE: Final = 4.0
_LEAST_SECONDS: Final = 60.0
#: How much memory a mutant may take on, in bytes: one that goes round for ever shall not fill the machine.
_MEMORY: Final = 4 << 30

Verdict = Literal["noticed", "survived", "not reached", "too long", "no change"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A test of the code as it is: its CPU time, and the statements that it reaches."""

    seconds: float
    reached: frozenset[tuple[str, int]]


@dataclass(slots=True)
class Server:
    """The plugin. `work` is called once, when the tests are collected, in a process that can fork."""

    work: Callable[[Server], None]
    items: Sequence[pytest.Item] = ()
    tests: dict[str, Measured] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)
    least_cpu_seconds: int = 10

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take over from pytest."""
        self.items = session.items
        if not session.testsfailed:
            self.work(self)
        return True

    def measure(self, modules: Iterable[str], limit_seconds: float) -> None:
        """Run all tests, and fill `tests` and `failing`."""
        answer = _in_child(lambda: _measure(self.items, modules), limit_seconds)
        if not isinstance(answer, dict):
            raise TypeError(f"the tests did not come to an end without a mutant ({answer})")
        places = [(module, line) for module, line in answer["places"]]
        for name, (seconds, failed, reached) in answer["tests"].items():
            if failed:
                self.failing.append(name)
            else:
                self.tests[name] = Measured(seconds, frozenset(map(places.__getitem__, reached)))

    def try_out(self, module: str, changed: str, place: tuple[str, int], budget_seconds: float) -> tuple[Verdict, str]:
        """Run tests that reach `place` with the module changed, the quickest first; return the verdict, and on what.

        No more tests are begun than took `budget_seconds` of CPU time before.
        """
        chosen, seconds = self._chosen(place, budget_seconds)
        if not chosen:
            return "not reached", ""

        def run() -> str:
            try:
                swap(sys.modules[module], changed)
            except NothingToChangeError:
                return "-"
            return _first_failure(chosen)

        cpu = self.least_cpu_seconds + int(_PATIENCE * seconds)
        answer = _in_child(run, _LEAST_SECONDS + 3 * _PATIENCE * seconds, cpu)
        match answer:
            case "":
                return "survived", f"{len(chosen)} tests"
            case "-":
                return "no change", ""
            case str():
                return "noticed", answer
            case _:
                return "too long", f"signal {answer}"

    def control(self, modules: Sequence[str], budget_seconds: float) -> str:
        """Run tests as for a mutant, but with code that does the same; return the first that fails, "" for none."""
        chosen, seconds = self._chosen(None, budget_seconds)

        def run() -> str:
            for module in modules:
                with suppress(NothingToChangeError):
                    note_what_is_reached(sys.modules[module], id)
            return _first_failure(chosen)

        return f"{_in_child(run, _LEAST_SECONDS + 3 * _PATIENCE * seconds)}"

    def _chosen(self, place: tuple[str, int] | None, budget_seconds: float) -> tuple[list[pytest.Item], float]:
        able = [item for item in self.items if item.nodeid in self.tests]
        if place is not None:
            able = [item for item in able if place in self.tests[item.nodeid].reached]
        able.sort(key=lambda item: self.tests[item.nodeid].seconds)
        chosen, seconds = list[pytest.Item](), 0.0
        for item in able:
            if chosen and seconds > budget_seconds:
                break
            chosen.append(item)
            seconds += self.tests[item.nodeid].seconds
        return chosen, seconds


def _measure(items: Sequence[pytest.Item], modules: Iterable[str]) -> dict[str, Any]:
    reached = set[tuple[str, int]]()
    for module in modules:
        with suppress(NothingToChangeError):  # it has no functions
            note_what_is_reached(importlib.import_module(module), reached.add)
    tests: dict[str, tuple[float, bool, list[int]]] = {}
    places: dict[tuple[str, int], int] = {}
    for item in items:
        reached.clear()
        began = time.process_time()
        failed = bool(_first_failure([item]))
        numbers = [places.setdefault(place, len(places)) for place in sorted(reached.copy())]
        tests[item.nodeid] = (time.process_time() - began, failed, numbers)
    return {"places": list(places), "tests": tests}


class _Failures:
    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names.append(report.nodeid)


def _first_failure(items: Sequence[pytest.Item]) -> str:
    """Run tests until one fails; return its name, "" where none does."""
    failures = _Failures()
    plugins = items[0].config.pluginmanager
    plugins.register(failures)
    try:
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if failures.names:
                return failures.names[0]
    finally:
        plugins.unregister(failures)
    return ""


def _in_child(work: Callable[[], object], limit_seconds: float, cpu_seconds: int | None = None) -> object:
    """Return what `work` returns in a forked process, by way of JSON; the number of the signal that ended it otherwise.

    Where something else ended the process, which no test does, that is said instead.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    answer = folder / "answer.json"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
            if cpu_seconds is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 2))
                resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            result = work()
            answer.write_text(json.dumps(result), encoding="utf-8")
            code = 0
        finally:
            os._exit(code)
    try:
        status = _wait(pid, limit_seconds)
        if os.WIFSIGNALED(status):
            return os.WTERMSIG(status)
        return json.loads(answer.read_text(encoding="utf-8")) if os.WEXITSTATUS(status) == 0 else "it ended the process"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(pid: int, limit_seconds: float) -> int:
    """Wait for a child, and kill it and its children where it takes too long; return its status."""
    until = time.monotonic() + limit_seconds
    try:
        while time.monotonic() < until:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
            time.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
