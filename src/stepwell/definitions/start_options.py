"""The keyword arguments of a start, typed once: the signatures of all `start` unpack such a dictionary.

Type checkers read it there; `help` and `inspect.signature` do not, so `shows_options` tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from inspect import Parameter, signature
from typing import Any, Final, TypedDict, TypeVar, cast

from stepwell.definitions.queue_slots import QueueSlot, queue_entry
from stepwell.definitions.queues import OnDuplicate, Queue
from stepwell.errors import InvalidArgument
from stepwell.model.start_policy import OnConflict, Reuse, StartPolicy
from stepwell.shown import is_one_of, shown

F = TypeVar("F", bound=Callable[..., Any])

#: What is meant where an option is left out; None for the others.
_DEFAULTS: Final[dict[str, object]] = {
    "messages": (),
    "updates": (),
    "tags": (),
    "detached": False,
    "priority": 0,
    "on_conflict": "attach",
}


class QueueOptions(TypedDict, total=False):
    """The keyword arguments of a start that are about its place in a queue; see `stepwell.Engine.start`."""

    queue: Queue | str | None
    priority: int
    delay: float | timedelta | datetime | None
    dedup: str | None
    partition: str | None
    debounce: float | timedelta | None
    debounce_limit: float | timedelta | None
    on_duplicate: OnDuplicate | None


#: Those that say how it stands there.
_PLACE: Final = sorted(QueueOptions.__optional_keys__ - {"queue"})


def slot_of(options: QueueOptions, *, has_id: bool, sends: bool) -> QueueSlot | None:
    """Check how a start wants to stand in a queue; None where it goes into none. Raises `InvalidArgument`.

    `sends`: messages go with it.
    """
    given = cast("Mapping[str, Any]", options)
    place: dict[str, Any] = {name: given[name] for name in _PLACE if name in given}
    slot = queue_entry(options.get("queue"), **place, has_id=has_id)
    if sends and slot is not None and (slot.dedup is not None or slot.queue.batch is not None):
        raise InvalidArgument("messages cannot go with a start whose run may turn out to be another one")
    return slot


class ConflictOptions(TypedDict, total=False):
    """The keyword arguments of a start that are about an id that a run has already; see `stepwell.Engine.start`."""

    on_conflict: OnConflict
    reuse: Reuse | None


def start_policy(
    on_conflict: object, reuse: object, *, by: Callable[[], str], has_id: bool, dedup: str | None
) -> StartPolicy | None:
    """Return what a start asks for where a run has its id, None where it is to have that run; `by` names who asks.

    Raises `InvalidArgument`.
    """
    if not is_one_of(on_conflict, ("attach", "reject", "replace")):
        raise InvalidArgument(f"on_conflict must be 'attach', 'reject' or 'replace', not {shown(on_conflict)}")
    if reuse is not None and not is_one_of(reuse, ("never", "after-failure", "always")):
        raise InvalidArgument(f"reuse must be 'never', 'after-failure' or 'always', not {shown(reuse)}")
    if on_conflict == "replace" and reuse == "never":
        raise InvalidArgument("on_conflict='replace' uses the id again, so it does not go with reuse='never'")
    if on_conflict == "attach" and reuse in (None, "never"):
        return None
    if not has_id or dedup is not None:
        what = "has none" if not has_id else "has a dedup key, which says what a second start does"
        raise InvalidArgument(f"on_conflict and reuse are about the id of a start, and this one {what}")
    default: Reuse = "always" if on_conflict == "replace" else "never"
    return StartPolicy(cast("OnConflict", on_conflict), default if reuse is None else cast("Reuse", reuse), by())


def shows_options(names: Iterable[str], defaults: Mapping[str, object] = _DEFAULTS) -> Callable[[F], F]:
    """Have the signature that a function shows list the keyword arguments with these names, for people who ask it."""

    def show(function: F) -> F:
        shown = signature(function)
        parameters = [each for each in shown.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=defaults.get(name)) for name in names]
        function.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return show
