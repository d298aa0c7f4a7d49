"""Exceptions as data: what the file keeps of one, and how it comes back.

An exception is recorded as a JSON object (`_Record`): the name of its class, its text, its arguments and attributes as
far as they are plain values, its notes, its traceback as text, its cause or context, the members of a group. Nothing
else of it is kept; above all no `repr` of what it refers to, which could hold a request with its password.

Coming back, it gets its own class only where that is imported already. Nothing is imported for it, and nothing that
the file names is called but the class of an exception. Otherwise it comes back as the fallback, `StepFailed` or
`RunFailed`, with the same text; a fallback that is recorded again keeps the name of the original class.
Classes that steer the interpreter or the event loop (`SystemExit`, `KeyboardInterrupt`, `StopIteration`, …) always come
back as the fallback: a file must not be able to stop a process.

Every exception that a run sees went through here, the first time as well as on replay. So what is lost on the way
(an attribute that is no plain value) is never there.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

import msgspec

from stepwell.codec import inflate
from stepwell.errors import RunFailed, SerializationError, StepFailed
from stepwell.journal import Payload
from stepwell.package import ROOT
from stepwell.shapes import Budget, NotPlainError, class_of, from_plain, items_of, mapping_of, to_plain, type_name

MAX_FAILURE_BYTES: Final = 64 * 1024

Fallback: TypeAlias = type[StepFailed] | type[RunFailed]

#: The first line of the note that carries the recorded traceback.
TRACEBACK_HEADER: Final = "Recorded by Stepwell, traceback (most recent call last):"

# What is kept at most: exceptions in all, and one below the other; notes and frames of each; characters of a traceback
# and of any other text.
_CHAIN_DEPTH: Final = 6
_EXCEPTIONS: Final = 100
_NOTES: Final = 20
_FRAMES: Final = 40
_TRACEBACK_CHARS: Final = 12_000
_TEXT_CHARS: Final = 8_000


class _Record(msgspec.Struct, omit_defaults=True):
    """The format. `args` is None where they are not all plain values; `init` is what else the class is made with.

    `type` is written as tracebacks show it: ``ValueError``, ``shop.errors.CardDeclined``.
    """

    type: str
    message: str
    args: list[Any] | None = None
    init: list[Any] | None = None
    attributes: dict[str, Any] = {}
    notes: list[str] = []
    traceback: str = ""
    cause: _Record | None = None
    context: _Record | None = None
    suppress_context: bool = False
    group_message: str | None = None
    members: list[_Record] = []


class _Summary(msgspec.Struct):
    type: str
    message: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Record).decode
_decode_summary = msgspec.json.Decoder(_Summary).decode


def encode_failure(error: BaseException, *, max_bytes: int = MAX_FAILURE_BYTES) -> str:
    """Return the JSON text that records `error`, of at most `max_bytes` bytes (but never less than its name and text).

    Never raises for any exception: what cannot be recorded is left out, from the least important on.
    """
    try:
        record = _record(error, _Room(), frozenset())
    except Exception as defect:  # noqa: BLE001 - a class may do anything when it is looked at
        record = _Record(type_name(type(error)), f"(cannot be looked at: it raises {type_name(type(defect))})")
    data = _encode(record)
    for shorten in _SHORTENINGS:
        if len(data) <= max_bytes:
            break
        shorten(record)
        data = _encode(record)
    return data.decode()


def decode_failure(payload: Payload, fallback: Fallback) -> BaseException:
    """Return the recorded exception, or a `fallback` with its text where its class is not imported or cannot be made.

    The recorded traceback is attached as a note, which Python prints below the exception; its `str` is unchanged.
    Raises `SerializationError` where the payload is damaged.
    """
    return _restore(read_failure(payload, _decode), fallback)


def failure_to_raise(payload: Payload, fallback: Fallback) -> BaseException:
    """Return what `decode_failure` returns, but never a `CancelledError`."""
    error = decode_failure(payload, fallback)
    if isinstance(error, asyncio.CancelledError):
        # It would pass for the cancellation of whoever asks, which `TaskGroup`, say, swallows without a word.
        text = f"CancelledError: {str(error).removeprefix('CancelledError: ')}"
        return fallback(text, type_name="asyncio.exceptions.CancelledError")
    return error


def failure_summary(payload: Payload) -> tuple[str, str]:
    """Return the name of the exception's class, and its text; raises `SerializationError` for a damaged payload."""
    summary: _Summary = read_failure(payload, _decode_summary)
    return summary.type, summary.message


