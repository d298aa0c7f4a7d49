"""Workflows, steps and transactions as inert objects: a function, a stable name, and options.

`definitions.decorators` makes them. Called outside a run, a definition is its function; called inside one, it asks the
run (found through the running event loop) to make the call durable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeGuard, TypeVar, cast, overload
from weakref import WeakValueDictionary

import msgspec

from stepwell.definitions.durable import Definition, as_definition
from stepwell.definitions.namesakes import check_workflow
from stepwell.definitions.queues import Limit
from stepwell.definitions.step_options import Delivery, Isolation, StepOptions, step_options
from stepwell.errors import DefinitionError, InvalidArgument
from stepwell.model.retry import Retry
from stepwell.shown import shown

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
# Of a method before it is bound; the class's own P and R would stand for the bound one.
Q = ParamSpec("Q")
U = TypeVar("U")


class Step(Definition[P, R]):
    """A function whose result is recorded once. Made by `step`."""

    __slots__ = ("is_ready", "on_loop", "step_options")

    kind = "step"

    def __init__(self, function: Callable[P, R], name: str | None, options: StepOptions) -> None:
        super().__init__(function, name)
        self._set_options(options)

    def _set_options(self, options: StepOptions) -> None:
        self.step_options = options
        #: Whether attempts execute on an event loop: asked for every attempt, hence kept.
        self.on_loop = self.is_async and options.isolate is None
        #: Whether an attempt can begin with nothing written before: no permit, intent, summary, transaction. Kept as
        #: well.
        self.is_ready = (
            self.kind == "step"
            and options.limit is None
            and options.delivery == "at-least-once"
            and options.summary is None
        )
        if options.isolate is not None:
            _check_isolated(self)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self: Step[Concatenate[S, Q], U], instance: S, owner: type) -> Step[Q, U]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind a step that is declared inside a class to an instance; the instance itself is not recorded."""
        return super().__get__(instance, cast("type", owner))

    def _bound(self, target: object) -> Self:
        bound = super()._bound(target)
        if self.step_options.isolate is not None:
            _check_isolated(bound)
        return bound

    def _copy(self) -> Self:
        twin = super()._copy()
        twin.step_options, twin.on_loop, twin.is_ready = self.step_options, self.on_loop, self.is_ready
        return twin

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        deadline: float | timedelta | None = None,
        delivery: Delivery | None = None,
        isolate: Isolation | None = None,
        limit: Limit | None = None,
        summary: str | None = None,
        heartbeat_timeout: float | timedelta | None = None,
    ) -> Self:
        """Return the same step with other options for one call: ``await charge.options(timeout=5)(order)``.

        Options that are not given stay as declared; see `step` for their meaning and the errors. `summary`: a line for
        people, shown with the call in the journal while it executes and after that.
        """
        old = self.step_options
        given = step_options(
            retry,
            timeout,
            deadline,
            old.delivery if delivery is None else delivery,
            old.isolate if isolate is None else isolate,
            limit,
            summary,
            heartbeat_timeout,
        )
        changed = msgspec.structs.replace(
            old,
            retry=old.retry if retry is None else given.retry,
            timeout_seconds=old.timeout_seconds if timeout is None else given.timeout_seconds,
            deadline_seconds=old.deadline_seconds if deadline is None else given.deadline_seconds,
            delivery=given.delivery,
            isolate=given.isolate,
            limit=old.limit if limit is None else limit,
            summary=old.summary if summary is None else given.summary,
            heartbeat_seconds=old.heartbeat_seconds if heartbeat_timeout is None else given.heartbeat_seconds,
        )
        return self.configured(changed)

    def configured(self, options: StepOptions) -> Self:
        """Return the same step with these options, all of them."""
        twin = self._copy()
        twin._set_options(options)
        return twin

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle it by its name, as functions are, and with its options where they are not those of the declaration."""
        declared: Step[P, R] = self.unconfigured()
        if self.step_options is declared.step_options:
            return super().__reduce__()
        return _configured, (declared, self.step_options)


def _configured(declared: Step[..., Any], options: StepOptions) -> Step[..., Any]:
    """Make a step with other options than it was declared with, out of a pickle."""
    return declared.configured(options)


class Transaction(Step[P, R]):
    """A step whose writes to the user's own tables commit together with its journal entry. Made by `transaction`."""

    __slots__ = ()

    kind = "transaction"

    def __init__(self, function: Callable[P, R], name: str | None, options: StepOptions) -> None:
        super().__init__(function, name, options)
        if self.is_async:
            raise DefinitionError(
                f"@transaction {self.__qualname__}: a transaction is a plain `def`, because it runs inside one "
                "database transaction and must not wait; do the waiting in a step and pass the result in"
            )
        if self._binding == "class":
            raise self.not_a_method()


