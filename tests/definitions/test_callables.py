"""What a decorated function is: async or not, callable as before, known to tools; or refused where it is decorated."""

from __future__ import annotations

import asyncio
import copy
import doctest
import functools
import inspect
import pickle
import pydoc
import sys
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import tenacity

from stepwell import (
    DefinitionError,
    Engine,
    Queue,
    ResultNotSerializable,
    Retry,
    SerializationError,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.testing import TestEngine


async def plain_async(number: int) -> int:
    """Doubles, later."""
    return 2 * number


def plain_def(number: int) -> int:
    """Doubles."""
    return 2 * number


def passes_on(function: Any) -> Any:
    """Stand for a decorator whose wrapper is a `def` and returns whatever the function returns."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def runs_to_its_end(function: Any) -> Any:
    """Stand for a decorator that makes a `def` of an `async def`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


def made_async(function: Any) -> Any:
    """Stand for a decorator that makes an `async def` of a `def`, as `asgiref.sync_to_async` does."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def awaits(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


class Doubler:
    def __call__(self, number: int) -> int:
        return 2 * number


class AsyncCallable:
    async def __call__(self, number: int) -> int:
        return 2 * number


def marked(function: Any) -> Any:
    """Mark a wrapper that returns a coroutine, as libraries do."""
    wrapper = passes_on(function)
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(wrapper)
    wrapper._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return wrapper


ASYNC: dict[str, Any] = {
    "async def": plain_async,
    "async wrapper of a def": made_async(plain_def),
    "async wrapper of an async def": awaits(plain_async),
    "async wrapper of a def wrapper of an async def": awaits(passes_on(plain_async)),
    "partial": functools.partial(plain_async),
    "partial of a partial": functools.partial(functools.partial(plain_async)),
    "partial with an argument": functools.partial(awaits(plain_async)),
    "callable object": AsyncCallable(),
    "partial of a callable object": functools.partial(AsyncCallable()),
    "method": AsyncCallable().__call__,
    "marked def": marked(plain_async),
    "static method": staticmethod(plain_async),
    "lru_cache of nothing": awaits(functools.partial(plain_async)),
}
DEF: dict[str, Any] = {
    "def": plain_def,
    "def wrapper of a def": passes_on(plain_def),
    "def wrapper that runs an async def": runs_to_its_end(plain_async),
    "def wrapper that runs an async wrapper of a def": runs_to_its_end(made_async(plain_def)),
    "partial": functools.partial(plain_def),
    "callable object": Doubler(),
    "cache": functools.lru_cache(plain_def),
    "singledispatch": functools.singledispatch(plain_def),
    "lambda": lambda number: 2 * number,
    "method": Doubler().__call__,
    "static method": staticmethod(plain_def),
    "built-in": int.__add__.__get__(4),
}


@pytest.mark.parametrize("declare", [step, workflow])
@pytest.mark.parametrize("kind", ASYNC)
def test_what_is_called_as_a_coroutine_function_says_so_and_works(engine: TestEngine, declare: Any, kind: str) -> None:
    declared = declare(name="doubles")(ASYNC[kind])
    assert inspect.iscoroutinefunction(declared)
    assert asyncio.iscoroutinefunction(declared)
    assert inspect.iscoroutinefunction(functools.partial(declared, 4))
    assert not inspect.isgeneratorfunction(declared)
    assert asyncio.run(declared(4)) == 8

    @workflow(name="calls")
    async def calls() -> list[int]:
        return [await declared(4), *await asyncio.gather(declared(1), declared(2))]

    assert engine.start(calls).result(60) == [8, 2, 4]


@pytest.mark.parametrize("declare", [step, workflow])
@pytest.mark.parametrize("kind", DEF)
def test_what_is_called_as_a_plain_function_says_so_and_works(engine: TestEngine, declare: Any, kind: str) -> None:
    declared = declare(name="doubles")(DEF[kind])
    assert not inspect.iscoroutinefunction(declared)
    assert not asyncio.iscoroutinefunction(declared)
    assert declared(4) == 8

    @workflow(name="calls")
    async def calls() -> list[int]:
        return [declared(4), await asyncio.to_thread(declared, 4)]

    if declare is step or "runs" not in kind:  # asyncio.run() in workflow code is no way to run it
        assert engine.start(calls).result(60) == [8, 8]


def test_so_do_configured_steps_and_transactions() -> None:
    assert inspect.iscoroutinefunction(step(plain_async).options(timeout=5))
    assert not inspect.iscoroutinefunction(step(plain_def).options(timeout=5))
    assert not inspect.iscoroutinefunction(transaction(cast("Any", plain_def)))


@pytest.mark.parametrize("declare", [step, workflow])
def test_functools_wraps_around_a_definition_tells_the_truth_about_the_wrapper(declare: Any) -> None:
    declared = declare(name="doubles")(plain_async)
    assert not inspect.iscoroutinefunction(runs_to_its_end(declared))
    assert inspect.iscoroutinefunction(awaits(declared))
    assert inspect.unwrap(awaits(declared)) is plain_async
    assert runs_to_its_end(declared)(4) == 8


def test_a_wrapper_around_a_step_can_be_a_step_again(engine: TestEngine) -> None:
    inner = step(name="inner")(plain_async)

    @step(name="outer")
    @functools.wraps(inner)
    async def outer(number: int) -> int:
        return 1 + await inner(number)

    @workflow(name="calls")
    async def calls() -> int:
        return await outer(4)

    run = engine.start(calls)
    assert run.result(60) == 9
    assert [entry.name for entry in run.journal()] == ["outer"]


def test_attributes_of_the_function_are_kept_and_do_not_replace_those_of_the_definition() -> None:
    def busy(number: int) -> int:
        return number

    busy.__dict__.update(name="x", options={"a": 1}, kind="y", is_async=True, signature=1, owner="team")
    declared: Any = step(name="busy")(busy)
    assert (declared.name, declared.kind, declared.is_async, declared.owner) == ("busy", "step", False, "team")
    assert declared.options(timeout=5)(3) == 3
    assert declared.options(timeout=5).owner == "team"
    declared.more = 1
    assert declared.more == 1
    wrapped: Any = passes_on(declared)
    assert wrapped.owner == "team"
    assert {name for name in vars(wrapped) if not name.startswith("__")} == {"owner", "more"}


# --- decorators of others ---------------------------------------------------------------------------------------------


def test_tenacity_repeats_an_async_step_and_a_plain_one(engine: TestEngine) -> None:
    calls: list[str] = []
    policy: dict[str, Any] = {"stop": tenacity.stop_after_attempt(5), "wait": tenacity.wait_fixed(0.1), "reraise": True}

    @step(name="flaky")
    async def flaky() -> str:
        calls.append("flaky")
        if len(calls) < 3:
            raise ConnectionError("again")
        return "done"

    @workflow(name="tries")
    async def tries() -> str:
        return str(await tenacity.retry(**policy)(flaky)())

    run = engine.start(tries)
    engine.advance(10)
    assert run.result(60) == "done"
    assert len(calls) == 3


def test_a_decorator_above_workflow_is_named_when_its_function_is_started(engine: TestEngine) -> None:
    over: Any = awaits(workflow(name="inner workflow")(plain_async))
    for attempt in (lambda: engine.start(over, 4), lambda: engine.reopen(workflows=[over])):
        with pytest.raises(ValueError, match=r"put @workflow on top.*inner workflow"):
            attempt()
    engine.reopen(workflows=None)
    with pytest.raises(ValueError, match=r"arguments of the partial to start\(\)"):
        engine.start(functools.partial(workflow(plain_async), 4))


# --- refused ----------------------------------------------------------------------------------------------------------


def generates() -> Iterator[int]:
    yield 1


async def generates_later() -> AsyncIterator[int]:
    yield 1


class Generates:
    def __call__(self) -> Iterator[int]:
        yield 1


class GeneratesLater:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


def returns_a_coroutine() -> Coroutine[Any, Any, int]:
    return plain_async(1)


def returns_an_awaitable() -> Awaitable[int]:
    return plain_async(1)


def returns_a_coroutine_of_a_module() -> typing.Coroutine[Any, Any, int]:
    return plain_async(1)


def returns_evaluated() -> None: ...


returns_evaluated.__annotations__["return"] = Awaitable[int]

STEP: Any = step(plain_def)

REFUSED: dict[str, tuple[Any, str]] = {
    "generator": (generates, "generator"),
    "async generator": (generates_later, "generator"),
    "object that generates": (Generates(), "generator"),
    "object that generates later": (GeneratesLater(), "generator"),
    "partial of an object that generates": (functools.partial(Generates()), "generator"),
    "method that generates": (Generates().__call__, "generator"),
    "coroutine of a generator": (types.coroutine(generates), "generator"),
    "returns a coroutine": (returns_a_coroutine, "`async def` that awaits"),
    "returns an awaitable": (returns_an_awaitable, "`async def` that awaits"),
    "returns a typing.Coroutine": (returns_a_coroutine_of_a_module, "`async def` that awaits"),
    "annotated without text": (returns_evaluated, "`async def` that awaits"),
    "property": (property(plain_def), "property"),
    "cached property": (functools.cached_property(plain_def), "property"),
    "class": (Doubler, "needs a function"),
    "coroutine": (5, "needs a function"),
    "C without a signature": ({}.update, "Python cannot tell what it takes"),
    "step": (STEP, "decorated once"),
    "step in a static method": (staticmethod(STEP), "decorated once"),
    "step in a class method": (classmethod(STEP), "decorated once"),
    "workflow": (workflow(plain_def), "decorated once"),
    "queue": (Queue("callables"), "needs a function"),
}


@pytest.mark.parametrize("declare", [step, workflow, transaction])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_is_refused_where_it_is_decorated(declare: Any, case: str) -> None:
    function, words = REFUSED[case]
    with pytest.raises(DefinitionError, match=words) as refused:
        declare(name="refused")(function)
    assert f"@{declare.__name__}" in str(refused.value)


@pytest.mark.parametrize(
    "function", [passes_on(plain_async), lambda number: plain_async(number + 0), functools.cache(plain_async)],
    ids=["def wrapper", "lambda", "cache"],
)  # fmt: skip
def test_a_def_that_turns_out_to_return_a_coroutine_is_told_how_to_mend_it(
    engine: TestEngine, function: Callable[[int], Any]
) -> None:
    careless_step = step(name="careless step")(function)

    @workflow(name="calls")
    async def calls() -> Any:
        return careless_step(4)

    run = engine.start(calls)
    with pytest.raises(ResultNotSerializable, match="'careless step' is a `def`, and it returned a coroutine"):
        run.result(60)
    careless_workflow = workflow(name="careless workflow")(function)
    with pytest.raises((SerializationError, ResultNotSerializable), match="'careless workflow' is a `def`"):
        engine.start(careless_workflow, 4).result(60)


# --- what tools see ---------------------------------------------------------------------------------------------------


class Order:
    """Stands for a class of the user's."""


@step
def documented(_order: Order, *, express: bool = False) -> str:
    """Ship an order.

    >>> documented(Order(), express=True)
    'shipped True'
    """
    return f"shipped {express}"


@workflow
async def documented_workflow(order: Order, times: int = 3) -> list[str]:
    """Ship it often."""
    return [documented(order)] * times


@pytest.mark.parametrize("declared", [documented, documented_workflow, documented.options(timeout=5)], ids=repr)
def test_tools_see_the_function(declared: Any) -> None:
    function = declared.__wrapped__
    assert declared.__name__ == function.__name__
    assert declared.__qualname__ == function.__qualname__
    assert declared.__module__ == __name__
    assert declared.__doc__ == function.__doc__
    assert inspect.getdoc(declared) == inspect.getdoc(function)
    assert inspect.signature(declared) == inspect.signature(function)
    assert typing.get_type_hints(declared) == typing.get_type_hints(function)
    assert inspect.getsource(declared) == inspect.getsource(function)
    assert inspect.getmodule(declared) is sys.modules[__name__]
    assert inspect.unwrap(declared) is function
    assert declared.__globals__ is function.__globals__  # where frameworks look annotations up
    assert declared.__code__ is function.__code__
    assert declared.__defaults__ == function.__defaults__
    assert function.__doc__.splitlines()[0] in pydoc.render_doc(declared)
    assert callable(declared)
    assert hasattr(declared, "__nothing__") is False


def test_doctests_of_steps_and_workflows_are_found() -> None:
    found = {test.name.rpartition(".")[2]: test for test in doctest.DocTestFinder().find(sys.modules[__name__])}
    assert len(found["documented"].examples) == 1
    results = doctest.DocTestRunner().run(found["documented"])
    assert (results.attempted, results.failed) == (1, 0)


def test_tools_see_callable_objects_and_partials_too() -> None:
    of_object: Any = step(name="of an object")(AsyncCallable())
    assert (of_object.__name__, of_object.__module__) == ("of an object", __name__)
    assert str(inspect.signature(of_object)) == "(number: 'int') -> 'int'"
    of_partial: Any = step(name="of a partial")(functools.partial(plain_def, 4))
    assert of_partial.__doc__ == "Doubles."
    assert str(inspect.signature(of_partial)) == "() -> 'int'"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_definitions_are_pickled_by_their_names_as_functions_are(protocol: int) -> None:
    for declared in (documented, documented_workflow):
        assert pickle.loads(pickle.dumps(declared, protocol)) is declared
    configured = documented.options(timeout=5, retry=Retry(attempts=3))
    twin = pickle.loads(pickle.dumps(configured, protocol))
    assert twin.step_options == configured.step_options
    assert twin.function is documented.function

    @step
    def local() -> None: ...

    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(local, protocol)


def test_copies_of_definitions_are_the_same_objects_as_those_of_functions_are() -> None:
    for declared in (documented, documented_workflow, documented.options(timeout=5)):
        assert copy.copy(declared) is declared
        assert copy.deepcopy(declared) is declared
    holder = {"steps": [documented]}
    assert copy.deepcopy(holder)["steps"][0] is documented


def test_a_dependency_of_a_web_framework_is_called_as_it_says() -> None:
    """What FastAPI and Starlette ask: the parameters, where to look up their annotations, and whether to await."""

    def is_async(call: Any) -> bool:  # as starlette._utils.is_async_callable
        while isinstance(call, functools.partial):
            call = call.func
        return asyncio.iscoroutinefunction(call) or (
            callable(call) and asyncio.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
        )

    async def solve(call: Any, **values: Any) -> Any:
        names = inspect.signature(call).parameters
        given = {name: values[name] for name in names if name in values}
        return await call(**given) if is_async(call) else await asyncio.to_thread(call, **given)

    assert asyncio.run(solve(documented, _order=Order(), express=True)) == "shipped True"
    assert asyncio.run(solve(documented_workflow, order=Order(), times=1)) == ["shipped False"]
    assert asyncio.run(solve(step(name="d")(plain_async), number=2)) == 4


def test_partials_of_definitions_work_where_functions_are_handed_over(database: Path) -> None:
    @step(name="adds")
    def adds(first: int, second: int, third: int = 0) -> int:
        return first + second + third

    @step(name="adds later")
    async def adds_later(first: int, second: int, third: int = 0) -> int:
        return first + second + third

    @workflow(name="hands over")
    async def hands_over() -> list[Any]:
        from stepwell import map as map_

        return [
            await map_(functools.partial(adds, 10), [1, 2]),
            await map_(functools.partial(adds_later, 10, third=100), [1, 2]),
            await asyncio.to_thread(functools.partial(adds, 1), 2),
            await functools.partial(adds_later, 1)(2),
            functools.partial(adds, third=5)(1, 2),
        ]

    @workflow(name="hands over plainly")
    def hands_over_plainly() -> list[Any]:
        return [sync.map(functools.partial(adds, 10), [1]), sync.call(functools.partial(adds_later, 1), 2)]

    with Engine(database) as engine:
        assert engine.start(hands_over).result(60) == [[11, 12], [111, 112], 3, 3, 8]
        assert engine.start(hands_over_plainly).result(60) == [[11], 3]
