"""What a run's code asks for: operations, numbered, checked against the journal, waited for and withdrawn.

The half of `stepwell.replay.execution.Execution` that faces the code: what `stepwell.operations` has, and the timers
and threads that its loop asks for. It knows nothing of who drives the code.

Replay is checked here. Each operation is compared with the journal by kind, name and fingerprint when the code issues
it. At the first difference the run is stopped (`halted`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

from stepwell.definitions.definition import Step, Workflow, is_durable
from stepwell.definitions.durable import as_definition
from stepwell.definitions.step_call import StepCall
from stepwell.errors import RunEnded, RunHalted, StepwellError, WorkflowIOError
from stepwell.model.chapters import decode_chapter
from stepwell.model.journal import Entry, OpKind
from stepwell.model.run import RunRecord
from stepwell.replay.advice import not_for_a_thread
from stepwell.replay.divergence import Given, difference, divergence
from stepwell.replay.greenlets import RAISING, NeedsGreenletsError, block_on
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop import DeterministicLoop
from stepwell.replay.loop_host import Handle
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.map_count import MapCount
from stepwell.replay.operation import CodeOutcome, Operation
from stepwell.replay.source_location import awaited, executing_at, waiting_at
from stepwell.replay.tasks import is_done
from stepwell.values.codec import Codec
from stepwell.values.converter import Converter
from stepwell.values.fingerprint import plain_fingerprint

T = TypeVar("T")

#: The attribute of a blocking operation (see `stepwell.sync`) that has its awaited form, where it may be called in a
#: thread.
AWAITED_FORM: Final = "__stepwell_awaited__"

_log: Final = logging.getLogger("stepwell")

# How often code that is being closed may try durable operations before it is left suspended: an `except BaseException`
# in an endless loop would spin for ever otherwise.
MAX_REFUSALS: Final = 100


def _no_token() -> str:
    """Stand for a token in a copy of a run, which is dropped before anybody could be asked with it."""
    return "not recorded yet"


class OperationIssuer:
    """The operations of one run's code. A base of `Execution`, not a part of it: each step of each run passes here."""

    __slots__ = (
        "_called_blocking",
        "_counter",
        "_expected",
        "_random",
        "_root",
        "_seed",
        "_silent_until_blocked",
        "ahead",
        "closed",
        "codec",
        "counts",
        "definition",
        "halted",
        "issued",
        "judged",
        "judged_error",
        "key",
        "kinds",
        "loop",
        "needs_greenlets",
        "new_token",
        "now",
        "outcome",
        "patches",
        "pending",
        "refusals",
        "replaying",
        "run_id",
        "stopped",
        "undelivered",
        "undoing",
        "withdrawn",
    )

    def __init__(
        self,
        record: RunRecord,
        definition: Workflow[..., Any],
        codec: Codec,
        kinds: Kinds,
        *,
        greenlets: bool = False,
        thread: LoopThread | None = None,
    ) -> None:
        self.run_id = record.id
        self.key = record.key
        self.definition = definition
        self.codec = codec
        self.kinds = kinds
        chapter = None if record.chapter is None else decode_chapter(record.chapter)
        self.now = record.started_at or record.created_at
        self.ahead = record.ahead
        self.stopped = False
        self.replaying = False
        self.needs_greenlets = False
        self.closed = False
        self.halted: RunHalted | None = None
        self.outcome: CodeOutcome | None = None
        self.pending: dict[int, Operation] = {}
        self.issued: list[Operation] = []
        self.judged = ""  # the update whose validator is executed just now
        self.judged_error: StepwellError | None = None  # what such a one tried
        self.withdrawn: list[Operation] = []
        self.counts: list[MapCount] = []  # maps that have come further, for the worker
        self.undoing: list[str] = []  # names of entries that tell what sagas undo, and are not in the journal yet
        self.loop = DeterministicLoop.create(self, thread, greenlets=greenlets or not definition.is_async)
        self._seed = f"{record.id}:{record.created_at}"
        self._counter: int = 0
        if chapter is not None:
            self.now = chapter.clock_from or self.now
            self._seed, self._counter = chapter.seed, chapter.ops_before
        self._random: random.Random | None = None
        #: Makes a token that nobody can guess; whoever carries the run on has chance, a mere replay has not.
        self.new_token: Callable[[], str] = _no_token
        self._expected: dict[int, Entry] = {}
        self.undelivered = 0  # entries that the replay under way has not delivered yet
        self.patches: dict[str, bool] | None = None  # what `patched` said, where somebody wants to know
        self.refusals = 0
        self._silent_until_blocked = False
        self._root: asyncio.Task[Any] | None = None
        self._called_blocking: str | None = None  # the `def` step or workflow that the code called last

    # --- operations ----------------------------------------------------------------------------------------------

    @property
    def issued_so_far(self) -> int:
        """The number of the operation that was issued last."""
        return self._counter

    def count(self, count: MapCount) -> None:
        """Take note that a map has come further."""
        if not count.is_noted:
            count.is_noted = True
            self.counts.append(count)

    def issue(
        self,
        kind: OpKind,
        name: str,
        fingerprint: int = 0,
        converter: Converter | None = None,
        detail: Any = None,
        given: Given | None = None,
    ) -> Operation:
        """Give the next number to an operation of the code; check it against the journal during replay."""
        if self.stopped or self.outcome is not None:
            self._refuse(kind, name)
        self._counter = number = self._counter + 1
        operation = Operation(number, kind, name, fingerprint, converter, detail)
        if self._expected:
            self._check(operation, given)
        self.pending[number] = operation
        self.issued.append(operation)
        return operation

    def issue_recorded(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation | None:
        """Issue the call of a step that returned at its first attempt, as the replay has it; else return None.

        Nobody executes it again, so it has no `StepCall` and its arguments are not copied: a third of the time of a
        replay, and most of its memory. Where anything differs, `issue` says what.
        """
        number = self._counter + 1
        recorded = self._expected.get(number)
        if recorded is None or recorded.kind != "step" or recorded.name != step.name:
            return None
        if self.stopped or self.outcome is not None:
            return None
        try:
            if plain_fingerprint(args, kwargs) != recorded.fingerprint:
                return None
        except Exception:  # noqa: BLE001 - hooks of user classes may raise anything; `issue` comes to it again
            return None
        self._counter = number
        operation = Operation(number, "step", step.name, recorded.fingerprint, step.converter(self.codec), None)
        self.pending[number] = operation
        self.issued.append(operation)
        return operation

    async def perform(
        self,
        kind: OpKind,
        name: str,
        fingerprint: int = 0,
        converter: Converter | None = None,
        detail: Any = None,
        given: Given | None = None,
    ) -> Any:
        """Issue an operation and wait for it; withdraw it when the waiting task is cancelled."""
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)
        if self.refusals >= MAX_REFUSALS:
            await future  # for ever: see MAX_REFUSALS
        operation = self.issue(kind, name, fingerprint, converter, detail, given)
        operation.future = future
        try:
            return await future
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self.withdraw(operation)
            # The future holds the error, and the error this frame: a cycle for the collector otherwise.
            del future, operation
            raise

    async def outcome_of(self, operation: Operation, future: asyncio.Future[Any]) -> Any:
        """Wait for an operation that was issued; withdraw it when the waiting task is cancelled."""
        operation.future = future
        try:
            return await future
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self.withdraw(operation)
            # As in `perform`.
            del future, operation
            raise

    def recorded_next(self) -> Entry | None:
        """Return what the replay under way has in store for the operation that is issued next; None where it is new."""
        return self._expected.get(self._counter + 1)

    def withdraw(self, operation: Operation) -> None:
        """Note that the code no longer waits for an operation; what it delivers later is ignored."""
        if self.pending.pop(operation.number, None) is not None and not self.replaying:
            self.withdrawn.append(operation)

    def call(
        self,
        definition: Step[..., Any] | Workflow[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a step or a child workflow: return a coroutine where it is async, else block until there is a result."""
        definition.signature.bind_check(args, kwargs)
        coroutine: Any = self.kinds.calls[definition.kind](self, definition, args, kwargs)
        if definition.is_async:
            coroutine.__qualname__ = definition.coroutine_name
            return coroutine
        self._called_blocking = definition.name
        return self.block_on(coroutine)

    def call_async(
        self,
        definition: Step[..., Any] | Workflow[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that calls a step or a child workflow, whichever way it is declared."""
        definition.signature.bind_check(args, kwargs)
        return self.kinds.calls[definition.kind](self, definition, args, kwargs)

    def block_on(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for an operation from plain code; see `stepwell.replay.greenlets.block_on`."""
        if self.judged:
            coroutine.close()
            self._refuse("what blocks", self._called_blocking or "")
        if self._silent_until_blocked:
            self._silent_until_blocked = self.replaying = False
        try:
            return block_on(coroutine, self.loop)
        except NeedsGreenletsError:
            if self.closed:
                raise GeneratorExit from None
            if self.loop.greenlets:  # in a finaliser, say: to start the code anew would change nothing
                raise WorkflowIOError(
                    f"run {self.run_id!r}: a `def` step was called where code cannot wait, at {self.location()}. Call "
                    "it in a task or in a callback of the run"
                ) from None
            self.needs_greenlets = self.stopped = True
            raise

    def random(self) -> random.Random:
        """Return the run's own generator, which yields the same numbers in every replay."""
        if self._random is None:
            self._random = random.Random(self._seed)  # noqa: S311 - reproducible is the purpose
        return self._random

    # --- what the loop asks of its host --------------------------------------------------------------------------

    def set_timer(self, handle: Handle, due: int) -> None:
        """Make a timer an operation."""
        if self.refusals >= MAX_REFUSALS:
            return  # never fires, so that whoever waits for it stays suspended
        operation = self.issue("timer", "", 0, None, due)
        operation.handle = handle
        handle.operation = operation.number

    def drop_timer(self, handle: Handle) -> None:
        """Withdraw a timer's operation."""
        operation = self.pending.get(handle.operation)
        if operation is not None:
            self.withdraw(operation)

    def call_in_thread(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """Make `asyncio.to_thread(step, …)` the step, and a blocking operation the one that is awaited."""
        awaited: Any = getattr(function, AWAITED_FORM, None)
        if awaited is not None:
            return cast("Coroutine[Any, Any, Any]", awaited(*args, **kwargs))
        function = as_definition(function)
        if not is_durable(function) or function.is_async:
            raise WorkflowIOError(f"run {self.run_id!r}: {not_for_a_thread(function)} ({self.location()})")
        return self.call_async(function, args, kwargs)

    def intrude(self, what: str) -> None:
        """Stop: a future of the run was completed by other code, and no replay would find it so."""
        self._halt(RunHalted(f"run {self.run_id!r} cannot go on as it is: {what}"))

    def report(self, context: dict[str, Any]) -> None:
        """Log a stray exception of the code, once."""
        error = context.get("exception")
        if not self.replaying and not self.stopped and not isinstance(error, (NeedsGreenletsError, GeneratorExit)):
            message = context.get("message", "unhandled")
            task = context.get("task") or context.get("future")
            if isinstance(task, asyncio.Task):
                message = f"{message} (task {task.get_name()!r})"
            fields = {"run": self.run_id, "run_id": self.run_id, "workflow": self.definition.name}
            _log.error("run %r: %s", self.run_id, message, exc_info=error, extra=fields)

    # --- divergence ----------------------------------------------------------------------------------------------

    def _check(self, operation: Operation, given: Given | None) -> None:
        recorded = self._expected.get(operation.number)
        if recorded is None:
            return
        if (
            recorded.fingerprint == operation.fingerprint
            and recorded.name == operation.name
            and self.kinds.of_entry(recorded.kind).name == operation.kind
        ):
            return
        if operation.kind == "step":
            attempts: StepCall = operation.detail
            given = Given(attempts.args, attempts.kwargs, attempts.definition.signature)
        actual = difference(recorded, operation, given, self.kinds)
        if actual is not None:
            self._diverge(recorded, actual, self.location())
            raise self.halted or RunHalted(self.run_id)
        operation.fingerprint = recorded.fingerprint  # which may be that of the same arguments without a new field
        if operation.kind == "step":
            operation.detail.fingerprint = recorded.fingerprint

    def _diverge(self, recorded: Entry, actual: str, location: str | None = None) -> None:
        location = location or self._whereabouts()
        error = divergence(
            recorded, actual, self.kinds, run=self.run_id, workflow=self.definition.name, location=location
        )
        self._halt(error)

    def _halt(self, reason: RunHalted) -> None:
        self.halted = self.halted or reason
        self.stopped = True

    def _refuse(self, kind: OpKind, name: str) -> None:
        """Keep code that is over, is being closed, or validates, from doing anything durable."""
        if self.judged:
            self.judged_error = StepwellError(
                f"its validator called {self.kinds.describe(kind, name)}, at {self.location()}. A validator looks at "
                "the arguments and at variables; what takes a step belongs in the handler"
            )
            raise self.judged_error
        self.refusals += 1
        if self.closed:
            raise GeneratorExit  # again: Python says nothing of it, wherever the code is freed
        raise RunEnded(
            f"run {self.run_id!r}: {self.kinds.describe(kind, name)} was called after the run's code had ended or left "
            "memory; it did nothing"
        )

    def location(self) -> str:
        """Return ``file:line in function`` of the user's code that is executing now, or else waits for what does."""
        place = executing_at()
        return place if place != "unknown" or self._root is None else waiting_at(self._root.get_coro())

    def waits_at(self) -> str:
        """Return ``file:line in function`` of where the code's main task waits, where that is known."""
        if self._root is None or is_done(self._root):
            return ""
        place = waiting_at(self._root.get_coro())
        return "" if place == "unknown" else place

    def awaited(self) -> tuple[str, str]:
        """Return what the code waits for, and where, when no operation is pending: nothing can bring that about."""
        tasks = self.loop.unfinished_tasks()
        return awaited(tasks) if tasks else ("", "")

    def _whereabouts(self) -> str:
        """Return where the main task waits, or how it has ended."""
        if self._root is not None and not is_done(self._root):
            return f"the code waits at {waiting_at(self._root.get_coro())}"
        error = None if self.outcome is None else self.outcome.error
        return "the workflow had ended" + ("" if error is None else f" with {type(error).__name__}: {error}")


#: Where what the journal holds is raised, beside the calls of `Kinds.calls`.
DELIVERY: Final = frozenset({OperationIssuer.perform.__code__, OperationIssuer.outcome_of.__code__, RAISING})