def _check_isolated(definition: Step[..., Any]) -> None:
    """Raise `DefinitionError` where a child process could not find the function by its module and name."""
    what = f"@step(isolate='process') {definition.name!r}"
    if definition.kind == "transaction":
        raise DefinitionError(f"{what}: a transaction needs the engine's own connection, so it cannot be isolated")
    if definition.is_bound and not definition.is_of_its_class:
        raise DefinitionError(
            f"{what} cannot be called on an instance, or on a class that inherits it, which another process does not "
            "have: make it a function, a @staticmethod, or a @classmethod of the class itself, and pass what it needs "
            "as arguments"
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

    __slots__ = ("fail_on", "max_journal_entries", "on_failure", "version")

    kind = "workflow"

    def __init__(
        self,
        function: Callable[P, R],
        name: str | None,
        fail_on: object = (),
        max_journal_entries: int | None = None,
        on_failure: object = None,
        version: int | None = None,
    ) -> None:
        super().__init__(function, name)
        #: Which code of the workflow it is; None where its author does not count them.
        self.version = _whole_number(version, "version of a workflow")
        #: Classes of exceptions that fail a run where they would halt it; see `stepwell.replay.code_errors`.
        self.fail_on = _exceptions(fail_on)
        #: How long the journals of its runs may become; None: as long as the engine says.
        self.max_journal_entries = _whole_number(max_journal_entries, "max_journal_entries of a workflow")
        #: What is started where a run of it fails or is halted; None: what the engine has for that.
        self.on_failure = failure_workflow(on_failure, "on_failure of a workflow")

    def _copy(self) -> Self:
        twin = super()._copy()
        twin.fail_on, twin.max_journal_entries = self.fail_on, self.max_journal_entries
        twin.on_failure = self.on_failure
        twin.version = self.version
        return twin

    @property
    def is_named_only(self) -> bool:
        """Whether it stands for a workflow whose code is elsewhere; see `workflow_named`."""
        return self.function is _elsewhere


def failure_workflow(given: object, what: str) -> Workflow[..., Any] | None:
    """Return the workflow that is to be told of failures, or None; raises `InvalidArgument` for what can be none."""
    if given is None:
        return None
    found = as_definition(given)
    if not is_workflow(found):
        raise InvalidArgument(f"{what} must be a @workflow that takes a FailedRun, not {shown(given)}")
    try:
        found.signature.bind_check((given,), {})
    except DefinitionError as error:
        raise InvalidArgument(f"{what} must be a @workflow that takes one argument, a FailedRun: {error}") from None
    return found


async def _elsewhere(*_args: Any, **_kwargs: Any) -> Any:
    """Stand for the function of a workflow of which a program knows nothing but the name."""
    raise DefinitionError("a workflow that is known by its name only can be started, but not called here")


def workflow_named(name: str) -> Workflow[..., Any]:
    """Return what stands for the workflow of this name, whether this process has it or not.

    It takes any arguments, which are checked where the run is executed, and its results are plain JSON data. Raises
    `InvalidArgument` for what is no name.
    """
    return Workflow(_elsewhere, name)


class Versioned(Mapping[str, Workflow[..., Any]]):
    """Workflows by name, each in its highest version; and those that are there in other versions as well."""

    def in_version(self, name: str, version: int) -> Workflow[..., Any] | None:
        """Return the workflow of this name in this version, or None."""
        raise NotImplementedError

    def versions(self) -> frozenset[tuple[str, int]]:
        """Return the names and versions of all that have one."""
        raise NotImplementedError

    def fitting(self, name: str, version: int | None) -> Workflow[..., Any] | None:
        """Return the workflow for a run that began with a version: in that, else in the highest; or None."""
        found = self.get(name)
        if found is None or version is None or found.version == version:
            return found
        return self.in_version(name, version) or found


def _exceptions(fail_on: object) -> tuple[type[Exception], ...]:
    """Return the classes that `fail_on` names, one or a tuple of them as for ``except``; raises `InvalidArgument`."""
    classes = cast("tuple[object, ...]", fail_on) if isinstance(fail_on, tuple) else (fail_on,)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise InvalidArgument(
                f"fail_on must be an exception class, derived from Exception, or a tuple of such, not {shown(fail_on)}"
            )
    return cast("tuple[type[Exception], ...]", classes)


def _whole_number(given: object, what: str) -> int | None:
    """Return a whole number of at least 1, or None; raises `InvalidArgument`."""
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InvalidArgument(f"{what} must be a whole number of at least 1, or None, not {shown(given)}")
    return given


def is_workflow(value: object) -> TypeGuard[Workflow[..., Any]]:
    """Tell whether `value` is what `workflow` makes."""
    return isinstance(value, Workflow)


def how_to_make_it_a_workflow(value: object) -> str:
    """Return what to do with an object that should have been a workflow."""
    inner: Any = value
    while not is_workflow(inner):
        if isinstance(inner, functools.partial):
            inner = inner.func
            if is_workflow(inner):
                return "pass the arguments of the partial to start() itself"
        elif hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        else:
            return "decorate the function with @workflow"
    return f"a decorator above @workflow made it a plain function again: put @workflow on top (it wraps {inner!r})"


def is_step(value: object) -> TypeGuard[Step[..., Any]]:
    """Tell whether `value` is what `step` or `transaction` makes."""
    return isinstance(value, Step)


def refuse_named(workflow: object, named: Mapping[str, object]) -> None:
    """Raise `DefinitionError` (a `TypeError`) for keyword arguments of a start that are none of its options."""
    if named:
        arguments = ", ".join(f"{name!r}: …" for name in named)
        name = workflow if isinstance(workflow, str) else getattr(workflow, "__name__", "workflow")
        raise DefinitionError(
            f"start() has no option {', '.join(named)}. What the workflow itself takes goes by position, or by name in "
            f"kwargs=: start({name}, kwargs={{{arguments}}})"
        )


def checked_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments that a start passes by name; raises `InvalidArgument` for what is no mapping."""
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        raise InvalidArgument(f"kwargs must be a mapping of names to values, {{'name': value}}, not {shown(kwargs)}")
    return dict(kwargs)


def is_durable(value: object) -> TypeGuard[Step[..., Any] | Workflow[..., Any]]:
    """Tell whether `value` is a step, a transaction or a workflow: what a run calls durably."""
    return isinstance(value, (Step, Workflow))


#: The steps that live, by name; of several with one name the one that was declared last. See `definitions.jobs`.
STEPS: Final[WeakValueDictionary[str, Step[..., Any]]] = WeakValueDictionary()
#: How the names begin of what stands for steps that are started by themselves.
JOB_PREFIX: Final = "step:"

_registry: Final[dict[str, Workflow[..., Any]]] = {}
#: Those with a version, by name and version; the registry has the highest of each.
_versions: Final[dict[str, dict[int, Workflow[..., Any]]]] = {}


def enter(declared: Workflow[..., Any]) -> None:
    """Enter a workflow in the registry, under its name and version; raises `DefinitionError` where another has them."""
    version = declared.version
    if version is None:
        check_workflow(_registry, declared)
    else:
        versions = _versions.setdefault(declared.name, {})
        check_workflow({declared.name: versions.get(version)}, declared)
        versions[version] = declared
        latest = _registry.get(declared.name)
        if latest is not None and (latest.version or 0) > version:
            return
    _registry[declared.name] = declared


class _Registered(Versioned):
    """A live view of the registry, with what is executed under each name."""

    def in_version(self, name: str, version: int) -> Workflow[..., Any] | None:
        found = _versions.get(name, {}).get(version)
        return None if found is None else found.resolved()

    def versions(self) -> frozenset[tuple[str, int]]:
        return frozenset((name, version) for name, found in list(_versions.items()) for version in list(found))

    def __getitem__(self, name: str) -> Workflow[..., Any]:
        return _registry[name].resolved()

    def __contains__(self, name: object) -> bool:
        return name in _registry

    def __iter__(self) -> Iterator[str]:
        return iter(_registry)

    def __len__(self) -> int:
        return len(_registry)


def registered_workflows() -> Versioned:
    """Return a live view of the workflows that this process has defined, by name.

    What is declared again counts as it was declared last; see `stepwell.definitions.namesakes`.
    """
    return _Registered()
