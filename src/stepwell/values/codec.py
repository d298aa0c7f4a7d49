"""Values as JSON text, driven by annotations; the one way in which anything of the user's gets into the file and out.

What a run sees is always ``decode(encode(value), annotation)``, the first time as well as on replay, and that is the
value itself, in type and content: a value that would come back changed is refused before it is recorded. Values of
types that come back equal for certain (`stepwell.values.exactness`) are not compared, all others are
(`stepwell.values.comparison`).

Format of a payload:

- ``None`` (SQL NULL): the value ``None``; as the input of a workflow, no arguments.
- text: JSON, as msgspec writes it. Integers may be of any size. With a space before it: JSON of a value that is sent
  without knowing how it will be read, and that is not what JSON shows (a `Decimal`, a tuple, an object): whoever reads
  it has to say its type.
- bytes: what the transforms made of that JSON in UTF-8, each with one byte before it that says which; today 1, then the
  JSON compressed with zlib (`stepwell.values.transforms`).

The input of a workflow is ``{"args": [...], "kwargs": {...}}``, an empty part left out. Nothing is ever unpickled, and
nothing that a payload says is imported or called.

`where` names a value in error messages ("the result of step 'shop.charge' in run 'order-42'"). It may be any object:
its `str` is taken only when there is an error.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from stepwell.errors import DefinitionError, SerializationError
from stepwell.model.journal import Payload
from stepwell.values.converter import Converter
from stepwell.values.decoders import Decoders
from stepwell.values.differences import difference
from stepwell.values.exactness import is_json_value
from stepwell.values.failure_codec import FailureCodec
from stepwell.values.fingerprint import fingerprint, plain_copy, plain_fingerprint, private_copy, quick_fingerprint
from stepwell.values.inspection import ATOMS, MISSING, children, class_of, is_immutable, mapping_of
from stepwell.values.large_values import LARGE_BYTES, note_size, paused_for
from stepwell.values.payload import (
    MAX_PAYLOAD_BYTES,
    not_recorded,
    place_of,
    refuse_value,
    write,
)
from stepwell.values.signature import Signature
from stepwell.values.transforms import COMPRESS_ABOVE_BYTES, Transform

_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, dict})


def _generic(origin: Any, *args: Any) -> Any:
    return origin[args]


def _parts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the input of a workflow as it is written."""
    parts: dict[str, Any] = {}
    if args:
        parts["args"] = args
    if kwargs:
        parts["kwargs"] = kwargs
    return parts