def read_failure(payload: Payload | msgspec.Raw, decode: Callable[[Any], Any]) -> Any:
    """Return what `decode` makes of a recorded failure; raises `SerializationError` where that is damaged."""
    if isinstance(payload, bytes) and payload[:1] != b"{":
        payload = inflate(payload, "a recorded failure")
    try:
        return decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise SerializationError(
            f"Cannot read a recorded failure: what the file holds is damaged ({error}). Restore it from a backup",
            where="a recorded failure",
        ) from None


# --- recording -------------------------------------------------------------------------------------------------------


class _Room:
    """How many exceptions may still be recorded, along all causes and groups together."""

    def __init__(self) -> None:
        self.left = _EXCEPTIONS


def _record(error: BaseException, room: _Room, above: frozenset[int]) -> _Record:
    room.left -= 1
    above |= {id(error)}
    if isinstance(error, (StepFailed, RunFailed)) and type(error) in (StepFailed, RunFailed) and error.type_name:
        record = _Record(error.type_name, _text_of(error))
    else:
        record = _Record(_name_of(class_of(error)), _text_of(error))
        _add_state(record, error)
    record.notes, remote = _notes_of(error)
    record.traceback = _traceback_of(error, remote)
    record.suppress_context = error.__suppress_context__

    def inner(other: BaseException | None) -> _Record | None:
        if other is None or id(other) in above or len(above) > _CHAIN_DEPTH or room.left <= 0:
            return None
        return _record(other, room, above)

    record.cause = inner(error.__cause__)
    if error.__cause__ is None and not error.__suppress_context__:
        record.context = inner(error.__context__)
    if isinstance(error, BaseExceptionGroup):
        record.group_message = _clean(str(error.message))
        record.members = [member for member in map(inner, _members_of(error)) if member is not None]
    return record


def _members_of(group: Any) -> tuple[BaseException, ...]:
    return cast("tuple[BaseException, ...]", group.exceptions)


def _name_of(cls: Any) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001 - `__str__` of user classes may raise anything
        text = f"<its text cannot be told: str() raised {type(problem).__name__}>"
    return _clean(text)


def described(error: BaseException) -> str:
    """Return the class and the text of an exception in one piece, whatever its `__str__` does."""
    text = _text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _clean(text: str) -> str:
    """Return `text` as UTF-8 can hold it, and not too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _TEXT_CHARS else text[:_TEXT_CHARS] + "…"


def _add_state(record: _Record, error: BaseException) -> None:
    budget = Budget()
    args = _plain_list(error.args, budget)
    record.args = args
    init, state = _reduced(error)
    if init is not None and init != error.args:
        # OSError keeps the file name beside `args`; classes with a `__reduce__` of their own say what made them.
        record.init = _plain_list(init, budget)
    for name, value in state.items():
        if not isinstance(name, str) or name.startswith("__"):  # the notes, which have their own place
            continue
        try:
            record.attributes[name] = to_plain(value, budget)
        except NotPlainError:
            continue


def _plain_list(values: tuple[Any, ...], budget: Budget) -> list[Any] | None:
    try:
        return [to_plain(value, budget) for value in values]
    except NotPlainError:
        return None


def _reduced(error: BaseException) -> tuple[tuple[Any, ...] | None, dict[Any, Any]]:
    """Return what the exception says that it is made from, if it does, and its attributes by name."""
    state: dict[Any, Any] = {}
    init: tuple[Any, ...] | None = None
    try:
        reduced: Any = error.__reduce__()
    except Exception:  # noqa: BLE001 - `__reduce__` of user classes may raise anything
        reduced = ()
    if isinstance(reduced, tuple):
        parts = list(items_of(reduced))
        if len(parts) > 1 and parts[0] is type(error) and isinstance(parts[1], tuple):
            init = tuple(items_of(parts[1]))
        if len(parts) > 2 and isinstance(parts[2], dict):  # noqa: PLR2004 - (class, arguments, state)
            state.update(mapping_of(parts[2]))
    for cls in type(error).__mro__:
        for name, member in vars(cls).items():
            # __slots__, and what classes written in C keep outside of `__dict__`: the file name of an OSError, say.
            # `obj` of an AttributeError is whatever the program happened to hold.
            if isinstance(member, types.MemberDescriptorType) and name not in ("obj", "exceptions"):
                value = getattr(error, name, None)
                if value is not None:
                    state[name] = value
    state.update(error.__dict__)
    return init, state


def _notes_of(error: BaseException) -> tuple[list[str], str]:
    """Return the user's notes, and the traceback that `_restore` left in a note."""
    notes: list[str] = []
    remote = ""
    found: Any = getattr(error, "__notes__", ())
    for note in items_of(found) if isinstance(found, (list, tuple)) else ():
        if isinstance(note, str) and note.startswith(TRACEBACK_HEADER):
            remote = note.removeprefix(f"{TRACEBACK_HEADER}\n")
        else:
            notes.append(_clean(str(note)))
    return notes[:_NOTES], remote


