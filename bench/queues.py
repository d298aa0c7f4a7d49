"""The workloads of queues; their phases are those of `bench.jobs`."""

from __future__ import annotations

from pathlib import Path

from bench.figures import Figure, System, figure, milliseconds
from bench.measure import Facts, Process, in_turns, p50

_KINDS = {"step": "jobs of one step", "bare": "jobs without a step"}


class _Line:
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
            figures += _rates(_Line(client, [first, second], kind, system.sizes.jobs), system.sizes.job_rounds)
        for workers in ([first], [first, second]):
            figures += _starts(client, workers, system.sizes.idle_jobs, system.sizes.rounds)
    return figures


def _rates(line: _Line, rounds: int) -> list[Figure]:
    measured = in_turns(rounds, raw=line.raw, one=line.with_one, two=line.with_two)
    raw, one, two, what = measured["raw"], measured["one"], measured["two"], _KINDS[line.kind]
    return [
        figure("W3", f"{what}/s, 1 worker", "/s", one, "jobs table", raw, at_least=10_000),
        figure("W3", f"{what}/s, 2 workers", "/s", two, "1 worker", one, ratio_at_least=1.0),
        figure(
            "W3",
            f"{what}, CPU time of 1 worker for each",
            "us",
            [1e6 * seconds for seconds in line.cpu_seconds[-rounds:]],
            "jobs table",
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
    """Very many entries in a queue: enqueuing them, and taking from it with few and with all of them waiting."""
    system = system.beside("jobs")
    sizes = system.sizes
    figures: list[Figure] = []
    few = 2 * sizes.taken
    for partitions in (1, 1_000):
        place = folder / f"partitions-{partitions}"
        place.mkdir()
        options = {"directory": str(place)}
        system.facts("enqueuing", **options, count=few, partitions=partitions)
        start = system.facts("taking", **options, count=sizes.taken)
        rate = system.facts("enqueuing", **options, count=sizes.backlog, partitions=partitions)["rate"]
        many = system.facts("taking", **options, count=sizes.taken)
        waiting = f"{sizes.backlog:,} waiting" + (f", {partitions:,} partitions" if partitions > 1 else "")
        figures.append(Figure(workload="backlog", what=f"enqueued a second, {waiting}", unit="/s", value=rate))
        figures += _compared(waiting, many, f"with {few:,}", start)
    return figures


def _compared(waiting: str, many: Facts, raw_name: str, few: Facts) -> list[Figure]:
    def compare(what: str, unit: str, value: float, raw: float, /, **limits: float) -> Figure:
        return figure("backlog", f"{what}, {waiting}", unit, [value], raw_name, [raw], **limits)

    return [
        compare(
            "job to next job, p50", "ms", *(1e3 * p50(facts["intervals"]) for facts in (many, few)), ratio_at_most=1.5
        ),
        compare("opening to first job", "ms", *(1e3 * facts["first"] for facts in (many, few)), at_most=500),
        compare("pause", "ms", *(1e3 * facts["paused"] for facts in (many, few))),
        compare("resume", "ms", *(1e3 * facts["resumed"] for facts in (many, few))),
        compare("memory of the worker", "MB", *(facts["resident_bytes"] / 1e6 for facts in (many, few))),
    ]
