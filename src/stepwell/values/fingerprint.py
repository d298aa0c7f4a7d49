r"""The checksum of a call's arguments, by which replay notices that code asks for something else than it did.

It is the CRC-32 of their JSON, with everything unordered sorted: equal arguments give equal numbers in every process.

The text of a traceback changes with every edit above the line that it speaks of, with the folder of the code and with
the Python that runs it. Where it stands in an argument (``report(traceback.format_exc())``), its frames are left out:
each ``File "…", line …, in …`` with the source below it. What was raised stays.
"""

from __future__ import annotations

import copy
import marshal
import re
import zlib
from typing import Any, Final

import msgspec

from stepwell.errors import SerializationError
from stepwell.values.decoders import encode_hook, sorting_encode_hook
from stepwell.values.inspection import ATOMS, holds_unsorted_set, in_order, is_immutable, type_name
from stepwell.values.large_values import note_size, paused_for

_write: Final = msgspec.json.Encoder(enc_hook=encode_hook).encode
_write_sorted: Final = msgspec.json.Encoder(enc_hook=sorting_encode_hook, order="deterministic").encode

#: A frame in JSON text: its line, and what is indented more below it (source, and the marks under that). Tracebacks of
#: exception groups have bars before them.
_FRAME: Final = re.compile(
    rb"""([ |]*)File\ \\"(?:[^"\\]|\\[^"n])*\\",\ line\ \d+(?:,\ in\ (?:[^"\\]|\\[^n])*)?"""
    rb"""(?:\\n\1[ ]{2}(?:[^"\\]|\\[^n])*)*(?:\\n)?""",
    re.VERBOSE,
)
_LINE: Final = b'\\", line '
#: The shortest frame has more.
_FRAME_BYTES: Final = 20


def sorted_json(part: object) -> bytes:
    """Return the JSON of a value, the same in every process; raises anything where it cannot be written."""
    try:
        data = _write_sorted(part)
        # msgspec sorts the items of a set with `<`, which means inclusion for sets within sets. Their JSON would
        # have an array, or an object, right after the opening bracket of another array than the arguments' own.
        if data.rfind(b"[") <= 0 or (data.find(b"[[", 1) < 0 and data.find(b"[{", 1) < 0):
            return data
        if not holds_unsorted_set(part):
            return data
    except Exception:  # noqa: BLE001, S110 - items that do not compare, keys that are no strings: sorted below
        pass
    _write(part)
    return _write_sorted(in_order(part, _write_sorted))


def without_frames(data: bytes) -> bytes:
    """Return JSON without the frames of the tracebacks in it."""
    return _FRAME.sub(b"", data) if len(data) > _FRAME_BYTES and _LINE in data else data


def fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the checksum of arguments, 0 where there are none; raises anything where they cannot be written."""
    checksum = zlib.crc32(without_frames(sorted_json(args))) if args or kwargs else 0
    return zlib.crc32(without_frames(sorted_json(kwargs)), checksum) if kwargs else checksum


def quick_fingerprint(args: tuple[Any, ...]) -> int | None:
    """Return the `fingerprint` of arguments that are all of `ATOMS`; None for others, and for what JSON cannot have."""
    if not args:
        return 0
    if not ATOMS.issuperset(map(type, args)):
        return None
    try:
        data = _write_sorted(args)
    except Exception:  # noqa: BLE001 - a lone surrogate, say: the way for all others finds and names it
        return None
    return zlib.crc32(data if len(data) <= _FRAME_BYTES else without_frames(data))


def plain_fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the `fingerprint` of arguments that are what JSON has itself, so that no sets have to be looked for."""
    checksum = 0
    if args or kwargs:
        data = _write_sorted(args)
        note_size(len(data))
        checksum = zlib.crc32(without_frames(data))
    if kwargs:
        data = _write_sorted(kwargs)
        note_size(len(data))
        checksum = zlib.crc32(without_frames(data), checksum)
    return checksum


def plain_copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a `private_copy` of arguments that are what JSON has itself, by way of `marshal`: a tenth of the time."""
    data = marshal.dumps((args, kwargs))
    with paused_for(data):
        copied: tuple[tuple[Any, ...], dict[str, Any]] = marshal.loads(data)  # noqa: S302 - it was written two lines above
    return copied


def private_copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments so that whoever gets them shares nothing mutable with the caller.

    Immutable values are handed on as they are; the others are copied with `copy.deepcopy`, types kept.
    Raises `SerializationError` where a value cannot be copied.
    """
    if ATOMS.issuperset(map(type, args)) and (not kwargs or ATOMS.issuperset(map(type, kwargs.values()))):
        return args, kwargs
    if all(map(is_immutable, args)) and all(map(is_immutable, kwargs.values())):
        return args, kwargs
    try:
        return copy.deepcopy((args, kwargs))
    except Exception as error:
        raise SerializationError(
            f"Cannot copy the arguments of a step: {type_name(type(error))}: {error}. "
            "Pass plain values, or give their class a `__deepcopy__` that works"
        ) from error