def _traceback_of(error: BaseException, remote: str) -> str:
    """Return the frames of user code as text; those of where it was raised first, before it came through a file."""
    frames = traceback.StackSummary.extract(_user_frames(error.__traceback__), lookup_lines=True)
    local = "".join(frames.format())
    text = remote.rstrip("\n") + "\n" + local if remote and local else remote or local
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) > _TRACEBACK_CHARS:
        text = "  …\n" + text[-_TRACEBACK_CHARS:]
    return text


def _user_frames(start: types.TracebackType | None) -> list[tuple[types.FrameType, int]]:
    frames = [
        (frame, line) for frame, line in traceback.walk_tb(start) if not frame.f_code.co_filename.startswith(ROOT)
    ]
    return frames[-_FRAMES:]


def _each(record: _Record, act: Callable[[_Record], None]) -> None:
    act(record)
    for inner in (record.cause, record.context, *record.members):
        if inner is not None:
            _each(inner, act)


def _drop_inner_tracebacks(record: _Record) -> None:
    outer = record.traceback
    _each(record, lambda each: setattr(each, "traceback", ""))
    record.traceback = outer[-_TRACEBACK_CHARS // 4 :]


def _drop_values(record: _Record) -> None:
    def act(each: _Record) -> None:
        each.args = each.init = None
        each.attributes = {}

    _each(record, act)


def _drop_inner(record: _Record) -> None:
    record.cause = record.context = None
    record.members = []
    record.notes = []


def _drop_all_but_text(record: _Record) -> None:
    record.traceback = ""
    record.group_message = None
    record.message = record.message[:500]


#: What to leave out, in this order, until the record is small enough.
_SHORTENINGS: Final = (_drop_inner_tracebacks, _drop_values, _drop_inner, _drop_all_but_text)


# --- coming back -----------------------------------------------------------------------------------------------------

#: Classes that come back. CancelledError is no `Exception`, but how asyncio says that a task was cancelled.
_ALLOWED: Final = (Exception, asyncio.CancelledError, BaseExceptionGroup)

#: Exceptions that steer the interpreter, or that a coroutine or future cannot carry.
_REFUSED: Final = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit)


def _restore(record: _Record, fallback: Fallback) -> BaseException:
    try:
        error = _rebuilt(record, fallback)
        if error is not None:
            return _completed(error, record, fallback)
    except Exception:  # noqa: BLE001, S110 - a class may do anything when it is looked at
        pass
    return _completed(
        fallback(record.message, type_name=record.type, traceback_text=record.traceback), record, fallback
    )


def _completed(error: BaseException, record: _Record, fallback: Fallback) -> BaseException:
    notes = [*record.notes, f"{TRACEBACK_HEADER}\n{record.traceback}"] if record.traceback else record.notes
    if notes:
        error.__dict__["__notes__"] = list(notes)
    cause = None if record.cause is None else _restore(record.cause, fallback)
    context = None if record.context is None else _restore(record.context, fallback)
    BaseException.__setattr__(error, "__cause__", cause)  # not as `error.__cause__ = …`: see `_take_state`
    BaseException.__setattr__(error, "__context__", context)
    BaseException.__setattr__(error, "__suppress_context__", record.suppress_context)
    return error


