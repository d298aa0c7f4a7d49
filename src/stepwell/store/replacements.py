"""What stands in a journal in place of what was recorded there, because somebody says so; for `changes` and `forks`."""

from __future__ import annotations

import msgspec

from stepwell.model.journal import EntryKind, Payload


class Replacement(msgspec.Struct, frozen=True):
    """What an operation delivers in place of what the entry of kind `was` holds: an entry of `kind`, with `value`."""

    op: int
    was: EntryKind
    kind: EntryKind
    value: Payload
