"""From the JSON of a value to what is stored, and back: its size, its transforms, and the words of a refusal.

The format is described in `stepwell.values.codec`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from stepwell.errors import PayloadTooLarge, SerializationError
from stepwell.model.journal import Payload
from stepwell.values.decoders import encode_hook
from stepwell.values.inspection import find_culprit, find_not_finite, path_step
from stepwell.values.signature import Signature
from stepwell.values.transforms import COMPRESS_ABOVE_BYTES, Compression, Transform, Transforms

MAX_PAYLOAD_BYTES: Final = 16 * 1024 * 1024

write = msgspec.json.Encoder(enc_hook=encode_hook).encode


class Packer:
    """Makes payloads of JSON, and JSON of payloads.

    `max_payload_bytes` limits the JSON of one value, before any transform. JSON of more than `compress_above_bytes` is
    compressed where that makes it smaller, and goes through the `further` transforms then.
    """

    def __init__(
        self,
        *,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        compress_above_bytes: int = COMPRESS_ABOVE_BYTES,
        further: Sequence[Transform] = (),
    ) -> None:
        self.max_payload_bytes = max_payload_bytes
        self.compress_above_bytes = compress_above_bytes
        self.transforms = Transforms([Compression(compress_above_bytes), *further])
        #: JSON up to this size needs no look at its size; `finish` looks at the rest.
        self.plain_bytes = min(max_payload_bytes, self.transforms.plain_bytes)

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
        return self.transforms.apply(data)

    def text_of(self, payload: Payload, where: object, nothing: str = "") -> str:
        """Return the JSON of a payload, `nothing` for None; raises `SerializationError` for one that is damaged."""
        if isinstance(payload, bytes):
            return self.transforms.undo(payload, where)
        return nothing if payload is None else payload

    def check_size(self, data: bytes, where: object) -> None:
        """Raise `PayloadTooLarge` for JSON that is."""
        if len(data) > self.max_payload_bytes:
            raise PayloadTooLarge(
                f"Cannot record {where}: as JSON it has {len(data):,} bytes, and {self.max_payload_bytes:,} are "
                "allowed. Store it elsewhere and record a reference to it, or raise `max_payload_bytes` of the engine",
                where=str(where),
            )


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
