"""What a harness found, and its form in the JSON files from which the table of the docs is made.

A harness is a module with::

    FAULT: str       what is done to the engine, one line for the table
    CI_CASES: int    how many cases CI runs
    SOAK: str        the command that runs many more
    def run(cases: int, jobs: int, seed: int) -> Result

and a line in `proof.__main__.HARNESSES`. `run` spreads its cases over `jobs` processes, runs its controls, and reports
what it found; it raises only when it cannot do its work at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, cast

#: How much of a complaint is told in the table.
_HOW_LENGTH: Final = 160
#: Values of `Result.details`.
Detail = int | float | str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Control:
    """A deliberately broken engine: `name` says how it is broken, `how` what gave it away, or why nothing did."""

    name: str
    caught: bool
    how: str


def judged(name: str, complaints: Sequence[str], *reasons: str) -> Control:
    """Return a control that is caught where one of the `complaints` has one of the `reasons` in it.

    Whatever else goes wrong under a broken engine, the harness itself included, does not count.
    """
    for complaint in complaints:
        if any(reason in complaint for reason in reasons):
            return Control(name, caught=True, how=complaint[:_HOW_LENGTH])
    if complaints:
        return Control(name, caught=False, how=f"for another reason only: {complaints[0][:_HOW_LENGTH]}")
    return Control(name, caught=False, how="nothing was noticed")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run of a harness.

    - `cases`: how many were run, `failures`: how many of them broke a promise.
    - `details`: what the cases were, by name: numbers, remarks; "failed" holds the first failures in words.
    - `command`: what repeats this run.
    """

    name: str
    fault: str
    cases: int
    failures: int
    details: Mapping[str, Detail]
    controls: Sequence[Control]
    seconds: float
    command: str
    soak: str = field(default="")
    #: One case that is looked at again: it has no controls.
    is_one_case: bool = False

    @property
    def passed(self) -> bool:
        """Whether no case failed, and there are controls, all of which were caught."""
        caught = (bool(self.controls) or self.is_one_case) and all(control.caught for control in self.controls)
        return self.cases > 0 and not self.failures and caught

    def write(self, folder: Path) -> Path:
        """Write the result to ``<name>.json`` in `folder`, which is made if missing; return the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Result:
        """Return the result that `write` wrote to `path`."""
        fields = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        fields["controls"] = [Control(**control) for control in fields["controls"]]
        return cls(**fields)

    def summary(self) -> str:
        """Return the result in words, several lines."""
        lines = [f"{self.name}: {self.cases:,} cases, {self.failures:,} failures, {self.seconds:.1f} s"]
        for name, value in self.details.items():
            values = [value] if isinstance(value, (int, float, str)) else value
            lines += [f"  {name}: {item:,}" if isinstance(item, int) else f"  {name}: {item}" for item in values]
        for control in self.controls:
            lines.append(f"  control {'caught' if control.caught else 'NOT CAUGHT'}: {control.name}: {control.how}")
        return "\n".join(lines)


class Harness(Protocol):
    """The module of a harness."""

    FAULT: str
    CI_CASES: int
    SOAK: str

    def run(self, cases: int, jobs: int, seed: int) -> Result:
        """Run `cases` cases that follow from `seed`, on `jobs` processes."""
        ...
