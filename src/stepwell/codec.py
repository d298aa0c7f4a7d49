"""Values as JSON text, driven by annotations; the one way in which anything of the user's gets into the file and out.

What a run sees is always ``decode(encode(value), annotation)``, the first time as well as on replay, so that a value
never changes between the two: a tuple that goes untyped is a list from the start.

Format of a payload:

- ``None`` (SQL NULL): the value ``None``; as the input of a workflow, no arguments.
- text: JSON, as msgspec writes it. Integers may be of any size.
- bytes: one byte with the version of the format, 1, then that JSON in UTF-8, compressed with zlib.

The input of a workflow is ``{"args": [...], "kwargs": {...}}``, an empty part left out. Nothing is ever unpickled, and
nothing that a payload says is imported or called.

`where` names a value in error messages ("the result of step 'shop.charge' in run 'order-42'"). It may be any object:
its `str` is taken only when there is an error.
"""

from __future__ import annotations

import copy
import re
import threading
import zlib
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import msgspec

from stepwell.decoders import Decoders, encode_hook, show, sorting_encode_hook, split_reason
from stepwell.errors import DefinitionError, PayloadTooLarge, SerializationError
from stepwell.journal import Payload
from stepwell.shapes import (
    ATOMS,
    MISSING,
    at_path,
    class_of,
    find_culprit,
    find_not_finite,
    holds_unsorted_set,
    in_order,
    is_immutable,
    path_step,
    type_name,
)
from stepwell.signature import Signature

MAX_PAYLOAD_BYTES: Final = 16 * 1024 * 1024
COMPRESS_ABOVE_BYTES: Final = 4096

#: The first byte of a compressed payload.
_ZLIB_VERSION: Final = b"\x01"

#: zlib's fastest level: JSON shrinks to a third with it already, and every level above costs the engine's loop more.
_ZLIB_LEVEL: Final = 1

_write = msgspec.json.Encoder(enc_hook=encode_hook).encode
_write_sorted = msgspec.json.Encoder(enc_hook=sorting_encode_hook, order="deterministic").encode


