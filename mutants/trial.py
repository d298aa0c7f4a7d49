"""Runs tests against mutants: a plugin of pytest that, once all tests are collected, forks for each mutant.

The parent never runs a test: it has no threads, and each child begins where collecting ended. Nothing is written but
below a temporary folder.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from mutants.swap import NothingToChangeError, note_what_is_reached, swap

#: How much longer a mutant's tests may take than they took before, in CPU time.
_PATIENCE: Final = 4.0
#: After how long without a sign a mutant is taken to wait for what never comes: this, and as much again for each CPU
#: second that the longest of its tests takes; by the clock, on a busy machine.
_QUIET_SECONDS: Final = 20.0
#: The same for a test without a mutant.
_MEASURING_SECONDS: Final = 600.0
#: How much memory a mutant may take on, in bytes: one that goes round for ever shall not fill the machine.
_MEMORY: Final = 4 << 30

#: What the quickest test costs all the same.
_OVERHEAD_SECONDS: Final = 0.01
#: What is as many lines away is about the same thing, more or less.
_NEAR: Final = 12

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
    reaching: Counter[tuple[str, int]] = field(default_factory=Counter)
    least_cpu_seconds: int = 10

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take over from pytest."""
        self.items = session.items
        if not session.testsfailed:
            self.work(self)
        return True

    def measure(self, modules: Sequence[str], kept: Path | None = None) -> None:
        """Run all tests without a mutant, file by file, and fill `tests` and `failing`.

        What is `kept` in a folder stands, as long as neither the tests nor the code have changed.
        """
        files: dict[Path, list[pytest.Item]] = {}
        for item in self.items:
            files.setdefault(item.path, []).append(item)
        code = [Path(str(importlib.import_module(name).__file__)) for name in modules]
        for path, items in files.items():
            key = _digest([path, *code])
            file = kept / f"{path.stem}.json" if kept is not None else None
            answer: Any = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else None
            if answer is None or answer["key"] != key or set(answer["tests"]) != {item.nodeid for item in items}:
                answer = _in_child(partial(_measure, items, modules), _MEASURING_SECONDS)
                if not isinstance(answer, dict):
                    raise TypeError(f"{path.name} did not come to an end without a mutant ({answer})")
                if file is not None and not any(failed for _, failed, _ in answer["tests"].values()):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps({"key": key, **answer}), encoding="utf-8")
            self._take(answer)

    def _take(self, answer: Any) -> None:
        places = [(module, line) for module, line in answer["places"]]
        for name, (seconds, failed, reached) in answer["tests"].items():
            if failed:
                self.failing.append(name)
            else:
                self.tests[name] = Measured(seconds, frozenset(map(places.__getitem__, reached)))
                self.reaching.update(self.tests[name].reached)

    def try_out(self, module: str, changed: str, place: tuple[str, int], budget_seconds: float) -> tuple[Verdict, str]:
        """Run tests that reach `place` with the module changed, and return the verdict, and on what it rests.

        Those that are about the place and cost little come first, until as many have begun as took `budget_seconds` of
        CPU time before.
        """
        chosen, seconds = self._chosen(place, budget_seconds)
        if not chosen:
            return "not reached", ""

        def run(tick: Callable[[], object]) -> str:
            try:
                swap(sys.modules[module], changed)
            except NothingToChangeError:
                return "-"
            return _first_failure(chosen, tick)

        cpu = self.least_cpu_seconds + int(_PATIENCE * seconds)
        quiet = _QUIET_SECONDS * (1 + max(self.tests[item.nodeid].seconds for item in chosen))
        answer = _in_child(run, quiet, cpu)
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
        chosen, _ = self._chosen(None, budget_seconds)

        def run(tick: Callable[[], object]) -> str:
            for module in modules:
                with suppress(NothingToChangeError):
                    note_what_is_reached(sys.modules[module], id)
            return _first_failure(chosen, tick)

        return f"{_in_child(run, _MEASURING_SECONDS)}"

    def _chosen(self, place: tuple[str, int] | None, budget_seconds: float) -> tuple[list[pytest.Item], float]:
        able = [item for item in self.items if item.nodeid in self.tests]
        if place is not None:
            able = [item for item in able if place in self.tests[item.nodeid].reached]
            worth = {item.nodeid: self._worth(self.tests[item.nodeid], *place) for item in able}
            able.sort(key=lambda item: -worth[item.nodeid])
        else:
            able.sort(key=lambda item: self.tests[item.nodeid].seconds)
        chosen, seconds = list[pytest.Item](), 0.0
        for item in able:
            if chosen and seconds > budget_seconds:
                break
            chosen.append(item)
            seconds += self.tests[item.nodeid].seconds
        return chosen, seconds

    def _worth(self, test: Measured, module: str, line: int) -> float:
        """Return how much a test is about a place for what it costs: it reaches what is near and few others reach."""
        near = ((module, each) for each in range(line - _NEAR, line + _NEAR + 1))
        return sum(1 / self.reaching[place] for place in near if place in test.reached) / (
            _OVERHEAD_SECONDS + test.seconds
        )


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _measure(items: Sequence[pytest.Item], modules: Iterable[str], tick: Callable[[], object]) -> dict[str, Any]:
    reached = set[tuple[str, int]]()
    for module in modules:
        with suppress(NothingToChangeError):  # it has no functions
            note_what_is_reached(importlib.import_module(module), reached.add)
    tests: dict[str, tuple[float, bool, list[int]]] = {}
    places: dict[tuple[str, int], int] = {}
    for item in items:
        reached.clear()
        began = time.process_time()
        failed = bool(_first_failure([item], tick))
        numbers = [places.setdefault(place, len(places)) for place in sorted(reached.copy())]
        tests[item.nodeid] = (time.process_time() - began, failed, numbers)
    return {"places": list(places), "tests": tests}


class _Failures:
    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names.append(report.nodeid)


def _first_failure(items: Sequence[pytest.Item], tick: Callable[[], object]) -> str:
    """Run tests until one fails, with a `tick` before each; return its name, "" where none does."""
    failures = _Failures()
    plugins = items[0].config.pluginmanager
    plugins.register(failures)
    try:
        for item, following in zip(items, [*items[1:], None], strict=True):
            tick()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if failures.names:
                return failures.names[0]
    finally:
        plugins.unregister(failures)
    return ""


def _in_child(
    work: Callable[[Callable[[], object]], object], quiet_seconds: float, cpu_seconds: int | None = None
) -> object:
    """Return what `work` returns in a forked process, by way of JSON; the number of the signal that ended it otherwise.

    `work` gets a function to call now and then: a process that did not for `quiet_seconds` is killed. Where something
    else ended the process, which no test does, that is said instead.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    answer = folder / "answer.json"
    heard, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
            if cpu_seconds is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 2))
                resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            result = work(partial(os.write, tells, b"."))
            answer.write_text(json.dumps(result), encoding="utf-8")
            code = 0
        finally:
            os._exit(code)
    os.close(tells)
    try:
        status = _wait(pid, heard, quiet_seconds)
        if os.WIFSIGNALED(status):
            return os.WTERMSIG(status)
        return json.loads(answer.read_text(encoding="utf-8")) if os.WEXITSTATUS(status) == 0 else "it ended the process"
    finally:
        os.close(heard)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(pid: int, heard: int, quiet_seconds: float) -> int:
    """Wait for a child, and kill it and its children where nothing is heard of it; return its status."""
    over = False
    try:
        while not over and select.select([heard], [], [], quiet_seconds)[0]:
            over = not os.read(heard, 4096)  # its end closes the pipe
    finally:
        if not over:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
