"""Checks new code before it is deployed: which runs of a file would go on with the code of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from stepwell.api.asking.options import checked_workflows
from stepwell.definitions.definition import Workflow
from stepwell.definitions.versions import versioned
from stepwell.errors import DeterminismError
from stepwell.model.lifecycle import IN_FLIGHT
from stepwell.model.run import RunSnapshot
from stepwell.operations.patch import PATCH
from stepwell.operations.patch_names import patch_names
from stepwell.operations.table import OPERATIONS
from stepwell.store.inspector import RunFilter
from stepwell.values.codec import Codec
from stepwell.worker.copies.checker import Checked, Checker, Verdict

#: How many runs are read at a time.
_READ_AT_ONCE: Final = 500


class RunCheck(msgspec.Struct, frozen=True):
    """Why one run would not go on with this code.

    `verdict`: ``diverges``: the code does something other than its journal recorded, at `operation`: `expected` is what
    was recorded, `actual` what the code did, `location` is ``file:line in function`` of the code; ``breaks``: a
    recorded value cannot be passed to the code, or a mistake in it ends the replay; ``no code``: no workflow of that
    name is here. `reason` says it in words. `status` is the present state of the run.
    """

    id: str
    workflow: str
    status: str
    verdict: Verdict
    reason: str
    operation: int | None = None
    expected: str | None = None
    actual: str | None = None
    location: str | None = None


class PatchCheck(msgspec.Struct, frozen=True):
    """A patch in the code of a workflow, and how many runs need it.

    `old`: how many runs in flight take the old way; `new`: how many have recorded that they take the new way;
    `unknown`: how many do not go on, or have no code here. While there are `old` ones, both ways are needed. While
    there are only `new` ones, the old way can be removed, but the call of `patched` must stay. If all are 0, remove
    both.
    """

    workflow: str
    name: str
    old: int
    new: int
    unknown: int

    @property
    def is_needed(self) -> bool:
        """Whether any run in flight needs the call, as far as is known."""
        return bool(self.old or self.new or self.unknown)


class VersionCheck(msgspec.Struct, frozen=True):
    """A version of a workflow that runs in flight began with: how many, and whether this process has it.

    Where it has not, they were replayed with the version that it has.
    """

    workflow: str
    version: int
    runs: int
    is_here: bool


class Check(msgspec.Struct, frozen=True):
    """What `check` found: how many runs are in flight, which of them do not go on, and which patches they need.

    `versions`: the versions with which runs in flight began, of workflows that have versions.
    """

    path: str
    runs: int
    goes_on: int
    problems: list[RunCheck]
    patches: list[PatchCheck]
    at: datetime
    versions: list[VersionCheck] = []

    @property
    def ok(self) -> bool:
        """Whether every run in flight goes on."""
        return not self.problems

    @property
    def unneeded_patches(self) -> list[PatchCheck]:
        """The patches that no run in flight needs any more: the call and the old way can be removed."""
        return [patch for patch in self.patches if not patch.is_needed]


def check(
    path: str | os.PathLike[str],
    *,
    workflows: Iterable[Workflow[..., Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Replay every run in flight with the code of this process, and say which do not go on.

    No step is executed, and nothing is written; code that goes beyond its journal stops at the next operation. The file
    is read whether workers have it open or not; it may be a backup (also ``.gz``) or a read-only copy.
    `workflows`: those to check with; None: all that this process defines. `progress` is called with how many runs were
    replayed, and of how many. Raises `FileNotUsable`, `SchemaTooNew`, and `InvalidArgument` for no workflows.
    """
    return check_with(path, checked_workflows(workflows), progress=progress)


def check_with(
    path: str | os.PathLike[str],
    served: Mapping[str, Workflow[..., Any]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Do what `check` does, with workflows by name."""
    from stepwell import audit_hook
    from stepwell.runtime import io_guard

    io_guard.listen(audit_hook.add_listener)
    checker = Checker(Codec(), OPERATIONS.kinds, served, PATCH.entries[0].kind)
    tally = _Tally(served)
    with _opened(path) as (total, snapshots):
        for number, snapshot in enumerate(snapshots, 1):
            tally.add(checker.check(snapshot))
            if progress is not None:
                progress(number, max(total, number))
    return Check(
        os.path.realpath(path),
        tally.runs,
        tally.goes_on,
        tally.problems,
        tally.patches(),
        datetime.now(UTC),
        tally.versions(),
    )


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Generator[tuple[int, Iterable[RunSnapshot]]]:
    """Yield how many runs of a file are in flight, and all of them, the newest first."""
    from stepwell.store.sqlite.backup import writable
    from stepwell.store.sqlite.file.paths import text_of
    from stepwell.store.sqlite.file.read_only import look_into

    with writable(text_of(path, "the path of the file")) as plain, look_into(plain) as look:

        def snapshots() -> Generator[RunSnapshot]:
            before: int | None = None
            while True:
                page = look.list_runs(RunFilter(status=IN_FLIGHT, before_key=before, limit=_READ_AT_ONCE))
                yield from look.runs.load([record.key for record in page])
                if len(page) < _READ_AT_ONCE:
                    return
                before = page[-1].key

        counts = look.counts()
        yield sum(counts.get(status, 0) for status in IN_FLIGHT), snapshots()


class _Tally:
    """What the replays come to."""

    def __init__(self, served: Mapping[str, Workflow[..., Any]]) -> None:
        self.runs = self.goes_on = 0
        self.problems: list[RunCheck] = []
        self._served = served
        self._unknown: dict[str, int] = {}
        self._versions: dict[tuple[str, int], int] = {}
        self._old: dict[tuple[str, str], int] = {}
        self._new: dict[tuple[str, str], int] = {}

    def add(self, checked: Checked) -> None:
        """Count a run."""
        workflow, version = checked.record.workflow, checked.record.version
        self.runs += 1
        if version is not None:
            self._versions[workflow, version] = self._versions.get((workflow, version), 0) + 1
        if checked.verdict == "goes on":
            self.goes_on += 1
        else:
            self.problems.append(_problem(checked))
            self._unknown[workflow] = self._unknown.get(workflow, 0) + 1
        for name, is_new in checked.patches.items():
            if not is_new:
                self._old[workflow, name] = self._old.get((workflow, name), 0) + 1
        for name in checked.recorded:
            self._new[workflow, name] = self._new.get((workflow, name), 0) + 1

    def versions(self) -> list[VersionCheck]:
        """Return the versions that the runs began with."""
        here = versioned(self._served).versions()
        return [VersionCheck(*each, count, each in here) for each, count in sorted(self._versions.items())]

    def patches(self) -> list[PatchCheck]:
        """Return the patches of all workflows, by name."""
        asked = {(name, patch) for name, each in self._served.items() for patch in patch_names(each.function)}
        return [
            PatchCheck(
                workflow,
                name,
                self._old.get((workflow, name), 0),
                self._new.get((workflow, name), 0),
                self._unknown.get(workflow, 0),
            )
            for workflow, name in sorted(asked | self._old.keys() | self._new.keys())
        ]


def _problem(checked: Checked) -> RunCheck:
    record, error = checked.record, checked.error
    reason = f"no workflow {record.workflow!r} is defined here" if error is None else str(error)
    found = RunCheck(record.id, record.workflow, record.status, checked.verdict, reason, checked.operation)
    if isinstance(error, DeterminismError):
        place = {"expected": error.expected, "actual": error.actual, "location": error.location}
        return msgspec.structs.replace(found, **place)
    return found
