"""``python -m bench [W1 …] [--peer dbos …]``: measure, print a table, write JSON to ``bench/results``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import baseline, report
from bench.figures import TINY, Figure, System
from bench.workloads import STEPWELL, WORKLOADS

#: Engines that are installed on demand, each into an environment of its own.
PEERS = ("dbos", "dura", "kairo-sdk", "unhinged")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit code: 1 where a promise was broken, whatever the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--peer", action="append", default=[], choices=PEERS, help="measure another engine beside it")
    parser.add_argument("--tiny", action="store_true", help="only see that everything works; the figures mean nothing")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"), help="where the JSON goes")
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: that of the results")
    parser.add_argument("--runs", type=int, metavar="N", help="park N runs in W4, and enqueue N in backlog: a soak")
    options = parser.parse_args(arguments)
    known = {name.casefold(): name for name in WORKLOADS}
    if unknown := [name for name in options.workloads if name.casefold() not in known]:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(WORKLOADS)}")
    wanted = [known[name.casefold()] for name in options.workloads] or list(WORKLOADS)
    place: Path = options.directory or options.results
    place.mkdir(parents=True, exist_ok=True)
    systems = [STEPWELL, *(_peer(name) for name in options.peer)]
    if options.tiny:
        systems = [replace(system, sizes=TINY) for system in systems]
    if options.runs is not None:
        systems = [_soaked(system, options.runs) for system in systems]
    load_before = report.load()
    _say(f"Load average {load_before[0]} on {os.cpu_count()} CPUs; other work on the machine makes figures worse")
    with tempfile.TemporaryDirectory(prefix="stepwell-bench-", dir=place) as temporary:
        raw = baseline.summary(Path(temporary) / "raw.db", *((20, 1, 5) if options.tiny else (1_000, 50, 1_000)))
        figures: dict[str, list[Figure]] = {system.name: [] for system in systems}
        for name in wanted:  # so that what is compared is measured within minutes, on a machine in the same mood
            for system in systems:
                figures[system.name] += _measure(system, name, Path(temporary))
    facts: dict[str, Any] = {
        "command": ["python", "-m", "bench", *(sys.argv[1:] if arguments is None else arguments)],
        "machine": report.machine(place),
        "load_before": load_before,
        "load_after": report.load(),
        "tiny": options.tiny,
    }
    notes = [f"{system.name}: {system.note}" for system in systems if system.note]
    _print(figures, raw, facts, notes)
    sizes = {system.name: system.sizes for system in systems}
    path = report.write(options.results, report.to_json(figures, sizes, raw, facts, notes))
    print(f"\nWritten to {path}")
    return 0


def _soaked(system: System, runs: int) -> System:
    first = min(system.sizes.parked_first, runs // 2)
    sizes = replace(system.sizes, parked_first=first, parked=runs, backlog=runs)
    # A thousand a second is far less than is to be expected, even of a busy machine.
    return replace(system, sizes=sizes, patience_seconds=system.patience_seconds + runs / 1_000)


def _peer(name: str) -> System:
    # Nothing of a peer is imported that was not asked for.
    module = import_module(f"bench.peers.{name.replace('-', '_')}")
    system: System = module.install(_say)
    return system


def _measure(system: System, name: str, folder: Path) -> list[Figure]:
    if name in system.without:
        return []
    began = time.perf_counter()
    place = folder / f"{system.name}-{name}"
    place.mkdir()
    figures = WORKLOADS[name](system, place)
    _say(f"{system.name} {name} took {time.perf_counter() - began:.1f} s")
    return figures


def _print(
    figures: Mapping[str, Sequence[Figure]], raw: dict[str, float], facts: dict[str, Any], notes: Sequence[str]
) -> None:
    ours, *others = figures
    print()
    print(report.table(figures[ours], {name: figures[name] for name in others}))
    print()
    print("Raw apsw on this disk: " + ", ".join(f"{name} {report.number(value)}" for name, value in raw.items()))
    print("Machine: " + ", ".join(f"{name} {value}" for name, value in facts["machine"].items()))
    print(f"Load average before {facts['load_before']}, after {facts['load_after']}")
    for note in notes:
        print(note)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
