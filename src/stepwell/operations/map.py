"""`map`: a step or a workflow, called on each of many items. No operation of its own: it issues those that it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Generic, Literal, TypeVar, overload

import msgspec

from stepwell.definitions.definition import is_durable
from stepwell.definitions.durable import unwrapped
from stepwell.errors import DefinitionError, InvalidArgument, MapFailed
from stepwell.operations.calling_run import calling_run
from stepwell.replay.execution import Execution
from stepwell.replay.map_count import MapCount
from stepwell.shown import shown

T = TypeVar("T")
D = TypeVar("D")

#: Calls the function on the item with this index.
CallOne = Callable[[int], Coroutine[Any, Any, Any]]


#: How many failed items an error names.
_PLACES: Final = 10
#: In percent.
_ALL: Final = 100.0


class ItemResult(msgspec.Struct, Generic[T, D], frozen=True, eq=False):
    """The outcome of one item of a `map` that tolerates failures.

    `index` is its place, from 0. `status` is ``"done"`` with a `value`, ``"failed"`` with an `error`, or ``"skipped"``
    if `enough` others were done before.
    """

    index: int
    item: T
    status: Literal["done", "failed", "skipped"]
    value: D | None = None
    error: Exception | None = None


# A coroutine is a result as well, to mypy; the first that fits is the one that is meant.
@overload
async def map(  # type: ignore[overload-overlap]
    function: Callable[[T], Coroutine[Any, Any, D]],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: None = None,
    enough: None = None,
) -> list[D]: ...


@overload
async def map(
    function: Callable[[T], D],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: None = None,
    enough: None = None,
) -> list[D]: ...


@overload
async def map(
    function: Callable[[T], Coroutine[Any, Any, D]],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: int | str | None = None,
    enough: int | None = None,
) -> list[ItemResult[T, D]]: ...


@overload
async def map(
    function: Callable[[T], D],
    items: Iterable[T],
    /,
    *,
    limit: int | None = None,
    tolerate: int | str | None = None,
    enough: int | None = None,
) -> list[ItemResult[T, D]]: ...


async def map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    /,
    *,
    limit: int | None = None,
    tolerate: int | str | None = None,
    enough: int | None = None,
) -> list[Any]:
    """Call a step or a workflow on each of `items`, at most `limit` at a time, and return the results in order.

    The first failure cancels the calls under way, and is raised, alone.

    With `tolerate`, a number or a share such as ``"10%"`` (rounded down), that many failures are tolerated. With
    `enough`, it returns as soon as that many items are done, cancels the calls under way, and tolerates failures as
    long as `enough` can still be reached. With either, the results are `ItemResult`s, one for each item. As soon as
    there are too many failures, the calls under way are cancelled and `MapFailed` is raised, a group of the failures so
    far.
    """
    run = calling_run("map()")
    definition, first, named = unwrapped(function, (), {})
    if not is_durable(definition):
        raise InvalidArgument(f"map() needs a @step or a @workflow, not {shown(function)}")
    work = list(items)
    at_once = len(work) if limit is None else _at_least_one(limit, "limit")

    def call(index: int) -> Coroutine[Any, Any, Any]:
        return run.call_async(definition, (*first, work[index]), named)

    count = MapCount(definition.name, len(work), run.now)
    try:
        return await _counted(run, call, count, work, at_once, tolerate, enough)
    finally:
        count.is_over = True
        if count.op:
            run.count(count)


async def _counted(
    run: Execution,
    call: CallOne,
    count: MapCount,
    work: Sequence[Any],
    at_once: int,
    tolerate: int | str | None,
    enough: int | None,
) -> list[Any]:
    if tolerate is None and enough is None:
        return await _all(run, call, count, at_once)
    wanted = len(work) if enough is None else _at_least_one(enough, "enough")
    if wanted > len(work):
        raise InvalidArgument(f"enough of map() is {wanted}, and there are {len(work)} items")
    bearable = len(work) - wanted if tolerate is None else _bearable(tolerate, len(work))
    if enough is not None:
        bearable = min(bearable, len(work) - wanted)
    borne = _Borne(work, wanted if enough is not None else len(work), bearable)
    await _some(run, call, count, borne, at_once)
    if len(borne.errors) > bearable:
        raise MapFailed(borne.failure(count.name), [error for _, error in sorted(borne.errors.items())])
    return borne.outcome()


async def _all(run: Execution, call: CallOne, count: MapCount, at_once: int) -> list[Any]:
    results: list[Any] = [None] * count.total
    queue = iter(range(count.total))

    async def take() -> None:
        for index in queue:
            if not count.op:
                _begin(run, count)
            results[index] = await call(index)
            count.done += 1
            if not count.is_noted:
                run.count(count)

    tasks = [run.loop.create_task(take()) for _ in range(min(at_once, count.total))]
    try:
        await asyncio.gather(*tasks)
    except BaseException as error:
        count.failed += isinstance(error, Exception)
        await _end(tasks)
        raise
    return results


def _begin(run: Execution, count: MapCount) -> None:
    """Count from now on: the operation that is issued next is the first of the map."""
    count.op = run.issued_so_far + 1
    run.count(count)


class _Borne:
    """How far a map is that bears failures: `wanted` are enough, and more errors than are `bearable` are too many."""

    def __init__(self, items: Sequence[Any], wanted: int, bearable: int) -> None:
        self.items = items
        self._wanted = wanted
        self._bearable = bearable
        self.values: dict[int, Any] = {}
        self.errors: dict[int, Exception] = {}

    def is_decided(self) -> bool:
        """Tell whether nothing that is still to come matters."""
        return len(self.errors) > self._bearable or len(self.values) >= self._wanted

    def outcome(self) -> list[Any]:
        """Return what became of each item."""
        return [
            ItemResult(index, item, "done", value=self.values[index])
            if index in self.values
            else ItemResult(index, item, "failed", error=self.errors[index])
            if index in self.errors
            else ItemResult(index, item, "skipped")
            for index, item in enumerate(self.items)
        ]

    def failure(self, name: str) -> str:
        """Say what failed."""
        places = ", ".join(str(index) for index in sorted(self.errors)[:_PLACES])
        more = "" if len(self.errors) <= _PLACES else ", …"
        return (
            f"map() of {name!r} over {len(self.items)} items: {len(self.errors)} failed, and {self._bearable} are "
            f"tolerated; those at {places}{more}"
        )


async def _some(run: Execution, call: CallOne, count: MapCount, borne: _Borne, at_once: int) -> None:
    """Call until what comes does not matter any more; then cancel what is under way."""
    queue = iter(range(len(borne.items)))
    decided: asyncio.Future[None] = run.loop.create_future()

    async def take() -> None:
        for index in queue:
            if not count.op:
                _begin(run, count)
            try:
                borne.values[index] = await call(index)
            except DefinitionError:  # a mistake in the code, which each of the items would meet
                raise
            except Exception as error:  # noqa: BLE001 - it is borne, or reported with the others
                borne.errors[index] = error
            count.done, count.failed = len(borne.values), len(borne.errors)
            run.count(count)
            if borne.is_decided():
                if not decided.done():
                    decided.set_result(None)
                return

    tasks = [run.loop.create_task(take()) for _ in range(min(at_once, len(borne.items)))]
    everyone = asyncio.gather(*tasks)
    try:
        ends: list[asyncio.Future[Any]] = [everyone, decided]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not decided.done():
            await everyone
    finally:
        everyone.cancel()
        await _end(tasks)
        await asyncio.gather(everyone, return_exceptions=True)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _bearable(tolerate: object, count: int) -> int:
    """Return how many failures are borne."""
    if isinstance(tolerate, str) and tolerate.endswith("%"):
        try:
            part = float(tolerate[:-1])
        except ValueError:
            part = -1.0
        if 0 <= part <= _ALL:
            return int(count * part / _ALL + 1e-9)  # 0.07 * 100 is a little less than 7
    elif isinstance(tolerate, int) and not isinstance(tolerate, bool) and tolerate >= 0:
        return tolerate
    raise InvalidArgument(
        f'tolerate of map() must be a number of items, or a part such as "10%", not {shown(tolerate)}'
    )


def _at_least_one(number: object, what: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InvalidArgument(f"{what} of map() must be a whole number of at least 1, not {shown(number)}")
    return number
