"""A run in memory as the worker sees it: its code, its steps under way, what it waits for."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Any, Final

import msgspec

from stepwell.definitions.step_call import History, StepCall
from stepwell.model.chapters import decode_chapter
from stepwell.model.journal import Entry, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.run import Message, Permit, RunRecord
from stepwell.model.updates import is_marked
from stepwell.replay.execution import Execution
from stepwell.replay.operation import Operation
from stepwell.worker.state.stream_books import StreamBooks

#: In place of the time that a row has: it is due, as of some moment. No time that a run rests with is this one.
_MADE_DUE: Final = -1


class Spin:
    """How long a run's code has gone round without waiting; see `stepwell.worker.running.spinning`.

    `ticks` were given to it since it last waited; the next one is queued already, or `due` at that time.
    """

    __slots__ = ("due", "is_queued", "ticks")

    def __init__(self) -> None:
        self.ticks = 0
        self.is_queued = False
        self.due: int | None = None


class Pausing(msgspec.Struct, frozen=True):
    """That a run is to pause; `failure` is the error for which it does so by itself."""

    failure: Payload = None


class LoadedRun:
    """A run in memory."""

    __slots__ = (
        "active",
        "armed",
        "awaits_commit",
        "calls",
        "cancel_reason",
        "cancelling",
        "deadline_at",
        "deliverable",
        "entries",
        "execution",
        "finished",
        "halted_before",
        "has_children",
        "heard",
        "history",
        "id",
        "inbox",
        "key",
        "length_due",
        "loaded_messages",
        "opened",
        "parent",
        "pausing",
        "permits",
        "queue",
        "receivers",
        "requests",
        "resumed",
        "rounds",
        "runs_before",
        "sending",
        "shares_ids",
        "spin",
        "status",
        "streams",
        "suspect",
        "timers",
        "waiting_on",
        "wake_at",
        "work",
    )

    def __init__(self, record: RunRecord, execution: Execution) -> None:
        self.key = record.key
        self.id = record.id
        self.parent = record.parent
        self.queue = record.queue
        self.status: Status = record.status
        self.wake_at = record.wake_at
        self.waiting_on = record.waiting_on  # as the store has it
        self.deadline_at = record.deadline_at
        self.execution = execution
        self.calls: dict[int, StepCall] = {}
        self.active = 0  # calls that are under way, not waiting for a retry
        self.timers: list[tuple[int, int]] = []  # heap of (due, operation), with leftovers of withdrawn operations
        self.armed: int | None = None  # the due time that the worker's heap knows
        self.receivers: dict[str, deque[Operation]] = {}
        self.inbox: dict[str, deque[Message]] = {}
        self.requests: deque[Message] = deque()  # updates that have come, and are not taken on yet
        self.loaded_messages: frozenset[int] = frozenset()  # positions of those that came with the run from the store
        self.heard = 0  # the position of the last message from another worker that the run was given
        self.sending: dict[str, int] = {}  # messages by name that are written but not committed yet
        self.deliverable: deque[Entry] = deque()  # outcomes of operations that need no waiting
        self.history: dict[int, History] = {}
        self.permits: dict[int, Permit] = {}  # by operation: what the store holds of a run that was read from it
        # Operations that go on only after the commit under way. Until then the run counts as running: should its worker
        # die in between, the next one must look at it, although nothing that the run waits for is in the file yet.
        self.awaits_commit = 0
        self.opened = 0  # the highest number of an operation that was acted upon
        self.entries = 0  # how many the journal has, what is not committed yet included
        self.length_due = 0  # at how many of them `Activator` looks; see `stepwell.worker.state.journal_length`
        self.has_children = False
        # Whether some run had an id of the kind that children are given, when this one first gave one; None: not known.
        self.shares_ids: bool | None = None
        chapter = None if record.chapter is None else decode_chapter(record.chapter)
        self.runs_before = 0 if chapter is None else chapter.runs_before
        self.cancelling = False  # a cancellation was delivered
        self.cancel_reason: str | None = None
        self.finished = False
        self.resumed = record.resumed  # somebody asked for it to be tried again
        self.halted_before: str | None = None  # why, where it is tried again without being asked for
        self.pausing: Pausing | None = None  # not None: it is paused as soon as its attempts under way have ended
        self.streams: StreamBooks | None = None  # what it has written to, once it has
        self.rounds = 0  # in how many events, one after the other, it has set timers that were due at once
        self.spin: Spin | None = None  # not None: the code goes round without waiting
        self.suspect = False  # it was under way when workers died (see `Membership.reap`)
        self.work: Any = None  # the uncommitted `UnitOfWork` that touches this run

    def was_made_due(self) -> None:
        """Note that the store has it as due: what came for it made it so, lest a death of its worker keep that from it.

        When it rests, its row is set right, though nothing that it waits for had come.
        """
        if self.status == "waiting":
            self.wake_at = _MADE_DUE

    def add_timer(self, due: int, operation: int) -> None:
        """Remember that `operation` (a timer, or a step that waits for its next attempt) is due."""
        heappush(self.timers, (due, operation))

    def next_due(self) -> int | None:
        """Return when the run wants attention next, or None."""
        if self.pausing is not None:
            return None
        timers = self.timers
        pending = self.execution.pending
        while timers and timers[0][1] not in pending:
            heappop(timers)
        due = timers[0][0] if timers else None
        spin = self.spin
        if spin is not None and spin.due is not None and (due is None or spin.due < due):
            due = spin.due
        if self.deadline_at is not None and not self.cancelling and (due is None or self.deadline_at < due):
            return self.deadline_at
        return due

    def pop_due(self, now: int) -> list[int]:
        """Remove and return the operations that are due longest: several, where they were due at the same instant.

        asyncio calls the timers of one instant before it lets code go on: an inner and an outer timeout with the same
        deadline have both expired.
        """
        self.next_due()
        timers = self.timers
        if not timers or timers[0][0] > now:
            return []
        due = timers[0][0]
        found: list[int] = []
        while timers and timers[0][0] == due:
            _, operation = heappop(timers)
            if operation in self.execution.pending:
                found.append(operation)
        return found

    def match_message(self) -> tuple[Operation, Message] | None:
        """Remove and return a waiting receiver with the first message for it, or None."""
        for name, receivers in self.receivers.items():
            messages = self.inbox.get(name)
            if not messages:
                continue
            while receivers and receivers[0].number not in self.execution.pending:
                receivers.popleft()
            if receivers:
                operation, message = receivers.popleft(), messages.popleft()
                if not messages:
                    del self.inbox[name]
                if not receivers:
                    del self.receivers[name]
                return operation, message
        return None

    def waits_for(self, name: str) -> Operation | None:
        """Return the operation that would receive a message called `name` right now, or None."""
        receivers = self.receivers.get(name)
        while receivers:
            if receivers[0].number in self.execution.pending:
                return receivers[0]
            receivers.popleft()
        return None

    def put_message(self, name: str, value: Payload, position: int, sent_at: int) -> None:
        """Add a committed message, in order of sending."""
        inbox = self.requests if is_marked(name) else self.inbox.setdefault(name, deque())
        place = len(inbox)
        while place and inbox[place - 1].position > position:
            place -= 1
        inbox.insert(place, Message(position, name, value, sent_at))

    def can_leave(self) -> bool:
        """Tell whether nothing but what the store holds would be lost if the run left memory now."""
        return self.work is None and not self.deliverable and not self.sending

    def polls(self, now: int) -> bool:
        """Tell whether the run has just set timers that are due at once, again and again, and is due once more.

        Out of memory it would be read again at once, and go round as often as one that nobody knows yet.
        """
        return self.rounds > 0 and self.wake_at is not None and self.wake_at <= now
