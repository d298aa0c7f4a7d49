"""Arguments for a function of which only the code of a run knows what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stepwell.definitions.definition import checked_kwargs
from stepwell.model.journal import Payload
from stepwell.values.codec import Codec
from stepwell.values.signature import Signature

#: Of what takes any arguments.
_UNKNOWN: Final = Signature(lambda *_args, **_kwargs: None)


def encoded_arguments(codec: Codec, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, where: str) -> Payload:
    """Return the payload of arguments; raises as `Codec.encode` does, and where one would come back changed."""
    return codec.seal_input(args, checked_kwargs(kwargs), _UNKNOWN, where, is_typed=False)[0]
