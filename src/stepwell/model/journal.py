"""The journal: the ordered log of everything that was ever delivered to a run's code.

A run is re-made by delivering its entries, in order, to its code. An entry is both what is written to the file and what
is handed to the execution, so that the first run and every replay go through the same door.

Operations are numbered from 1 in the order in which the code issues them; an entry says which operation it belongs
to and repeats the operation's kind, name and fingerprint, so that replay notices changed code.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

#: What the file stores for one value: JSON text, compressed JSON (bytes), or nothing for ``None``.
Payload: TypeAlias = str | bytes | None

#: What an operation is. One operation has one kind for all of its entries.
OpKind = Literal["step", "timer", "receive", "send", "publish", "start", "result", "patch", "cancel"]

EntryKind = Literal[
    "step",  # the step returned; `value` is its result
    "step_failed",  # the step's last attempt failed; `value` is the failure
    "attempt_failed",  # an attempt failed and another follows; `value` is an `AttemptFailure`; not delivered
    "step_started",  # a long or at-most-once step is under way, or an attempt was `CUT_OFF`; not delivered
    "timer",  # a timer fired; operation 0: a `TICK`
    "message",  # a message was received; `value` is its value
    "sent",  # a message was sent to another run
    "send_failed",  # … could not be: no such run, or ended; `value` is the failure
    "published",  # a value was published
    "child",  # a child run was started; `value` is its id
    "child_failed",  # … could not be: its id is taken by another run; `value` is the failure
    "result",  # a child ended with a result; `value` is the result
    "result_failed",  # a child failed or was cancelled; `value` is the failure
    "patched",  # the code passed `patched(name)` when it was new to the run
    "cancel",  # cancellation was requested; `name` is the reason; operation 0
]

#: The name of a timer of operation 0: nobody set it, it tells code that goes round without waiting how late it is.
TICK: Final = "tick"

#: The name of an entry after which an abandoned async generator is closed, before its number; see
#: `stepwell.replay.generators`. Its operation is 0 as well.
ABANDONED: Final = "abandoned async generator "

#: Which operation kind each entry kind belongs to.
OP_KIND_OF: Final[dict[EntryKind, OpKind]] = {
    "step": "step",
    "step_failed": "step",
    "attempt_failed": "step",
    "step_started": "step",
    "timer": "timer",
    "message": "receive",
    "sent": "send",
    "send_failed": "send",
    "published": "publish",
    "child": "start",
    "child_failed": "start",
    "result": "result",
    "result_failed": "result",
    "patched": "patch",
    "cancel": "cancel",
}

#: Entries that are history only: replay checks them and delivers nothing.
UNDELIVERED: Final[frozenset[EntryKind]] = frozenset({"attempt_failed", "step_started"})

#: The `value` of a ``step_started`` that says that the code gave the attempt up while it was under way.
CUT_OFF: Final = '"cut off"'

#: Entries that have no `value`, but for `CUT_OFF`. (What was published last under a key stands elsewhere, once.)
VALUELESS: Final[frozenset[EntryKind]] = frozenset({"step_started", "timer", "sent", "published", "patched", "cancel"})

#: Entries whose `value` is a failure (see `stepwell.values.failure`).
FAILURES: Final[frozenset[EntryKind]] = frozenset({"step_failed", "send_failed", "child_failed", "result_failed"})


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of a run's journal; itself a change that the store appends.

    Times are microseconds since the Unix epoch, UTC. `fingerprint` is the CRC-32 of the operation's encoded
    arguments (0 where it has none). `started_at` and `attempt` are set for steps.
    """

    run: int
    op: int
    kind: EntryKind
    name: str
    fingerprint: int
    at: int
    value: Payload = None
    attempt: int = 0
    started_at: int = 0
    position: int = 0  # the place in the file-wide log; assigned by the store, 0 until then


class AttemptFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an ``attempt_failed`` entry holds.

    `failure` is one of `stepwell.values.failure`; `retry_at` is when the next attempt is due, `first_started_at` when
    the first began. `code` is set where the step returned, but its result could not be recorded: the number of its code
    (see `stepwell.definitions.code_identity`), with which it is not executed again by itself.
    """

    failure: msgspec.Raw
    retry_at: int
    first_started_at: int
    code: int | None = None
