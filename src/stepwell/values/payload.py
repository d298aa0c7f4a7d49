"""From the JSON of a value to what is stored, and back: its size, its compression, and the words of a refusal.

The format is described in `stepwell.values.codec`.
"""

from __future__ import annotations

import re
import zlib
from typing import Final, NoReturn

import msgspec

from stepwell.errors import PayloadTooLarge, SerializationError
from stepwell.model.journal import Payload
from stepwell.values.decoders import encode_hook
from stepwell.values.inspection import find_culprit, find_not_finite, path_step
from stepwell.values.signature import Signature

MAX_PAYLOAD_BYTES: Final = 16 * 1024 * 1024
COMPRESS_ABOVE_BYTES: Final = 4096

#: The first byte of a compressed payload.
_ZLIB_VERSION: Final = b"\x01"

#: zlib's fastest level: JSON shrinks to a third with it already, and every level above costs the engine's loop more.
_ZLIB_LEVEL: Final = 1

write = msgspec.json.Encoder(enc_hook=encode_hook).encode


class Packer:
    """Makes payloads of JSON.

    `max_payload_bytes` limits the JSON of one value, before compression. JSON of more than `compress_above_bytes` is
    compressed where that makes it smaller.
    """

    def __init__(
        self, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES, compress_above_bytes: int = COMPRESS_ABOVE_BYTES
    ) -> None:
        self.max_payload_bytes = max_payload_bytes
        self.compress_above_bytes = compress_above_bytes
        #: JSON up to this size needs no look at its size; `finish` looks at the rest.
        self.plain_bytes = min(max_payload_bytes, compress_above_bytes)

    def encode(self, value: object, where: object) -> Payload:
        """Return the payload of `value`.

        Raises `SerializationError`, with the path of the part that JSON cannot express, or `PayloadTooLarge`.
        """
        if value is None:
            return None
        try:
            data = write(value)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value(value, where, error)
        text = data.decode()
        if len(data) <= self.plain_bytes and "null" not in text:
            return text
        return self.finish(value, data, where)

    def finish(self, value: object, data: bytes, where: object, signature: Signature | None = None) -> Payload:
        """Check the JSON of `value` for size and for what JSON cannot express, and return its payload."""
        self.check_size(data, where)  # first: the search below may take long
        if b"null" in data:  # msgspec writes it for NaN too
            path = find_not_finite(value)
            if path is not None:
                advice = "Record None, or text, in its place"
                raise not_recorded(where, path, "is NaN or infinite, which JSON cannot express", advice, signature)
        return self.pack(data, where)

    def pack(self, data: bytes, where: object) -> Payload:
        """Return the payload of JSON that says all of its value."""
        self.check_size(data, where)
        if len(data) > self.compress_above_bytes:
            packed = _ZLIB_VERSION + zlib.compress(data, _ZLIB_LEVEL)
            if len(packed) < len(data):
                return packed
        return data.decode()

    def check_size(self, data: bytes, where: object) -> None:
        """Raise `PayloadTooLarge` for JSON that is."""
        if len(data) > self.max_payload_bytes:
            raise PayloadTooLarge(
                f"Cannot record {where}: as JSON it has {len(data):,} bytes, and {self.max_payload_bytes:,} are "
                "allowed. Store it elsewhere and record a reference to it, or raise `max_payload_bytes` of the engine",
                where=str(where),
            )


def inflate(payload: bytes, where: object) -> str:
    """Return the JSON text of a compressed payload; raises `SerializationError` for one that is damaged."""
    if payload[:1] != _ZLIB_VERSION:
        raise SerializationError(
            f"Cannot read {where}: its format, {payload[:1]!r}, is unknown to this version. Upgrade Stepwell",
            where=str(where),
        )
    try:
        return zlib.decompress(memoryview(payload)[1:]).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise SerializationError(
            f"Cannot read {where}: what the file holds is damaged ({error}). Restore it from a backup", where=str(where)
        ) from None


def refuse_value(value: object, where: object, error: Exception, signature: Signature | None = None) -> NoReturn:
    """Raise the `SerializationError` for a value that could not be encoded, naming the part that is to blame."""
    culprit = find_culprit(value, write, error)
    raise not_recorded(where, culprit.path, culprit.reason, culprit.advice, signature) from error


def not_recorded(
    where: object, path: str, reason: str, advice: str, signature: Signature | None = None
) -> SerializationError:
    """Return the error for a value that cannot be recorded: `path` and `reason` make a sentence."""
    shown = named(path, signature)
    return SerializationError(f"Cannot record {where}: {shown} {reason}. {advice}", where=str(where), path=path)


def place_of(place: int | str) -> str:
    """Return the path of an argument."""
    return f"$.kwargs{path_step(place)}" if isinstance(place, str) else f"$.args[{place}]"


def named(path: str, signature: Signature | None) -> str:
    """Return a path inside of arguments as users write it, from the parameter's name on, before the path itself."""
    found = _ARGUMENT.match(path)
    if signature is None or found is None:
        return path
    index, name = found.groups()
    name = name if index is None else signature.place(int(index))
    return path if name is None else f"{name}{path[found.end() :]} ({path})"


_ARGUMENT: Final = re.compile(r"\$\.(?:args\[(\d+)\]|kwargs\.(\w+))")
