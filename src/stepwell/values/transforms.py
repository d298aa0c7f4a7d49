"""What happens to the JSON of a value between the codec and the file: a chain of transforms, today compression alone.

A payload to which nothing happened is text. Otherwise it is bytes: the mark of the transform that came last, which is
one byte, then what that made of the bytes before. As no JSON begins with a byte below 32, which marks are, a payload
says itself how it is read: every transform may leave alone what it does no good to, and a file keeps what was written
by a chain that nobody uses any more.

A transform is added here and in `Codec`, and nowhere else: stores, journals and child processes take payloads as they
are. A child process (`stepwell.executors`) makes payloads too, and is told how by its parent.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final, Protocol

from stepwell.errors import SerializationError
from stepwell.model.journal import Payload

COMPRESS_ABOVE_BYTES: Final = 4096

#: zlib's fastest level: JSON shrinks to a third with it already, and every level above costs the engine's loop more.
_ZLIB_LEVEL: Final = 1


class Transform(Protocol):
    """One link of the chain.

    `mark` is the number, below 32, by which a payload says that this was applied: one number for ever. JSON of up to
    `plain_bytes` bytes is left alone for certain.
    """

    @property
    def mark(self) -> int:
        """The number of this transform in payloads."""
        ...

    @property
    def plain_bytes(self) -> int:
        """Up to how many bytes pass unchanged."""
        ...

    def apply(self, data: bytes) -> bytes | None:
        """Return what is to be stored for `data`, None to leave it as it is."""
        ...

    def undo(self, data: memoryview) -> bytes:
        """Return what `apply` was given; raises `ValueError` where `data` is damaged."""
        ...


class Compression:
    """Compresses with zlib what has more than `plain_bytes` bytes, where that makes it smaller."""

    mark: int = 1

    def __init__(self, plain_bytes: int = COMPRESS_ABOVE_BYTES) -> None:
        self.plain_bytes: Final = plain_bytes

    def apply(self, data: bytes) -> bytes | None:
        """Return `data` compressed; None where that is not smaller."""
        if len(data) <= self.plain_bytes:
            return None
        packed = zlib.compress(data, _ZLIB_LEVEL)
        return packed if len(packed) + 1 < len(data) else None

    def undo(self, data: memoryview) -> bytes:
        """Return what was compressed."""
        try:
            return zlib.decompress(data)
        except zlib.error as error:
            raise ValueError(str(error)) from None


class Transforms:
    """A chain of transforms, applied in the order of `chain` and undone in that of the marks in a payload."""

    def __init__(self, chain: Sequence[Transform]) -> None:
        self._chain: Final = [(bytes([transform.mark]), transform) for transform in chain]
        #: What other chains wrote can be read as far as it needs no secret.
        self._known: Final[dict[int, Transform]] = {Compression.mark: Compression()}
        self._known.update((transform.mark, transform) for transform in chain)
        #: JSON up to this size passes all of them unchanged.
        self.plain_bytes: Final = min(transform.plain_bytes for transform in chain)

    def apply(self, data: bytes) -> Payload:
        """Return the payload of JSON in UTF-8."""
        stored = data
        for mark, transform in self._chain:
            made = transform.apply(stored)
            if made is not None:
                stored = mark + made
        return data.decode() if stored is data else stored

    def undo(self, payload: bytes, where: object) -> str:
        """Return the JSON of a payload that is bytes; raises `SerializationError` for one that is damaged."""
        data = payload
        try:
            while True:
                transform = self._known.get(data[0]) if data else None
                if transform is None and (data is payload or data[:1] < b" "):
                    raise SerializationError(
                        f"Cannot read {where}: its format, {data[:1]!r}, is unknown to this version. Upgrade Stepwell",
                        where=str(where),
                    )
                if transform is None:
                    return data.decode()
                data = transform.undo(memoryview(data)[1:])
        except ValueError as error:  # UnicodeDecodeError is one
            raise SerializationError(
                f"Cannot read {where}: what the file holds is damaged ({error}). Restore it from a backup",
                where=str(where),
            ) from None
