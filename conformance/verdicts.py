"""What all the trials came to: one line for each test, what is known of it, and the table in the docs."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conformance.trial import MODES, Mode, Status, Verdict

KNOWN: Final = Path(__file__).with_name("known.txt")
PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "conformance.md"
BEGIN: Final = "<!-- conformance: begin (made by `make conformance CONFORMANCE_ARGS=--write`, do not edit) -->"
END: Final = "<!-- conformance: end -->"

#: The worst comes first: it is what a test came to when its modes differ.
_ORDER: Final[tuple[Status, ...]] = ("failed", "refused", "skipped", "passed")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test came to over all modes. `modes` are those in which it came to that."""

    test: str
    status: Status
    modes: tuple[Mode, ...]
    reason: str

    @property
    def suite(self) -> str:
        """Whose test it is, and from which file: ``anyio test_memory``."""
        return self.test.partition(".")[0]


def read(folder: Path) -> list[Finding]:
    """Return what the trials wrote into `folder`, by test."""
    trials: dict[str, dict[Mode, Verdict]] = defaultdict(dict)
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            verdict = Verdict(record["status"], record["reason"], record["journal"])
            trials[record["test"]][record["mode"]] = verdict
    return [_summed_up(test, trials[test]) for test in sorted(trials)]


def _summed_up(test: str, ends: Mapping[Mode, Verdict]) -> Finding:
    missing = tuple(mode for mode in MODES if mode not in ends)
    if missing:
        return Finding(test, "failed", missing, "the harness itself did not come to an end")
    worst = min((end.status for end in ends.values()), key=_ORDER.index)
    modes = tuple(mode for mode in MODES if ends[mode].status == worst)
    if worst == "passed":
        differing = tuple(mode for mode in MODES if ends[mode].journal != ends["live"].journal)
        if differing:
            return Finding(test, "failed", differing, "it passes, but its journal is not that of the live run")
    return Finding(test, worst, modes, "" if worst == "passed" else plain(ends[modes[0]].reason))


def plain(reason: str) -> str:
    """Return a reason without what differs from run to run: the run's id, addresses, places of files."""
    reason = re.sub(r"^run 'trial': ", "", reason)
    reason = re.sub(r",? (at|in|\() ?(/|unknown).*", "", reason)
    return re.sub(r" at 0x[0-9a-f]+", "", reason)


# --- what is known ----------------------------------------------------------------------------------------------------


def read_known(path: Path = KNOWN) -> set[str]:
    """Return the names of the tests that are known to fail."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def complaints(verdicts: Iterable[Finding], known: set[str]) -> list[str]:
    """Return what must not be: tests that fail and are not known to, and known ones that do not fail any more."""
    found: list[str] = []
    for verdict in verdicts:
        fails = verdict.status == "failed"
        if fails and verdict.test not in known:
            found.append(f"{verdict.test} fails ({', '.join(verdict.modes)}): {verdict.reason}")
        elif not fails and verdict.test in known:
            found.append(f"{verdict.test} {verdict.status} now: take it out of {KNOWN.name}")
    return found


# --- the table --------------------------------------------------------------------------------------------------------


def summary(verdicts: Iterable[Finding]) -> str:
    """Return how many tests of each file came to what, as a Markdown table."""
    counts: dict[str, Counter[Status]] = defaultdict(Counter)
    for verdict in verdicts:
        counts[verdict.suite][verdict.status] += 1
    lines = ["| tests | passed | refused | failed |", "|---|---|---|---|"]
    for suite, count in sorted(counts.items()):
        lines.append(f"| {suite} | {count['passed']} | {count['refused']} | {count['failed']} |")
    total = sum(counts.values(), Counter[Status]())
    lines.append(f"| all | {total['passed']} | {total['refused']} | {total['failed']} |")
    return "\n".join(lines)


def details(verdicts: Iterable[Finding]) -> str:
    """Return the tests that did not pass, with the reason."""
    lines = ["| test | | reason |", "|---|---|---|"]
    for verdict in verdicts:
        if verdict.status in {"failed", "refused"}:
            modes = "" if len(verdict.modes) == len(MODES) else f" ({', '.join(verdict.modes)})"
            reason = verdict.reason.replace("|", "\\|")
            lines.append(f"| {verdict.test} | {verdict.status}{modes} | {reason} |")
    return "\n".join(lines)


def rewrite(page: Path, verdicts: list[Finding], versions: Mapping[str, str]) -> None:
    """Replace what is between the markers of `page`."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no two lines {BEGIN!r} and {END!r}; put them where the table shall be")
    of = " and ".join(f"{name} {version}" for name, version in versions.items())
    made = f"Tests of {of}.\n\n{summary(verdicts)}\n\n{details(verdicts)}"
    page.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")
