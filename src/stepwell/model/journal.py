"""The journal: the ordered log of everything that was ever delivered to a run's code.

A run is re-made by delivering its entries, in order, to its code. An entry is both what is written to the file and what
is handed to the execution, so that the first run and every replay go through the same door.

Operations are numbered from 1 in the order in which the code issues them; an entry says which operation it belongs
to and repeats the operation's kind, name and fingerprint, so that replay notices changed code.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from stepwell.errors import RunFailed, StepFailed

#: What the file stores for one value: JSON text, compressed JSON (bytes), or nothing for ``None``.
Payload: TypeAlias = str | bytes | None

#: What an operation is: the name of one of the kinds that `stepwell.operations` declares. One operation has one kind,
#: for all of its entries.
OpKind: TypeAlias = str

#: What an entry says of its operation: the name of one of the forms (`EntryForm`) that its kind declares.
EntryKind: TypeAlias = str

#: The name of a timer of operation 0: nobody set it, it tells code that goes round without waiting how late it is.
TICK: Final = "tick"

#: The name of an entry after which an abandoned async generator is closed, before its number; see
#: `stepwell.replay.generators`. Its operation is 0 as well.
ABANDONED: Final = "abandoned async generator "

#: The name of an entry that says that a saga begins to undo something; see `stepwell.model.undone`. Its operation is 0
#: as well, and its kind that of a timer, so that releases which do not know it pass it over.
UNDOES: Final = "saga from operation "

#: The kind of the entry that says that a value was published, under its name.
PUBLISHED: Final = "published"

#: The `value` of a ``step_started`` that says that the code gave the attempt up while it was under way.
CUT_OFF: Final = '"cut off"'


class EntryForm(msgspec.Struct, frozen=True):
    """A kind of entry that the journal can hold of an operation.

    `is_delivered`: whether the code is told of it; what it is not told of is history only, and replay just checks it.
    `fails_as`: where the value is a failure, the class of exception that stands for one whose own cannot be made.
    `is_failure`: the value is a failure, of which the code is not told.
    """

    kind: EntryKind
    has_value: bool = True
    is_delivered: bool = True
    fails_as: type[StepFailed | RunFailed] | None = None
    is_failure: bool = False


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
    (see `stepwell.definitions.code_identity`), with which it is not executed again by itself. `spent`:
    it was the last attempt, and the run paused; the retry policy begins anew behind it.
    """

    failure: msgspec.Raw
    retry_at: int
    first_started_at: int
    code: int | None = None
    spent: bool = False
