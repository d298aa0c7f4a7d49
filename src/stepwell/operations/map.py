"""`map`: a step or a workflow, called on each of many items. No operation of its own: it issues those that it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, overload

from stepwell.definitions.definition import is_durable
from stepwell.definitions.durable import unwrapped
from stepwell.errors import InvalidArgument
from stepwell.operations.calling_run import calling_run

T = TypeVar("T")
D = TypeVar("D")


@overload
async def map(
    function: Callable[[T], Coroutine[Any, Any, D]],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
) -> list[D]: ...


@overload
async def map(function: Callable[[T], D], items: Iterable[T], /, *, limit: int | None = None) -> list[D]: ...


async def map(function: Callable[[Any], Any], items: Iterable[Any], /, *, limit: int | None = None) -> list[Any]:
    """Call a step or a workflow on each of `items`, at most `limit` at a time, and return the results in order.

    The first failure cancels what is under way and is raised, alone.
    """
    run = calling_run("map()")
    definition, first, named = unwrapped(function, (), {})
    if not is_durable(definition):
        raise InvalidArgument(f"map() needs a @step or a @workflow, not {function!r}")
    work = list(items)
    at_once = len(work) if limit is None else _checked_limit(limit)
    results: list[Any] = [None] * len(work)
    queue = iter(range(len(work)))

    async def take() -> None:
        for index in queue:
            results[index] = await run.call_async(definition, (*first, work[index]), named)

    tasks = [run.loop.create_task(take()) for _ in range(min(at_once, len(work)))]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return results


def _checked_limit(limit: object) -> int:
    if not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"limit of map() must be a whole number of at least 1, not {limit!r}")
    return limit
