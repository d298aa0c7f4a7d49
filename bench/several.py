"""The workloads with several processes on one file; their phases are those of `bench.together`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import apsw

from bench import baseline
from bench.figures import Figure, System, figure, milliseconds
from bench.measure import Process, in_turns, percentile

#: How often the file is looked at for what other processes write, in seconds. A look takes about 20 microseconds.
_LOOK_SECONDS = 0.0003

#: How long one of the steps takes that go on while a worker is killed, in seconds: those of its runs, and of others.
_STEP_SECONDS = 0.01
_OTHER_STEP_SECONDS = 0.05

#: After how long a killed worker's runs must have gone on, in seconds.
_PATIENCE_SECONDS = 10.0


def w6x(system: System, folder: Path) -> list[Figure]:
    """A message to a run that waits in a worker, and its answer back, from a client in another process."""
    system = system.beside("together")
    sizes = system.sizes
    names = {
        ("memory", "result"): "message to result, p50",
        ("memory", "value"): "message to published value, p50",
        ("parked", "result"): "message to result, run not in memory, p50",
    }
    facts = {}
    for where, in_memory in {"memory": 1_000, "parked": 0}.items():
        place = folder / where
        place.mkdir()
        kinds = [kind for other, kind in names if other == where]
        with system.phase("answering", directory=str(place), in_memory=in_memory) as worker:
            worker.hear()
            facts[where] = system.facts(
                "asking", directory=str(place), count=sizes.answers, rounds=sizes.rounds, kinds=kinds
            )
    return [
        figure(
            "W6x",
            what,
            "ms",
            milliseconds(facts[where][kind]["subject"]),
            "INSERT+COMMIT",
            milliseconds(facts[where][kind]["raw"]),
            # The limit is that of a run in memory; one that is not is read first.
            **({} if where == "parked" else {"at_most": 2.0}),
        )
        for (where, kind), what in names.items()
    ]


# --- takeover --------------------------------------------------------------------------------------------------------


class _Witness:
    """Sees, in the file and with no engine, who has the runs of a worker, and when their steps are recorded."""

    def __init__(self, database: Path) -> None:
        self._connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)

    def keys(self, ids: Sequence[str]) -> set[int]:
        """Return the keys of runs in the file."""
        marks = ",".join("?" * len(ids))
        return {key for (key,) in self._connection.execute(f"SELECT key FROM stepwell_runs WHERE id IN ({marks})", ids)}

    def last_position(self) -> int:
        """Return the last position in the journal."""
        (position,) = next(self._connection.execute("SELECT coalesce(max(position), 0) FROM stepwell_journal"))
        return int(position)

    def recorded_after(self, position: int) -> tuple[int, set[int]]:
        """Return the last position in the journal now, and the runs that have entries above `position`."""
        rows = list(
            self._connection.execute("SELECT position, run FROM stepwell_journal WHERE position > ?", (position,))
        )
        return max((row[0] for row in rows), default=position), {row[1] for row in rows}

    def owned_by_others(self, keys: set[int], epoch: int) -> bool:
        """Tell whether another worker has all of these runs."""
        marks = ",".join("?" * len(keys))
        sql = f"SELECT count(*) FROM stepwell_runs WHERE key IN ({marks}) AND owner <> ?"
        (count,) = next(self._connection.execute(sql, (*keys, epoch)))
        return bool(count == len(keys))

    def has_runs_under_way(self) -> bool:
        """Tell whether a run has not ended."""
        sql = "SELECT 1 FROM stepwell_runs WHERE status = 'running' OR status = 'pending' OR status = 'waiting' LIMIT 1"
        return bool(list(self._connection.execute(sql)))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def takeover(system: System, folder: Path) -> list[Figure]:
    """SIGKILL of one of several workers, again and again: the time until others have its runs and carry them on.

    Raises `RuntimeError` if a run does not go on.
    """
    system = system.beside("together")
    sizes = system.sizes
    gone: list[float] = []
    owned: list[float] = []
    recorded: list[float] = []
    last: list[float] = []
    with ExitStack() as stack:
        for _ in range(sizes.crew - 1):
            stay = system.phase(
                "labouring", directory=str(folder), runs=sizes.labours, steps=10**6, seconds=_OTHER_STEP_SECONDS
            )
            stack.enter_context(stay).hear()
        for _ in range(sizes.kills):
            # Long enough to be under way when it is killed, short enough not to pile up.
            victim = system.phase(
                "labouring", directory=str(folder), runs=sizes.labours, steps=60, seconds=_STEP_SECONDS
            )
            with victim as process:
                facts = process.hear()
                dead, had, steps = _kill(process, folder / "runs.db", facts["epoch"], facts["runs"])
            gone.append(dead)
            owned.append(had)
            recorded += steps
            last.append(max(steps))
    raw_name, raw = "SIGKILL to its end, p50", milliseconds(gone)
    step = f"next step of {1e3 * _STEP_SECONDS:g} ms recorded"
    return [
        figure("takeover", "SIGKILL to all its runs owned, p50", "ms", milliseconds(owned), raw_name, raw, at_most=50),
        _percentile(f"SIGKILL to {step}, p50 of runs", recorded, 50, raw_name, raw, at_most=50),
        _percentile(f"SIGKILL to {step}, p95 of runs", recorded, 95, raw_name, raw),
        figure("takeover", "SIGKILL to the last of them, p50", "ms", milliseconds(last), raw_name, raw),
    ]


def _percentile(
    what: str, seconds: list[float], percent: float, raw_name: str, raw: list[float], **limits: float
) -> Figure:
    return figure("takeover", what, "ms", [1e3 * percentile(seconds, percent)], raw_name, raw, **limits)


def _kill(process: Process, database: Path, epoch: int, ids: Sequence[str]) -> tuple[float, float, list[float]]:
    """Kill a worker; return, in seconds since the signal: its end, all runs owned by others, each run's next step."""
    witness = _Witness(database)
    try:
        keys = witness.keys(ids)
        began = time.perf_counter()
        process.kill()
        dead = time.perf_counter() - began
        position = witness.last_position()  # what stands there is its own: taking over takes longer than that
        owned: float | None = None
        steps: dict[int, float] = {}
        while owned is None or len(steps) < len(keys):
            now = time.perf_counter() - began
            if now > _PATIENCE_SECONDS:
                raise RuntimeError(f"takeover: {len(keys) - len(steps)} runs do not go on after the kill")
            if owned is None and witness.owned_by_others(keys, epoch):
                owned = now
            position, runs = witness.recorded_after(position)
            for key in runs & keys:
                steps.setdefault(key, now)
            time.sleep(_LOOK_SECONDS)
    finally:
        witness.close()
    return dead, owned, list(steps.values())


