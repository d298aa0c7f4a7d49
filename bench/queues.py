"""The workloads of queues; their phases are those of `bench.jobs`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.figures import Figure, System, figure, milliseconds
from bench.measure import Facts, Process, in_turns, p50

_KINDS = {"step": "jobs of one step", "bare": "jobs without a step"}


class Line:
    """A client, workers, and what they do with jobs of one kind."""

    def __init__(self, client: Process, workers: list[Process], kind: str, jobs: int) -> None:
        self.client = client
        self.workers = workers
        self.kind = kind
        self.jobs = jobs
        #: Processor time of a job in its worker, in seconds.
        self.cpu_seconds: list[float] = []

    def raw(self) -> float:
        """Return the jobs a second of a home-made table."""
        rate: float = self.client.ask("raw", count=self.jobs)["rate"]
        return rate

    def with_one(self) -> float:
        """Return the jobs a second of one worker."""
        return self._rate(self.workers[:1])

    def with_two(self) -> float:
        """Return the jobs a second of two workers."""
        return self._rate(self.workers[:2])

    def _rate(self, workers: list[Process]) -> float:
        """Return the jobs a second from the moment when the workers may start until the last one has ended."""
        self.client.ask("enqueue", kind=self.kind, count=self.jobs)
        for process in workers:
            process.ask("start")
        seconds: float = self.client.ask("release")["seconds"]
        facts = [process.ask("stop") for process in workers]
        executed = sum(found["executed"] for found in facts)
        if executed != self.jobs:
            raise RuntimeError(f"W3: {executed} executions of {self.jobs} jobs")
        if len(workers) == 1:
            self.cpu_seconds.append(facts[0]["cpu_seconds"] / self.jobs)
        return self.jobs / seconds


def w3(system: System, folder: Path) -> list[Figure]:
    """Jobs that wait in a queue: how many a second one and two workers do; and how soon an idle worker starts one.

    Raises `RuntimeError` if a job is not executed exactly once: no worker dies here.
    """
    system = system.beside("jobs")
    options = {"directory": str(folder)}
    with (
        system.phase("client", **options) as client,
        system.phase("worker", **options) as first,
        system.phase("worker", **options) as second,
    ):
        for process in (client, first, second):
            process.hear()
        figures: list[Figure] = []
        for kind in _KINDS:
            figures += _rates(Line(client, [first, second], kind, system.sizes.jobs), system.sizes.job_rounds)
        for workers in ([first], [first, second]):
            figures += _starts(client, workers, system.sizes.idle_jobs, system.sizes.rounds)
    return figures


def _rates(line: Line, rounds: int) -> list[Figure]:
    measured = in_turns(rounds, raw=line.raw, one=line.with_one, two=line.with_two)
    raw, one, two, what = measured["raw"], measured["one"], measured["two"], _KINDS[line.kind]
    return [
        figure("W3", f"{what}/s, 1 worker", "/s", one, "home-made queue", raw, at_least=10_000),
        figure("W3", f"{what}/s, 2 workers", "/s", two, "1 worker", one, ratio_at_least=1.0),
        figure(
            "W3",
            f"{what}, CPU time of 1 worker for each",
            "us",
            [1e6 * seconds for seconds in line.cpu_seconds[-rounds:]],
            "home-made queue",
            [1e6 / rate for rate in raw],
        ),
    ]


def _starts(client: Process, workers: list[Process], count: int, rounds: int) -> list[Figure]:
    for process in workers:
        process.ask("start")
    measured = {kind: client.ask("idle", kind=kind, count=count, rounds=rounds) for kind in _KINDS}
    for process in workers:
        process.ask("stop")
    return [
        figure(
            "W3",
            f"enqueue to start, {what}, {len(workers)} idle, p50",
            "ms",
            milliseconds(measured[kind]["subject"]),
            "INSERT+COMMIT",
            milliseconds(measured[kind]["raw"]),
            at_most=2.0,
        )
        for kind, what in _KINDS.items()
    ]


def backlog(system: System, folder: Path) -> list[Figure]:
    """Very many entries in a queue: enqueuing them; and taking from it, in turns with a queue of few."""
    system = system.beside("jobs")
    sizes = system.sizes
    # Some more are taken each time until the queue is paused.
    few = max(100, 4 * (sizes.burst_rounds + 1) * sizes.taken)
    figures: list[Figure] = []
    for partitions in (1, 1_000):
        rates: dict[int, list[float]] = {}
        places: dict[int, str] = {}
        for count in (few, few + sizes.backlog):
            place = folder / f"{count}-of-{partitions}"
            place.mkdir()
            places[count] = str(place)
            rates[count] = system.facts("enqueuing", directory=str(place), count=count, partitions=partitions)["rates"]
        taken: dict[str, list[Facts]] = {"few": [], "many": []}

        def take(name: str, place: str, found: dict[str, list[Facts]] = taken) -> float:
            facts = system.facts("taking", directory=place, count=sizes.taken)
            facts["interval"] = p50(facts["intervals"])
            found[name].append(facts)
            return float(facts["interval"])

        few_place, many_place = places.values()
        in_turns(sizes.burst_rounds, few=partial(take, "few", few_place), many=partial(take, "many", many_place))
        waiting = f"{sizes.backlog:,} waiting" + (f", {partitions:,} partitions" if partitions > 1 else "")
        first, *_, last = rates[few + sizes.backlog]
        figures.append(figure("backlog", f"enqueued a second, {waiting}", "/s", [last], "the first tenth", [first]))
        figures += _compared(waiting, taken["many"][1:], f"with {few:,}", taken["few"][1:])
    return figures


def _compared(waiting: str, many: list[Facts], raw_name: str, few: list[Facts]) -> list[Figure]:
    def compare(what: str, unit: str, key: str, factor: float, **limits: float) -> Figure:
        subject, raw = ([factor * facts[key] for facts in found] for found in (many, few))
        return figure("backlog", f"{what}, {waiting}", unit, subject, raw_name, raw, **limits)

    return [
        compare("job to next job, p50", "ms", "interval", 1e3, ratio_at_most=1.5),
        compare("opening to first job", "ms", "first", 1e3, at_most=500),
        compare("pause", "ms", "paused", 1e3),
        compare("resume", "ms", "resumed", 1e3),
        compare("memory of the worker", "MB", "resident_bytes", 1e-6),
    ]
