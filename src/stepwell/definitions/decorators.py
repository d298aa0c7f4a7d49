"""The decorators: they make a definition of a function, and enter it in the registry under its name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from stepwell.definitions.definition import JOB_PREFIX, STEPS, Step, Transaction, Workflow, enter
from stepwell.definitions.queues import Limit
from stepwell.definitions.step_options import Delivery, Isolation, step_options
from stepwell.errors import DefinitionError
from stepwell.model.failed_run import FailedRun
from stepwell.model.retry import Retry
from stepwell.values.own_tables import Connection

P = ParamSpec("P")
R = TypeVar("R")

# An async function's call returns Coroutine[Any, Any, T]; the overloads need nothing more, since R stands for it.


@overload
def workflow(function: Callable[P, R], /) -> Workflow[P, R]: ...


@overload
def workflow(
    *,
    name: str | None = None,
    fail_on: type[Exception] | tuple[type[Exception], ...] = (),
    max_journal_entries: int | None = None,
    on_failure: Callable[[FailedRun], Any] | None = None,
    version: int | None = None,
) -> Callable[[Callable[P, R]], Workflow[P, R]]: ...


def workflow(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    fail_on: type[Exception] | tuple[type[Exception], ...] = (),
    max_journal_entries: int | None = None,
    on_failure: Callable[[FailedRun], Any] | None = None,
    version: int | None = None,
) -> Any:
    """Declare a workflow, from ``async def`` or ``def``.

    - `name` fixes what the file stores; without it, ``module.qualname`` (so moving the function would strand its runs).
    - `fail_on`: an exception class, or a tuple of them. What Python raises because the code is wrong (`NameError`, a
      `KeyError` that nobody raised, …) halts a run, so that it goes on when the code is mended; these classes fail it
      instead.
    - `max_journal_entries`: at how many entries of its journal a run is halted (`JournalTooLong`), instead of the
      engine's limit.
    - `on_failure`: a workflow that is started with a `FailedRun` when a run of this one fails or is halted, in the
      commit that records the failure; instead of the engine's. Its own runs, and runs that they start, have none.
    - `version`: the number of this version of the workflow's code. A run keeps the version that it began with as long
      as a worker has it; otherwise it goes on with another one, if its journal fits. Several versions of one workflow
      are several functions with the same `name`; new runs begin with the highest.

    Raises `DefinitionError` if it is not a function, or has the name of another workflow, and `InvalidArgument` for an
    unusable option.
    """

    def declare(found: Callable[P, R]) -> Workflow[P, R]:
        declared = Workflow(found, name, fail_on, max_journal_entries, on_failure, version)
        if declared.name.startswith(JOB_PREFIX):
            raise DefinitionError(f"a workflow cannot be called {declared.name!r}: so are steps that are started")
        enter(declared)
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
    heartbeat_timeout: float | timedelta | None = None,
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
    heartbeat_timeout: float | timedelta | None = None,
) -> Any:
    """Declare a step: a function that does I/O, or anything else that must not be repeated, inside workflows.

    - `name`: what the file stores; without it, ``module.qualname``.
    - `retry`: when to try again; without it, one attempt.
    - `timeout`: seconds, or a timedelta, for one attempt; `deadline`: for all attempts with the delays between them.
      When time is up, an async step is cancelled. A ``def`` step cannot be stopped unless it is isolated; its late
      result is ignored.
    - `delivery`: ``"at-most-once"`` records the intent first and raises `StepInterrupted` after a crash rather than
      repeat.
    - `isolate`: ``"process"`` executes it in a child process, on a core of its own: a timeout or a cancel ends it for
      real, and a crash (`StepProcessDied`) is no more than a failed attempt. Arguments and result cross over as JSON.
      Only for functions that can be imported by name.
    - `limit`: a `Limit`; an attempt starts only with a permit of it. While it waits for one the run is ``waiting``, and
      neither `timeout` nor `deadline` counts.
    - `heartbeat_timeout`: seconds, or a timedelta. An attempt must give a sign of life within this time, again and
      again: ``current().progress(…)``, an item of a stream, a published value. Else it is given up as by `timeout`.

    Raises `DefinitionError` if it is not a function, or cannot be isolated, and `InvalidArgument` for unusable options.
    """
    options = step_options(retry, timeout, deadline, delivery, isolate, limit, None, heartbeat_timeout)

    def declare(found: Callable[P, R]) -> Step[P, R]:
        declared = Step(found, name, options)
        STEPS[declared.name] = declared
        return declared

    return declare if function is None else declare(function)


@overload
def transaction(function: Callable[Concatenate[Connection, P], R], /) -> Transaction[P, R]: ...


@overload
def transaction(
    *, name: str | None = None, retry: Retry | None = None
) -> Callable[[Callable[Concatenate[Connection, P], R]], Transaction[P, R]]: ...


def transaction(
    function: Callable[Concatenate[Connection, P], R] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
) -> Any:
    """Declare a transactional step: a plain function whose first parameter is the open `Connection`.

    Its writes to the user's own tables and its journal entry commit together, so they happen exactly once. An exception
    rolls its writes back. It blocks every other writer while it runs: let it do nothing but SQL. `name` and `retry` as
    in `step`.
    """
    options = step_options(retry, None, None, "at-least-once")

    def declare(found: Callable[Concatenate[Connection, P], R]) -> Transaction[P, R]:
        declared = Transaction(cast("Callable[P, R]", found), name, options)
        STEPS[declared.name] = declared
        return declared

    return declare if function is None else declare(function)
