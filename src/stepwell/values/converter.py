"""Values of one annotation, there and back, with the certainty that what comes back is what went in."""

from __future__ import annotations

import marshal
import re
import threading
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

import msgspec

from stepwell.errors import SerializationError
from stepwell.model.journal import Payload
from stepwell.values.comparison import same
from stepwell.values.decoders import Decoders, is_untyped, show, split_reason
from stepwell.values.differences import difference
from stepwell.values.exactness import atoms_of, checker
from stepwell.values.inspection import MISSING, at_path, class_of, type_name
from stepwell.values.large_values import (
    LARGE_BYTES,
    collector_paused,
    is_long_list,
    items_a_part,
    note_size,
    paused_for,
)
from stepwell.values.lost_fields import holds_fields, lost_field
from stepwell.values.payload import Packer, named, not_recorded, refuse_value, write
from stepwell.values.signature import Signature

#: Tells, in C, whether what JSON has itself came back the same: it writes another byte for each of these types, and
#: refuses subclasses of them. The version is the last that does not note which objects are shared, by which equal
#: values may differ.
_dumps: Final[Callable[[Any, int], bytes]] = marshal.dumps
_MARSHAL_VERSION: Final = 2


class Converter:
    """Encodes and decodes values of one annotation. `Codec.converter` makes and keeps them."""

    __slots__ = (
        "_check",
        "_decode",
        "_holds_fields",
        "_is_list",
        "_is_plain",
        "_is_typed",
        "_packer",
        "annotation",
        "atoms",
    )

    def __init__(self, packer: Packer, annotation: Any, decoders: Decoders) -> None:
        self.annotation = annotation
        self._packer = packer
        self._decode = decoders.decoder(annotation)
        self._is_typed = not is_untyped(annotation)
        self.atoms = atoms_of(annotation)
        self._check = checker(annotation)
        self._is_plain = self._check is not None and self._check.is_plain
        self._holds_fields = holds_fields(annotation)
        # Whether a part of a list can be read as the annotation says, too.
        self._is_list = not self._is_typed or annotation is list or typing.get_origin(annotation) is list

    def roundtrip(self, value: Any, where: object) -> tuple[Payload, Any]:
        """Return what is to be stored for `value`, and what to deliver: the value as every replay will deliver it.

        Raises `SerializationError` where the value cannot be encoded, does not fit the annotation, or would come back
        changed.
        """
        if value is None:
            return None, self.decode(None, where)
        if self._is_list and is_long_list(value):
            delivered: list[Any] = []
            payload = self._by_parts(value, where, delivered)
            if payload is not None:
                return payload, delivered
        try:
            data = write(value)
        except Exception as error:  # noqa: BLE001 - hooks of user classes may raise anything
            refuse_value(value, where, error)
        if type(value) in self.atoms and len(data) <= self._packer.plain_bytes:  # most steps of most runs
            text = data.decode()
            if "null" not in text:
                return text, value
        return self._settled(value, data, where)

    def record(self, value: Any, where: object) -> Payload:
        """Return what is to be stored for `value`, as `roundtrip` does.

        What is large is not read where that is certain to work.
        """
        if value is None:
            return self.roundtrip(value, where)[0]
        if self._is_list and is_long_list(value):
            payload = self._by_parts(value, where)
            if payload is not None:
                return payload
        try:
            data = write(value)
        except Exception as error:  # noqa: BLE001 - as above
            refuse_value(value, where, error)
        note_size(len(data))
        # Written first: the look at the types does not notice what contains itself.
        if len(data) >= LARGE_BYTES and self.is_sure(value):
            return self._packer.pack(data, where)
        return self._settled(value, data, where)[0]

    def _settled(self, value: Any, data: bytes, where: object) -> tuple[Payload, Any]:
        """Return what `roundtrip` does, for a value and its JSON."""
        if len(data) >= LARGE_BYTES:
            return self._large(value, data, where)
        text = data.decode()
        payload: Payload = text
        if len(data) > self._packer.plain_bytes or "null" in text:
            payload = self._packer.finish(value, data, where)
        if type(value) in self.atoms:
            return payload, value  # cannot change, and is what would be read
        if self._is_plain:
            try:
                delivered = self._decode(text)
                if _dumps(value, _MARSHAL_VERSION) == _dumps(delivered, _MARSHAL_VERSION):
                    return payload, delivered
            except Exception:  # noqa: BLE001, S110 - not of the annotation, or nested too deeply: the way below says so
                pass
        return payload, self.read_back(value, text, where)

    def _large(self, value: Any, data: bytes, where: object) -> tuple[Payload, Any]:
        """Do as `roundtrip`, for JSON of which every look takes milliseconds."""
        self._packer.check_size(data, where)
        note_size(len(data))
        if type(value) in self.atoms:
            return self._packer.finish(value, data, where), value
        with collector_paused():
            if self._is_plain:
                with suppress(Exception):  # as above
                    delivered = self._decode(data)
                    if _dumps(value, _MARSHAL_VERSION) == _dumps(delivered, _MARSHAL_VERSION):
                        return self._packer.pack(data, where), delivered
            if self.is_exact(value):  # and so without NaN
                return self._packer.pack(data, where), self.read_back(value, data, where, is_exact=True)
            return self._packer.finish(value, data, where), self.read_back(value, data, where)

    def _by_parts(self, value: list[Any], where: object, delivered: list[Any] | None = None) -> Payload:
        """Return what is to be stored for a large list, written a part at a time; None for any that needs another way.

        `delivered` gets what is to be delivered; without it nothing is read that is certain to work. No call into C
        takes longer than a part does, so in a thread that is not the engine's this holds up nobody; and what was just
        written is still in the processor's cache when it is looked at.
        """
        texts: list[memoryview] = []
        size_bytes = 1
        try:
            step = items_a_part(value, write)
            if not step:
                return None
            with collector_paused():
                for at in range(0, len(value), step):
                    some = value[at : at + step]
                    text = write(some)
                    size_bytes += len(text) - 1
                    if size_bytes > self._packer.max_payload_bytes:
                        return None
                    if delivered is not None:
                        read = self._decode(text)
                        if not self._came_back(some, read):
                            return None
                        delivered += read
                    elif not self.is_sure(some):
                        return None
                    texts.append(memoryview(text)[1:-1])
        except Exception:  # noqa: BLE001 - the way for all values finds and names what is wrong
            return None
        note_size(size_bytes)
        return self._packer.pack(b"[" + b",".join(texts) + b"]", where)

    def _came_back(self, value: Any, delivered: Any) -> bool:
        """Tell whether a value came back equal."""
        if self._is_plain:
            with suppress(ValueError):
                if _dumps(value, _MARSHAL_VERSION) == _dumps(delivered, _MARSHAL_VERSION):
                    return True
        return self.is_exact(value) or same(value, delivered)

    def read_back(
        self,
        value: Any,
        text: Any,
        where: object,
        path: str = "$",
        signature: Signature | None = None,
        *,
        is_exact: bool = False,
    ) -> Any:
        """Return what is delivered in place of `value`, whose JSON is `text`.

        Raises `SerializationError` where that is not the same. `path` is where the value stands inside a larger one,
        `signature` that of the function that it is an argument of. `is_exact`: that is known already.
        """
        try:
            delivered = self._decode(text)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(error, where, value, path, signature)
        if is_exact or self.is_exact(value) or same(value, delivered):
            return delivered
        if type(delivered) is str and not isinstance(value, str) and self._is_typed:
            # JSON writes bytes, times and the like as text, which must not pass for the text that was promised.
            self._refuse(
                ValueError(f"Expected `str`, got `{type_name(class_of(value))}`"), where, MISSING, path, signature
            )
        change = difference(value, delivered)
        raise not_recorded(where, path + change.path[1:], change.reason, change.advice, signature)

    def copy(self, value: Any) -> Any:
        """Return a copy of a value by way of its JSON, `MISSING` where that may fail or change something.

        The value can be written: it does not contain itself.
        """
        if not self.is_sure(value):
            return MISSING
        try:
            return self._read(write(value))
        except Exception:  # noqa: BLE001 - text with lone surrogates, say
            return MISSING

    @property
    def is_ordered(self) -> bool:
        """Whether what comes back equal for certain holds no sets."""
        return self._check is not None and self._check.is_ordered

    def _read(self, text: str | bytes) -> Any:
        with paused_for(text):
            return self._decode(text)

    def is_exact(self, value: Any) -> bool:
        """Tell whether a value comes back equal for certain."""
        if self._check is None:
            return False
        try:
            return self._check.one(value)
        except RecursionError:
            return False

    def is_sure(self, value: Any) -> bool:
        """Tell whether a value comes back equal for certain, and can be read: nobody has to try."""
        return self._check is not None and self._check.is_readable and self.is_exact(value)

    def decode(self, payload: Payload, where: object, path: str = "$", signature: Signature | None = None) -> Any:
        """Return the value of `payload`; raises `SerializationError`.

        `path` and `signature` as in `read_back`.
        """
        if payload is None:
            payload = "null"
        elif type(payload) is bytes:
            payload = self._packer.text_of(payload, where)
        if not self._is_typed and type(payload) is str and payload[:1] == " ":
            raise SerializationError(
                f"Cannot deliver {where} without its type: JSON shows it as something else than it is. Say what it is: "
                "`receive(name, Decimal)`, `run.value(key, type=Decimal)`, `run.update(name, type=Decimal)`, "
                "`run.stream(name, Decimal)`, for a Decimal",
                where=str(where),
                path=path,
            )
        try:
            value = (
                self._read(payload) if type(payload) is str and len(payload) > LARGE_BYTES else self._decode(payload)
            )
        except RecursionError as error:
            value = self._read_from_the_top(payload, error, where, path, signature)
        except Exception as error:  # noqa: BLE001 - constructors of user classes may raise anything
            self._refuse(error, where, MISSING, path, signature)
        if self._holds_fields:
            self._check_fields(value, payload, where, path, signature)
        return value

    def _read_from_the_top(
        self, text: Any, error: Exception, where: object, path: str, signature: Signature | None
    ) -> Any:
        """Read what is nested too deeply for where this is called from, in a thread, whose stack is empty.

        Python 3.11 counts the nesting together with the calls. What was written, from below fewer calls, can be read.
        """
        found: list[Any] = []

        def read() -> None:
            with suppress(Exception):
                found.append(self._decode(text))

        thread = threading.Thread(target=read, name="stepwell-reads-deep-value", daemon=True)
        thread.start()
        thread.join()
        if not found:
            self._refuse(error, where, MISSING, path, signature)
        return found[0]

    def _check_fields(self, value: Any, payload: Any, where: object, path: str, signature: Signature | None) -> None:
        """Raise `SerializationError` where the payload has a field that is not in the value."""
        text = payload if isinstance(payload, str) else bytes(payload).decode()
        try:
            lost = lost_field(text, value, write)
        except Exception:  # noqa: BLE001 - hooks of user classes may raise anything; it was read, so it is delivered
            return
        if lost is not None:
            inner, cls = lost
            shown = named(path + inner[1:], signature)
            raise SerializationError(
                f"Cannot deliver {where} as {show(self.annotation)}: {shown} was recorded, and {cls} does not have "
                "it any more. Give it back to the class, with a default",
                where=str(where),
                path=path + inner[1:],
            )

    def _refuse(
        self, error: Exception, where: object, value: object, path: str, signature: Signature | None
    ) -> NoReturn:
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
            f"Cannot deliver {where} as {show(self.annotation)}: {reason}, at {named(path + inner[1:], signature)}. "
            "Make the value and the annotation agree",
            where=str(where),
            path=path + inner[1:],
        ) from error
