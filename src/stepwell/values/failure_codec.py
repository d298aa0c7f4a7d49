"""Failures as payloads: they go into the file, and come out of it, as every other value does.

`stepwell.values.failure` makes JSON of an exception and an exception of JSON; what happens to that JSON on its way is
the business of the codec. So nothing that is recorded, exceptions with their texts and tracebacks included, goes past
its transforms.
"""

from __future__ import annotations

from functools import partial

import msgspec

from stepwell.errors import SerializationError
from stepwell.model.journal import AttemptFailure, Payload
from stepwell.values.failure import Fallback, failure_from_json, failure_json, raisable, summary_from_json
from stepwell.values.failure_info import FailureInfo, failure_info
from stepwell.values.payload import Packer

_WHERE = "a recorded failure"

_encode_attempt = msgspec.json.Encoder().encode
_decode_attempt = partial(msgspec.json.decode, type=AttemptFailure)


class FailureCodec(Packer):
    """The part of the codec that is about failures; see `stepwell.values.codec`."""

    def encode_failure(self, error: BaseException) -> Payload:
        """Return the payload that records an exception. Never raises: what cannot be recorded is left out."""
        return self.pack_failure(failure_json(error))

    def pack_failure(self, text: str) -> Payload:
        """Return the payload of what `failure_json` returned. Its size is bounded there, and not refused here."""
        return self.transforms.apply(text.encode())

    def decode_failure(self, payload: Payload, fallback: Fallback) -> BaseException:
        """Return the recorded exception, or a `fallback`; see `failure_from_json`.

        Raises `SerializationError` where the payload is damaged.
        """
        return failure_from_json(self.text_of(payload, _WHERE), fallback)

    def failure_to_raise(self, payload: Payload, fallback: Fallback) -> BaseException:
        """Return what `decode_failure` returns, but never a `CancelledError`."""
        return raisable(self.decode_failure(payload, fallback), fallback)

    def failure_summary(self, payload: Payload) -> tuple[str, str]:
        """Return the name of the exception's class, and its text; raises as `decode_failure`."""
        return summary_from_json(self.text_of(payload, _WHERE))

    def show_failure(self, payload: Payload) -> FailureInfo:
        """Return a recorded failure for people to look at; raises as `decode_failure`."""
        return failure_info(self.text_of(payload, _WHERE))

    def encode_attempt(
        self, text: str, retry_at: int, first_started_at: int, code: int | None = None, *, spent: bool = False
    ) -> Payload:
        """Return the value of an ``attempt_failed`` entry; `text` is what `failure_json` returned.

        The other arguments are those of `AttemptFailure`.
        """
        record = AttemptFailure(msgspec.Raw(text.encode()), retry_at, first_started_at, code, spent)
        return self.transforms.apply(_encode_attempt(record))

    def decode_attempt(self, payload: Payload) -> AttemptFailure:
        """Return what an ``attempt_failed`` entry holds, its failure as JSON; raises as `decode_failure`."""
        try:
            attempt: AttemptFailure = _decode_attempt(self.text_of(payload, _WHERE))
        except msgspec.DecodeError as error:
            raise SerializationError(
                f"Cannot read {_WHERE}: what the file holds is damaged ({error}). Restore it from a backup",
                where=_WHERE,
            ) from None
        return attempt