class _Arguments(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    args: list[msgspec.Raw] = []
    kwargs: dict[str, msgspec.Raw] = {}


_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_arguments = msgspec.json.Decoder(_Arguments).decode


class Converter:
    """Encodes and decodes values of one annotation. `Codec.converter` makes and keeps them."""

    __slots__ = ("_codec", "_decode", "_is_typed", "annotation")

    def __init__(self, codec: Codec, annotation: Any, decoders: Decoders) -> None:
        self.annotation = annotation
        self._codec = codec
        self._decode = decoders.decoder(annotation)
        self._is_typed = annotation is not Any and annotation is not Signature.NONE and annotation is not object

    def roundtrip(self, value: object, where: object) -> tuple[Payload, Any]:
        """Return what is to be stored for `value`, and what to deliver: the value as every replay will deliver it.

        Raises `SerializationError` where the value cannot be encoded, or does not fit the annotation.
        """
        if value is None:
            return None, self.decode(None, where)
        try:
            data = _write(value)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value(value, where, error)
        text = data.decode()
        payload: Payload = text
        if len(data) > self._codec.plain_bytes or "null" in text:
            payload = self._codec.finish(value, data, where)
        try:
            delivered = self._decode(text)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(error, where, value)
        if type(delivered) is str and not isinstance(value, str) and self._is_typed:
            # JSON writes bytes, times and the like as text, which must not pass for the text that was promised.
            self._refuse(ValueError(f"Expected `str`, got `{type_name(class_of(value))}`"), where)
        return payload, delivered

    def decode(self, payload: Payload, where: object, path: str = "$") -> Any:
        """Return the value of `payload`; raises `SerializationError`.

        `path` is where the value stands inside a larger one.
        """
        if payload is None:
            payload = "null"
        elif type(payload) is bytes:
            payload = inflate(payload, where)
        try:
            return self._decode(payload)
        except Exception as error:  # noqa: BLE001 - constructors of user classes may raise anything
            self._refuse(error, where, path=path)

    def _refuse(self, error: Exception, where: object, value: object = MISSING, path: str = "$") -> NoReturn:
        if isinstance(error, RecursionError):
            reason, inner = "it is nested too deeply", "$"
        elif isinstance(error, (ValueError, TypeError, msgspec.MsgspecError)):
            reason, inner = split_reason(error)
            reason = reason[:1].lower() + reason[1:]
        else:
            reason, inner = f"{type_name(type(error))}: {error}", "$"
        if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
            raise SerializationError(
                f"Cannot read {where}: what the file holds is damaged, it is not JSON ({reason}). "
                "Restore it from a backup",
                where=str(where),
                path=path,
            ) from None
        found = MISSING if value is MISSING else at_path(value, inner)
        if found is not MISSING and "got `" in reason:
            # Name the type that the code used, not the type that its JSON has.
            reason = re.sub("got `[^`]*`", lambda _: f"got `{type_name(class_of(found))}`", reason, count=1)
        reason = reason.replace("`null`", "`None`")
        raise SerializationError(
            f"Cannot deliver {where} as {show(self.annotation)}: {reason}, at {path}{inner[1:]}. "
            "Make the value and the annotation agree",
            where=str(where),
            path=path + inner[1:],
        ) from error


class Codec:
    """Turns values into payloads and back. One instance serves an engine; safe to use from several threads.

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
        self._decoders = Decoders()
        self._making = threading.Lock()  # one thread must not use what another is still making
        self._converters: dict[Any, Converter] = {}

    def converter(self, annotation: Any) -> Converter:
        """Return the converter for an annotation, the same one each time.

        Raises `DefinitionError` where JSON cannot express the annotated type.
        """
        try:
            return self._converters[annotation]
        except KeyError:
            with self._making:
                converter = self._converters[annotation] = Converter(self, annotation, self._decoders)
            return converter
        except TypeError:  # an annotation without a hash, such as Annotated[int, []]
            with self._making:
                return Converter(self, annotation, self._decoders)

    def encode(self, value: object, where: object) -> Payload:
        """Return the payload of `value`.

        Raises `SerializationError`, with the path of the part that JSON cannot express, or `PayloadTooLarge`.
        """
        if value is None:
            return None
        try:
            data = _write(value)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value(value, where, error)
        text = data.decode()
        if len(data) <= self.plain_bytes and "null" not in text:
            return text
        return self.finish(value, data, where)

    def decode(self, payload: Payload, annotation: Any, where: object) -> Any:
        """Return the value of `payload` as `annotation` says; raises `SerializationError` where it does not fit."""
        try:
            converter = self._converters[annotation]
        except (KeyError, TypeError):
            converter = self._new_converter(annotation, where)
        return converter.decode(payload, where)

    def _new_converter(self, annotation: Any, where: object) -> Converter:
        try:
            return self.converter(annotation)
        except DefinitionError as error:  # whoever reads a value is prepared for one kind of error
            raise SerializationError(f"Cannot deliver {where}: {error}", where=str(where)) from error

    def finish(self, value: object, data: bytes, where: object) -> Payload:
        """Check the JSON of `value` for size and for what JSON cannot express, and return its payload."""
        size = len(data)
        if size > self.max_payload_bytes:
            raise PayloadTooLarge(
                f"Cannot record {where}: as JSON it has {size:,} bytes, and {self.max_payload_bytes:,} are allowed. "
                "Store it elsewhere and record a reference to it, or raise `max_payload_bytes` of the engine",
                where=str(where),
            )
        if b"null" in data:  # msgspec writes it for NaN too
            path = find_not_finite(value)
            if path is not None:
                raise SerializationError(
                    f"Cannot record {where}: {path} is NaN or infinite, which JSON cannot express. "
                    "Record None, or text, in its place",
                    where=str(where),
                    path=path,
                )
        if size > self.compress_above_bytes:
            packed = _ZLIB_VERSION + zlib.compress(data, _ZLIB_LEVEL)
            if len(packed) < size:
                return packed
        return data.decode()

    # --- arguments ---------------------------------------------------------------------------------------------------

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object) -> Payload:
        """Return the payload of a workflow's input; None where there are no arguments. Raises as `encode` does."""
        parts: dict[str, Any] = {}
        if args:
            parts["args"] = args
        if kwargs:
            parts["kwargs"] = kwargs
        return self.encode(parts or None, where)

    def join_arguments(self, payloads: Sequence[Payload], where: object) -> Payload:
        """Return the input of a run that collects the inputs of several starts, each of which is one list.

        Raises `SerializationError` where one of them is not.
        """
        items: list[msgspec.Raw] = []
        for payload in payloads:
            text = inflate(payload, where) if isinstance(payload, bytes) else payload or ""
            try:
                parts = _read_arguments(text)
                items += _read_list(parts.args[0])
            except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
                raise SerializationError(f"Cannot read {where}: it is not a list of items ({error})") from None
        return msgspec.json.encode(_Arguments([msgspec.Raw(msgspec.json.encode(items))])).decode()

    def check_arguments(
        self,
        payload: Payload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        signature: Signature,
        where: object,
    ) -> None:
        """Raise `SerializationError` unless what was encoded can be read as the parameters are annotated.

        So whoever starts a run learns it, and not whoever finds the run halted.
        """
        if not kwargs and all(
            type(argument) in ATOMS and signature.annotation_at(index) is type(argument)
            for index, argument in enumerate(args)
        ):
            return  # it is read as it was written
        self.decode_arguments(payload, signature, where)

    def decode_arguments(
        self, payload: Payload, signature: Signature, where: object
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a workflow's input, each as the parameter that takes it is annotated.

        Parameters that were not given keep their defaults. Raises `SerializationError` where an argument does not fit
        its annotation, or the function does not take it (any more).
        """
        if payload is None:
            return (), {}
        text = inflate(payload, where) if isinstance(payload, bytes) else payload
        try:
            parts = _read_arguments(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SerializationError(
                f"Cannot read {where}: what the file holds is not the input of a workflow ({error})", where=str(where)
            ) from None
        args = [self._argument(raw, index, signature, where) for index, raw in enumerate(parts.args)]
        kwargs = {name: self._argument(raw, name, signature, where) for name, raw in parts.kwargs.items()}
        return tuple(args), kwargs

    def _argument(self, raw: Any, place: int | str, signature: Signature, where: object) -> Any:
        if isinstance(place, str):
            annotation, path = signature.annotation_of(place), f"$.kwargs{path_step(place)}"
        else:
            annotation, path = signature.annotation_at(place), f"$.args[{place}]"
        if annotation is Signature.NONE:
            raise SerializationError(
                f"Cannot deliver {where}: {signature.name}{signature.parameters} does not take the argument at {path}. "
                "Give it a parameter for what was recorded",
                where=str(where),
                path=path,
            )
        return self._new_converter(annotation, where).decode(raw, where, path)

    def fingerprint(self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object) -> int:
        """Return the CRC-32 of the arguments' JSON, with everything unordered sorted; 0 where there are no arguments.

        Equal arguments give equal numbers in every process. Raises `SerializationError`.
        """
        if not kwargs:
            return zlib.crc32(self._sorted_json(args, args, kwargs, where)) if args else 0
        checksum = zlib.crc32(self._sorted_json(args, args, kwargs, where))
        return zlib.crc32(self._sorted_json(kwargs, args, kwargs, where), checksum)

    def _sorted_json(self, part: object, args: tuple[Any, ...], kwargs: dict[str, Any], where: object) -> bytes:
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
        try:
            _write(part)
            return _write_sorted(in_order(part, _write_sorted))
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value({"args": args, "kwargs": kwargs}, where, error)

    def seal(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object
    ) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
        """Return the `fingerprint` and the `private_copy` of a call's arguments; quick for a few plain ones."""
        if not kwargs and ATOMS.issuperset(map(type, args)):
            try:
                return zlib.crc32(_write_sorted(args)) if args else 0, args, kwargs
            except Exception:  # noqa: BLE001, S110 - a lone surrogate, say: the way below finds and names it
                pass
        return self.fingerprint(args, kwargs, where), *self.private_copy(args, kwargs)

    def private_copy(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
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


def refuse_value(value: object, where: object, error: Exception) -> NoReturn:
    """Raise the `SerializationError` for a value that could not be encoded, naming the part that is to blame."""
    culprit = find_culprit(value, _write, error)
    raise SerializationError(
        f"Cannot record {where}: {culprit.path} {culprit.reason}. {culprit.advice}", where=str(where), path=culprit.path
    ) from error
