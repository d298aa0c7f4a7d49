"""Exceptions as data: what the file keeps of one, and how it comes back.

This module makes JSON of an exception, and an exception of JSON; what is stored of that JSON, the codec makes
(`stepwell.values.failure_codec`).

An exception is recorded as a JSON object (`_Record`): the name of its class, its text, its arguments and attributes as
far as they are plain values (`stepwell.values.plain`), its notes, its traceback as text, its cause or context, the
members of a group. Nothing else of it is kept; above all no `repr` of what it refers to, which could hold a request
with its password. A note says what is missing.

Coming back, it gets its own class only where that is imported already. Nothing is imported for it, and nothing that
the file names is called but the classes of exceptions. Otherwise it comes back as the fallback, `StepFailed` or
`RunFailed`, with the same text; a fallback that is recorded again keeps the name of the original class.
Classes that steer the interpreter or the event loop (`SystemExit`, `KeyboardInterrupt`, `StopIteration`, …) always come
back as the fallback: a file must not be able to stop a process.

Every exception that a run sees went through here, the first time as well as on replay. So what is lost on the way
(an attribute that is no plain value) is never there.
"""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, cast

import msgspec

from stepwell.errors import RunFailed, SerializationError, StepFailed, UpdateFailed
from stepwell.values.inspection import class_of, items_of, mapping_of, type_name
from stepwell.values.own_frames import is_own
from stepwell.values.plain import NotPlainError, Writer, imported_class, name_of, restore

MAX_FAILURE_BYTES: Final = 64 * 1024

Fallback: TypeAlias = type[StepFailed] | type[RunFailed] | type[UpdateFailed]

#: The first line of the note that carries the recorded traceback.
TRACEBACK_HEADER: Final = "Recorded by Stepwell, traceback (most recent call last):"

#: How the note begins that says what was not recorded.
LEFT_OUT_HEADER: Final = "Recorded by Stepwell, but not all of it: "

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

    `left_out` says what of its arguments and attributes is missing.
    `type` is written as tracebacks show it: ``ValueError``, ``shop.errors.CardDeclined``.
    """

    type: str
    message: str
    args: list[Any] | None = None
    init: list[Any] | None = None
    attributes: dict[str, Any] = {}
    left_out: str = ""
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
# No decoders: to make one costs each process that starts, and most processes read no failure.
_decode = partial(msgspec.json.decode, type=_Record)
_decode_summary = partial(msgspec.json.decode, type=_Summary)


def failure_json(error: BaseException, *, max_bytes: int = MAX_FAILURE_BYTES) -> str:
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


def failure_from_json(text: str | bytes, fallback: Fallback) -> BaseException:
    """Return the recorded exception, or a `fallback` with its text where its class is not imported or cannot be made.

    The recorded traceback is attached as a note, which Python prints below the exception; its `str` is unchanged.
    Raises `SerializationError` where the text is damaged.
    """
    return _restore(read_failure(text, _decode), fallback)


def raisable(error: BaseException, fallback: Fallback) -> BaseException:
    """Return a recorded exception as it is raised for whoever asks; never a `CancelledError`."""
    if _is_cancellation(type(error)):
        # It would pass for the cancellation of whoever asks, which `TaskGroup`, say, swallows without a word.
        text = f"CancelledError: {str(error).removeprefix('CancelledError: ')}"
        return fallback(text, type_name="asyncio.exceptions.CancelledError")
    return error


def summary_from_json(text: str | bytes) -> tuple[str, str]:
    """Return the name of the exception's class, and its text; raises `SerializationError` for damaged JSON."""
    summary: _Summary = read_failure(text, _decode_summary)
    return summary.type, summary.message


def read_failure(text: str | bytes | msgspec.Raw, decode: Callable[[Any], Any]) -> Any:
    """Return what `decode` makes of the JSON of a failure; raises `SerializationError` where that is damaged."""
    try:
        return decode(text)
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

    def inner(other: BaseException | None) -> _Record | None:
        if other is None or id(other) in above or len(above) > _CHAIN_DEPTH or room.left <= 0:
            return None
        return _record(other, room, above)

    notes = _Notes(error)
    if isinstance(error, (StepFailed, RunFailed)) and type(error) in (StepFailed, RunFailed) and error.type_name:
        # Its text without the class, which `str` puts before it.
        record = _Record(error.type_name, _clean(str(error.args[0] if error.args else "")))
    else:
        record = _Record(name_of(class_of(error)), _text_of(error))
        _add_state(record, error, inner)
    record.left_out = "; ".join(filter(None, (notes.left_out, record.left_out)))
    record.notes = notes.own
    record.traceback = _traceback_of(error, notes.traceback)
    record.suppress_context = error.__suppress_context__
    record.cause = inner(error.__cause__)
    if error.__cause__ is None and not error.__suppress_context__:
        record.context = inner(error.__context__)
    if isinstance(error, BaseExceptionGroup):
        record.group_message = _clean(str(error.message))
        record.members = [member for member in map(inner, _members_of(error)) if member is not None]
    return record


