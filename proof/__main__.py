"""``python -m proof NAME``, ``python -m proof ci``, ``python -m proof table``: break the engine's world, and count."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from proof.result import Harness, Result
from proof.table import PAGE, read_results, rewrite

#: The harnesses and their modules.
HARNESSES: Final[dict[str, str]] = {
    "sim": "proof.sim",
    "images": "proof.images",
    "disk-errors": "proof.disk_errors",
    "corrupt": "proof.corrupt",
    "kill": "proof.kill",
    "stop": "proof.stop",
    "queues": "proof.queues",
    "processes": "proof.processes",
}
#: What CI runs side by side, each list one after the other. They take about equally long; and those that often wait for
#: what other processes do run beside one that computes all the time.
LANES: Final = (("images", "disk-errors", "corrupt"), ("processes", "stop", "kill", "queues", "sim"))

RESULTS: Final = Path(__file__).with_name("results")
#: After how long CI gives a harness up, in seconds: one that hangs is a failure, not a stopped pipeline.
_CI_TIMEOUT_SECONDS: Final = 900.0
#: How much of what a failed harness found is said again at the end.
_WHY_LINES: Final = 8
_WHY_LENGTH: Final = 400


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 1 where a promise was broken or a control not caught."""
    parser = argparse.ArgumentParser(prog="python -m proof", description=__doc__)
    parser.add_argument("what", choices=[*HARNESSES, "ci", "table"], help="a harness, all of them, or the docs' table")
    parser.add_argument("--cases", type=int, help="how many cases; default: as many as in CI")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes; default: all CPUs")
    parser.add_argument("--seed", type=int, default=1, help="what the cases follow from")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes, or comes from")
    options = parser.parse_args(arguments)
    if options.what == "table":
        results = read_results(options.results)
        kept = rewrite(PAGE, results)
        print(f"from {options.results}: {', '.join(each.name for each in results) or 'nothing'}", end="")
        print(f"; as they were: {', '.join(kept)}" if kept else "")
        return 0
    if options.what == "ci":
        return _ci(options.jobs, options.seed, options.results)
    result = _run(options.what, options.cases, options.jobs, options.seed)
    result.write(options.results)
    print(result.summary(), flush=True)
    return 0 if result.passed else 1


def _run(name: str, cases: int | None, jobs: int, seed: int) -> Result:
    harness = cast("Harness", importlib.import_module(HARNESSES[name]))
    began = time.perf_counter()
    result = harness.run(harness.CI_CASES if cases is None else cases, jobs, seed)
    command = f"python -m proof {name}" + ("" if cases is None else f" --cases {cases}") + f" --seed {seed}"
    return replace(
        result,
        name=name,
        fault=harness.FAULT,
        seconds=round(time.perf_counter() - began, 1),
        command=command,
        soak=harness.SOAK,
    )


def _ci(jobs: int, seed: int, results: Path) -> int:
    """Run every harness at its CI size, each in a process of its own; print what each found when it is done."""
    began = time.perf_counter()
    for name in HARNESSES:
        # What an earlier run wrote must not pass for this one's.
        (results / f"{name}.json").unlink(missing_ok=True)

    broken: dict[str, str] = {}

    def run_lane(lane: Sequence[str]) -> None:
        for name in lane:
            passed, output = _run_apart(name, jobs, seed, results)
            if not passed:
                broken[name] = output

    with ThreadPoolExecutor(len(LANES)) as lanes:
        list(lanes.map(run_lane, LANES))
    for name, output in broken.items():
        print(f"--- why {name} failed\n{_why(results / f'{name}.json', output)}")
    print(f"{len(HARNESSES)} harnesses took {time.perf_counter() - began:.0f} s; failed: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def _why(path: Path, output: str) -> str:
    """Say what a failed harness found, in a few lines: the end of a long log is what is read of it."""
    if not path.exists():
        # It raised, or was not done in time.
        return "\n".join(output.splitlines()[-_WHY_LINES:])
    result = Result.read(path)
    failed = cast("Sequence[str]", result.details.get("failed", ()))
    told = [f"{result.cases:,} cases, {result.failures:,} failures", *failed[:_WHY_LINES]]
    told += [f"control NOT CAUGHT: {each.name}: {each.how}" for each in result.controls if not each.caught]
    return "\n".join(f"  {line[:_WHY_LENGTH]}" for line in told)


def _run_apart(name: str, jobs: int, seed: int, results: Path) -> tuple[bool, str]:
    """Run a harness in a process of its own and print what it says; return whether it passed, and its output."""
    command = [sys.executable, "-m", "proof", name, "--jobs", str(jobs), "--seed", str(seed), "--results", str(results)]
    # A session of its own, so that a harness that hangs is ended with all that it has started.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=_CI_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"{name}: not done after {_CI_TIMEOUT_SECONDS:g} s\n"
    print(output, end="", flush=True)
    return process.returncode == 0, output


if __name__ == "__main__":
    sys.exit(main())
