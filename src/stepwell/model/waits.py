"""What a parked run waits for: the value that the update which parks it writes, as JSON, in `waiting_on`.

It is written so that anybody can say why a run waits: without its code, without a replay, from any process, also when
every worker is dead. What concerns others, and changes while the run waits (is the queue paused, is the child halted?),
is not in it; whoever reads it looks that up (`stepwell.api.reading.why`).

The text is an array with an object for each operation that the code waits for, in the order of issue::

    [{"kind": "message", "op": 3, "name": "approval"}, {"kind": "timer", "op": 4, "until": 1764259200000000}]

Times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal, TypeAlias

import msgspec

from stepwell.errors import SerializationError

WaitKind: TypeAlias = Literal[
    "timer",  # until `until`
    "message",  # called `name`
    "run",  # the end of the run `name`
    "permit",  # of the limit `limit`, for the step `name`
    "promise",  # that `name` is answered, until `until` where it has a deadline
    "retry",  # the next attempt, number `attempt`, of the step `name` at `until`; `error` is why the last one failed
    "poll",  # that what the step `name` returns fits, which `attempt` tries did not; the next one is at `until`
    "nothing",  # something of its code's own, `name`, at the line `at`, that nothing can bring about any more
    "more",  # `count` further operations, which are left out
]

#: How many operations are named; a run may wait for thousands at once.
MAX_NAMED: Final = 6
#: How much of an error's text is kept, in characters.
_MAX_TEXT: Final = 200


class Wait(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a run waits for; which fields are set depends on the `kind`. `op` is the operation's number."""

    kind: WaitKind
    op: int = 0
    name: str = ""
    until: int | None = None
    limit: str = ""
    attempt: int = 0
    error: str = ""
    at: str = ""
    count: int = 0


_encode: Final = msgspec.json.Encoder().encode


@cache
def _decoder() -> msgspec.json.Decoder[list[Wait]]:
    # Made when it is first used: it would cost each process that starts, and most read no waits.
    return msgspec.json.Decoder(list[Wait])


def encode_waits(waits: list[Wait]) -> str:
    """Return the text for the file."""
    return _encode(waits).decode()


def decode_waits(text: str | None) -> list[Wait]:
    """Return what a run waits for; raises `SerializationError` where the file is damaged, or of another release."""
    if text is None:
        return []
    try:
        return _decoder().decode(text)
    except msgspec.DecodeError as error:
        raise SerializationError(
            f"Cannot read what a run waits for: {error}. A newer release wrote it, or the file is damaged",
            where="what a run waits for",
        ) from None


def shortened(text: str) -> str:
    """Return the first line of an error's text, and not too much of it."""
    line = text.partition("\n")[0]
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 1] + "…"
