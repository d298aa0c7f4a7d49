"""How code that no longer fits its journal is described: what was recorded, and what the code does in place of it."""

from __future__ import annotations

import reprlib
from typing import Any, NamedTuple

from stepwell.errors import DeterminismError, RunHalted, SerializationError
from stepwell.model.journal import Entry
from stepwell.replay.kinds import Kinds
from stepwell.replay.operation import Operation
from stepwell.values.added_fields import is_recorded, what_is_new
from stepwell.values.signature import Signature


class Given(NamedTuple):
    """What an operation was called with, and what takes it: what its fingerprint was made of."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    signature: Signature | None = None


def difference(recorded: Entry, operation: Operation, given: Given | None, kinds: Kinds) -> str | None:
    """Return what the code does in place of what was recorded for the operation of this number; None where it fits.

    Arguments that differ in nothing but fields and parameters which the code has got since do fit.
    """
    kind = kinds.of_entry(recorded.kind)
    has_name = kind.name == operation.kind and recorded.name == operation.name
    if has_name and recorded.fingerprint == operation.fingerprint:
        return None
    actual = kinds.describe(operation.kind, operation.name, operation.fingerprint)
    if not has_name or given is None:
        return actual
    if is_recorded(recorded.fingerprint, *given):
        return None
    if kind.shows_arguments:
        actual += f": {_shown(given)}"
    new = what_is_new(recorded.fingerprint, *given)
    return actual if new is None else f"{actual} ({new})"


def divergence(
    recorded: Entry, actual: str, kinds: Kinds, *, run: str, workflow: str, location: str
) -> DeterminismError:
    """Make the error for a run whose code does `actual` at `location`, where its journal has something else."""
    expected = kinds.describe(kinds.of_entry(recorded.kind).name, recorded.name, recorded.fingerprint)
    return DeterminismError(
        f"run {run!r} of workflow {workflow!r} no longer does what its journal recorded\n"
        f"  operation: {recorded.op}\n"
        f"  expected:  {expected}\n"
        f"  actual:    {actual}\n"
        f"  at:        {location}\n"
        "Nothing was executed and nothing is lost. Restore the recorded order of operations in the code (guard "
        "additions with `if patched(name):`), then resume the run or restart the engine.",
        expected=expected,
        actual=actual,
        location=location,
        operation=recorded.op,
    )


def unreadable(recorded: Entry, error: SerializationError, kinds: Kinds, *, run: str, location: str) -> RunHalted:
    """Make the error for a run whose code, which waits at `location`, cannot be given what was recorded."""
    at = f"\n  at:        {location}\n" if location else " "
    return RunHalted(f"run {run!r}: {error}.{at}{kinds.advice(recorded.kind)}")


def _shown(given: Given) -> str:
    return reprlib.repr((*given.args, *(f"{name}={value!r}" for name, value in given.kwargs.items())))
