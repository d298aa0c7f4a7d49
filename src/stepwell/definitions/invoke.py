"""The one place where the user's functions are called on behalf of a run: steps, workflows, handlers, predicates.

A loop, a thread, a child process, the worker inside a transaction, a run's own loop, a retry policy: each calls them
here. So what is to surround or watch such calls (interceptors, context variables, progress) has one place to hang on.
It stands here, and not with the executors, because transactions, workflows and predicates are called below those.

Of an ``async def`` the call makes the coroutine; whoever called it carries that to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepwell.definitions.definition import Step, Workflow
from stepwell.definitions.saying import Outlet
from stepwell.definitions.step_info import Attempt, enter_step
from stepwell.values.own_tables import Connection


def step(
    attempt: Attempt, definition: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], outlet: Outlet | None
) -> Any:
    """Call the function of a step for an attempt, in whose own context this must be: `current` knows the attempt.

    What it says meanwhile goes to `outlet`.
    """
    enter_step(attempt, outlet)
    return definition.invoke(args, kwargs)


def transaction(
    attempt: Attempt,
    definition: Step[..., Any],
    connection: Connection,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outlet: Outlet,
) -> Any:
    """Call the function of a transactional step with the open connection; otherwise as `step`."""
    enter_step(attempt, outlet)
    function: Callable[..., Any] = definition.function
    return function(connection, *args, **kwargs)


def workflow(definition: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function of a workflow, in a task of its run."""
    return definition.invoke(args, kwargs)


def handler(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a handler of updates, in a task of its run."""
    return function(*args, **kwargs)


def predicate(function: Callable[[BaseException], object], error: BaseException) -> object:
    """Ask the predicate of a retry policy about an error."""
    return function(error)


def until(function: Callable[[Any], object], value: Any) -> object:
    """Ask the predicate of a poll about what a step returned."""
    return function(value)
