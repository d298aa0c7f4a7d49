"""The ids of children that their workflow names none for: the parent's id, a slash, and the operation's number.

Such an id may belong to another run: to a child of an earlier parent of the same id, which was purged, or to a run that
was started under it from outside. Then the parent's key in the store, which is never used again, makes the difference.
Or it is a child of this very operation, of before a retry (see `stepwell.worker.repair.undoing`): if that completed, or
goes on, it is the child again; if it failed or was cancelled, another one is started, and a number makes the
difference. An id that grew too long to be used (children of children, or of a run with a long id) has its end cut off,
and a digest of the whole parent's id in its place, so that the ids of different parents' children differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, Protocol

from stepwell.errors import RunConflict
from stepwell.model.lifecycle import ENDED
from stepwell.model.names import MAX_NAME_LENGTH
from stepwell.model.run import RunRecord
from stepwell.store.changes import RunCreated

#: What the prefix leaves for the number and the key, in characters: each has at most 19 digits.
_TAIL_LENGTH: Final = 40
_DIGEST_BYTES: Final = 8
#: How many children one operation can have had, by retries of its run, before its author has to name the next one.
_MOST_CHILDREN: Final = 99


class Parent(Protocol):
    """A run that starts children."""

    key: int
    id: str
    #: Whether some run had an id of the kind that its children are given when it first gave one; None: not known.
    shares_ids: bool | None
    #: The highest key of a run when its present chapter began; no child of that is below.
    runs_before: int


class Ids(Protocol):
    """What is asked of a store: see `stepwell.store.worker_reads.WorkerReads`."""

    def run_by_id(self, run_id: str) -> RunRecord | None:
        """Return the run with this id, or None."""
        ...

    def has_ids(self, prefix: str) -> bool:
        """Tell whether the id of any run begins with `prefix`."""
        ...


class Creating(Protocol):
    """The batch under way, which creates runs that are not in the store yet."""

    creating: dict[str, RunCreated]


def prefix_of_children(parent_id: str) -> str:
    """Return what the ids of all children of a run begin with that were not given another one."""
    longest = MAX_NAME_LENGTH - _TAIL_LENGTH - 1
    if len(parent_id) <= longest:
        return f"{parent_id}/"
    digest = hashlib.blake2b(parent_id.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{parent_id[: longest - len(digest) - 1]}~{digest}/"


class ChildIds:
    """Gives ids to children.

    A look into the store for each of them would cost a tenth of starting it. So one for each parent finds out whether
    there is anything to look for. An id that is taken after that look makes the store refuse the write; the run is read
    again then, and looks again.
    """

    def __init__(self, ids: Ids, batch: Creating) -> None:
        self._ids = ids
        self._batch = batch

    def free(self, parent: Parent, number: int) -> str:
        """Return an id for the child that operation `number` starts. Raises `RunConflict` where none is left."""
        prefix = prefix_of_children(parent.id)
        if parent.shares_ids is None:
            parent.shares_ids = self._ids.has_ids(prefix)
        for found in _candidates(prefix, parent, number):
            if not self._is_taken(found, parent):
                return found
        first, second, *_ = _candidates(prefix, parent, number)
        raise RunConflict(
            f"run {parent.id!r} started a child without an id; those that it might have, {first!r}, {second!r} and so "
            "on, are taken by other runs. Give it another one: stepwell.start(…, id=…)"
        )

    def of_before(self, parent: Parent, number: int, workflow: str, fingerprint: int) -> RunRecord | None:
        """Return the child that this operation started before a retry of its run undid that, if it can still be it.

        One that was started in an earlier chapter cannot: what is rewound is done anew.
        """
        prefix = prefix_of_children(parent.id)
        if parent.shares_ids is None:
            parent.shares_ids = self._ids.has_ids(prefix)
        if not parent.shares_ids:
            return None
        for candidate in _candidates(prefix, parent, number):
            found = self._ids.run_by_id(candidate)
            if found is None:
                return None
            is_own = found.parent == parent.key and found.parent_op == number and found.key > parent.runs_before
            if is_own and found.workflow == workflow and found.fingerprint == fingerprint and _can_serve(found):
                return found
        return None

    def _is_taken(self, run_id: str, parent: Parent) -> bool:
        if run_id in self._batch.creating:
            return True
        return bool(parent.shares_ids) and self._ids.run_by_id(run_id) is not None


def _candidates(prefix: str, parent: Parent, number: int) -> Iterator[str]:
    """Yield the ids that the child of an operation may have, in this order."""
    first = f"{prefix}{number}"
    second = f"{first}~{parent.key}"
    yield first
    yield second
    for retried in range(2, _MOST_CHILDREN + 1):
        yield f"{second}.{retried}"


def _can_serve(child: RunRecord) -> bool:
    return child.status == "completed" or (child.status not in ENDED and child.cancel_requested_at is None)
