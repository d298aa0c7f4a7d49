"""From rows to nouns, where the columns are the fields in their order (``run_record`` in ``fragments.sql``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from stepwell.model.run import RunRecord

_FIELDS: Final = RunRecord.__struct_fields__
#: Truth values, which a database may keep as 0 and 1; the flags are those from ``resumed`` up to ``version``.
_ATTACHED: Final = _FIELDS.index("attached")
_QUEUED: Final = _FIELDS.index("queued")
_FLAGS: Final = slice(_FIELDS.index("resumed"), _FIELDS.index("version"))


def record_of(row: Sequence[Any]) -> RunRecord:
    """Return the record for a row."""
    fields = list(row)
    fields[_ATTACHED] = fields[_ATTACHED] != 0
    fields[_QUEUED] = fields[_QUEUED] != 0
    fields[_FLAGS] = [flag != 0 for flag in fields[_FLAGS]]
    return RunRecord(*fields)
