"""What SQLite's errors mean for the store, and how they are told to the operator.

Two classes matter. Most errors concern one unit: it is refused, the others go on. The errors in `_WHOLE` concern the
disk or the file; they end the whole transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from stepwell.errors import ReadTooLong, StepwellError, StorageFull, StoreError, StoreFailed, StoreUnavailable
from stepwell.store.changes import Change

_WHOLE: Final = (
    apsw.FullError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.ProtocolError,
    apsw.InterruptError,
    apsw.InternalError,
    apsw.MisuseError,
    apsw.ConnectionClosedError,
)


class TransactionGone(Exception):
    """SQL of user code ended the transaction (``ON CONFLICT ROLLBACK``, ``RAISE(ROLLBACK)``), and all units with it."""


def concerns_all(error: BaseException) -> bool:
    """Whether `error` ends the whole transaction rather than one unit; everything that is no `Exception` does."""
    return not isinstance(error, Exception) or isinstance(error, (*_WHOLE, TransactionGone, StoreFailed))


def is_corruption(error: BaseException) -> bool:
    """Whether the file's content can no longer be trusted."""
    return isinstance(error, (apsw.CorruptError, apsw.NotADBError))


def damaged(detail: str, location: str) -> StoreFailed:
    """Return the error for a file whose content can no longer be trusted."""
    return StoreFailed(
        f"{location}: the file is damaged ({detail}). The engine stopped, to do no further harm. Stop all workers, "
        "copy the file together with its -wal file, and restore the newest backup"
    )


def translate(error: Exception, location: str) -> StoreError:
    """Return the error of ours for a transaction that `error` ended and that was rolled back."""
    detail = f"{error}" or type(error).__name__
    match error:
        case StoreError():
            return error
        case apsw.FullError():
            return StorageFull(f"{location}: the disk is full. Nothing was written; free some space, then try again")
        case apsw.CorruptError() | apsw.NotADBError():
            return damaged(detail, location)
        case apsw.BusyError() | apsw.LockedError():
            return StoreUnavailable(
                f"{location}: another program holds the file's write lock ({detail}). Nothing was written; close the "
                "program (a database browser with an open transaction, say), then try again"
            )
        case apsw.ReadOnlyError() | apsw.CantOpenError():
            return StoreError(
                f"{location}: the file cannot be written ({detail}). Nothing was written; check its rights"
            )
        case apsw.IOError():
            return StoreUnavailable(
                f"{location}: the disk reported an error ({detail}). The transaction was rolled back and may be retried"
            )
        case _:
            return StoreError(f"{location}: {type(error).__name__}: {detail}. The transaction was rolled back")


def translate_read(error: apsw.Error, location: str) -> StoreError:
    """Return the error of ours for a read that `error` ended."""
    if isinstance(error, apsw.InterruptError):
        return ReadTooLong(f"{location}: reading this takes longer than it may; ask for less, with a narrower filter")
    if isinstance(error, apsw.IOError):
        return StoreError(
            f"{location}: the disk reported an error while the file was read ({error}). What is in it was not touched; "
            "check the disk"
        )
    return translate(error, location)


def refusal(error: Exception, changes: Sequence[Change], location: str) -> StepwellError:
    """Return the outcome of a unit of `changes` that failed alone with `error`."""
    if isinstance(error, StepwellError):
        return error
    facts = ", ".join(_describe(change) for change in changes) or "the unit's body"
    refused = StoreError(f"{location}: nothing was written of {facts}: {type(error).__name__}: {error}")
    refused.__cause__ = error
    return refused


def _describe(change: Change) -> str:
    """Return what a change is about, without its payload."""
    for field in ("run", "run_id", "id", "parent"):
        if hasattr(change, field):
            return f"{type(change).__name__}({field}={getattr(change, field)!r})"
    return type(change).__name__
