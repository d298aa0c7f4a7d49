"""One run in memory: its code, driven by its journal.

`begin` starts the code, `deliver` hands it one journal entry; each then lets the code run until it waits for something
that has not been delivered. What the code asked for meanwhile is in `issued` (operations) and `withdrawn` (operations
that the code no longer waits for); when it has ended, `outcome` says how. The first run and a replay differ in nothing
but `replaying`, which silences the log.

Pure: no clock, no I/O, no store. Time comes with the entries; randomness is seeded with the run's id.

Replay is checked. `stepwell.replay.operation_issuer` compares what the code asks for with the journal; here each entry
must find its operation when it is delivered. At the first difference the run is stopped (`halted`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from stepwell.definitions import invoke
from stepwell.definitions.callables import refuse_coroutine
from stepwell.definitions.definition import Workflow
from stepwell.errors import DefinitionError, RunHalted, SerializationError
from stepwell.model.journal import ABANDONED, CUT_OFF, TICK, UNDOES, Entry
from stepwell.model.run import RunRecord
from stepwell.model.updates import UPDATE
from stepwell.replay.advice import advise
from stepwell.replay.code_errors import halted_by, mistake_in
from stepwell.replay.divergence import unreadable
from stepwell.replay.handlers import Handlers
from stepwell.replay.kinds import Kinds
from stepwell.replay.loop_thread import LoopThread
from stepwell.replay.operation import CodeOutcome, Operation, continued_by
from stepwell.replay.operation_issuer import DELIVERY, OperationIssuer
from stepwell.replay.source_location import described, raised_at
from stepwell.replay.tasks import is_done
from stepwell.values.codec import Codec
from stepwell.values.converter import Converter
from stepwell.values.inspection import MISSING


class Execution(OperationIssuer):
    """A run's code in memory. Not thread-safe: all calls come from one thread, whose runs share a `thread`."""

    __slots__ = ("_has_waited", "_input", "handlers", "has_news", "spins", "started_at")

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
        super().__init__(record, definition, codec, kinds, greenlets=greenlets, thread=thread)
        self.started_at = self.now
        self.handlers: Handlers | None = None  # what the code answers to others, once it has said so
        # See `stepwell.worker.running.spinning`: the code could go on although nothing is delivered, and what was
        # delivered since.
        self.spins = False
        self.has_news = False
        self._input = record.input
        self._has_waited = record.status == "waiting"  # so the code was executed up to where it waits now

    def begin(self) -> None:
        """Start the code and let it run until it waits."""
        where = f"the input of workflow {self.definition.name!r} in run {self.run_id!r}"
        try:
            args, kwargs = self.codec.decode_arguments(self._input, self.definition.signature, where)
            self.definition.signature.bind_check(args, kwargs)
        except (SerializationError, DefinitionError) as error:
            halted = RunHalted(
                f"{error}. The workflow's parameters no longer fit what the run was started with: make "
                f"{described(self.definition.function)} take that again (a new parameter with a default does no "
                "harm), then resume the run; or cancel it."
            )
            halted.says_remedy = True
            self._halt(halted)
            return
        self._input = None
        self._root = self.loop.spawn(self._main(args, kwargs))
        self._drain()

    async def _main(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            result = invoke.workflow(self.definition, args, kwargs)
            if self.definition.is_async:
                result = await result
            else:
                refuse_coroutine(result, f"workflow {self.definition.name!r}", f"the result of run {self.run_id!r}")
            if self.handlers is not None:
                await self.handlers.finish()
        except BaseException as error:
            if self.handlers is not None and not self.stopped:
                await self._leave_updates(self.handlers, error)
            raise
        else:
            return result
        finally:
            if self.loop.has_generators and not self.stopped:
                await self.loop.close_generators()

    async def _leave_updates(self, handlers: Handlers, error: BaseException) -> None:
        """Let the updates end that were taken on: of themselves where the code goes on as new, else they are cancelled.

        A mistake in the code halts the run at once, to go on from here when it was mended.
        """
        if continued_by(error) is not None:
            await handlers.finish()
        elif not self.halt_for_mistake(error):
            await handlers.cancel()

    def _begin_update(self, entry: Entry) -> bool:
        """Have the code's handler called for an update; return whether that fits."""
        self._counter += 1
        handlers = self.handlers
        handler = None if handlers is None else handlers.updates.get(entry.name)
        if entry.op != self._counter or handlers is None or handler is None:
            found = "no handler of that name is registered" if handler is None else f"operation {self._counter} is due"
            self._diverge(entry, found)
            return False
        where = f"the arguments of update {entry.name!r} of run {self.run_id!r}"
        try:
            args, kwargs = self.codec.decode_arguments(entry.value, handler.signature, where)
            handler.signature.bind_check(args, kwargs)
        except (SerializationError, DefinitionError) as unfit:
            error = unfit if isinstance(unfit, SerializationError) else SerializationError(str(unfit), where=where)
            self._halt(unreadable(entry, error, self.kinds, run=self.run_id, location=self.waits_at()))
            return False
        self.loop.is_open = True
        answering = handler.answering(self, handler, entry.op, args, kwargs)
        task = self.loop.create_task(answering, name=f"update {entry.name}", context=contextvars.Context())
        handlers.running.append(task)
        task.add_done_callback(handlers.running.remove)
        return True

    def judge(self, what: str, validator: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the validator of an update, which raises where it refuses that; nothing can be done in it."""
        self.judged, self.stopped = what, True
        chance = None if self._random is None else self._random.getstate()
        try:
            self.loop.call(validator, args, kwargs)
            tried = self.judged_error
        finally:
            # No replay calls the validator: the code's random numbers are to be the same as there.
            if self._random is not None and chance is not None:
                self._random.setstate(chance)
            else:
                self._random = None
            self.judged, self.judged_error, self.stopped = "", None, self.halted is not None
        if tried is not None:
            raise tried

    def replay(self, entries: Sequence[Entry], *, restarted: bool = False) -> None:
        """Start the code and deliver what the journal holds.

        `restarted`: the same was just done without greenlets, as far as the first blocking call.
        """
        for entry in entries:
            self._expected.setdefault(entry.op, entry)
        self.undelivered = len(entries)
        self.replaying = bool(entries) or self._has_waited or restarted
        self._silent_until_blocked = restarted
        self.begin()
        for entry, following in zip_longest(entries, entries[1:]):
            if self.stopped:
                break
            self.undelivered -= 1
            self.deliver(entry, more=entry.kind == "timer" and self._fire_together(entry, following))
        self.replaying = False
        self._expected = {}

    def _fire_together(self, entry: Entry, following: Entry | None) -> bool:
        """Tell whether two entries are of timers of one instant, which fired before the code went on."""
        if following is None or following.kind != "timer" or following.at != entry.at:
            return False
        one, other = self.pending.get(entry.op), self.pending.get(following.op)
        return one is not None and other is not None and one.detail == other.detail

    def deliver(self, entry: Entry, *, more: bool = False) -> None:
        """Hand one entry to the code and let it run until it waits.

        `more`: another one follows that comes about in the same instant, so the code runs after that.
        """
        if entry.kind == "step" and self.outcome is None and not self.spins:
            # Of all that is delivered most by far, so without the questions that do not arise, and in line.
            if entry.at > self.now:  # noqa: PLR1730 - half the time of max(), for every step of every run
                self.now = entry.at
            operation = self.pending.pop(entry.op, None)
            if operation is None or operation.future is None or operation.converter is None:
                self._diverge(entry, self._whereabouts())
                return
            self.loop.is_open = True
            call = operation.detail
            if call is not None and call.value is entry.value and call.delivered is not MISSING:
                value, call.delivered = call.delivered, MISSING  # nobody else has it
                operation.future.set_result(value)
            else:
                self._give(operation.future, operation, entry, operation.converter)
        elif not self._deliver_rarer(entry, more=more):
            return
        self.has_news = False
        self.spins = self.loop.drain()
        root = self._root
        if root is not None and is_done(root) and not self.stopped:
            self._end(root)

    def _deliver_rarer(self, entry: Entry, *, more: bool) -> bool:
        """Hand over any entry; return whether the code is to run now."""
        kind = entry.kind
        # Of a child in a queue the store says which it is, after the commit: the code may be through with it by then.
        known_child = kind == "child" and entry.op <= self._counter
        if known_child and (self.outcome is not None or entry.op not in self.pending):
            return False
        if self.outcome is not None:
            if not entry.op and entry.kind == "timer":  # the code was mended: it goes round no more, or leaves nothing
                return False
            if entry.value == CUT_OFF:  # by the end of the code
                return False
            self._diverge(entry, self._whereabouts(), self._end_location())
            return False
        if entry.at > self.now:  # noqa: PLR1730 - as above
            self.now = entry.at
        if kind == UPDATE:
            if not self._begin_update(entry):
                return False
        elif not entry.op:
            if kind == "cancel" and self._root is not None:
                self.loop.is_open = True
                self._root.cancel(entry.name or None)
            elif entry.name.startswith(ABANDONED):
                self.loop.close_generator(int(entry.name.removeprefix(ABANDONED)))
            elif entry.name in self.undoing:
                self.undoing.remove(entry.name)
        elif kind in self.kinds.undelivered:
            if entry.op not in self.pending and entry.value != CUT_OFF:  # which comes behind what made the code do so
                self._diverge(entry, self._whereabouts())
            return False
        else:
            operation = self.pending.pop(entry.op, None)
            if operation is None:
                self._diverge(entry, self._whereabouts())
                return False
            try:
                self._resolve(operation, entry)
            except asyncio.InvalidStateError:
                if not self.spins:
                    raise
                # Code that goes round has been cancelled, and has not heard of it yet: it waits for this no more.
        if self.spins and (entry.op or entry.name != TICK):
            # Heard at the next tick, with whatever else is there by then.
            self.has_news = self.has_news or not entry.name.startswith((ABANDONED, UNDOES))  # which are its own doing
            self.loop.is_open = False
            return False
        if more:
            self.loop.is_open = False
            return False
        return True

    def _resolve(self, operation: Operation, entry: Entry) -> None:
        self.loop.is_open = True
        if operation.handle is not None:
            self.loop.push(operation.handle)
            return
        future = operation.future
        if future is None:  # a patch: nobody waits
            return
        fallback = self.kinds.failures.get(entry.kind)
        if fallback is not None:
            future.set_exception(self.codec.failure_to_raise(entry.value, fallback))
            return
        converter = operation.converter
        if converter is None:
            future.set_result(None)
            return
        self._give(future, operation, entry, converter)

    def _give(self, future: asyncio.Future[Any], operation: Operation, entry: Entry, converter: Converter) -> None:
        try:
            value = converter.decode(entry.value, operation)
        except SerializationError as error:
            self._halt(unreadable(entry, error, self.kinds, run=self.run_id, location=self.waits_at()))
            return
        future.set_result(value)

    def _drain(self) -> None:
        self.spins = self.loop.drain()
        root = self._root
        if root is None or not is_done(root) or self.stopped:
            return
        self._end(root)

    def _end(self, root: asyncio.Task[Any]) -> None:
        task: Any = asyncio.Task  # its methods: see `stepwell.replay.tasks.is_done`
        if task.cancelled(root):
            self.outcome = CodeOutcome(cancelled=True)
            return
        error = task.exception(root)
        if error is None:
            self.outcome = CodeOutcome(result=task.result(root))
            return
        continued = continued_by(error)
        if continued is not None:
            self.outcome = CodeOutcome(continued=continued)
            return
        if not self.halt_for_mistake(error):
            self.outcome = CodeOutcome(error=error)

    def halt_for_mistake(self, error: BaseException) -> bool:
        """Halt the run if an exception that its code lets through shows a mistake in it; return whether it does."""
        advise(error, self._called_blocking)
        mistake = mistake_in(error, self.definition.fail_on, DELIVERY | self.kinds.raising)
        if mistake is not None:
            self._halt(halted_by(mistake, error, run=self.run_id, workflow=self.definition.name))
        return mistake is not None

    def close(self) -> None:
        """Drop the code without letting it act: durable operations in its ``finally`` blocks do nothing.

        Nothing of this is a cancellation, and nothing is recorded; the run goes on from its journal later.
        """
        if self.closed:
            return
        self.closed = self.stopped = True
        for operation in self.pending.values():
            operation.future = operation.handle = None
        self.pending.clear()
        self.loop.close()
        self._root = None  # or the run would be a cycle (see `DeterministicLoop.close`)

    def _end_location(self) -> str:
        error = None if self.outcome is None else self.outcome.error
        return self.definition.name if error is None else raised_at(error)
