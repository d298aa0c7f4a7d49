"""What else happens to processes that share a file: clocks, disks, deleted files, other tools, old code, orderly ends.

Each scenario (`proof.scenarios`) has a file of its own, workers (`proof.crew`) and, as a rule, a client that starts
runs all the time (`proof.load`). What the scenario did must have been noticed or not, as it says; and in the end all
that was acknowledged must have ended rightly, with nothing repeated that was recorded (`proof.verdict`).

Where the machine lacks what a scenario needs (the right to mount, strace), the result says so, and it is not counted.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from proof.crew import broken
from proof.pool import scratch
from proof.result import Control, Result, judged
from proof.scenarios import clocks, disks, ends, files, tools, versions
from proof.scenarios.life import Impossible, Scenario

FAULT: Final = "clocks, full disks, lost files, other tools, old code, crash loops, orderly ends"
SOAK: Final = "make proof NAME=processes CASES=1000"

_FAILURES_TOLD: Final = 20

SCENARIOS: Final[dict[str, Scenario]] = {
    "wall clocks set by hours and a year, time zones": clocks.wall_clocks,
    "file moved away": files.moved,
    "file replaced by a copy": files.restored,
    "file deleted": files.deleted,
    "lock file deleted": files.lock_deleted,
    "another SQLite beside the workers": tools.other_sqlite,
    "a long reader": tools.long_reader,
    "8 processes migrate at once": versions.eight_migrate,
    "two versions of the code": versions.two_versions,
    "a crash loop": ends.crash_loop,
    "orderly ends under load": ends.drains,
    "a tmpfs fills and is freed": disks.disk_fills,
    "system calls fail (strace)": disks.system_calls,
}
CI_CASES: Final = len(SCENARIOS)

#: How workers are broken (`proof.crew_member.CONTROLS`), the scenario that must show it, and what it must say.
CONTROLS: Final = {
    "a file that was taken away is not missed": ("file moved away", ("goes on",)),
    # Two clocks show as times that cannot be, or as an execution hours after the record that forbids it.
    "every worker has a clock of its own": (
        "wall clocks set by hours and a year, time zones",
        ("entries are from", "executed again by", "an entry was written at"),
    ),
}
#: How often a control's scenario is played, with another seed each time: what the workers do first is chance.
_CONTROL_TRIES: Final = 4


def run(cases: int, jobs: int, seed: int) -> Result:
    """Play `cases` scenarios, one after the other, again and again with other seeds."""
    del jobs
    played, failures, notes = 0, list[str](), list[str]()
    names = list(SCENARIOS)
    for number in range(cases):
        name = names[number % len(names)]
        try:
            play(name, seed * 1_000 + number)
        except Impossible as reason:
            notes.append(f"{name}: {reason}")
        except Exception as error:
            played += 1
            failures.append(f"{name}, seed {seed * 1_000 + number}: {type(error).__name__}: {error}")
        else:
            played += 1
    return Result(
        name="processes",
        fault=FAULT,
        cases=played,
        failures=len(failures),
        details={"scenarios": names, "not possible here": sorted(set(notes)), "failed": failures[:_FAILURES_TOLD]},
        controls=[_control(name, seed) for name in CONTROLS],
        seconds=0.0,
        command="",
    )


def _control(name: str, seed: int) -> Control:
    scenario, reasons = CONTROLS[name]
    control = Control(name, caught=False, how="not tried")
    token = broken.set(name)
    try:
        for number in range(_CONTROL_TRIES):
            complaints: list[str] = []
            try:
                with scratch() as folder:
                    SCENARIOS[scenario](folder, seed + number)
            except Exception as error:
                complaints.append(f"{type(error).__name__}: {error}")
            control = judged(name, complaints, *reasons)
            if control.caught:
                break
    finally:
        broken.reset(token)
    return control


def play(name: str, seed: int) -> None:
    """Play a scenario; raises `Broken` where a promise was broken."""
    with scratch() as folder:
        try:
            SCENARIOS[name](folder, seed)
        except Impossible:
            raise
        except Exception:
            kept = Path(__file__).with_name("results") / "failed-processes" / str(seed)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, ignore_dangling_symlinks=True, ignore=shutil.ignore_patterns("*-peers"))
            raise