# --- scaling ---------------------------------------------------------------------------------------------------------


def scaling(system: System, folder: Path) -> list[Figure]:
    """W2 in several processes on one file: the sum of their steps a second, beside that of a single one."""
    system = system.beside("together")
    runs, steps, rounds = system.sizes.together_runs, 10, system.sizes.together_rounds
    raw = baseline.against(folder / "raw.db", lambda connection: baseline.prototype(connection, runs, steps))
    counts = {"one": 1, "two": 2, "four": 4}

    with ExitStack() as stack:
        crew = [stack.enter_context(system.phase("crew", directory=str(folder))) for _ in range(max(counts.values()))]
        for process in crew:
            process.hear()
        witness = _Witness(folder / "runs.db")
        stack.callback(witness.close)

        def rate(count: int) -> float:
            began = time.perf_counter()
            for process in crew[:count]:
                process.tell("burst", runs=runs, steps=steps)
            for process in crew[:count]:
                process.hear()
            while witness.has_runs_under_way():
                time.sleep(_LOOK_SECONDS)
            return count * runs * steps / (time.perf_counter() - began)

        measured = in_turns(
            rounds, raw=raw, **{name: lambda count=count: rate(count) for name, count in counts.items()}
        )
    return [
        figure("scaling", "steps/s, 1 process", "/s", measured["one"], "bare prototype", measured["raw"]),
        figure(
            "scaling", "steps/s, 2 processes", "/s", measured["two"], "1 process", measured["one"], ratio_at_least=1.0
        ),
        figure("scaling", "steps/s, 4 processes", "/s", measured["four"], "1 process", measured["one"]),
    ]


# --- isolated --------------------------------------------------------------------------------------------------------


def isolated(system: System, folder: Path) -> list[Figure]:
    """Steps in processes of their own: what a warm call costs, and how much of the machine two that compute use."""
    system = system.beside("together")
    sizes = system.sizes
    facts = system.facts(
        "isolating",
        directory=str(folder),
        steps=sizes.steps,
        spin_seconds=sizes.spin_seconds,
        rounds=sizes.rounds,
        spin_rounds=sizes.together_rounds,
    )
    calls, spins = facts["calls"], facts["spins"]
    near, far, one = (milliseconds(values) for values in (calls["near"], calls["far"], spins["one"]))
    beyond = [value - other for value, other in zip(far, near, strict=True)]
    return [
        figure("isolated", "p50 per isolated step, warm", "ms", far, "step in a thread", near),
        figure("isolated", "what isolation adds to a step", "ms", beyond, "step in a thread", near),
        figure(
            "isolated",
            "2 isolated steps that compute",
            "ms",
            milliseconds(spins["two"]),
            "1 such step",
            one,
            ratio_at_most=1.5,  # 1 is two cores, 2 is one
        ),
        figure("isolated", "2 steps in threads that compute", "ms", milliseconds(spins["threads"]), "1 isolated", one),
    ]
