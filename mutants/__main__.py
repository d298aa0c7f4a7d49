"""``python -m mutants [--sample N] [--seed S] [--module NAME …]``: make mutants, run tests, tell which survive."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Final, TextIO

import pytest

from mutants import known
from mutants.population import Mutant, mutants_of
from mutants.swap import statement_of
from mutants.targets import MODULES, ROOT, TESTS
from mutants.trial import Server, Verdict

RESULTS: Final = Path(__file__).with_name("results")
#: The share of mutants, without those that are known, that tests must notice.
WANTED: Final = 0.9
#: How many CPU seconds of tests the control runs: new code that does the same, and no test may fail.
_CONTROL_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant: `where` is the first test that noticed it, `reason` why none needs to."""

    mutant: Mutant
    change: known.Change
    verdict: Verdict
    where: str
    reason: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return 1 where fewer mutants are noticed than should be, or a control fails."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=250, help="how many mutants; 0: all (hours)")
    parser.add_argument("--seed", type=int, default=1, help="what the sample follows from")
    parser.add_argument("--module", action="append", help="part of a module's name, such as `worker.` or `retry`")
    parser.add_argument("--tests", action="append", help="test files below tests/; default: all that may notice")
    parser.add_argument("--budget", type=float, default=15.0, help="CPU seconds of tests for each mutant")
    parser.add_argument("--again", action="store_true", help="only those that survived the last time")
    parser.add_argument("--write", action="store_true", help="write the table of known mutants into the docs, no more")
    options = parser.parse_args(arguments)
    if options.write:
        page = known.PAGE.read_text(encoding="utf-8")
        known.PAGE.write_text(known.written(page, known.read()), encoding="utf-8")
        return 0
    modules = [one for one in MODULES if not options.module or any(part in one for part in options.module)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and the process of the mutant with it
    sample = _survivors() if options.again else _sample(modules, options.sample, options.seed)
    run = _Run(sample, options.budget)
    with _silence() as run.out:
        server = Server(run.work)
        code = pytest.main(
            [*_pytest_options(), *(f"tests/{name}" for name in options.tests or TESTS)], plugins=[server]
        )
    if not run.finished:
        print(f"pytest ended with {code!r} before any mutant was tried; see what it says about the same tests")
        return 2
    RESULTS.mkdir(exist_ok=True)
    found = json.dumps([asdict(outcome) for outcome in run.outcomes], indent=1)
    (RESULTS / "latest.json").write_text(found, encoding="utf-8")
    return _tell(run.outcomes, run.false_alarm)


def _pytest_options() -> list[str]:
    # Without the project's own options, which spread tests over processes.
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return [*options, "--rootdir", str(ROOT), "--hypothesis-seed=1", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


@contextmanager
def _silence() -> Iterator[TextIO]:
    """Keep what tests print to themselves; yield what prints all the same."""
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        open(os.dup(1), "w", encoding="utf-8", buffering=1) as out,  # noqa: PTH123 - it has no path
        open(os.devnull, "w", encoding="utf-8") as nothing,  # noqa: PTH123 - as above
    ):
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder  # examples that broke mutants say nothing about the code
        kept = os.dup(1), os.dup(2)
        sys.stdout.flush()
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        try:
            yield out
        finally:
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _sample(modules: Sequence[str], size: int, seed: int) -> list[Mutant]:
    every = sorted(mutant for module in modules for mutant in mutants_of(module))
    chosen = Random(seed).sample(every, size) if 0 < size < len(every) else every  # noqa: S311 - no secret
    print(f"{len(chosen):,} of {len(every):,} mutants of {len(modules)} modules", flush=True)
    return chosen


def _survivors() -> list[Mutant]:
    """Return what survived the last time and is there still."""
    outcomes = json.loads((RESULTS / "latest.json").read_text(encoding="utf-8"))
    found = []
    for outcome in outcomes:
        mutant = Mutant(**outcome["mutant"])
        if outcome["verdict"] in ("survived", "not reached"):
            changed = mutant.changed()
            if changed is not None and asdict(mutant.change(changed)) == outcome["change"]:
                found.append(mutant)
            else:
                print(f"its file has changed since: {known.Change(**outcome['change'])}")
    print(f"{len(found)} mutants survived the last time", flush=True)
    return found


class _Run:
    """The sample, and what became of it."""

    def __init__(self, sample: Sequence[Mutant], budget_seconds: float) -> None:
        self._sample = sample
        self._budget_seconds = budget_seconds
        self.out: TextIO = sys.stdout
        self.outcomes: list[Outcome] = []
        self.false_alarm = ""
        self.finished = False

    def work(self, server: Server) -> None:
        """Measure the tests, run the control, and then try each mutant."""
        began = time.monotonic()
        modules = sorted({mutant.module for mutant in self._sample})
        self._say(f"measuring {len(server.items):,} tests without a mutant; ten minutes, where it was not done before")
        server.measure(MODULES, RESULTS / "measured")
        for name in server.failing:
            self._say(f"left out, it fails without a mutant: {name}")
        self._say(f"{len(server.tests):,} tests measured in {time.monotonic() - began:.0f} s")
        self.false_alarm = server.control(modules, _CONTROL_SECONDS)
        reasons = known.read()
        for number, mutant in enumerate(self._sample, start=1):
            outcome = self._try_out(server, mutant, reasons)
            if outcome is not None:
                self.outcomes.append(outcome)
                if outcome.verdict not in ("noticed", "no change"):
                    why = f" ({outcome.reason})" if outcome.reason else ""
                    self._say(
                        f"{number}: {outcome.verdict}, line {mutant.line} of {outcome.change} {outcome.where}{why}"
                    )
        self._say(f"{time.monotonic() - began:.0f} s altogether")
        self.finished = True

    def _try_out(self, server: Server, mutant: Mutant, reasons: dict[known.Change, str]) -> Outcome | None:
        changed = mutant.changed()
        if changed is None:
            return None
        source = (ROOT / mutant.path).read_text(encoding="utf-8")
        place = (mutant.module, statement_of(source, mutant.line))
        change = mutant.change(changed)
        verdict, where = server.try_out(mutant.module, changed, place, self._budget_seconds)
        return Outcome(mutant, change, verdict, where, reasons.get(change))

    def _say(self, text: str) -> None:
        self.out.write(f"{text}\n")


def _tell(outcomes: Sequence[Outcome], false_alarm: str) -> int:
    counts: Counter[str] = Counter(outcome.verdict for outcome in outcomes if outcome.verdict != "no change")
    every = counts.total()
    noticed = counts["noticed"] + counts["too long"]
    excused = sum(outcome.reason is not None for outcome in outcomes if outcome.verdict in ("survived", "not reached"))
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()))
    if every == excused:
        print("nothing to notice")
        return 1
    share = noticed / (every - excused)
    print(f"{noticed} of {every} mutants were noticed: {noticed / every:.1%}")
    print(f"without the {excused} that no test needs to notice: {share:.1%} (wanted: {WANTED:.0%})")
    if false_alarm:
        print(f"without any mutant a test failed, so the figures prove nothing; mend it first: {false_alarm}")
    return int(share < WANTED or bool(false_alarm))


if __name__ == "__main__":
    sys.exit(main())
