"""What a run's code asks for: operations, numbered, checked against the journal, waited for and withdrawn.

The half of `stepwell.replay.execution.Execution` that faces the code: steps and children that it calls, timers and
threads that its loop asks for, and whatever `stepwell.operations` has. It knows nothing of who drives the code.

Replay is checked here. Each operation is compared with the journal by kind, name and fingerprint when the code issues
it. At the first difference the run is stopped (`halted`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any, Final, TypeVar

import msgspec

from stepwell.definitions.definition import Step, Workflow, is_durable
from stepwell.definitions.durable import as_definition
from stepwell.definitions.queues import QueueSlot, batch_count
from stepwell.definitions.step_call import StepCall
from stepwell.errors import InvalidArgument, RunEnded, RunHalted, WorkflowIOError
from stepwell.model.journal import OP_KIND_OF, Entry, OpKind
from stepwell.model.run import RunRecord
from stepwell.replay.advice import not_for_a_thread
from stepwell.replay.divergence import Given, describe, difference, divergence
from stepwell.replay.greenlets import RAISING, NeedsGreenletsError, block_on
from stepwell.replay.loop import DeterministicLoop
from stepwell.replay.loop_host import Handle
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.operation import ChildStart, CodeOutcome, Operation
from stepwell.replay.source_location import awaited, executing_at, waiting_at
from stepwell.replay.tasks import is_done
from stepwell.values.codec import Codec
from stepwell.values.converter import Converter

T = TypeVar("T")

_log: Final = logging.getLogger("stepwell")

# How often code that is being closed may try durable operations before it is left suspended: an `except BaseException`
# in an endless loop would spin for ever otherwise.
_MAX_REFUSALS: Final = 100


class OperationIssuer:
    """The operations of one run's code. A base of `Execution`, not a part of it: each step of each run passes here."""

    __slots__ = (
        "_called_blocking",
        "_counter",
        "_expected",
        "_random",
        "_refusals",
        "_root",
        "_seed",
        "_silent_until_blocked",
        "_undelivered",
        "ahead",
        "closed",
        "codec",
        "definition",
        "halted",
        "issued",
        "key",
        "loop",
        "needs_greenlets",
        "now",
        "outcome",
        "pending",
        "replaying",
        "run_id",
        "stopped",
        "withdrawn",
    )

    def __init__(
        self,
        record: RunRecord,
        definition: Workflow[..., Any],
        codec: Codec,
        *,
        greenlets: bool = False,
        thread: LoopThread | None = None,
    ) -> None:
        self.run_id = record.id
        self.key = record.key
        self.definition = definition
        self.codec = codec
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
        self.withdrawn: list[Operation] = []
        self.loop = DeterministicLoop.create(self, thread, greenlets=greenlets or not definition.is_async)
        self._seed = f"{record.id}:{record.created_at}"
        self._random: random.Random | None = None
        self._counter = 0
        self._expected: dict[int, Entry] = {}
        self._undelivered = 0  # entries that the replay under way has not delivered yet
        self._refusals = 0
        self._silent_until_blocked = False
        self._root: asyncio.Task[Any] | None = None
        self._called_blocking: str | None = None  # the `def` step or workflow that the code called last

    # --- operations ----------------------------------------------------------------------------------------------

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
        if self._refusals >= _MAX_REFUSALS:
            await future  # for ever: see _MAX_REFUSALS
        operation = self.issue(kind, name, fingerprint, converter, detail, given)
        operation.future = future
        try:
            return await future
        except asyncio.CancelledError:
            self.withdraw(operation)
            raise

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
        coroutine: Any
        if isinstance(definition, Step):
            coroutine = self._call_step(definition, args, kwargs)
        else:
            coroutine = self._call_child(definition, args, kwargs)
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
        if isinstance(definition, Step):
            return self._call_step(definition, args, kwargs)
        return self._call_child(definition, args, kwargs)

    async def _call_step(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # This is `perform` once more, in line, because every step of every run passes here.
        codec = self.codec
        fingerprint = 0
        if args or kwargs:
            where = _StepWhere(step.name, self.run_id)
            if step.step_options.isolate is not None and self._counter + 1 not in self._expected:
                codec.check_call(args, kwargs, step.signature, where)
            fingerprint, args, kwargs = codec.seal(args, kwargs, where, step.signature)
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)
        if self._refusals >= _MAX_REFUSALS:
            await future  # for ever: see _MAX_REFUSALS
        attempts = StepCall(self.key, self.run_id, step, step.name, fingerprint, args, kwargs, copy_context())
        operation = self.issue("step", step.name, fingerprint, step.converter(codec), attempts)
        attempts.operation = operation.number
        if self.ahead:
            attempts.ahead = self.ahead
        operation.future = future
        try:
            return await future
        except asyncio.CancelledError:
            self.withdraw(operation)
            raise

    async def _call_child(self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        child_id = await self.start_child(workflow, args, kwargs, child_id=None, attached=True)
        return await self.child_result(workflow, child_id, cancel_with_caller=True)

    async def start_child(
        self,
        workflow: Workflow[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        child_id: str | None,
        attached: bool,
        entry: QueueSlot | None = None,
    ) -> str:
        """Create a child run and return its id."""
        if child_id == self.run_id:
            raise InvalidArgument(f"run {self.run_id!r} cannot be a child of its own, which it would wait for for ever")
        workflow.check_can_be_started()
        workflow.signature.bind_check(args, kwargs)
        workflow.converter(self.codec)  # raises where no result could ever be read
        where = f"the input of workflow {workflow.name!r}, a child of run {self.run_id!r}"
        recorded = self._expected.get(self._counter + 1)
        is_new = recorded is None or recorded.name != workflow.name or OP_KIND_OF[recorded.kind] != "start"
        # A child that exists may be of an older signature: that is no concern of its parent's.
        payload, fingerprint = self.codec.seal_input(
            args, kwargs, workflow.signature, where, is_typed=not workflow.is_named_only, is_checked=is_new
        )
        count = 1 if entry is None else batch_count(entry.queue, args, kwargs)
        detail = ChildStart(workflow.name, payload, child_id=child_id, attached=attached, entry=entry, count=count)
        given = Given(args, kwargs, workflow.signature)
        result = await self.perform("start", workflow.name, fingerprint, self.codec.converter(str), detail, given)
        return str(result)

    async def child_result(self, workflow: Workflow[..., Any], child_id: str, *, cancel_with_caller: bool) -> Any:
        """Wait for the end of another run and return its result, or raise what it failed with.

        `cancel_with_caller`: when the waiting task is cancelled, cancel the child as well.
        """
        return await self.perform("result", child_id, 0, workflow.converter(self.codec), cancel_with_caller)

    def block_on(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for an operation from plain code; see `stepwell.replay.greenlets.block_on`."""
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

    def patched(self, name: str) -> bool:
        """Tell whether the run met `patched(name)` before, or meets it now as new code."""
        number = self._counter + 1
        recorded = self._expected.get(number)
        if recorded is not None:
            if recorded.kind != "patched" or recorded.name != name:
                return False
        elif self._undelivered:
            return False
        self.issue("patch", name)
        return True

    def random(self) -> random.Random:
        """Return the run's own generator, which yields the same numbers in every replay."""
        if self._random is None:
            self._random = random.Random(self._seed)  # noqa: S311 - reproducible is the purpose
        return self._random

    # --- what the loop asks of its host --------------------------------------------------------------------------

    def set_timer(self, handle: Handle, due: int) -> None:
        """Make a timer an operation."""
        if self._refusals >= _MAX_REFUSALS:
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
        """Make `asyncio.to_thread(step, …)` the step."""
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
        if operation.kind == "step":
            attempts: StepCall = operation.detail
            given = Given(attempts.args, attempts.kwargs, attempts.definition.signature)
        actual = difference(recorded, operation, given)
        if actual is not None:
            self._diverge(recorded, actual, self.location())
            raise self.halted or RunHalted(self.run_id)
        operation.fingerprint = recorded.fingerprint  # which may be that of the same arguments without a new field
        if operation.kind == "step":
            operation.detail.fingerprint = recorded.fingerprint

    def _diverge(self, recorded: Entry, actual: str, location: str | None = None) -> None:
        location = location or self._whereabouts()
        error = divergence(recorded, actual, run=self.run_id, workflow=self.definition.name, location=location)
        self._halt(error)

    def _halt(self, reason: RunHalted) -> None:
        self.halted = self.halted or reason
        self.stopped = True

    def _refuse(self, kind: OpKind, name: str) -> None:
        """Keep code that is over, or is being closed, from doing anything durable."""
        self._refusals += 1
        if self.closed:
            raise GeneratorExit  # again: Python says nothing of it, wherever the code is freed
        raise RunEnded(
            f"run {self.run_id!r}: {describe(kind, name)} was called after the run's code had ended or left "
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


#: Where what the journal holds is raised.
DELIVERY: Final = frozenset({OperationIssuer.perform.__code__, OperationIssuer._call_step.__code__, RAISING})


class _StepWhere(msgspec.Struct, gc=False):
    """Text that is made only when an error needs it: every step call would pay for an f-string otherwise."""

    step: str
    run_id: str

    def __str__(self) -> str:
        return f"the arguments of step {self.step!r} in run {self.run_id!r}"
