"""What all workloads share: how much of everything, how an engine's processes are started, and what a figure is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Self

from bench.measure import PATIENCE_SECONDS, Facts, Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. A figure of other sizes than these is no figure of the workload."""

    rounds: int = 9
    steps: int = 100
    burst_runs: int = 1_000
    burst_rounds: int = 5
    parked_first: int = 20_000
    parked: int = 100_000
    parked_beyond: int = 40_000
    midway_runs: int = 1_000
    answers: int = 50
    asked_entries: int = 1_000
    grown_runs: int = 2_000
    starts: int = 15
    restarts: int = 3
    jobs: int = 5_000
    job_rounds: int = 4
    idle_jobs: int = 25
    backlog: int = 20_000
    taken: int = 100
    crew: int = 4
    kills: int = 20
    labours: int = 10
    together_runs: int = 1_000
    together_rounds: int = 3
    spin_seconds: float = 0.5
    crowd: int = 100_000
    journal_entries: int = 20_000
    long_journal_entries: int = 100_000
    journal_rounds: int = 5
    lives: int = 10_000
    schedules: int = 1_000_000
    ticks: int = 86_400


TINY = Sizes(
    rounds=1,
    steps=5,
    burst_runs=5,
    burst_rounds=1,
    parked_first=10,
    parked=30,
    parked_beyond=10,
    midway_runs=5,
    answers=2,
    asked_entries=20,
    grown_runs=5,
    starts=1,
    restarts=1,
    jobs=20,
    job_rounds=1,
    idle_jobs=2,
    backlog=30,
    taken=3,
    crew=2,
    kills=1,
    labours=2,
    together_runs=5,
    together_rounds=1,
    spin_seconds=0.01,
    crowd=20,
    journal_entries=20,
    long_journal_entries=50,
    journal_rounds=1,
    lives=20,
    schedules=100,
    ticks=100,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """An engine to measure: its interpreter, the module with its phases, what is imported, its small program."""

    name: str
    python: str = sys.executable
    module: str
    package: str
    #: What a program with a workflow imports, as a statement.
    imports: str
    program: Path
    sizes: Sizes = field(default_factory=Sizes)
    #: What the user should know of the sizes, where they are not those of the workload.
    note: str = ""
    #: The workloads that it is not measured on.
    without: frozenset[str] = frozenset()
    #: A measured process that takes longer is killed.
    patience_seconds: float = PATIENCE_SECONDS

    def beside(self, module: str) -> Self:
        """Return the same engine with the phases of another module beside that of `module`."""
        return replace(self, module=f"{self.module.rpartition('.')[0]}.{module}")

    @contextmanager
    def phase(self, name: str, **options: object) -> Iterator[Process]:
        """Execute a phase in a fresh process."""
        command = [self.python, "-m", self.module, name, json.dumps(options)]
        with Process(command, self.patience_seconds) as process:
            yield process

    def facts(self, name: str, **options: object) -> Facts:
        """Execute a phase to its end and return what it tells."""
        with self.phase(name, **options) as process:
            facts = process.hear()
            process.wait()
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure beside its baseline.

    `value` and `baseline` have the unit `unit`; both are medians over rounds; `ratio` is the median of the ratios of
    value to baseline, round by round. `at_most` or `at_least` is what the value is to reach, `ratio_at_most` or
    `ratio_at_least` what the ratio is to reach.
    """

    workload: str
    what: str
    unit: str
    value: float
    baseline_is: str = ""
    baseline: float | None = None
    ratio: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    ratio_at_most: float | None = None
    ratio_at_least: float | None = None
    rounds: list[float] = field(default_factory=list)
    baseline_rounds: list[float] = field(default_factory=list)

    @property
    def reached(self) -> bool | None:
        """Tell whether all that is to be reached is; None where nothing is."""
        verdicts = [
            *(self.value <= limit for limit in (self.at_most,) if limit is not None),
            *(self.value >= limit for limit in (self.at_least,) if limit is not None),
            *(self.ratio is not None and self.ratio <= limit for limit in (self.ratio_at_most,) if limit is not None),
            *(self.ratio is not None and self.ratio >= limit for limit in (self.ratio_at_least,) if limit is not None),
        ]
        return all(verdicts) if verdicts else None


def figure(
    workload: str, what: str, unit: str, subject: list[float], baseline_is: str, raw: list[float], **limits: float
) -> Figure:
    """Make a figure of what was measured in turns."""
    pairs = list(zip(subject, raw, strict=True)) if len(subject) == len(raw) else [(median(subject), median(raw))]
    return Figure(
        workload=workload,
        what=what,
        unit=unit,
        value=median(subject),
        baseline_is=baseline_is,
        baseline=median(raw),
        ratio=median(value / other for value, other in pairs),
        rounds=subject,
        baseline_rounds=raw,
        **limits,
    )


def milliseconds(seconds: list[float]) -> list[float]:
    """Return seconds as milliseconds."""
    return [1e3 * value for value in seconds]
