"""The nouns that the layers exchange: what a run, a message, a worker's claim look like when read from a store.

All times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from stepwell.model.journal import Entry, EntryKind, Payload
from stepwell.model.lifecycle import Status
from stepwell.model.progress import ProgressRow

#: What is left to do about a ``halted`` run: to ``resume`` it, where its reason says what to mend, else to ``mend`` the
#: cause, which the reason names.
Remedy: TypeAlias = Literal["resume", "mend"]
MemberState: TypeAlias = Literal["active", "stopped", "dead"]


class Claim(msgspec.Struct, frozen=True):
    """A worker's right to write, carried by each of its transactions.

    `epoch` rises with every worker that opens the file and is never used twice; a store refuses the writes of an epoch
    that has been fenced off with `ClaimLost`.
    """

    epoch: int


class RunRecord(msgspec.Struct, frozen=True, gc=False):
    """A run as its row shows it.

    `key` is the store's short internal number, `id` the user's name for the run. `wake_at` is when a waiting run wants
    attention next, None for "only when something arrives". `started_at` is when it first moved to ``running``: the
    run's clock begins there. `reason` says why a run is pending, halted or cancelled. `error` is a failure (see
    `stepwell.values.failure`). `owner` is the epoch of the worker in whose memory it is. `crashes` counts the deaths of
    workers in a row during which it was under way and made no progress. `queue` is the queue that it was started in,
    `queued` whether it still waits there for its turn. `waiting_on` is what it waits for (see `stepwell.model.waits`).
    `ahead` is how much later engine time was than the wall clock when the run was created (see `stepwell.model.clock`).
    `resumed` says that somebody asked for it to be tried again since it was halted last, `suspect` that it has crashed
    so often that it is taken up only while no other suspect is under way. `remedy` is what is left to do about a
    ``halted`` one. `chapter` is the present one (see `stepwell.model.chapters`), None for the first. `paused` says that
    it is ``paused``, or is to be as soon as its steps under way have ended. `version` is that of its workflow with
    which it began, or went on last.
    """

    key: int
    id: str
    workflow: str
    status: Status
    input: Payload
    fingerprint: int
    created_at: int
    updated_at: int
    started_at: int | None = None
    result: Payload = None
    error: Payload = None
    reason: str | None = None
    owner: int | None = None
    wake_at: int | None = None
    deadline_at: int | None = None
    parent: int | None = None
    parent_op: int | None = None
    attached: bool = False
    cancel_requested_at: int | None = None
    cancel_reason: str | None = None
    ended_at: int | None = None
    crashes: int = 0
    queue: str | None = None
    queued: bool = False
    waiting_on: str | None = None
    ahead: int = 0
    remedy: Remedy | None = None
    chapter: str | None = None
    resumed: bool = False
    suspect: bool = False
    paused: bool = False
    version: int | None = None


class Member(msgspec.Struct, frozen=True):
    """A worker that has not ended: a process (`pid`, on `host`) that has the file open, or had it when it died.

    `state` is ``active``, ``stopped`` (SIGSTOP, a debugger) or ``dead``. `runs` is how many runs are in its memory.
    `workflows` are those that it has (None: not known), `queues` those that it takes runs from (None: all), `versions`
    the names and versions of those workflows that have one.
    """

    epoch: int
    pid: int
    host: str
    started_at: int
    takes_work: bool
    state: MemberState
    runs: int
    workflows: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    versions: frozenset[tuple[str, int]] = frozenset()


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message that was sent to a run and not received yet. `position` orders all messages of the file by sending."""

    position: int
    name: str
    value: Payload
    sent_at: int


class Permit(msgspec.Struct, frozen=True):
    """That an operation of a run waits for a permit of a limit, or has it (`granted`).

    `holder` is the epoch of the worker that had the run in memory when the permit was granted, or that has kept it
    since; None where none had, so that the attempt cannot have started.
    """

    op: int
    limit: str
    granted: bool
    holder: int | None = None


class Settlement(msgspec.Struct, frozen=True):
    """How a step ended, as somebody says who found out: an entry of `kind` with `value` for operation `op`."""

    op: int
    kind: EntryKind
    value: Payload


class RunSnapshot(msgspec.Struct, frozen=True):
    """All that is needed to bring a run back to memory: its row, its journal in order, its messages in order.

    `permits` are those of its operations. A run that collected the inputs of several starts has them in `items`, in
    order; its row has none then. `settlements` is what people said of its steps that no worker has taken yet,
    `progress` how far its operations are that have not ended.
    """

    record: RunRecord
    entries: list[Entry]
    messages: list[Message]
    permits: list[Permit] = []
    items: list[Payload] = []
    settlements: list[Settlement] = []
    progress: list[ProgressRow] = []
