"""A promise as its row has it: what was asked, of whom it is an operation, what has become of it.

A promise is *open* until its row says otherwise, and the row changes once, in one transaction: so whoever answers it,
however many processes try at once, one of them does, and its run is told what the row says. ADR 0058.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from stepwell.model.journal import Payload
from stepwell.model.lifecycle import Status

#: - ``open``: it can be answered.
#: - ``resolved``: it was answered with a value; ``rejected``: with an error.
#: - ``timed_out``: nobody answered before its deadline.
#: - ``withdrawn``: its run goes on from before it was made (a rewind), or as new.
PromiseState: TypeAlias = Literal["open", "resolved", "rejected", "timed_out", "withdrawn"]

#: So many bytes of chance make a token: 43 characters, 256 bits.
TOKEN_BYTES: Final = 32


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """What a person is shown who is asked for the value of a promise (`stepwell.promise`).

    - `title`: the question, in one line; `text`: more about it.
    - `choices`: the values that can be chosen; without any, every value of the promise's type.
    - `evidence`: what to look at to decide, any value that JSON can show.

    The type of the answer, its JSON schema, the deadline and what happens when it passes come from the promise itself.
    """

    title: str = ""
    text: str = ""
    choices: Sequence[Any] = ()
    evidence: Any = None


class PromiseForm(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a person is asked, as JSON in the file.

    `schema` is the JSON schema of the answer, `type` the name of its type. `made_of` are the classes of that type: one,
    as ``module:name``, or a list of one and its arguments; None where it is made of more than classes. `choices`,
    `evidence` and `default` are JSON. `has_default`: when its time has passed, the run goes on with the default; else
    it is raised `PromiseTimedOut`.
    """

    type: str
    schema: msgspec.Raw = msgspec.Raw(b"{}")
    made_of: Any = None
    title: str = ""
    text: str = ""
    choices: list[msgspec.Raw] = []
    evidence: msgspec.Raw = msgspec.Raw(b"null")
    has_default: bool = False
    default: msgspec.Raw = msgspec.Raw(b"null")

    def __str__(self) -> str:
        """Name the promise."""
        return self.title or self.type


class PromiseRecord(msgspec.Struct, frozen=True):
    """The row of a promise, with what it takes of its run's: `run` is the key, `status` and `owner` are the run's.

    Times are engine time, in microseconds; `ahead` as in `RunRecord`. `form` is the payload of a `PromiseForm`.
    """

    number: int
    token: str
    run: int
    run_id: str
    workflow: str
    status: Status
    owner: int | None
    op: int
    state: PromiseState
    created_at: int
    deadline_at: int | None
    ended_at: int | None
    by: str | None
    form: Payload
    answer: Payload
    ahead: int


class PromiseFacts(msgspec.Struct, frozen=True):
    """What a run is told of a promise of its own: what has become of it, or until when it can be answered."""

    op: int
    token: str
    state: PromiseState
    deadline_at: int | None
    answer: Payload
