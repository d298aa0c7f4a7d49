"""What the code of a run answers to others: the queries and updates that it has registered, by name.

Code registers them while it executes (see `stepwell.operations.handlers`), so a replay finds the same ones. They are
local functions, made anew in each replay of each run; what is known of a function's parameters is kept by its code.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, Final, Literal, TypeAlias

from stepwell.values.signature import Signature

HandlerKind: TypeAlias = Literal["query", "update"]

#: Signatures by the code of functions, with the annotations that they were made of: a function within another one may
#: name other classes each time.
_signatures: Final[dict[CodeType, tuple[dict[str, Any], Signature]]] = {}


class Handler:
    """A function that answers queries, or updates, of one name; `validate` refuses updates."""

    __slots__ = ("function", "name", "signature", "validate")

    def __init__(
        self, name: str, function: Callable[..., Any], signature: Signature, validate: Callable[..., Any] | None = None
    ) -> None:
        self.name = name
        self.function = function
        self.signature = signature
        self.validate = validate


class Handlers:
    """The handlers of one run's code."""

    __slots__ = ("queries", "updates")

    def __init__(self) -> None:
        self.queries: dict[str, Handler] = {}
        self.updates: dict[str, Handler] = {}

    def of_kind(self, kind: HandlerKind) -> dict[str, Handler]:
        """Return the handlers of one kind, by name."""
        return self.queries if kind == "query" else self.updates


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature of a handler; raises `DefinitionError` where Python cannot tell it."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return Signature(function)
    annotations = getattr(function, "__annotations__", {})
    known = _signatures.get(code)
    if known is None or known[0] != annotations:
        known = annotations, Signature(function)
        known[1].detach()
        _signatures[code] = known
    return known[1]


def none_of_name(run_id: str, kind: HandlerKind, name: str, handlers: Handlers | None) -> str:
    """Say that a run has no handler of a name, and which it has."""
    names = sorted(() if handlers is None else handlers.of_kind(kind))
    known = f"it has: {', '.join(names)}" if names else "it has none so far"
    plural = "queries" if kind == "query" else "updates"
    return (
        f"run {run_id!r} has no {kind} {name!r}; {known}. Its code registers {plural} with @stepwell.{kind}, before "
        "the first thing that it waits for"
    )
