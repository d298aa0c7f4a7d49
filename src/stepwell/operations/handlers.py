"""`query` and `update`: what the code of a run answers to others while the run lives, and queries after that as well.

To register a handler is no operation: nothing is recorded, and a replay comes by the same line. A query is asked of a
copy of the run (`stepwell.worker.asking`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from stepwell.definitions.definition import is_durable
from stepwell.definitions.durable import as_definition
from stepwell.definitions.step_info import RunContext, current_here
from stepwell.errors import InvalidArgument
from stepwell.model.names import check_name
from stepwell.operations.calling_run import calling_run, calling_run_or_none
from stepwell.replay.handlers import Handler, HandlerKind, Handlers, signature_of

F = TypeVar("F", bound=Callable[..., Any])


@overload
def query(function: F, /) -> F: ...
@overload
def query(*, name: str | None = None) -> Callable[[F], F]: ...


def query(function: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
    """Have a function of the workflow's own code answer a query: ``@stepwell.query`` on a function in its body.

    `Run.query` calls it by its name, or by `name`, on a copy of the run that is made from its journal: so it can be
    asked of any run, and whatever it does to variables stays without effect. It may be ``async def``, and must neither
    call steps nor wait. Outside of any run it is the plain function.
    """

    def register(given: Callable[..., Any]) -> Callable[..., Any]:
        return _register("query", given, name, None)

    return register if function is None else register(function)


def _register(
    kind: HandlerKind, function: Any, name: str | None, validate: Callable[..., Any] | None
) -> Callable[..., Any]:
    run = calling_run_or_none()
    if run is None and isinstance(current_here(), RunContext):  # a workflow that is called as a plain function
        return function  # type: ignore[no-any-return]
    run = calling_run(f"@stepwell.{kind}")
    for given in (function, validate):
        if given is not None and (not callable(given) or is_durable(as_definition(given))):
            raise InvalidArgument(f"@stepwell.{kind} takes a function of the workflow's own code, not {given!r}")
    known_as = check_name(str(getattr(function, "__name__", "")) if name is None else name, f"the name of a {kind}")
    if run.handlers is None:
        run.handlers = Handlers()
    run.handlers.of_kind(kind)[known_as] = Handler(known_as, function, signature_of(function), validate)
    return function  # type: ignore[no-any-return]
