"""Chapters: the parts of a run's life that its code sees one at a time.

A run begins with its first chapter, and most have no other. Another one begins where its code goes on as new
(``continue_as_new``), or where somebody rewinds or restarts it: a journal of its own, under the same id. What came
before stays in the file, and is told to nobody's code.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Literal, TypeAlias

import msgspec

from stepwell.model.journal import Payload

#: How a chapter began: the run was started, its code went on as new, somebody rewound or restarted it, or it was forked
#: from another one.
Beginning: TypeAlias = Literal["started", "continued", "rewound", "restarted", "forked"]

#: The kind, and the operation, of the entry that stands before each chapter but the first.
CHAPTER: Final = "chapter"


class Chapter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the code of a chapter depends on beside its input and its journal; the first chapters of runs have none.

    `number` counts from 1. The run's clock begins at `clock_from` (None: when the run begins, as in a first chapter).
    Its random numbers come from `seed`, its operations are counted on from `ops_before`. `runs_before` is
    the highest key of a run when it began: what its operations start anew is none of those.
    """

    number: int
    clock_from: int | None
    seed: str
    ops_before: int
    runs_before: int


class ChapterRecord(msgspec.Struct, frozen=True):
    """A chapter as its row shows it.

    `began_at` and `ended_at` are engine time in microseconds, `ended_at` None for the present one. `input` is what its
    code was given, but for the present one, whose input is the run's. `forked_from` and `forked_op` say where the first
    chapter of a fork comes from, and `forked_as` what it was given (see `stepwell.store.forks.Origin`).
    """

    number: int
    beginning: Beginning
    began_at: int
    ended_at: int | None
    journal_from: int
    input: Payload
    forked_from: str | None = None
    forked_op: int | None = None
    forked_as: int | None = None


_decode: Final = partial(msgspec.json.decode, type=Chapter)


def number_of_chapter(text: str | None) -> int:
    """Return the number of the present chapter of a run from what its row says."""
    chapter = decode_chapter(text)
    return 1 if chapter is None else chapter.number


def encode_chapter(chapter: Chapter) -> str:
    """Return a chapter as the row of a run has it."""
    return msgspec.json.encode(chapter).decode()


def decode_chapter(text: str | None) -> Chapter | None:
    """Return the present chapter of a run from what its row says; None for the first one."""
    return None if text is None else _decode(text)