def _rebuilt(record: _Record, fallback: Fallback) -> BaseException | None:
    cls = _imported_class(record.type)
    if cls is None or issubclass(cls, _REFUSED) or not issubclass(cls, _ALLOWED):
        return None
    try:
        args = None if record.args is None else tuple(from_plain(value) for value in record.args)
        init = args if record.init is None else tuple(from_plain(value) for value in record.init)
        attributes = {name: from_plain(value) for name, value in record.attributes.items()}
    except Exception:  # noqa: BLE001 - a damaged value must not hide the failure that it belongs to
        return None
    if issubclass(cls, BaseExceptionGroup):
        return _rebuilt_group(cls, record, attributes, fallback)
    # The class and the text are what a handler and a reader need; attributes that spoil the text are given up.
    for kept in (attributes, {}) if attributes else (attributes,):
        for error, own_args in _candidates(cls, args, init, record.message):
            _take_state(error, own_args, kept)
            if _text_of(error) == record.message:
                return error
    return None


def _imported_class(name: str) -> Any:
    """Return the exception class of this name, None where its module is not imported or has no such class.

    Looks into `__dict__` only: a lazy module is not loaded, a module's `__getattr__` and descriptors are not called.
    """
    parts = name.split(".")
    for split in range(len(parts) - 1, -1, -1):
        module = sys.modules.get(".".join(parts[:split]) or "builtins")
        if not isinstance(module, types.ModuleType):
            continue
        found: Any = module
        for part in parts[split:]:
            holder = object.__getattribute__(found, "__dict__") if found is module else vars(found)
            found = holder.get(part)
            if not isinstance(found, type):
                break
        else:
            return found if issubclass(found, BaseException) else None
    return None


_Args: TypeAlias = tuple[Any, ...] | None


class _Told(str):
    """The text of an exception that tells the `repr` of its argument, as `KeyError` does."""

    __slots__ = ()
    __repr__ = str.__str__


def _candidates(cls: Any, args: _Args, init: _Args, message: str) -> Iterator[tuple[BaseException, _Args]]:
    """Yield instances of `cls`, each with the `args` to give it, the most faithful first.

    By calling the class, if it takes what was recorded; else without its `__init__`, which may take something else than
    it hands to `Exception`: with the recorded `args`, and at last with nothing but the text.
    """
    if init is not None:
        with suppress(Exception):
            error = cls(*init)
            if type(error) is cls:
                yield error, args
    for bare in (args, (message,), (_Told(message),)):
        if bare is not None:
            with suppress(Exception):  # some classes cannot be made without `__init__`
                error = cls.__new__(cls)
                if type(error) is cls:
                    yield error, bare


def _take_state(error: BaseException, args: _Args, attributes: dict[str, Any]) -> None:
    """Give the exception its recorded attributes, and no others: what `__init__` guessed from `args` may be wrong.

    Past any `__setattr__` of its class, which may refuse (frozen dataclasses do) or act.
    """
    error.__dict__.clear()
    if args is not None:
        BaseException.__setattr__(error, "args", args)
    for name, value in attributes.items():
        member = next((vars(cls)[name] for cls in type(error).__mro__ if name in vars(cls)), None)
        if isinstance(member, types.MemberDescriptorType):
            with suppress(AttributeError, TypeError):  # read-only, or of a fixed type
                member.__set__(error, value)
        else:
            error.__dict__[name] = value


def _rebuilt_group(cls: Any, record: _Record, attributes: dict[str, Any], fallback: Fallback) -> BaseException | None:
    members = [_restore(member, fallback) for member in record.members]
    if not members or record.group_message is None:
        return None
    for make in (cls, BaseExceptionGroup):  # the latter makes an ExceptionGroup where it can
        with suppress(Exception):  # a class of the user's may take other arguments
            error: BaseException = make(record.group_message, members)
            _take_state(error, None, attributes)
            return error
    return None
