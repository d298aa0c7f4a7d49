"""What happened in a worker, as values: facts go up, calls go down.

A part of the worker is handed the parts below it, and calls them. It is never handed its owner. What its owner must
hear of, it says as a fact: `Worker.route` is the one place where each kind of `Fact` finds who acts on it. A fact comes

- from a commit: a continuation (`UnitOfWork.then`) makes it out of the result of a change, and `route` has it before
  the next continuation runs;
- as an event of its own, where nothing may follow from it within the event under way: see `effects.Later`;
- from the activation of a run (`RunEnded`, `RunStopped`): as its last word, which `Carrier` acts on within the
  same unit of work.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from stepwell.definitions.step_call import StepCall
from stepwell.model.journal import Payload
from stepwell.model.run import RunRecord
from stepwell.replay.operation import Operation
from stepwell.store.bulk_acts import RunDeleted, RunTerminated, Terminated
from stepwell.store.changes import Created, MessageSent, RunCreated, Sent, Succeeded
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.run_over import RunOver

# --- from the activation of a run ------------------------------------------------------------------------------------


class RunEnded(msgspec.Struct, frozen=True):
    """A run's code has ended; its end is part of the unit of work under way."""

    run: LoadedRun
    over: RunOver


class RunStopped(msgspec.Struct, frozen=True):
    """A run is halted; that is part of the unit of work under way."""

    run: LoadedRun


class RunContinues(msgspec.Struct, frozen=True):
    """A run's code goes on as new; that its next chapter begins is part of the unit of work under way."""

    run: LoadedRun


# --- from a commit ---------------------------------------------------------------------------------------------------


class RunStarted(msgspec.Struct, frozen=True):
    """A run was created, or the one was found that has its id: not only a child."""

    change: RunCreated
    created: Created


class ChildEntered(msgspec.Struct, frozen=True):
    """A run has a child in a queue, or none: what the commit entered in its journal says which."""

    parent: LoadedRun
    change: RunCreated
    created: Created


class MessageArrived(msgspec.Struct, frozen=True):
    """A message was recorded."""

    change: MessageSent
    sent: Sent


class CancelArrived(msgspec.Struct, frozen=True):
    """A request to cancel a run was recorded; this is its row afterwards."""

    record: RunRecord


class CancelsArrived(msgspec.Struct, frozen=True):
    """Requests to cancel the runs with these keys were recorded."""

    keys: list[int]


class TerminationArrived(msgspec.Struct, frozen=True):
    """A run was ended at once, past its code, or deleted before it began; or it had ended before."""

    change: RunTerminated | RunDeleted
    done: Terminated


class PausesArrived(msgspec.Struct, frozen=True):
    """Requests to pause the runs with these keys were recorded."""

    keys: list[int]


class PausesEnded(msgspec.Struct, frozen=True):
    """The runs with these keys are to go on; those that were paused are pending now."""

    keys: list[int]


class RunsWoken(msgspec.Struct, frozen=True):
    """What runs wait for has come about; those that are not in memory may be anybody's."""

    keys: list[int]


class ValuePublished(msgspec.Struct, frozen=True):
    """A run has published a value."""

    run: int
    key: str
    value: Payload


class StreamGrew(msgspec.Struct, frozen=True):
    """A run has written to one of its streams, or closed it."""

    run: int
    name: str


class PromiseTouched(msgspec.Struct, frozen=True):
    """A promise, operation `op` of the run with this key, is open no more, as its row says."""

    run: int
    op: int


class UpdateEnded(msgspec.Struct, frozen=True):
    """An update of a run was answered: the one with this key among its messages, None where nobody can ask for it."""

    run: int
    payload: Payload
    failed: bool
    key: str | None


class OperationPutOff(msgspec.Struct, frozen=True):
    """An operation can be opened now: what it concerns is committed, or refused."""

    run: LoadedRun
    operation: Operation


class SuccessorBegan(msgspec.Struct, frozen=True):
    """A run has ended, and another start of its id has begun in the same commit; it is pending."""

    succeeded: Succeeded


class LateEnd(msgspec.Struct, frozen=True):
    """A run that was to be followed by another one was not: its end is told now. The store made `woken` due."""

    over: RunOver
    parent: int | None
    woken: list[int]


class WatchedRunOver(msgspec.Struct, frozen=True):
    """A run that this one wants to wait for had ended elsewhere."""

    run: LoadedRun


class TransactionDue(msgspec.Struct, frozen=True):
    """A transactional step can be called, in a unit of its own."""

    run: LoadedRun
    attempts: StepCall


# --- as events of their own ------------------------------------------------------------------------------------------


class RunYielded(msgspec.Struct, frozen=True):
    """A run has more to do, and lets others go first."""

    run: LoadedRun


class RunsBegun(msgspec.Struct, frozen=True):
    """A transaction of the user's created these runs, ``running`` and this worker's; with their keys."""

    started: list[tuple[RunCreated, int]]


class RunsTaken(msgspec.Struct, frozen=True):
    """The runs with these keys are this worker's, and are to be read: so many of them first."""

    keys: list[int]
    number: int = 4


class NotesRemoved(msgspec.Struct, frozen=True):
    """What others wrote for the runs with these keys is to be read."""

    keys: list[int]


class NotesLeft(msgspec.Struct, frozen=True):
    """Notes stand in the store of runs that were to leave memory."""


class ScheduleTouched(msgspec.Struct, frozen=True):
    """A run ended that a schedule may have waited for."""


class TicksDue(msgspec.Struct, frozen=True):
    """Runs that go round without waiting can be let go on."""


Fact: TypeAlias = (
    RunStarted
    | ChildEntered
    | MessageArrived
    | CancelArrived
    | CancelsArrived
    | TerminationArrived
    | PausesArrived
    | PausesEnded
    | RunsWoken
    | ValuePublished
    | StreamGrew
    | PromiseTouched
    | UpdateEnded
    | OperationPutOff
    | SuccessorBegan
    | LateEnd
    | WatchedRunOver
    | TransactionDue
    | RunYielded
    | RunsBegun
    | RunsTaken
    | NotesRemoved
    | NotesLeft
    | ScheduleTouched
    | TicksDue
)
