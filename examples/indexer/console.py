"""What the demo shows: a progress bar on a terminal, a line each quarter elsewhere, and the closing report."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field

from indexer.analysis import Report
from indexer.verdict import Verdict

#: How many lines of a long list are shown.
SHOWN = 3


@dataclass(slots=True)
class Progress:
    """How far the indexing is; `kills` are the counts at which a worker was killed, shown as ``x`` in the bar."""

    total: int
    kills: list[int] = field(default_factory=list[int])
    _done: int = -1
    _quarter: int = -1

    def show(self, done: int) -> None:
        """Draw the bar anew on a terminal; elsewhere print a line whenever another quarter is done."""
        if done == self._done:
            return
        self._done = done
        if sys.stdout.isatty():
            text = f" {done:,} of {self.total:,} files"
            width = max(10, min(60, shutil.get_terminal_size().columns - len(text) - 4))
            cells = ["#" if cell < done * width // self.total else "-" for cell in range(width)]
            for kill in self.kills:
                cells[min(kill * width // self.total, width - 1)] = "x"
            sys.stdout.write(f"\r\x1b[K[{''.join(cells)}]{text}")
            sys.stdout.flush()
        elif done * 4 // self.total > self._quarter:
            self._quarter = done * 4 // self.total
            print(f"  {done:,} of {self.total:,} files", flush=True)

    def finish(self) -> None:
        """End the line of the bar."""
        if sys.stdout.isatty():
            print()

    def say(self, line: str) -> None:
        """Print a line of its own, in place of the bar."""
        print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)


def print_report(report: Report) -> None:
    """Print what was found in the sources."""
    print()
    print(f"{report.files:,} files, {report.size_bytes / 1e6:.1f} MB, {report.lines:,} lines")
    print(f"{report.functions:,} functions, {report.classes:,} classes, {report.import_statements:,} import statements")
    largest = [f"{module.path} ({module.lines:,} lines)" for module in report.largest[:SHOWN]]
    most_imported = [f"{name} ({files:,} files)" for name, files in report.most_imported()[:SHOWN]]
    print(f"  largest        {', '.join(largest)}")
    print(f"  most imported  {', '.join(most_imported)}")
    for problem in report.problems[:SHOWN]:
        print(f"  problem        {problem.path} {problem.reason}")
    if len(report.problems) > SHOWN:
        print(f"  problem        … and {len(report.problems) - SHOWN:,} more; all are counted, none is left out")


def print_verdict(verdict: Verdict, kills: list[int], total: int, seconds: float) -> None:
    """Print what was proven, and last whether all of it held."""
    points = " and ".join(f"{kill:,} ({kill * 100 // total} %)" for kill in kills)
    recoveries = " and ".join(
        "none before the next kill" if seconds is None else f"{seconds:.3f} s" for seconds in verdict.recoveries_seconds
    )
    print()
    print(f"killed             {len(kills)} times with SIGKILL, at {points} of {total:,} recorded files")
    print(f"recovered in       {recoveries}, from opening the file to the first newly recorded step")
    print(
        f"not run again      {verdict.kept - verdict.rerun:,} of the {verdict.kept:,} steps that a kill found recorded"
    )
    print(f"repeated           {verdict.repeated:,} steps that a kill cut off before their result was recorded")
    for failure in verdict.failures:
        print(f"FAILED             {failure}")
    if not verdict.failures:
        print("report             equal to that of an uninterrupted run")
        print(f"all held           in {seconds:.1f} s")
