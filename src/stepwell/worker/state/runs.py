"""What the parts of one worker share: the time, the runs in memory, the batch under way, and what is known of runs.

Each part is handed this, and the parts below it. It has no part's behaviour: it looks, and keeps the books.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec
from msgspec.structs import replace

from stepwell.definitions.definition import Workflow
from stepwell.definitions.versions import versioned
from stepwell.errors import StepwellError
from stepwell.model.run import RunRecord
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.store.changes import RunCreated
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.codec import Codec
from stepwell.worker.state.child_ids import ChildIds
from stepwell.worker.state.commit_batch import CommitBatch
from stepwell.worker.state.declarations import Declarations
from stepwell.worker.state.due import Earliest
from stepwell.worker.state.effects import Effect, Later
from stepwell.worker.state.facts import Fact
from stepwell.worker.state.journal_length import MAX_JOURNAL_ENTRIES
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.queue_agenda import QueueAgenda
from stepwell.worker.state.run_cache import RunCache
from stepwell.worker.state.unit_of_work import UnitOfWork


class Capacity(msgspec.Struct, frozen=True):
    """How many runs a worker keeps in memory, how often one may have killed its worker, how long its journal may be.

    `running` runs that are under way, and `waiting` ones in addition; a run under which a worker died `crashes` times
    in a row is given up. `entries`: see `stepwell.worker.state.journal_length`.
    """

    running: int = 10_000
    waiting: int = 1_000
    crashes: int = 5
    entries: int = MAX_JOURNAL_ENTRIES


def unbounded(_what: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return the function as it is: a worker that has no second thread cannot end code that goes on for too long."""
    return function


def no_tokens() -> NoReturn:
    """Refuse to make a token: a worker that executes code which asks for some is given a source of chance."""
    raise StepwellError("this worker was given no source of tokens, so its runs can promise nothing")


class Runs:
    """The runs of one worker, as all its parts see them."""

    def __init__(
        self,
        reads: WorkerReads,
        codec: Codec,
        kinds: Kinds,
        workflows: Mapping[str, Workflow[..., Any]],
        limits: Capacity,
        declarations: Declarations,
        agenda: QueueAgenda,
        tokens: Callable[[], str] = no_tokens,
    ) -> None:
        self.now = 0
        self.ahead = 0  # how much later engine time is than the wall clock: see `stepwell.model.clock`
        self.epoch = 0
        self.draining = False
        #: The turn under way is taken on a caller's loop: nothing may begin that holds it up, or belongs to a thread.
        self.is_light = False
        self.reads = reads
        self.codec = codec
        self.kinds = kinds
        self.workflows = versioned(workflows)
        self.limits = limits
        self.declarations = declarations
        self.agenda = agenda
        #: Makes a random text that nobody can guess.
        self.tokens = tokens
        #: What is started where a run fails or is halted whose workflow says nothing of that.
        self.on_failure: Workflow[..., Any] | None = None
        #: Bounds the time of a function, given what that is; see `stepwell.runtime.time_bound`.
        self.bounded: Callable[[str, Callable[..., object]], Callable[..., object]] = unbounded
        self.loops = LoopThread()
        self.memory = RunCache()
        self.batch = CommitBatch()
        self.child_ids = ChildIds(reads, self.batch)
        self.effects: list[Effect] = []
        #: When the next run that nobody owns is due, as far as is known.
        self.parked = Earliest()
        #: The keys of runs that are about to be claimed and read.
        self.claiming: set[int] = set()

    def later(self, fact: Fact) -> None:
        """Have a fact routed soon, as an event of its own."""
        self.effects.append(Later(fact))

    # --- what is known of runs ---------------------------------------------------------------------------------------

    def loaded(self, run_id: str) -> LoadedRun | None:
        """Return a run that is in memory and has not ended."""
        return self.memory.by_id(run_id)

    def find(self, run_id: str) -> RunRecord | None:
        """Read a run from the store, as it will be once the batch is committed."""
        record = self.reads.run_by_id(run_id)
        over = self.batch.ending.get(record.key) if record is not None else None
        if record is None or over is None:
            return record
        return replace(record, status=over.status, result=over.result, error=over.error, reason=over.reason)

    def is_ending(self, run_id: str) -> bool:
        """Tell whether a run's end is part of the batch under way: it may still be refused."""
        if not self.batch.ending:
            return False
        record = self.reads.run_by_id(run_id)
        return record is not None and record.key in self.batch.ending

    def being_created(self, run_id: str) -> RunCreated | None:
        """Return the change of the batch under way that creates this run, or None."""
        return self.batch.creating.get(run_id)

    def creating(self, change: RunCreated) -> None:
        """Note that the batch under way creates a run, for `being_created`."""
        self.batch.creating[change.id] = change

    def watch(self, run_id: str, watcher: int, operation: int) -> None:
        """Have the end of a run delivered to an operation of another."""
        self.memory.watch(run_id, watcher, operation)

    # --- room --------------------------------------------------------------------------------------------------------

    def admits(self, workflow: str) -> bool:
        """Tell whether a new run of this workflow may run at once."""
        return workflow in self.workflows and self.memory.running() < self.limits.running and not self.draining

    def room(self) -> int:
        """Return how many more runs the worker may have under way; those that were claimed need theirs already."""
        return self.limits.running - self.memory.running() - len(self.claiming)

    # --- queues and limits -------------------------------------------------------------------------------------------

    def declare(self, name: str, work: UnitOfWork) -> None:
        """Make a queue or limit known to the file in the same unit that needs it."""
        self.declarations.add(name, work, self.now)

    def queue_touched(self, queue: str) -> None:
        """Decide about a queue in the commit under way, because a run enters or leaves it."""
        self.agenda.touch(queue)

    def entered_queue(self, start: RunCreated) -> None:
        """Have a run that enters a queue, and that this worker does not take, given to another in the same commit."""
        entry = start.entry
        if entry is None or entry.ready_at is not None or entry.batch_size is not None:
            return
        if self.draining or start.workflow not in self.workflows or not self.agenda.serves(entry.queue):
            self.agenda.entered.add(entry.queue)

    def limit_touched(self, limit: str) -> None:
        """Decide about a limit in the commit under way, because a permit of it comes free."""
        self.agenda.touch_limit(limit)
