"""The judge of queues and limits: that no bound is ever exceeded, that nobody overtakes, that no slot stays empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proof.sim.faults import Violation
from proof.sim.programs import FLOWS
from stepwell.definitions.queues import Queue
from stepwell.definitions.step_call import StepCall

if TYPE_CHECKING:
    from proof.sim.process import Process
    from proof.sim.world import World

_UNDER_WAY: Final = (
    "SELECT run.key, run.queue, entry.partition, run.owner, run.started_at, entry.priority, entry.place, run.workflow, "
    "entry.ready_at, run.created_at "
    "FROM stepwell_runs AS run JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op = 0 "
    "WHERE run.queue IS NOT NULL AND run.queued = 0 AND run.ended_at IS NULL"
)
_WAITING: Final = (
    "SELECT queue, partition, workflow, priority, place FROM stepwell_entries WHERE op = 0 AND state = 'waiting'"
)
_STANDING: Final = (
    "SELECT run.queue, entry.partition, entry.state FROM stepwell_runs AS run "
    "JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op = 0 WHERE run.key = ? AND run.queued = 1"
)
_PAUSED: Final = "SELECT name FROM stepwell_queues WHERE paused = 1"
_KEYS: Final = "SELECT entry.run, entry.queue, entry.dedup FROM stepwell_entries AS entry WHERE entry.dedup IS NOT NULL"
_ACTIVE: Final = "SELECT key, queued FROM stepwell_runs WHERE queue IS NOT NULL AND ended_at IS NULL"
_ITEMS: Final = "SELECT count(*) FROM stepwell_batch_items WHERE run = ?"
_ANY: Final = "SELECT 1 FROM stepwell_entries LIMIT 1"
_ALIVE: Final = "SELECT 1 FROM stepwell_workers WHERE epoch = ? AND ended_at IS NULL"


def check_rate(name: str, times: Sequence[int], partition: str | None = None) -> None:
    """Raise where more starts lie in a window than the rate allows, or that of a partition; times in microseconds."""
    settings = FLOWS[name].settings
    limit, per = settings.rate_limit, settings.rate_per
    if partition is not None:
        limit, per = settings.partition_rate_limit, settings.partition_rate_per
    if limit is None or per is None:
        return
    ordered = sorted(times)
    for first, last in zip(ordered, ordered[limit:], strict=False):
        if last - first < per:
            where = name if partition is None else f"{name} {partition!r}"
            raise Violation("a rate is kept", f"{where}: {limit + 1} starts within {last - first} us")


class FlowJudge:
    """Watches the queues and limits of one world."""

    def __init__(self, world: World, rows: Callable[..., list[Any]]) -> None:
        self._world = world
        self._rows = rows
        #: When runs were taken.
        self.taken: dict[int, int] = {}
        self._starts: dict[str, list[int]] = {}  # of the runs of each queue
        self._starts_there: dict[tuple[str, str], list[int]] = {}  # by queue and partition
        self._executing: dict[str, dict[int, tuple[Process, int]]] = {}  # by limit and attempt: who, and its epoch
        self._begun: dict[str, list[int]] = {}  # the starts under each limit
        self._paused: set[str] = set()
        #: The queue and dedup key of every run that ever had one.
        self.keys: dict[int, tuple[str, str]] = {}

    # --- queues ------------------------------------------------------------------------------------------------------

    def after_commit(self, process: Process) -> None:
        """Count what is under way in each queue."""
        if not self._rows(_ANY):
            return
        under_way = self._rows(_UNDER_WAY)
        taken = [row for row in under_way if row[0] not in self.taken]
        paused = {name for (name,) in self._rows(_PAUSED)}
        for row in taken:
            if row[1] in paused & self._paused:
                raise Violation("a queue that is paused gives nothing", f"{row[1]}: run {row[0]} was taken")
        self._paused = paused
        self._check_keys()
        self.taken.update((row[0], self._world.now) for row in taken)
        for name, count in Counter(row[1] for row in under_way).items():
            bound = FLOWS[name].settings.concurrency
            if bound is not None and count > bound:
                raise Violation("the concurrency of a queue is kept", f"{name}: {count} runs are under way")
        for (name, partition), count in Counter((row[1], row[2]) for row in under_way).items():
            bound = FLOWS[name].settings.partition_concurrency
            if bound is not None and count > bound:
                raise Violation("the concurrency of a partition is kept", f"{name} {partition!r}: {count} runs")
        memory = process.turn_loop.worker.memory.runs
        for name, count in Counter(row[1] for row in taken).items():
            # Runs that were taken over, or parked, and come to memory just now, come on top of the share.
            held = count + sum(row[1] == name and row[0] in memory for row in under_way)
            bound = FLOWS[name].settings.per_worker
            if bound is not None and held > bound:
                raise Violation("a worker takes no more than its share", f"{process.name} has {held} of {name}")
        for (name, partition), count in Counter((row[1], row[2]) for row in taken).items():
            held = count + sum(row[1:3] == (name, partition) and row[0] in memory for row in under_way)
            bound = FLOWS[name].settings.partition_per_worker
            if bound is not None and held > bound:
                what = f"{process.name} has {held} of {name} {partition!r}"
                raise Violation("a worker takes no more of a partition than its share", what)
        for row in taken:
            self._check_taken(row)

    def _check_keys(self) -> None:
        """Look whether two runs have one dedup key; one that debounces has it only until it is taken."""
        self.keys.update((run, (queue, dedup)) for run, queue, dedup in self._rows(_KEYS))
        if not self.keys:
            return
        active = [(run, queued) for run, queued in self._rows(_ACTIVE) if run in self.keys]
        having = Counter(self.keys[run] for run, queued in active if queued or not self._calms(run))
        for key, count in having.items():
            if count > 1:
                raise Violation("a dedup key belongs to one run", f"{key}: {count} runs")

    def _calms(self, run: int) -> bool:
        queue = FLOWS[self.keys[run][0]]
        return isinstance(queue, Queue) and queue.debounce is not None

    def _check_in_time(self, row: Any) -> None:
        """Look whether a run was not taken too early: delayed, debounced, or still collecting."""
        run, name, *_, ready_at, created_at = row
        now = self._world.now  # while a worker's clock may lag behind, when another one had moved the queue on
        queue = FLOWS[name]
        assert isinstance(queue, Queue)
        if queue.batch is None:
            if now < ready_at:
                raise Violation("a delay is kept", f"{name}: run {run} was taken {ready_at - now} us early")
            return
        ((items,),) = self._rows(_ITEMS, run)
        if items > queue.batch.size or (items < queue.batch.size and now < created_at + queue.batch_within):
            raise Violation(
                "a batch is full, or its time is over",
                f"{name}: run {run} has {items} items, {now - created_at} us after",
            )

    def _check_taken(self, row: Any) -> None:
        _, name, partition, _, started_at, priority, place, workflow, _, _ = row
        self._check_in_time(row)
        starts = self._starts.setdefault(name, [])
        starts.append(started_at)
        check_rate(name, starts)
        there = self._starts_there.setdefault((name, partition), [])
        there.append(started_at)
        check_rate(name, there, partition)
        for other in self._rows(_WAITING):
            if other[:3] == (name, partition, workflow) and (-other[3], other[4]) < (-priority, place):
                raise Violation(
                    "nobody overtakes in a partition", f"{name} {partition!r}: place {place} before {other[4]}"
                )

    def stands_rightly(self, key: int) -> bool:
        """Tell whether a run stands in a queue in which there is no room; raise where there is."""
        rows = self._rows(_STANDING, key)
        if not rows:
            return False
        name, partition, state = rows[0]
        settings = FLOWS[name].settings
        under_way = [row for row in self._rows(_UNDER_WAY) if row[1] == name]
        full = settings.concurrency is not None and len(under_way) >= settings.concurrency
        in_partition = sum(row[2] == partition for row in under_way)
        full = full or (settings.partition_concurrency is not None and in_partition >= settings.partition_concurrency)
        if settings.per_worker is not None:
            held = Counter(row[3] for row in under_way)
            full = full or all(
                held[process.members.epoch] >= settings.per_worker
                for process in self._world.processes
                if process.serves_all
            )
        if not full:
            raise Violation("a free slot is filled", f"run {key} is {state} in {name}, where there is room")
        return True

    # --- limits ------------------------------------------------------------------------------------------------------

    def began(self, process: Process, attempt: StepCall) -> None:
        """Look at an attempt that begins just now."""
        limit = attempt.definition.step_options.limit
        if limit is None or not self._rows(_ALIVE, process.members.epoch):
            return  # without a limit; or of a worker that was fenced since it had its permit, and does not know it
        executing = self._executing.setdefault(limit.name, {})
        # What a worker was doing when it was fenced goes on for a while, whoever it is now: nobody can help that.
        executing[id(attempt)] = process, process.members.epoch
        alive = {other for other in executing.values() if other[0].alive and self._rows(_ALIVE, other[1])}
        count = sum(other in alive for other in executing.values())
        bound = limit.settings.concurrency
        if bound is not None and count > bound:
            raise Violation("the concurrency of a limit is kept", f"{limit.name}: {count} attempts are under way")
        begun = self._begun.setdefault(limit.name, [])
        begun.append(self._world.now)
        check_rate(limit.name, begun)

    def stopped(self, attempt: StepCall) -> None:
        """Take note that an attempt has ended."""
        limit = attempt.definition.step_options.limit
        if limit is not None:
            self._executing.get(limit.name, {}).pop(id(attempt), None)
