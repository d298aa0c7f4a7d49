"""What goes with the start of a child: messages and updates, and the time at which it is too late."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from stepwell.definitions.arguments import encoded_arguments
from stepwell.errors import InvalidArgument
from stepwell.model.clock import MICROSECONDS, microseconds_of, to_seconds
from stepwell.model.names import check_name
from stepwell.model.updates import marked
from stepwell.shown import shown

if TYPE_CHECKING:
    from stepwell.model.journal import Payload
    from stepwell.replay.execution import Execution

#: A message that goes with a start: its name and value, or name, value and key.
StartMessage: TypeAlias = tuple[str, object] | tuple[str, object, str]
#: An update that goes with a start: its name, its arguments, and its key, by which the answer is asked for.
StartUpdate: TypeAlias = tuple[str, Sequence[Any], str]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message as it is sent."""

    name: str
    value: Payload
    key: str | None


def outgoing(run: Execution, messages: Sequence[StartMessage], updates: Sequence[StartUpdate]) -> tuple[Outgoing, ...]:
    """Return what is sent to a child together with its start; raises `InvalidArgument`, `SerializationError`."""
    return (
        *(_message(run, one) for one in _checked(messages, "messages")),
        *(_update(run, one) for one in _checked(updates, "updates")),
    )


def deadline_of(run: Execution, deadline: float | timedelta | datetime | None) -> int | None:
    """Return when a child that starts now is too late, in microseconds of engine time; raises `InvalidArgument`."""
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise InvalidArgument(f"deadline needs a time zone: {deadline!r}")
        return microseconds_of(deadline) + run.ahead
    return run.now + int(to_seconds(deadline, "deadline of a run") * MICROSECONDS)


def _checked(given: Any, what: str) -> Sequence[Any]:
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise InvalidArgument(f"{what} must be a list of tuples, not {shown(given)}")
    found: Sequence[Any] = cast("Any", given)
    return found


def _message(run: Execution, given: Any) -> Outgoing:
    key: str | None = None
    match given:
        case (name, value):
            pass
        case (name, value, key):
            check_name(key or "", "the key of a message")
        case _:
            raise InvalidArgument(
                f"each of the messages must be (name, value) or (name, value, key), not {shown(given)}"
            )
    check_name(name, "the name of a message")
    return Outgoing(name, run.codec.encode_untyped(value, f"the message {name!r} that goes with a start"), key)


def _update(run: Execution, given: Any) -> Outgoing:
    match given:
        case (name, [*args], key):
            check_name(name, "the name of an update")
            check_name(key, "the key of an update")
        case _:
            raise InvalidArgument(f"each of the updates must be (name, arguments, key), not {shown(given)}")
    where = f"the arguments of update {name!r} that goes with a start"
    return Outgoing(marked(name), encoded_arguments(run.codec, tuple(args), None, where), marked(key))
