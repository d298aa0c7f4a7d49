"""Whether a workflow's code is likely to call a ``def`` step, which must be able to wait in the middle of plain code.

Such code executes on greenlets, which cost about 3 us a step and 10 us a task, so that code without them should not.
The guess looks at the names that the code mentions. Where it is wrong, nothing breaks: a blocking call without a
greenlet starts the run's code anew, on greenlets, from its journal (`Executions.restart`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, cast

from stepwell.definitions.durable import Definition

# How deep to follow helper functions that the workflow calls.
_MAX_DEPTH: Final = 4


def mentions_blocking_calls(function: Callable[..., Any]) -> bool:
    """Tell whether `function`, or a helper of it, mentions a ``def`` step or workflow, or `stepwell.sync`."""
    return _mentions(inspect.unwrap(function), _MAX_DEPTH, set())


def follow(function: Callable[..., Any]) -> Iterator[FunctionType]:
    """Yield a function, and the plain functions that it mentions, and so on; none of Stepwell's or asyncio's."""
    seen: set[int] = set()
    found: list[tuple[object, int]] = [(inspect.unwrap(function), _MAX_DEPTH)]
    while found:
        each, depth = found.pop()
        if isinstance(each, FunctionType) and id(each) not in seen and not _is_ours(each):
            seen.add(id(each))
            yield each
            if depth:
                found += [(mentioned, depth - 1) for mentioned in _mentioned(each)]


def _is_ours(function: FunctionType) -> bool:
    return (function.__module__ or "").startswith(("stepwell.", "asyncio"))


def _mentions(function: object, depth: int, seen: set[int]) -> bool:
    if not isinstance(function, FunctionType) or id(function) in seen:
        return False
    seen.add(id(function))
    if _is_ours(function):
        return False
    return any(_is_blocking(value, depth, seen) for value in _mentioned(function))


def _is_blocking(value: object, depth: int, seen: set[int]) -> bool:
    if isinstance(value, Definition):
        return not cast("Definition[..., Any]", value).is_async
    if isinstance(value, ModuleType):
        return value.__name__ == "stepwell.sync"
    if isinstance(value, FunctionType):
        return value.__module__ == "stepwell.sync" or (depth > 0 and _mentions(value, depth - 1, seen))
    return False


def _mentioned(function: FunctionType) -> Iterator[object]:
    names = set(_names(function.__code__))
    for name in names:
        if name in function.__globals__:
            value = function.__globals__[name]
            yield value
            if isinstance(value, (ModuleType, type)):  # steps.ship(…), Shop.ship(…)
                yield from (vars(value)[attribute] for attribute in names if attribute in vars(value))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    # Methods: any step of the class that the first argument may be an instance of.
    owner = function.__globals__.get(function.__qualname__.partition(".")[0])
    if isinstance(owner, type):
        yield from (vars(owner)[attribute] for attribute in names if attribute in vars(owner))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # functions, comprehensions and lambdas inside
            yield from _names(constant)
