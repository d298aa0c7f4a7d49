"""`continue_as_new`: the run goes on with its code from the beginning, other input and an empty journal.

It is an exception and no operation, so that what it leaves is left as by any exception: ``finally`` blocks are
executed, tasks of a `TaskGroup` are cancelled and waited for. The chapter is over when the code is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from stepwell.definitions.definition import checked_kwargs
from stepwell.operations.calling_run import calling_run
from stepwell.replay.operation import ContinuedAsNew


def continue_as_new(*args: Any, kwargs: Mapping[str, Any] | None = None) -> NoReturn:
    """End this chapter of the run, and begin another one: the same workflow, with `args` (and `kwargs`) as its input.

    The run keeps its id, its handles, its deadline and its slot in a queue. Unread messages are there for the next
    chapter, keys of messages stay known, children go on, published values stay. The journal is empty again. Steps that
    are under way are given up, as at the end of a run.

    It raises an exception that is a `BaseException`, not an `Exception`: call it where the workflow would return, and
    do not catch it. Raises `DefinitionError` for arguments that do not fit the workflow, `SerializationError` for
    arguments that cannot be recorded.
    """
    run = calling_run("continue_as_new()")
    workflow, named = run.definition, checked_kwargs(kwargs)
    workflow.signature.bind_check(args, named)
    where = f"the input with which run {run.run_id!r} of workflow {workflow.name!r} goes on as new"
    payload, _ = run.codec.seal_input(args, named, workflow.signature, where, is_typed=True, is_checked=True)
    raise ContinuedAsNew(payload)
