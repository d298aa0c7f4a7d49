"""What a start may be given by name, typed once: the signatures of all `start` unpack such a dictionary.

Type checkers read it there; `help` and `inspect.signature` do not, so `shows_options` tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from inspect import Parameter, signature
from typing import Any, Final, TypedDict, TypeVar

from stepwell.definitions.queues import Queue

F = TypeVar("F", bound=Callable[..., Any])

#: What is meant where an option is left out; None for the others.
_DEFAULTS: Final[dict[str, object]] = {"messages": (), "updates": (), "tags": (), "detached": False, "priority": 0}


class QueueOptions(TypedDict, total=False):
    """The keyword arguments of a start that are about its place in a queue; see `stepwell.Engine.start`."""

    queue: Queue | str | None
    priority: int
    delay: float | timedelta | datetime | None
    dedup: str | None
    partition: str | None


def shows_options(names: Iterable[str], defaults: Mapping[str, object] = _DEFAULTS) -> Callable[[F], F]:
    """Have the signature that a function shows list the keyword arguments with these names, for people who ask it."""

    def show(function: F) -> F:
        shown = signature(function)
        parameters = [each for each in shown.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=defaults.get(name)) for name in names]
        function.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return show
