"""Workflows, steps and transactions as inert objects: a function, a stable name, and options.

Decorating does nothing but enter the object in a plain registry. Called outside a run, a definition is its function;
called inside one, it asks the run (found through the running event loop) to make the call durable.
"""

from __future__ import annotations

import functools
import inspect
import sys
from asyncio.events import _get_running_loop
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeGuard,
    TypeVar,
    cast,
    overload,
)

from stepwell.clock import to_seconds
from stepwell.codec import Codec
from stepwell.context import call_outside
from stepwell.converter import Converter
from stepwell.errors import DefinitionError, InvalidArgument
from stepwell.flow import Limit
from stepwell.names import check_name
from stepwell.retry import NO_RETRY, Retry
from stepwell.signature import Signature

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
# Of a method before it is bound; the class's own P and R would stand for the bound one.
Q = ParamSpec("Q")
U = TypeVar("U")

Delivery = Literal["at-least-once", "at-most-once"]
Isolation = Literal["process"]

#: The name under which a child process imports the script that its parent runs as ``__main__``; so does the module
#: `multiprocessing` of the standard library, hence other code knows it.
MAIN_IN_A_CHILD: Final = "__mp_main__"


class Host(Protocol):
    """The run that the current code belongs to; `stepwell.execution.Execution` is the one that exists."""

    run_id: str

    def location(self) -> str:
        """Return ``file:line in function`` of the code that is executing now."""
        ...

    def call(self, definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a durable call: a coroutine where the definition is async, else the result itself."""
        ...


def current_host() -> Host | None:
    """Return the run whose code is executing on this thread, or None outside of workflow code.

    Workflow code is recognised by its event loop, which no other code ever runs on.
    """
    return getattr(_get_running_loop(), "host", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How a step is executed.

    `timeout_seconds` bounds one attempt, `deadline_seconds` all attempts and the delays between them. `isolate` says
    where: ``"process"`` is a child process, None the engine's own process. An attempt needs a permit of `limit`.
    """

    retry: Retry = NO_RETRY
    timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    delivery: Delivery = "at-least-once"
    isolate: Isolation | None = None
    limit: Limit | None = None


class Definition(Generic[P, R]):
    """What workflows and steps have in common: a function that is called durably inside a run.

    `name` is what the file stores; `R` is what a call returns (a coroutine for an async function).
    """

    kind: str = "definition"

    def __init__(self, function: Callable[P, R], name: str | None) -> None:
        if isinstance(function, Definition):
            raise DefinitionError(f"@{self.kind} on {function!r}: a function is decorated once")
        if not _is_function(function):
            raise DefinitionError(f"@{self.kind} needs a function, not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(
                f"@{self.kind} {getattr(function, '__qualname__', function)}: a generator cannot be recorded; "
                "return a list instead of yielding"
            )
        if name is None and not _has_name(function):
            raise DefinitionError(f"@{self.kind} {function!r} has no name of its own, so give it one: name=…")
        self.function = function
        self.name = check_name(name if name is not None else stable_name(function), f"the name of a {self.kind}")
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self._bound_to: object = None
        self._is_bound = False
        self._converter: tuple[Codec, Converter] | None = None
        functools.update_wrapper(cast("Callable[P, R]", self), function)

    @property
    def is_bound(self) -> bool:
        """Whether it is a method that was taken from an instance, which is not recorded."""
        return self._is_bound

    @functools.cached_property
    def signature(self) -> Signature:
        """The parameters and the return type, resolved at first use."""
        return Signature.of(self.function, skip_first=self._is_bound)

    def converter(self, codec: Codec) -> Converter:
        """Return what encodes and decodes the results, as the return annotation says."""
        known = self._converter
        if known is None or known[0] is not codec:
            known = self._converter = (codec, codec.converter(self.signature.return_annotation))
        return known[1]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; inside a run, durably."""
        host = getattr(_get_running_loop(), "host", None)
        if host is None:
            if self.is_async:
                self.signature.bind_check(args, kwargs)  # which the coroutine itself would do only when it is awaited
            call = functools.partial(self.invoke, args, kwargs)
            return call_outside(self.kind, self.name, call, is_async=self.is_async)
        return cast("R", host.call(self, args, kwargs))

    def invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """Call the plain function, with the instance first where the definition is a bound method."""
        if self._is_bound:
            return cast("Callable[..., R]", self.function)(self._bound_to, *args, **kwargs)
        return cast("Callable[..., R]", self.function)(*args, **kwargs)

    def _copy(self, **changed: object) -> Self:
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__, **changed)
        twin.__dict__.pop("signature", None)
        return twin

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self: Definition[Concatenate[S, Q], U], instance: S, owner: type) -> Definition[Q, U]: ...

    def __get__(self, instance: object, owner: type) -> Any:
        """Bind a definition that is declared inside a class to an instance; the instance itself is not recorded."""
        if instance is None:
            return self
        if self.kind == "transaction":
            raise DefinitionError(
                f"@transaction {self.function.__qualname__} cannot be called on an instance: its first parameter is "
                "the connection. Declare it outside of the class and pass what it needs as arguments"
            )
        return self._copy(_bound_to=instance, _is_bound=True)

    def __repr__(self) -> str:
        """Name the kind and the stable name."""
        return f"<{self.kind} {self.name!r}>"


class Step(Definition[P, R]):
    """A function whose result is recorded once. Made by `step`."""

    kind = "step"

    def __init__(self, function: Callable[P, R], name: str | None, options: StepOptions) -> None:
        super().__init__(function, name)
        self.step_options = options
        #: Whether attempts execute on an event loop: asked for every attempt, hence kept.
        self.on_loop = self.is_async and options.isolate is None
        if options.isolate is not None:
            _check_isolated(self, bound=False)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self: Step[Concatenate[S, Q], U], instance: S, owner: type) -> Step[Q, U]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        """Bind a step that is declared inside a class to an instance; the instance itself is not recorded."""
        if instance is not None and self.step_options.isolate is not None:
            _check_isolated(self, bound=True)
        return super().__get__(instance, owner)

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        deadline: float | timedelta | None = None,
        delivery: Delivery | None = None,
        isolate: Isolation | None = None,
        limit: Limit | None = None,
    ) -> Self:
        """Return the same step with other options for one call: ``await charge.options(timeout=5)(order)``.

        Options that are not given stay as declared; see `step` for their meaning and the errors.
        """
        twin = self._copy()
        old = self.step_options
        given = step_options(
            retry,
            timeout,
            deadline,
            old.delivery if delivery is None else delivery,
            old.isolate if isolate is None else isolate,
            limit,
        )
        twin.step_options = replace(
            old,
            retry=old.retry if retry is None else given.retry,
            timeout_seconds=old.timeout_seconds if timeout is None else given.timeout_seconds,
            deadline_seconds=old.deadline_seconds if deadline is None else given.deadline_seconds,
            delivery=given.delivery,
            isolate=given.isolate,
            limit=old.limit if limit is None else limit,
        )
        if given.isolate is not None:
            twin.on_loop = False
            _check_isolated(twin, bound=self._is_bound)
        return twin


class Transaction(Step[P, R]):
    """A step whose writes to the user's own tables commit together with its journal entry. Made by `transaction`."""

    kind = "transaction"

    def __init__(self, function: Callable[P, R], name: str | None, options: StepOptions) -> None:
        super().__init__(function, name, options)
        if self.is_async:
            raise DefinitionError(
                f"@transaction {function.__qualname__}: a transaction is a plain `def`, because it runs inside one "
                "database transaction and must not wait; do the waiting in a step and pass the result in"
            )

    @functools.cached_property
    def signature(self) -> Signature:
        """The parameters without the connection, which the engine passes in, and the return type."""
        return Signature.of(self.function, skip_first=True)


def _check_isolated(definition: Step[..., Any], *, bound: bool) -> None:
    """Raise `DefinitionError` where a child process could not find the function by its module and name."""
    what = f"@step(isolate='process') {definition.name!r}"
    if definition.kind == "transaction":
        raise DefinitionError(f"{what}: a transaction needs the engine's own connection, so it cannot be isolated")
    if bound:
        raise DefinitionError(
            f"{what} cannot be called on an instance, which another process does not have: make it a function, or a "
            "@staticmethod, and pass what it needs as arguments"
        )
    function = definition.function
    qualname = getattr(function, "__qualname__", "")
    if not qualname or "<" in qualname:  # <locals>, <lambda>
        raise DefinitionError(
            f"{what}: a child process imports a step by its name, and cannot import {qualname or function!r}. Declare "
            "it with `def` at the top level of a module"
        )


class Workflow(Definition[P, R]):
    """A function whose progress is durable. Made by `workflow`; started by an engine, or called by another workflow."""

    kind = "workflow"

    def __init__(self, function: Callable[P, R], name: str | None, fail_on: object = ()) -> None:
        super().__init__(function, name)
        #: Classes of exceptions that fail a run where they would halt it; see `stepwell.code_errors`.
        self.fail_on = _exceptions(fail_on)

    @property
    def is_named_only(self) -> bool:
        """Whether it stands for a workflow whose code is elsewhere; see `workflow_named`."""
        return self.function is _elsewhere


async def _elsewhere(*_args: Any, **_kwargs: Any) -> Any:
    """Stand for the function of a workflow of which a program knows nothing but the name."""
    raise DefinitionError("a workflow that is known by its name only can be started, but not called here")


def workflow_named(name: str) -> Workflow[..., Any]:
    """Return what stands for the workflow of this name, whether this process has it or not.

    It takes any arguments, which are checked where the run is executed, and its results are plain JSON data. Raises
    `InvalidArgument` for what is no name.
    """
    return Workflow(_elsewhere, name)


def _exceptions(fail_on: object) -> tuple[type[Exception], ...]:
    """Return the classes that `fail_on` names, one or a tuple of them as for ``except``; raises `InvalidArgument`."""
    classes = cast("tuple[object, ...]", fail_on) if isinstance(fail_on, tuple) else (fail_on,)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise InvalidArgument(
                f"fail_on must be an exception class, derived from Exception, or a tuple of such, not {fail_on!r}"
            )
    return cast("tuple[type[Exception], ...]", classes)


def is_workflow(value: object) -> TypeGuard[Workflow[..., Any]]:
    """Tell whether `value` is what `workflow` makes."""
    return isinstance(value, Workflow)


def is_durable(value: object) -> TypeGuard[Step[..., Any] | Workflow[..., Any]]:
    """Tell whether `value` is a step, a transaction or a workflow: what a run calls durably."""
    return isinstance(value, (Step, Workflow))


def step_options(
    retry: Retry | None,
    timeout: float | timedelta | None,
    deadline: float | timedelta | None,
    delivery: Delivery,
    isolate: Isolation | None = None,
    limit: Limit | None = None,
) -> StepOptions:
    """Check the options as users write them and return them in one value."""
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidArgument(f"retry must be a Retry(...), not {retry!r}")
    if delivery not in ("at-least-once", "at-most-once"):
        raise InvalidArgument(f"delivery must be 'at-least-once' or 'at-most-once', not {delivery!r}")
    if isolate not in (None, "process"):
        raise InvalidArgument(f"isolate must be 'process' or None, not {isolate!r}")
    if limit is not None and not isinstance(limit, Limit):
        raise InvalidArgument(f"limit must be a Limit(...), not {limit!r}")
    return StepOptions(
        retry=retry or NO_RETRY,
        timeout_seconds=None if timeout is None else _positive(timeout, "timeout of a step"),
        deadline_seconds=None if deadline is None else _positive(deadline, "deadline of a step"),
        delivery=delivery,
        isolate=isolate,
        limit=limit,
    )


def _positive(duration: float | timedelta, what: str) -> float:
    seconds = to_seconds(duration, what)
    if seconds == 0:
        raise InvalidArgument(f"{what} must be more than 0")
    return seconds


def _is_function(thing: object) -> bool:
    return callable(thing) and not isinstance(thing, type)


def _has_name(function: Callable[..., Any]) -> bool:
    return not getattr(function, "__qualname__", "<lambda>").endswith("<lambda>")


def stable_name(function: Callable[..., Any]) -> str:
    """Return ``module.qualname``; for a script run as ``__main__`` the module name that importing it would give."""
    module = getattr(function, "__module__", None) or "unknown"
    if module in ("__main__", MAIN_IN_A_CHILD):
        module = _importable_main_name(module)
    return f"{module}.{function.__qualname__}"


def _importable_main_name(module: str) -> str:
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:  # python -m package.module
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return Path(path).stem if path else "__main__"


_registry: Final[dict[str, Workflow[..., Any]]] = {}


def registered_workflows() -> Mapping[str, Workflow[..., Any]]:
    """Return a live view of the workflows that this process has defined, by name; the latest of a name counts."""
    return MappingProxyType(_registry)


# An async function's call returns Coroutine[Any, Any, T]; the overloads need nothing more, since R stands for it.


@overload
def workflow(function: Callable[P, R], /) -> Workflow[P, R]: ...


@overload
def workflow(
    *, name: str | None = None, fail_on: type[Exception] | tuple[type[Exception], ...] = ()
) -> Callable[[Callable[P, R]], Workflow[P, R]]: ...


def workflow(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    fail_on: type[Exception] | tuple[type[Exception], ...] = (),
) -> Any:
    """Declare a workflow, from ``async def`` or ``def``.

    - `name` fixes what the file stores; without it, ``module.qualname`` (so moving the function would strand its runs).
    - `fail_on`: an exception class, or a tuple of them. What Python raises because the code is wrong (`NameError`, a
      `KeyError` that nobody raised, …) halts a run, so that it goes on when the code is mended; these fail it instead.

    Raises `DefinitionError` for what is no function, and `InvalidArgument` for an unusable name or `fail_on`.
    """

    def declare(found: Callable[P, R]) -> Workflow[P, R]:
        declared = Workflow(found, name, fail_on)
        _registry[declared.name] = declared
        return declared

    return declare if function is None else declare(function)


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...


@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: float | timedelta | None = None,
    deadline: float | timedelta | None = None,
    delivery: Delivery = "at-least-once",
    isolate: Isolation | None = None,
    limit: Limit | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]: ...