def _members_of(group: Any) -> tuple[BaseException, ...]:
    return cast("tuple[BaseException, ...]", group.exceptions)


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


def _add_state(record: _Record, error: BaseException, inner: Callable[[BaseException], _Record | None]) -> None:
    def exception(other: BaseException) -> Any:
        found = inner(other)
        if found is not None:
            found.traceback = ""  # many may stand side by side, in a list of errors say
        return found

    writer = Writer(exception)
    left_out: list[str] = []

    def plain(name: str, value: Any) -> Any:
        try:
            written = writer.plain(value)
        except NotPlainError as reason:
            left_out.append(f"{name} {reason}")
            written = None
        else:
            left_out.extend(f"{name} is {what}" for what in writer.remnants)
        writer.remnants.clear()
        return written

    if not issubclass(type(error), BaseExceptionGroup):  # whose arguments are its members
        record.args = plain("`args`", list(error.args))
    init, state = _reduced(error)
    if init is not None and init != error.args:
        # OSError keeps the file name beside `args`; classes with a `__reduce__` of their own say what made them.
        record.init = plain("what it was made from", list(init))
    for name, value in state.items():
        if isinstance(name, str) and not name.startswith("__"):  # the notes have their own place
            written = plain(f"`{name}`", value)
            if written is not None or value is None:
                record.attributes[name] = written
    record.left_out = _clean("; ".join(dict.fromkeys(left_out)))


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


class _Notes:
    """The user's notes, and what `_completed` left in notes: the recorded traceback, and what had been left out."""

    def __init__(self, error: BaseException) -> None:
        self.own: list[str] = []
        self.traceback = ""
        self.left_out = ""
        found: Any = getattr(error, "__notes__", ())
        for note in items_of(found) if isinstance(found, (list, tuple)) else ():
            if isinstance(note, str) and note.startswith(TRACEBACK_HEADER):
                self.traceback = note.removeprefix(f"{TRACEBACK_HEADER}\n")
            elif isinstance(note, str) and note.startswith(LEFT_OUT_HEADER):
                self.left_out = note.removeprefix(LEFT_OUT_HEADER)
            elif len(self.own) < _NOTES:
                self.own.append(_clean(str(note)))


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
    frames = [(frame, line) for frame, line in traceback.walk_tb(start) if not is_own(frame)]
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
        if each.args or each.init or each.attributes:
            each.left_out = "its arguments and attributes are too large to record"
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

#: Classes that come back, and `CancelledError`.
_ALLOWED: Final = (Exception, BaseExceptionGroup)

#: Exceptions that steer the interpreter, or that a coroutine or future cannot carry.
_REFUSED: Final = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit)


def _is_cancellation(cls: type[BaseException]) -> bool:
    """Tell whether it is how asyncio says that a task was cancelled, which is no `Exception`."""
    # Not imported here: commands that only look do without asyncio, a seventh of what they take to begin.
    exceptions = sys.modules.get("asyncio.exceptions")
    return exceptions is not None and issubclass(cls, exceptions.CancelledError)


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
    notes = list(record.notes)
    if record.left_out:
        notes.append(LEFT_OUT_HEADER + record.left_out)
    if record.traceback:
        notes.append(f"{TRACEBACK_HEADER}\n{record.traceback}")
    if notes:
        error.__dict__["__notes__"] = notes
    cause = None if record.cause is None else _restore(record.cause, fallback)
    context = None if record.context is None else _restore(record.context, fallback)
    BaseException.__setattr__(error, "__cause__", cause)  # not as `error.__cause__ = …`: see `_take_state`
    BaseException.__setattr__(error, "__context__", context)
    BaseException.__setattr__(error, "__suppress_context__", record.suppress_context)
    return error


def _rebuilt(record: _Record, fallback: Fallback) -> BaseException | None:
    cls = imported_class(record.type, BaseException)
    if cls is None or issubclass(cls, _REFUSED) or not (issubclass(cls, _ALLOWED) or _is_cancellation(cls)):
        return None

    def exception(content: Any) -> BaseException:
        return _restore(msgspec.convert(content, _Record), fallback)

    try:
        args = None if record.args is None else tuple(restore(record.args, exception))
        init = args if record.init is None else tuple(restore(record.init, exception))
        attributes = {name: restore(value, exception) for name, value in record.attributes.items()}
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
