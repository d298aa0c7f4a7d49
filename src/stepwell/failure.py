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
import datetime as dt
import decimal
import math
import sys
import traceback
import types
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec

from stepwell.codec import inflate
from stepwell.errors import RunFailed, SerializationError, StepFailed
from stepwell.journal import Payload
from stepwell.shapes import class_of, items_of, mapping_of

MAX_FAILURE_BYTES: Final = 64 * 1024

Fallback: TypeAlias = type[StepFailed] | type[RunFailed]

#: The first line of the note that carries the recorded traceback.
TRACEBACK_HEADER: Final = "Recorded by Stepwell, traceback (most recent call last):"

# What is kept at most: exceptions along causes, members of a group, frames, characters of a traceback and of a text.
_CHAIN_DEPTH: Final = 6
_GROUP_MEMBERS: Final = 50
_FRAMES: Final = 40
_TRACEBACK_CHARS: Final = 12_000
_TEXT_CHARS: Final = 8_000

# … and values inside arguments and attributes, how many and how deep, and bits of an integer there: far below those
# that Python still converts to text.
_VALUES: Final = 500
_VALUE_DEPTH: Final = 12
_INTEGER_BITS: Final = 4096

_UNSET: Final = object()

_ENGINE_DIRECTORY: Final = str(Path(__file__).parent)


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
    record = _record(error, _CHAIN_DEPTH, set())
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
    return _restore(_read(payload, _decode), fallback)


def failure_summary(payload: Payload) -> tuple[str, str]:
    """Return the name of the exception's class, and its text; raises `SerializationError` for a damaged payload."""
    summary: _Summary = _read(payload, _decode_summary)
    return summary.type, summary.message


def _read(payload: Payload | msgspec.Raw, decode: Callable[[Any], Any]) -> Any:
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


def _record(error: BaseException, depth: int, above: set[int]) -> _Record:
    above = above | {id(error)}
    if isinstance(error, (StepFailed, RunFailed)) and type(error) in (StepFailed, RunFailed) and error.type_name:
        record = _Record(error.type_name, _text_of(error))
    else:
        record = _Record(_name_of(class_of(error)), _text_of(error))
        _add_state(record, error)
    notes, remote = _notes_of(error)
    record.notes = notes
    record.traceback = _traceback_of(error, remote)
    record.suppress_context = error.__suppress_context__
    if depth > 0:
        if error.__cause__ is not None and id(error.__cause__) not in above:
            record.cause = _record(error.__cause__, depth - 1, above)
        elif error.__context__ is not None and not error.__suppress_context__ and id(error.__context__) not in above:
            record.context = _record(error.__context__, depth - 1, above)
        if isinstance(error, BaseExceptionGroup):
            record.group_message = _clean(str(cast("Any", error).message))
            inner: tuple[BaseException, ...] = cast("Any", error).exceptions
            members = [member for member in inner if id(member) not in above]
            record.members = [_record(member, depth - 1, above) for member in members[:_GROUP_MEMBERS]]
    return record


def _name_of(cls: Any) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001 - `__str__` of user classes may raise anything
        text = f"<its text cannot be told: str() raised {type(problem).__name__}>"
    return _clean(text)


