"""The figures of README.md, from a run's JSON: ``python -m bench.readme [bench/results/latest.json]`` prints the rows.

Of the other engines that were measured in the same run each row shows the best, and of how many runs its figure is
where that is not what Stepwell's is of. Rows that were not measured are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.figures import Figure
from bench.report import best_peer, number

_TIMES: Final = "\N{MULTIPLICATION SIGN}"
_LATEST: Final = Path(__file__).with_name("results") / "latest.json"
_HEAD: Final = (
    "| | Stepwell | beside raw SQLite | the best peer |",
    "|---|---|---|---|",
)
_W1: Final = ("p50 per async step", "p50 per def step, def workflow", "p50 per async step, AsyncEngine")
_W2: Final = ("steps/s, AsyncEngine and gather", "steps/s, Engine and one transaction")
_W7: Final = ("file per step, runs of 100 steps", "file per step, runs of 10 steps")
#: How many runs a workload has, as a field of `bench.figures.Sizes`.
_COUNTS: Final = {"W2": "burst_runs", "W5": "midway_runs"}

#: Figures by workload and what was measured.
Measured: TypeAlias = Mapping[tuple[str, str], Figure]


class _Run:
    """What one run of the benchmarks measured."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        systems = {
            name: [Figure(**{key: value for key, value in one.items() if key != "reached"}) for one in found]
            for name, found in data["systems"].items()
        }
        self._sizes: Mapping[str, Mapping[str, int]] = data["sizes"]
        own = next(iter(systems))
        self._own_sizes = self._sizes[own]
        self.ours: Measured = {(one.workload, one.what): one for one in systems.pop(own)}
        self._peers = systems

    def count(self, workload: str) -> str:
        """Return how many runs our own workload has."""
        return f"{self._own_sizes[_COUNTS[workload]]:,}"

    def best(self, workload: str, *whats: str) -> str:
        """Return the best peer's figure among those of one kind, with its name."""
        found = [
            (one.value, name, one.unit)
            for what in whats
            if (ours := self.ours.get((workload, what))) is not None and (name := best_peer(ours, self._peers))
            for one in self._peers[name]
            if (one.workload, one.what) == (workload, what)
        ]
        if not found:
            return ""
        value, name, unit = (max if found[0][2] == "/s" else min)(found)
        runs = self._sizes[name].get(_COUNTS.get(workload, ""))
        of = f" for {runs:,} runs" if runs not in {None, self._own_sizes.get(_COUNTS.get(workload, ""))} else ""
        return f"{name}: {_amount(value, unit)}{of}"


def _amount(value: float, unit: str) -> str:
    """Return a figure as prose has it: seconds from half a second on, rates to the hundred."""
    if unit == "/s":
        return f"{round(value, -2 if value >= 1_000 else 0):,.0f} steps/s"
    if unit == "ms" and value >= 500:
        return f"{number(value / 1_000)} s"
    return f"{number(value)} {unit}"


def _span(values: list[float | None], digits: int) -> str:
    known = sorted(round(value, digits) for value in values if value is not None)
    shown = [f"{value:.{digits}f}" for value in (known[0], known[-1])]
    return shown[0] if shown[0] == shown[1] else " to ".join(shown)


def rows(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table."""
    run = _Run(data)
    ours = run.ours
    yield from _HEAD
    if steps := [ours[key] for what in _W1 if (key := ("W1", what)) in ours]:
        beside = f"{_span([one.ratio for one in steps], 1)} {_TIMES} one `INSERT` + `COMMIT`"
        yield _row("one step after another, p50", _amount(steps[0].value, "ms"), beside, run.best("W1", *_W1))
    bursts = [ours[key] for what in _W2 if (key := ("W2", what)) in ours]
    if len(bursts) == len(_W2):
        amount = f"{_amount(bursts[0].value, '/s')} (`Engine`: {round(bursts[1].value, -2):,.0f})"
        beside = f"{number(bursts[0].ratio)} {_TIMES} a bare prototype without an engine"
        what = f"{run.count('W2')} runs of 10 steps at once, `AsyncEngine`"
        yield _row(what, amount, beside, run.best("W2", *_W2))
    yield from _of_queues_and_parked(ours)
    if (done := ours.get(("W5", "opening to all runs done"))) is not None:
        beside = f"{number(done.ratio)} {_TIMES} the prototype doing the same steps"
        what = f"{run.count('W5')} runs killed half-way, all done again"
        yield _row(what, _amount(done.value, "ms"), beside, run.best("W5", done.what))
    if (owned := ours.get(("takeover", "SIGKILL to all its runs owned, p50"))) is not None:
        yield _row("a killed worker's runs owned by others, p50", _amount(owned.value, "ms"), "", "")
    if (answer := ours.get(("W6", "message to result, p50"))) is not None:
        beside = f"{number(answer.ratio)} {_TIMES} one `INSERT` + `COMMIT`"
        what = "message to a waiting run and the answer back, p50"
        yield _row(what, _amount(answer.value, "ms"), beside, run.best("W6", answer.what))
    if growth := [ours[key] for what in _W7 if (key := ("W7", what)) in ours]:
        amount = f"{_span([one.value for one in growth], 0)} bytes"
        yield _row("growth of the file per small step", amount, "", run.best("W7", *_W7))
    if (cold := ours.get(("W8", "process start to first result, new file"))) is not None:
        yield _row("process start to first result", _amount(cold.value, "ms"), "", run.best("W8", cold.what))


def _of_queues_and_parked(ours: Measured) -> Iterator[str]:
    jobs = [ours[key] for count in ("1 worker", "2 workers") if (key := ("W3", f"jobs of one step/s, {count}")) in ours]
    if jobs:
        amount = " and ".join(f"{round(one.value, -2):,.0f}" for one in jobs)
        yield _row("queued jobs of one step, 1 and 2 workers", f"{amount} jobs/s", "", "")
    parked = [one for (workload, what), one in ours.items() if workload == "W4" and what.startswith("memory per run")]
    if parked:
        yield _row("a parked run", f"{_span([one.value for one in parked], 0)} bytes of memory", "", "")
    if (first := ours.get(("W4", "opening to result of a new run, after a kill"))) is not None:
        yield _row("first result after a restart, 100,000 runs parked", _amount(first.value, "ms"), "", "")


def _row(*cells: str) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def main(arguments: list[str]) -> int:
    """Print the rows of the file that is named, or of the latest run."""
    (path,) = map(Path, arguments) if arguments else [_LATEST]
    print("\n".join(rows(json.loads(path.read_text(encoding="utf-8")))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
