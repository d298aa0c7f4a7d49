"""``python -m conformance``: run the tests, show what they came to, and compare with what is known."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from conformance import suites, verdicts
from conformance.plugin import RESULTS_VARIABLE
from conformance.suites import SuiteMissingError

_HERE = Path(__file__).parent
#: How long one test may take in one mode, in seconds: where all is well none takes two, and what hangs is to be named.
_TEST_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code: 1 where anything differs from what is known."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--select", default="", help="run only tests whose names match (as pytest's -k)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes; default: all CPUs")
    parser.add_argument("--write", action="store_true", help="write the table into the docs")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        suites.check_cpython()
        anyio_folder = suites.anyio_tests()
    except SuiteMissingError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="conformance-") as results:
        status = _run_pytest(anyio_folder, Path(results), options.select, options.jobs)
        found = verdicts.read(Path(results))
    print(verdicts.summary(found), verdicts.details(found), sep="\n\n")
    wrong = verdicts.complaints(found, verdicts.read_known())
    if status or not found:
        wrong.append(f"pytest ended with {status} after {len(found)} tests")
    if options.write:
        verdicts.rewrite(verdicts.PAGE, found, suites.versions())
    print(f"\n{len(found)} tests took {time.perf_counter() - began:.0f} s")
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    return 1 if wrong else 0


def _run_pytest(anyio_folder: Path, results: Path, select: str, jobs: int) -> int:
    """Run all trials; return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(anyio_folder), "--noconftest"]
    command += ["-q", "--no-header", "-n", str(jobs), "-p", "conformance.plugin", "-p", "no:anyio"]
    command += ["-p", "no:cacheprovider", "-k", select, "--timeout", str(_TEST_SECONDS)]
    command += [str(_HERE / "cpython_cases.py"), *(str(anyio_folder / "tests" / name) for name in suites.ANYIO_FILES)]
    path = os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, RESULTS_VARIABLE: str(results), "PYTHONPATH": path}
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
