"""The workloads: what is measured, in which processes, beside which baseline, and what is to be reached.

Each one works for any engine that has the phases of `bench.inside`: `System` says how to start them. The workloads that
need several processes, and those of queues, are in `bench.several` and `bench.queues`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bench import baseline, queues, several
from bench.figures import Figure, System, figure, milliseconds
from bench.lives import lives
from bench.measure import Process, in_turns, occupied_bytes


def w1(system: System, folder: Path) -> list[Figure]:
    """One run, steps in sequence: the time from one step to the next, beside a single INSERT with its COMMIT."""
    names = {
        "async": "p50 per async step",
        "def": "p50 per def step, def workflow",
        "asyncio": "p50 per async step, AsyncEngine",
    }
    facts = system.facts("sequence", directory=str(folder), steps=system.sizes.steps, rounds=system.sizes.rounds)
    return [
        figure(
            "W1",
            names[kind],
            "ms",
            milliseconds(measured["subject"]),
            "INSERT+COMMIT",
            milliseconds(measured["raw"]),
            ratio_at_most=1.5,
        )
        for kind, measured in facts.items()
    ]


def w2(system: System, folder: Path) -> list[Figure]:
    """Many runs of ten steps at once: steps a second from first start to last end, beside the bare prototype."""
    names = {"asyncio": "steps/s, AsyncEngine and gather", "transaction": "steps/s, Engine and one transaction"}
    facts = system.facts(
        "burst", directory=str(folder), runs=system.sizes.burst_runs, steps=10, rounds=system.sizes.burst_rounds
    )
    return [
        figure(
            "W2",
            names[kind],
            "/s",
            measured["subject"],
            "bare prototype",
            measured["raw"],
            at_least=40_000,
            ratio_at_least=0.5,
        )
        for kind, measured in facts.items()
    ]


def w4(system: System, folder: Path) -> list[Figure]:
    """Many parked runs: the memory of each; the time from opening their file to first results, after kill and close."""
    sizes = system.sizes
    counts = {"first": sizes.parked_first, "parked": sizes.parked, "beyond": sizes.parked_beyond}
    with system.phase("park", directory=str(folder), **counts) as process:
        memory = process.hear()
        process.hear()
        process.kill()
    # Only the first opening is one after a kill; each one ends with an orderly close.
    killed = system.facts("unpark", directory=str(folder))
    closed = [system.facts("unpark", directory=str(folder)) for _ in range(sizes.restarts)]
    figures = [
        Figure(workload="W4", what=what, unit=unit, value=value, at_most=limit)
        for what, unit, value, limit in (
            (f"memory per run beyond {sizes.parked:,}", "bytes", memory["bytes_per_run_beyond"], 100),
            (f"memory per run from {sizes.parked_first:,} to there", "bytes", memory["bytes_per_run"], None),
            (f"memory of the process with {sizes.parked:,}", "MB", memory["resident_bytes"] / 1e6, None),
            ("runs started and parked a second", "/s", memory["runs_per_second"], None),
        )
    ]
    for name, what in {"new_run": "result of a new run", "parked_run": "result of a message to a parked run"}.items():
        for how, restarts in {"kill": [killed], "close": closed}.items():
            figures.append(
                figure(
                    "W4",
                    f"opening to {what}, after a {how}",
                    "ms",
                    milliseconds([facts[name] for facts in restarts]),
                    "open, INSERT+COMMIT",
                    milliseconds([facts["raw"] for facts in restarts]),
                    at_most=500,
                )
            )
    return figures


def w5(system: System, folder: Path) -> list[Figure]:
    """Runs in the middle of their steps, SIGKILL, restart: the time from opening to the last result.

    Raises `RuntimeError` if a recorded step is repeated, or one is missing.
    """
    restarts = []
    runs, steps = system.sizes.midway_runs, 10
    for number in range(system.sizes.restarts):
        place = folder / f"restart-{number}"
        place.mkdir()
        with system.phase("midway", directory=str(place), runs=runs, steps=steps) as process:
            process.hear()
            process.kill()
        facts = system.facts("finish", directory=str(place), runs=runs, steps=steps)
        if facts["repeated"]:
            raise RuntimeError(f"W5: {facts['repeated']} recorded steps were executed again after the kill")
        if facts["executed"] != runs * (steps - steps // 2):
            raise RuntimeError(f"W5: {facts['executed']} steps were executed after the kill, which is not the rest")
        restarts.append(facts)
    raw = milliseconds([facts["raw"] for facts in restarts])
    return [
        figure(
            "W5",
            "opening to all runs done",
            "ms",
            milliseconds([facts["done"] for facts in restarts]),
            "prototype, the same steps",
            raw,
            at_most=500,
        ),
        figure(
            "W5",
            "opening",
            "ms",
            milliseconds([facts["opened"] for facts in restarts]),
            "prototype, the same steps",
            raw,
        ),
    ]


def w6(system: System, folder: Path) -> list[Figure]:
    """A message to a waiting run and its answer back: the time from sending to having it."""
    names = {
        "result": "message to result, p50",
        "def": "message to result, def workflow, p50",
        "value": "message to published value, p50",
        "parked": "message to result, run not in memory, p50",
        "asyncio": "message to result, AsyncEngine, p50",
    }
    facts = system.facts("answers", directory=str(folder), count=system.sizes.answers, rounds=system.sizes.rounds)
    return [
        figure(
            "W6",
            names[kind],
            "ms",
            milliseconds(measured["subject"]),
            "INSERT+COMMIT",
            milliseconds(measured["raw"]),
            # The limit is that of a run in memory; one that is not is read first.
            **({} if kind == "parked" else {"at_most": 1.0}),
        )
        for kind, measured in facts.items()
    ]


def w7(system: System, folder: Path) -> list[Figure]:
    """The growth of the checkpointed file by each small step, its share of the run's row included."""
    figures = []
    runs = system.sizes.grown_runs
    raw = baseline.bytes_per_row(folder / "raw.db")
    for steps, count in ((10, runs), (100, max(1, runs // 10))):
        place = folder / f"of-{steps}"
        place.mkdir()
        system.facts("grow", directory=str(place), runs=max(1, count // 10), steps=steps)
        before = occupied_bytes(place / "runs.db")
        system.facts("grow", directory=str(place), runs=count, steps=steps)
        grown = (occupied_bytes(place / "runs.db") - before) / (count * steps)
        what = f"file per step, runs of {steps} steps"
        figures.append(figure("W7", what, "bytes", [grown], "bare row", [raw], at_most=250))
    return figures


def replay(system: System, folder: Path) -> list[Figure]:
    """Runs with long journals: from opening the file to the first step after the journal's end."""
    system = system.beside("journals")
    sizes = system.sizes
    names = {
        "sequence": "steps in sequence",
        "def": "def steps in sequence",
        "gather": "steps gathered at once",
        "groups": "steps in groups of ten tasks",
        "messages": "messages received",
    }
    figures: list[Figure] = []
    for kind, what in names.items():
        lengths = [sizes.journal_entries, *([sizes.long_journal_entries] if kind in ("sequence", "gather") else [])]
        for entries in lengths:
            place = folder / f"{kind}-{entries}"
            place.mkdir()
            system.facts("write", directory=str(place), kind=kind, entries=entries)
            facts = system.facts("read", directory=str(place), entries=entries, rounds=sizes.journal_rounds)
            subject, raw = ([entries / seconds for seconds in facts[name]] for name in ("subject", "raw"))
            limits = {"at_least": 50_000} if kind != "def" else {}
            text = f"entries/s, {entries:,} of {what}"
            figures.append(figure("replay", text, "/s", subject, "reading and decoding the rows", raw, **limits))
    return figures


_RAW_PROGRAM = """
import sys
import apsw
connection = apsw.Connection(sys.argv[1])
connection.pragma("journal_mode", "wal")
connection.pragma("synchronous", "full")
connection.execute("CREATE TABLE log (value)")
connection.execute("INSERT INTO log VALUES (42)")
print('@bench {}', flush=True)
"""


def w8(system: System, folder: Path) -> list[Figure]:
    """Import, and the time from the start of a process to its first result; beside an interpreter that does nothing."""
    fresh = (folder / f"cold-{number}.db" for number in range(10**6))

    def until_first_word(*arguments: str) -> float:
        began = time.perf_counter()
        with Process([system.python, *arguments]) as process:
            process.hear()
            return time.perf_counter() - began

    word = "print('@bench {}', flush=True)"
    imports = in_turns(
        system.sizes.starts,
        raw=lambda: until_first_word("-c", word),
        package=lambda: until_first_word("-c", f"import {system.package}; {word}"),
        names=lambda: until_first_word("-c", f"{system.imports}; {word}"),
    )
    existing = str(folder / "existing.db")
    cold = in_turns(
        system.sizes.starts,
        raw=lambda: until_first_word("-c", _RAW_PROGRAM, str(next(fresh))),
        subject=lambda: until_first_word(str(system.program), str(next(fresh))),
        again=lambda: until_first_word(str(system.program), existing),
    )
    nothing, raw_name = milliseconds(imports["raw"]), "python -c pass"
    program, program_name = milliseconds(cold["raw"]), "cold apsw INSERT"

    def beyond_nothing(name: str) -> list[float]:
        return [value - raw for value, raw in zip(milliseconds(imports[name]), nothing, strict=True)]

    return [
        figure("W8", "import of the package", "ms", beyond_nothing("package"), raw_name, nothing, at_most=80),
        figure("W8", "import of what a program names", "ms", beyond_nothing("names"), raw_name, nothing),
        figure(
            "W8",
            "process start to first result, new file",
            "ms",
            milliseconds(cold["subject"]),
            program_name,
            program,
            at_most=200,
        ),
        figure(
            "W8",
            "process start to first result, existing file",
            "ms",
            milliseconds(cold["again"]),
            program_name,
            program,
            at_most=200,
        ),
    ]


def _crowd(system: System, folder: Path) -> list[Figure]:
    # Only Stepwell has it, and peers' environments do not: this module is imported there, too.
    from bench import crowded  # noqa: PLC0415 - see above

    return crowded.w(system, folder)


def _requests(system: System, folder: Path) -> list[Figure]:
    from bench import requests  # noqa: PLC0415 - as above

    return requests.w(system, folder)


WORKLOADS: dict[str, Callable[[System, Path], list[Figure]]] = {
    "W1": w1,
    "W2": w2,
    "W3": queues.w3,
    "W4": w4,
    "W5": w5,
    "W6": w6,
    "W6x": several.w6x,
    "requests": _requests,
    "W7": w7,
    "W8": w8,
    "backlog": queues.backlog,
    "takeover": several.takeover,
    "scaling": several.scaling,
    "isolated": several.isolated,
    "crowd": _crowd,
    "replay": replay,
    "lives": lives,
}

STEPWELL = System(
    name="stepwell",
    module="bench.inside",
    package="stepwell",
    imports="from stepwell import Engine, step, workflow",
    program=Path(__file__).with_name("cold.py"),
)