def step(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: float | timedelta | None = None,
    deadline: float | timedelta | None = None,
    delivery: Delivery = "at-least-once",
    isolate: Isolation | None = None,
    limit: Limit | None = None,
) -> Any:
    """Declare a step: a function that does I/O, or anything else that must not be repeated, inside workflows.

    - `name`: what the file stores; without it, ``module.qualname``.
    - `retry`: when to try again; without it, one attempt.
    - `timeout`: seconds, or a timedelta, for one attempt; `deadline`: for all attempts with the delays between them.
      Where time is up an async step is cancelled; a sync one cannot be stopped, and its late result is ignored, unless
      it is isolated.
    - `delivery`: ``"at-most-once"`` records the intent first and raises `StepInterrupted` after a crash rather than
      repeat.
    - `isolate`: ``"process"`` executes it in a child process, on a core of its own: a timeout or a cancel ends it for
      real, and a crash (`StepProcessDied`) is no more than a failed attempt. Arguments and result cross over as JSON.
      Only for functions that can be imported by name.
    - `limit`: a `Limit`; an attempt starts only with a permit of it. While it waits for one the run is ``waiting``, and
      neither `timeout` nor `deadline` counts.

    Raises `DefinitionError` for what is no function, or cannot be isolated, and `InvalidArgument` for unusable options.
    """
    options = step_options(retry, timeout, deadline, delivery, isolate, limit)

    def declare(found: Callable[P, R]) -> Step[P, R]:
        return Step(found, name, options)

    return declare if function is None else declare(function)


@overload
def transaction(function: Callable[Concatenate[Any, P], R], /) -> Transaction[P, R]: ...


@overload
def transaction(
    *, name: str | None = None, retry: Retry | None = None
) -> Callable[[Callable[Concatenate[Any, P], R]], Transaction[P, R]]: ...


def transaction(
    function: Callable[Concatenate[Any, P], R] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
) -> Any:
    """Declare a transactional step: a plain function whose first parameter is the open connection.

    Its writes to the user's own tables and its journal entry commit together, so they happen exactly once. An exception
    rolls its writes back. It holds up every other writer while it runs: keep it to SQL. `name` and `retry` as in
    `step`.
    """
    options = step_options(retry, None, None, "at-least-once")

    def declare(found: Callable[Concatenate[Any, P], R]) -> Transaction[P, R]:
        return Transaction(cast("Callable[P, R]", found), name, options)

    return declare if function is None else declare(function)