def _clean(text: str) -> str:
    """Return `text` as UTF-8 can hold it, and not too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _TEXT_CHARS else text[:_TEXT_CHARS] + "…"


def _add_state(record: _Record, error: BaseException) -> None:
    budget = _Budget()
    args = _plain_list(error.args, budget)
    record.args = args
    init, state = _reduced(error)
    if init is not None and init != error.args:
        # OSError keeps the file name beside `args`; classes with a `__reduce__` of their own say what made them.
        record.init = _plain_list(init, budget)
    for name, value in state.items():
        if name.startswith("__"):  # the notes, which have their own place
            continue
        try:
            record.attributes[name] = _to_plain(value, budget)
        except _NotPlainError:
            continue


def _plain_list(values: tuple[Any, ...], budget: _Budget) -> list[Any] | None:
    try:
        return [_to_plain(value, budget) for value in values]
    except _NotPlainError:
        return None


def _reduced(error: BaseException) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """Return what the exception says that it is made from, if it does, and its attributes by name."""
    state: dict[str, Any] = {}
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
            if isinstance(member, types.MemberDescriptorType) and cls.__module__ != "builtins":  # __slots__
                value = getattr(error, name, _UNSET)
                if value is not _UNSET:
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
            remote = note.removeprefix(TRACEBACK_HEADER).lstrip("\n")
        else:
            notes.append(_clean(str(note)))
    return notes[:_GROUP_MEMBERS], remote


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
        (frame, line)
        for frame, line in traceback.walk_tb(start)
        if not frame.f_code.co_filename.startswith(_ENGINE_DIRECTORY)
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


# --- plain values ----------------------------------------------------------------------------------------------------

# Unlike the codec, this knows no annotations, so types are written down: JSON's own types stand for themselves, others
# are {"$": name of the type, "value": …}, and so are dicts that have the key "$" or a key that is no text. Subclasses
# of str, int and float (enumerations, say) are kept as plain text and numbers. Everything else is not plain.

_TAGGED: Final[dict[type, str]] = {
    bytes: "bytes",
    dt.datetime: "datetime",
    dt.date: "date",
    dt.time: "time",
    dt.timedelta: "timedelta",
    decimal.Decimal: "Decimal",
    uuid.UUID: "UUID",
}
_TYPE_OF_TAG: Final = {name: cls for cls, name in _TAGGED.items()}
_CONTAINERS: Final[dict[type, str]] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_CONTAINER_OF_TAG: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


class _NotPlainError(Exception):
    """The value is not made of plain values, or of too many."""


class _Budget:
    """How many plain values may still be kept of one exception."""

    def __init__(self) -> None:
        self.left = _VALUES

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _NotPlainError


def _to_plain(value: Any, budget: _Budget, depth: int = _VALUE_DEPTH) -> Any:
    budget.spend()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int):
        if value.bit_length() > _INTEGER_BITS:
            raise _NotPlainError
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$": "float", "value": str(float(value))}
    cls = class_of(value)
    if depth == 0:
        raise _NotPlainError
    if cls is list:
        return [_to_plain(item, budget, depth - 1) for item in items_of(value)]
    if cls is dict:
        return _plain_dict(mapping_of(value), budget, depth)
    if cls in _CONTAINERS:
        items = [_to_plain(item, budget, depth - 1) for item in items_of(value)]
        if cls is not tuple:
            items.sort(key=_encode)
        return {"$": _CONTAINERS[cls], "value": items}
    if cls in _TAGGED:
        try:
            return {"$": _TAGGED[cls], "value": msgspec.to_builtins(value)}
        except (ValueError, TypeError, OverflowError):
            raise _NotPlainError from None
    raise _NotPlainError


def _plain_text(value: str) -> str:
    text = str.__str__(value)
    if len(text) > _TEXT_CHARS:
        raise _NotPlainError
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _NotPlainError from None
    return text


def _plain_dict(value: dict[Any, Any], budget: _Budget, depth: int) -> Any:
    if "$" not in value and all(type(key) is str for key in value):
        return {_plain_text(key): _to_plain(item, budget, depth - 1) for key, item in value.items()}
    pairs = [[_to_plain(key, budget, depth - 1), _to_plain(item, budget, depth - 1)] for key, item in value.items()]
    return {"$": "dict", "value": pairs}


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_plain(item) for item in items_of(value)]
    if not isinstance(value, dict):
        return value
    mapping = mapping_of(value)
    if "$" not in mapping:
        return {key: _from_plain(item) for key, item in mapping.items()}
    tag = mapping["$"]
    content: Any = mapping["value"]
    if tag == "float":
        return float(content)
    if tag == "dict":
        return {_from_plain(key): _from_plain(item) for key, item in content}
    if tag in _CONTAINER_OF_TAG:
        return _CONTAINER_OF_TAG[tag](_from_plain(item) for item in content)
    cls: Any = _TYPE_OF_TAG[tag]
    return msgspec.convert(content, cls)


# --- coming back -----------------------------------------------------------------------------------------------------

#: Classes that come back. CancelledError is no `Exception`, but how asyncio says that a task was cancelled.
_ALLOWED: Final = (Exception, asyncio.CancelledError, BaseExceptionGroup)

#: Exceptions that steer the interpreter, or that a coroutine or future cannot carry.
_REFUSED: Final = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit)


def _restore(record: _Record, fallback: Fallback) -> BaseException:
    error = _rebuilt(record, fallback)
    if error is None:
        error = fallback(record.message, type_name=record.type, traceback_text=record.traceback)
    for note in record.notes:
        BaseException.add_note(error, note)
    if record.traceback:
        BaseException.add_note(error, f"{TRACEBACK_HEADER}\n{record.traceback}")
    if record.cause is not None:
        error.__cause__ = _restore(record.cause, fallback)
    if record.context is not None:
        error.__context__ = _restore(record.context, fallback)
    error.__suppress_context__ = record.suppress_context
    return error


def _rebuilt(record: _Record, fallback: Fallback) -> BaseException | None:
    cls = _imported_class(record.type)
    if cls is None or issubclass(cls, _REFUSED) or not issubclass(cls, _ALLOWED):
        return None
    if issubclass(cls, BaseExceptionGroup):
        return _rebuilt_group(cls, record, fallback)
    try:
        args = None if record.args is None else tuple(_from_plain(value) for value in record.args)
        init = args if record.init is None else tuple(_from_plain(value) for value in record.init)
        attributes = {name: _from_plain(value) for name, value in record.attributes.items()}
    except Exception:  # noqa: BLE001 - a damaged value must not hide the failure that it belongs to
        return None
    for make in (_by_calling, _without_init, _with_text_only):
        error = make(cls, record.message, args, init)
        if error is not None and _take_state(error, args, attributes) and _says(error, record.message):
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


def _by_calling(cls: Any, _message: str, _args: _Args, init: _Args) -> BaseException | None:
    if init is None:
        return None
    try:
        error = cls(*init)
    except Exception:  # noqa: BLE001 - its `__init__` may take other arguments than it hands to Exception
        return None
    return error if type(error) is cls else None


def _without_init(cls: Any, _message: str, args: _Args, _init: _Args) -> BaseException | None:
    return None if args is None else _bare(cls, args)


def _with_text_only(cls: Any, message: str, _args: _Args, _init: _Args) -> BaseException | None:
    return _bare(cls, (message,))


def _bare(cls: Any, args: tuple[Any, ...]) -> BaseException | None:
    try:
        error = cls.__new__(cls)
        error.args = args
    except Exception:  # noqa: BLE001 - some classes cannot be made this way
        return None
    return error if type(error) is cls else None


def _take_state(error: BaseException, args: _Args, attributes: dict[str, Any]) -> bool:
    """Give the exception its recorded attributes, and no others: what `__init__` guessed from them may be wrong."""
    try:
        error.__dict__.clear()
        for name, value in attributes.items():
            member = next((vars(cls)[name] for cls in type(error).__mro__ if name in vars(cls)), None)
            if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                member.__set__(error, value)
            else:
                error.__dict__[name] = value
        if args is not None:
            error.args = args
    except Exception:  # noqa: BLE001 - a read-only attribute, say
        return False
    return True


def _says(error: BaseException, message: str) -> bool:
    return _text_of(error) == message


def _rebuilt_group(cls: Any, record: _Record, fallback: Fallback) -> BaseException | None:
    members = [_restore(member, fallback) for member in record.members]
    if not members or record.group_message is None:
        return None
    for make in (cls, BaseExceptionGroup):  # the latter makes an ExceptionGroup where it can
        try:
            error: BaseException = make(record.group_message, members)
        except Exception:  # noqa: BLE001, S112 - a class of the user's with other arguments
            continue
        return error
    return None
