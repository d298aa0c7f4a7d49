"""The chapters of a run, as users see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from stepwell.model.chapters import Beginning, ChapterRecord
from stepwell.model.clock import datetime_of
from stepwell.model.run import RunRecord
from stepwell.values.codec import Codec


class ChapterInfo(msgspec.Struct, frozen=True):
    """A chapter of a run; times are aware datetimes, UTC.

    `number` counts from 1; `Run.journal` takes it. `beginning` says how it began: ``started``; ``continued``, if the
    code of the chapter before continued as new; ``rewound`` or ``restarted``, if somebody did that;
    ``forked``, from operation `forked_op` of the run `forked_from`. `ended_at` is when another one
    followed, None for the present one. `input` has the arguments of its code, as plain JSON data.
    """

    number: int
    beginning: Beginning
    began_at: datetime
    ended_at: datetime | None
    input: Any
    forked_from: str | None = None
    forked_op: int | None = None

    @classmethod
    def of(cls, chapter: ChapterRecord, codec: Codec, ahead: int = 0) -> ChapterInfo:
        """Make it from a row; `ahead` is that of the run (see `RunRecord`)."""
        return cls(
            number=chapter.number,
            beginning=chapter.beginning,
            began_at=datetime_of(chapter.began_at - ahead),
            ended_at=None if chapter.ended_at is None else datetime_of(chapter.ended_at - ahead),
            input=codec.show(chapter.input, f"the input of chapter {chapter.number}"),
            forked_from=chapter.forked_from,
            forked_op=chapter.forked_op,
        )


def with_present(found: list[ChapterRecord], record: RunRecord) -> list[ChapterRecord]:
    """Return all chapters of a run, with the input of the present one; `found` are those that have rows."""
    if not found:
        return [ChapterRecord(1, "started", record.created_at, None, 0, record.input)]
    return [*found[:-1], msgspec.structs.replace(found[-1], input=record.input)]