class _Arguments(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    args: list[msgspec.Raw] = []
    kwargs: dict[str, msgspec.Raw] = {}


_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_arguments = msgspec.json.Decoder(_Arguments).decode


class Codec(FailureCodec):
    """Turns values into payloads and back. One instance serves an engine; safe to use from several threads."""

    def __init__(
        self,
        *,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        compress_above_bytes: int = COMPRESS_ABOVE_BYTES,
        further: Sequence[Transform] = (),
    ) -> None:
        super().__init__(
            max_payload_bytes=max_payload_bytes, compress_above_bytes=compress_above_bytes, further=further
        )
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

    def encode_untyped(self, value: object, where: object) -> Payload:
        """Return the payload of a value whose reader says how it is read: a message, or a published value.

        Raises as `encode` does, and where the value would come back changed even if it is read as what it is.
        """
        if value is None:
            return None
        try:
            data = write(value)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value(value, where, error)
        return self._untyped(value, data, where)[0]

    def seal_untyped(self, value: object, args: tuple[Any, ...], where: object) -> tuple[Payload, int]:
        """Return what `encode_untyped` does, and the fingerprint of `args`, which hold the value and else text only."""
        data = b""
        if value is not None:
            try:
                data = write(value)
            except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
                refuse_value(value, where, error)
        payload, is_ordered = (None, True) if value is None else self._untyped(value, data, where)
        if is_ordered:
            try:
                return payload, plain_fingerprint(args, {})
            except Exception:  # noqa: BLE001, S110 - a lone surrogate in the text: refused below, by name
                pass
        return payload, self.fingerprint(args, {}, where)

    def _untyped(self, value: object, data: bytes, where: object) -> tuple[Payload, bool]:
        """Return the payload of a value with this JSON, and whether it is certain to hold no sets."""
        note_size(len(data))
        if is_json_value(value):  # only now: what contains itself has no end, and was refused
            return self.pack(data, where), True
        self.check_size(data, where)
        try:
            is_sure = self.check_itself(value, where)
        except RecursionError as error:
            refuse_value(value, where, error)
        text = b" " + data
        return (self.pack(text, where) if is_sure else self.finish(value, text, where)), is_sure

    def check_itself(self, value: Any, where: object, path: str = "$") -> bool:
        """Raise `SerializationError` unless a value comes back equal when it is read as what it is.

        Return whether that was known without reading it, and it holds neither sets nor NaN.
        """
        kind = class_of(value)
        if is_json_value(value):
            return True
        if kind in ATOMS and kind not in (dt.datetime, dt.time):
            return kind is not float
        if kind not in _CONTAINERS:
            return self._comes_back(value, kind, where, path)
        if kind is dict:
            self._check_keys(mapping_of(value), where, path)
        kinds = {class_of(item) for _, item in children(value)}
        if len(kinds) == 1 and kind is not dict and not kinds & _CONTAINERS:
            is_sure = self._comes_back(list(value), _generic(list, kinds.pop()), where, path)
        else:
            is_sure = True
            for step, item in children(value):  # all of them, whatever is known of the first
                is_sure = self.check_itself(item, where, path + step) and is_sure
        return is_sure and kind in (list, tuple, dict)

    def _comes_back(self, value: Any, annotation: Any, where: object, path: str) -> bool:
        """Raise `SerializationError` unless a value comes back equal as `annotation`; return as `check_itself`."""
        converter = self._converter_for(annotation, where)
        if converter.is_sure(value):
            return converter.is_ordered
        data = write(value)
        with paused_for(data):
            converter.read_back(value, data, where, path)
        return False

    def _check_keys(self, value: dict[Any, Any], where: object, path: str) -> None:
        keys = dict.fromkeys(value)
        texts = msgspec.json.decode(write(keys))
        if len(texts) < len(keys):
            change = difference(keys, texts)
            raise not_recorded(where, path, change.reason, change.advice)
        for key in keys:
            if type(key) is not str:
                converter = self._converter_for(_generic(dict, type(key), None), where)
                converter.read_back({key: None}, write({key: None}), where, path)

    def decode(self, payload: Payload, annotation: Any, where: object) -> Any:
        """Return the value of `payload` as `annotation` says; raises `SerializationError` where it does not fit."""
        try:
            converter = self._converters[annotation]
        except (KeyError, TypeError):
            converter = self._converter_for(annotation, where)
        return converter.decode(payload, where)

    def show(self, payload: Payload, where: object) -> Any:
        """Return the value of `payload` as JSON shows it, for people to look at."""
        return self.decode(None if payload is None else self.text_of(payload, where).lstrip(" "), Any, where)

    def _converter_for(self, annotation: Any, where: object) -> Converter:
        try:
            return self.converter(annotation)
        except DefinitionError as error:  # whoever reads a value is prepared for one kind of error
            raise SerializationError(f"Cannot deliver {where}: {error}", where=str(where)) from error

    # --- arguments ---------------------------------------------------------------------------------------------------

    def encode_arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object, signature: Signature | None = None
    ) -> Payload:
        """Return the payload of a workflow's input; None where there are no arguments. Raises as `encode` does.

        With `signature` errors name the parameters.
        """
        parts = _parts(args, kwargs)
        if not parts:
            return None
        return self.finish(parts, self._write_parts(parts, where, signature), where, signature)

    def _write_parts(self, parts: dict[str, Any], where: object, signature: Signature | None) -> bytes:
        try:
            return write(parts)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value(parts, where, error, signature)

    def seal_input(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        signature: Signature,
        where: object,
        *,
        is_typed: bool = True,
        is_checked: bool = True,
    ) -> tuple[Payload, int]:
        """Return the payload of a workflow's input, and its fingerprint.

        Raises as `encode_arguments` does and, where `is_checked`, unless the arguments come back equal: as they are
        annotated, or where the workflow is known by its name only (`is_typed` is false) as what each is.
        """
        parts = _parts(args, kwargs)
        if not parts:
            return None, 0
        data = self._write_parts(parts, where, signature)
        note_size(len(data))
        is_sure = is_ordered = False
        if len(data) >= LARGE_BYTES:
            self.check_size(data, where)  # first: each look takes milliseconds
            is_sure, is_ordered = self._look(args, kwargs, signature if is_typed else None, where)
        payload = self.pack(data, where) if is_sure else self.finish(parts, data, where, signature)
        if is_checked and not is_sure:
            if not is_typed:
                self.check_untyped_arguments(args, kwargs, where)
            elif kwargs or not self._are_atoms(args, signature, where):
                self._check_read(data, args, kwargs, signature, where)
        if is_ordered:
            return payload, plain_fingerprint(args, kwargs)
        return payload, self.fingerprint(args, kwargs, where, signature)

    def _look(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], signature: Signature | None, where: object
    ) -> tuple[bool, bool]:
        """Return whether arguments come back equal for certain, and whether they are certain to hold no sets."""
        if signature is None:
            is_plain = all(map(is_json_value, args)) and is_json_value(kwargs)
            return is_plain, is_plain
        converters = [
            *((self._argument_converter(index, signature, where), value) for index, value in enumerate(args)),
            *((self._argument_converter(name, signature, where), value) for name, value in kwargs.items()),
        ]
        is_sure = all(converter.is_sure(value) for converter, value in converters)
        return is_sure, is_sure and all(converter.is_ordered for converter, _ in converters)

    def _are_atoms(self, args: tuple[Any, ...], signature: Signature, where: object) -> bool:
        """Tell whether all arguments are read as they were written."""
        return all(
            type(argument) in self._converter_for(signature.annotation_at(index), where).atoms
            for index, argument in enumerate(args)
        )

    def join_arguments(self, payloads: Sequence[Payload], where: object) -> Payload:
        """Return the input of a run that collects the inputs of several starts, each of which is one list.

        Raises `SerializationError` where one of them is not.
        """
        items: list[msgspec.Raw] = []
        for payload in payloads:
            text = self.text_of(payload, where)
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
        """Raise `SerializationError` unless the arguments that were encoded come back equal as they are annotated.

        So whoever starts a run learns it, and not whoever finds the run halted.
        """
        if not kwargs and self._are_atoms(args, signature, where):
            return
        text = self.text_of(payload, where, "{}")
        self._check_read(text, args, kwargs, signature, where)

    def _check_read(
        self, text: str | bytes, args: tuple[Any, ...], kwargs: dict[str, Any], signature: Signature, where: object
    ) -> None:
        with paused_for(text):
            parts = _read_arguments(text)
            for index, (value, raw) in enumerate(zip(args, parts.args, strict=True)):
                converter = self._argument_converter(index, signature, where)
                converter.read_back(value, raw, where, place_of(index), signature)
            for name, raw in parts.kwargs.items():
                converter = self._argument_converter(name, signature, where)
                converter.read_back(kwargs[name], raw, where, place_of(name), signature)

    def check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any], signature: Signature, where: object) -> None:
        """Raise `SerializationError` unless the arguments come back equal when they cross to another process."""
        self.check_arguments(self.encode_arguments(args, kwargs, where, signature), args, kwargs, signature, where)

    def check_untyped_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object) -> None:
        """Raise `SerializationError` unless the arguments come back equal when each is read as what it is."""
        for index, value in enumerate(args):
            self.check_itself(value, where, place_of(index))
        for name, value in kwargs.items():
            self.check_itself(value, where, place_of(name))

    def decode_arguments(
        self, payload: Payload, signature: Signature, where: object
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a workflow's input, each as the parameter that takes it is annotated.

        Parameters that were not given keep their defaults. Raises `SerializationError` where an argument does not fit
        its annotation, or the function does not take it (any more).
        """
        if payload is None:
            return (), {}
        text = self.text_of(payload, where)
        note_size(len(text))
        try:
            parts = _read_arguments(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SerializationError(
                f"Cannot read {where}: what the file holds is not the input of a workflow ({error})", where=str(where)
            ) from None
        with paused_for(text):
            args = [self._argument(raw, index, signature, where) for index, raw in enumerate(parts.args)]
            kwargs = {name: self._argument(raw, name, signature, where) for name, raw in parts.kwargs.items()}
        return tuple(args), kwargs

    def _argument(self, raw: Any, place: int | str, signature: Signature, where: object) -> Any:
        return self._argument_converter(place, signature, where).decode(raw, where, place_of(place), signature)

    def _argument_converter(self, place: int | str, signature: Signature, where: object) -> Converter:
        annotation = signature.annotation_of(place) if isinstance(place, str) else signature.annotation_at(place)
        if annotation is Signature.NONE:
            path = place_of(place)
            raise SerializationError(
                f"Cannot deliver {where}: {signature.name}{signature.parameters} does not take the argument at {path}. "
                "Give it a parameter for what was recorded",
                where=str(where),
                path=path,
            )
        return self._converter_for(annotation, where)

    def fingerprint(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object, signature: Signature | None = None
    ) -> int:
        """Return the checksum of arguments (see `stepwell.values.fingerprint`); raises `SerializationError`."""
        try:
            return fingerprint(args, kwargs)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value({"args": args, "kwargs": kwargs}, where, error, signature)

    def seal(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], where: object, signature: Signature | None = None
    ) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
        """Return the fingerprint and a private copy of a call's arguments; quick for plain ones."""
        if not kwargs and (quick := quick_fingerprint(args)) is not None:
            return quick, args, kwargs
        try:
            checksum = plain_fingerprint(args, kwargs)
        except Exception:  # noqa: BLE001 - as above, or a set whose items do not compare
            return self.fingerprint(args, kwargs, where, signature), *private_copy(args, kwargs)
        # Only now: what contains itself has no end, and was refused.
        if all(map(is_json_value, args)) and (not kwargs or is_json_value(kwargs)):
            with suppress(ValueError):  # nested deeper than `marshal` goes
                return checksum, *plain_copy(args, kwargs)
        if signature is None:
            return self.fingerprint(args, kwargs, where), *private_copy(args, kwargs)
        copies = [self._copy(value, signature.annotation_at(index)) for index, value in enumerate(args)]
        named = {name: self._copy(value, signature.annotation_of(name)) for name, value in kwargs.items()}
        made = [*copies, *named.values()]
        if not all(is_ordered for _, is_ordered in made):
            checksum = self.fingerprint(args, kwargs, where, signature)
        if any(copy is MISSING for copy, _ in made):
            return checksum, *private_copy(args, kwargs)
        return checksum, tuple(copy for copy, _ in copies), {name: copy for name, (copy, _) in named.items()}

    def _copy(self, value: Any, annotation: Any) -> tuple[Any, bool]:
        """Return a private copy of an argument and whether it is certain to hold no sets.

        It is made by way of JSON, in a tenth of the time that `deepcopy` takes; `MISSING` where that is not certain.
        """
        if type(value) in ATOMS:
            return value, True
        if is_immutable(value):
            return value, False
        if annotation is Signature.NONE:
            return MISSING, False
        with suppress(DefinitionError):  # of a type that JSON cannot express, which a step in this process may take
            converter = self.converter(annotation)
            copy = converter.copy(value)
            return copy, copy is not MISSING and converter.is_ordered
        return MISSING, False
