"""Which exception of a workflow's code is a mistake in the code, and which one the author meant.

A run that its author lets fail has failed. A run whose code broke (a name is not defined, an argument is missing, a key
is not there) is halted: its code gets mended, and it goes on. ADR 0033 says why the line is drawn here:

- What was delivered from the journal (a step or a child failed, a message could not be sent) is never a mistake.
- Nor is what a ``raise`` of the author's, or of an installed library, raised; but for `AssertionError` and
  `NotImplementedError`, which say themselves that the code is wrong.
- What Python, its standard library or Stepwell raised without being told to is one, if it is of a built-in class that
  is not about the world outside (`OSError`, and with it `TimeoutError`), or of a class of Stepwell's.
- A group is one if one of its members is: to mend that one is needed anyway.

Where an exception was raised is the innermost entry of its traceback. Looked at once, when a run ends with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import FrozenInstanceError
from types import CodeType, TracebackType
from typing import Any, Final, cast

from stepwell.errors import StepwellError, WorkflowCodeError
from stepwell.package import ROOT
from stepwell.replay.source_location import is_of_python, raised_at
from stepwell.values.failure import described
from stepwell.values.plain import imported_class, name_of

#: Their meaning is that the code is wrong, or not written yet, whoever raises them.
_ALWAYS: Final = (AssertionError, NotImplementedError, FrozenInstanceError)
#: What is about the code also where it is of a class that a library derived.
_ABOUT_CODE: Final = (NameError, TypeError, AttributeError, ImportError, SyntaxError)
#: What is about the world outside, or was asked for: the end of `asyncio.timeout`.
_ABOUT_THE_WORLD: Final = (OSError,)


def mistake_in(
    error: BaseException, fail_on: tuple[type[Exception], ...], delivery: Collection[CodeType]
) -> BaseException | None:
    """Return the exception that shows a mistake in the code: `error`, or a member of that group; None where none does.

    `fail_on` are classes that are meant in this workflow, `delivery` the code in which what was recorded is raised.
    """
    if not isinstance(error, (Exception, BaseExceptionGroup)) or isinstance(error, fail_on):
        return None
    origin = _innermost(error.__traceback__)
    if origin is not None and origin.tb_frame.f_code in delivery:
        return None
    if isinstance(error, BaseExceptionGroup):
        found = (mistake_in(member, fail_on, delivery) for member in _members_of(error))
        return next((mistake for mistake in found if mistake is not None), None)
    if isinstance(error, _ALWAYS):
        return error
    if origin is None or not _is_of_python(origin):
        return None
    if isinstance(error, (StepwellError, *_ABOUT_CODE)):
        return error
    is_built_in = type(error).__module__ == "builtins"
    return error if is_built_in and not isinstance(error, _ABOUT_THE_WORLD) else None


def halted_by(mistake: BaseException, error: BaseException, *, run: str, workflow: str) -> WorkflowCodeError:
    """Make the reason for which a run is halted whose code ended with `error`, because of a `mistake` in it."""
    within = "" if mistake is error else f", within {described(error)}"
    name = type(mistake).__name__
    reason = WorkflowCodeError(
        f"{name_of(type(mistake))}{described(mistake).removeprefix(name)}\n"  # `as_raised` reads the first line
        f"  at:        {raised_at(mistake)}{within}\n{_notes(mistake)}"
        f"That is taken for a mistake in the code, so run {run!r} of {workflow!r} is halted, not failed; its steps are "
        f"recorded. Mend the code, then resume the run or restart the engine.{_otherwise(mistake)}",
        type_name=name,
    )
    reason.__cause__ = error
    return reason


def _otherwise(mistake: BaseException) -> str:
    """Say how to have a run fail with such an error; of one of Stepwell's own, that would only lose the run."""
    if isinstance(mistake, StepwellError):
        return ""
    kind = type(mistake).__name__
    return f" If it is an error like any other, raise it yourself, or declare @workflow(fail_on={kind})."


def as_raised(message: str) -> WorkflowCodeError:
    """Return the reason of a halted run as an exception that is of the mistake's own class, too, where that can be."""
    kind: type[BaseException] | None = imported_class(message.partition("\n")[0].partition(":")[0], Exception)
    if kind is None:
        return WorkflowCodeError(message)
    try:
        # It goes by the name of a class of Stepwell's, which says more: `WorkflowIOError`.
        name = kind.__name__ if issubclass(kind, StepwellError) else WorkflowCodeError.__name__
        both: Any = type(name, (WorkflowCodeError, kind), {"__module__": WorkflowCodeError.__module__})
        akin: WorkflowCodeError = both.__new__(both, message)
        WorkflowCodeError.__init__(akin, message, type_name=kind.__name__)
    except TypeError:  # two classes that lay out their objects differently
        return WorkflowCodeError(message, type_name=kind.__name__)
    return akin


def _notes(mistake: BaseException) -> str:
    notes: list[Any] = getattr(mistake, "__notes__", [])
    return "".join(f"{note}\n" for note in notes)


def _members_of(group: Any) -> tuple[BaseException, ...]:
    return cast("tuple[BaseException, ...]", group.exceptions)


def _innermost(entry: TracebackType | None) -> TracebackType | None:
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return entry


def _is_of_python(origin: TracebackType) -> bool:
    """Tell whether the interpreter, a built-in, the standard library or Stepwell raised what was raised there."""
    code = origin.tb_frame.f_code
    filename = code.co_filename
    if filename.startswith(ROOT) or is_of_python(filename):
        return True
    return not _is_raise_statement(code, origin.tb_lasti)


def _is_raise_statement(code: CodeType, instruction: int) -> bool:
    from opcode import opmap  # noqa: PLC0415 - rarely needed, and takes time to load

    instructions: Any = code.co_code  # as it was compiled: what the interpreter has specialised is undone
    return 0 <= instruction < len(instructions) and instructions[instruction] == opmap["RAISE_VARARGS"]
