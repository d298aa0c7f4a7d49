"""How a person is asked: from what code says of a promise to its row, and whether an answer fits what was asked.

An answer is checked before anything is recorded, also where nobody has the class that it will be read as: by the JSON
schema of the type. Where that class is imported in the process, it is read as such as well.
"""

from __future__ import annotations

import sys
import types
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stepwell.errors import DefinitionError, InvalidArgument, SerializationError
from stepwell.model.names import check_text
from stepwell.model.promise import Form, PromiseForm
from stepwell.values.decoders import is_untyped, show
from stepwell.values.inspection import MISSING, items_of
from stepwell.values.json_schema import misfit, schema_of
from stepwell.values.payload import write

if TYPE_CHECKING:
    from stepwell.model.journal import Payload
    from stepwell.values.codec import Codec
    from stepwell.values.converter import Converter

#: The type of a promise that says nothing of its values.
_ANYTHING: Final = "Any"


def form_of(codec: Codec, converter: Converter, form: Form | None, default: Any, where: str) -> Payload:
    """Return what is stored of a promise; raises `InvalidArgument`, and `SerializationError` for choices that misfit.

    `converter` is that of the promise's type.
    """
    annotation = converter.annotation
    form = form or Form()
    if isinstance(form.choices, (str, bytes)):
        raise InvalidArgument(f"{where}: choices must be a sequence of values, not the text {form.choices!r}")
    found = PromiseForm(
        type=_ANYTHING if is_untyped(annotation) else show(annotation),
        schema=_schema(annotation),
        made_of=None if is_untyped(annotation) else _made_of(annotation),
        title=check_text(form.title, f"{where}: title") or "",
        text=check_text(form.text, f"{where}: text") or "",
        choices=[_chosen(converter, choice, where) for choice in form.choices],
        evidence=_shown(codec, form.evidence, f"{where}: the evidence"),
        has_default=default is not MISSING,
        default=msgspec.Raw(b"null") if default is MISSING else _default(codec, default, where),
    )
    return codec.pack(msgspec.json.encode(found), where)


def _schema(annotation: Any) -> msgspec.Raw:
    try:
        return _known_schema(annotation)
    except TypeError:  # an annotation without a hash
        return msgspec.Raw(msgspec.json.encode(schema_of(annotation)))


@lru_cache(maxsize=512)
def _known_schema(annotation: Any) -> msgspec.Raw:
    return msgspec.Raw(b"{}" if is_untyped(annotation) else msgspec.json.encode(schema_of(annotation)))


def _made_of(annotation: Any) -> Any:
    """Return the classes that an annotation is made of, see `PromiseForm`."""
    origin: Any = typing.get_origin(annotation)
    if origin is None:
        if annotation is types.NoneType:
            return "types:NoneType"
        return f"{annotation.__module__}:{annotation.__qualname__}" if isinstance(annotation, type) else None
    whole = "typing:Union" if origin in (typing.Union, types.UnionType) else _made_of(origin)
    parts = ["builtins:Ellipsis" if part is ... else _made_of(part) for part in typing.get_args(annotation)]
    return None if None in (whole, *parts) else [whole, *parts]


def _chosen(converter: Converter, choice: Any, where: str) -> msgspec.Raw:
    converter.record(choice, f"a choice of {where}")
    return msgspec.Raw(write(choice))


def _shown(codec: Codec, value: Any, where: str) -> msgspec.Raw:
    codec.encode_untyped(value, where)
    return msgspec.Raw(write(value))


def _default(codec: Codec, value: Any, where: str) -> msgspec.Raw:
    """Return how the default is shown to people: the code itself has it as it is."""
    try:
        return _shown(codec, value, where)
    except SerializationError:
        return msgspec.Raw(msgspec.json.encode(repr(value)))


def read_form(codec: Codec, payload: Payload, where: str) -> PromiseForm:
    """Return the form of a promise; raises `SerializationError` where the file is damaged."""
    found: PromiseForm = codec.decode(payload, PromiseForm, where)
    return found


def answer_of(codec: Codec, form: PromiseForm, value: Any, where: str) -> Payload:
    """Return the payload of an answer; raises `InvalidArgument` for one that is not what was asked for."""
    payload = codec.encode_untyped(value, f"the answer to {where}")
    plain = msgspec.json.decode(write(value))
    fault = misfit(msgspec.json.decode(form.schema), plain)
    if fault is None and form.choices:
        fault = misfit({"enum": [msgspec.json.decode(choice) for choice in form.choices]}, plain)
    if fault is None and form.type == _ANYTHING and isinstance(payload, str) and payload.startswith(" "):
        fault = f"$: without a type it must be what JSON has itself, not {type(value).__name__}"
    if fault is None:
        fault = _class_fault(codec, form.made_of, payload, where)
    if fault is not None:
        raise InvalidArgument(f"{where}, takes {form.type}, and this is none: {fault}. Nothing was recorded")
    return payload


def _class_fault(codec: Codec, made_of: Any, payload: Payload, where: str) -> str | None:
    """Say why an answer cannot be read as its type, where that is imported here. Nothing is imported for that."""
    try:
        annotation = _found(made_of)
        if annotation is not None:
            codec.converter(annotation).decode(payload, f"the answer to {where}")
    except SerializationError as error:
        return str(error)
    except (DefinitionError, TypeError, AttributeError, KeyError):  # it is another one here, or not imported
        return None
    return None


def _found(made_of: Any) -> Any:
    """Return the annotation that is made of these classes; raises `KeyError` or `AttributeError` for a missing one."""
    if isinstance(made_of, list):
        whole, *parts = map(_found, items_of(made_of))
        return whole[tuple(parts)]
    if made_of is None:
        return None
    module, _, name = made_of.partition(":")
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found
