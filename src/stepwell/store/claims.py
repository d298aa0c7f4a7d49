"""What a worker may write about who has a run in memory: claims, releases, notes for owners, versions."""

from __future__ import annotations

import msgspec


class RunsClaimed(msgspec.Struct, frozen=True):
    """The writing worker wants these runs: it becomes the owner of those that have none and have not ended.

    The result is the list of the keys that it owns now, in the order of `keys`. Those that were ``pending`` or
    ``halted``, or are suspects (see `Membership.reap`), become ``running``; the others stay as they were. What arrives
    from then on is noted for the owner, so the snapshot must be read after the commit. One that began with a version of
    its workflow which another worker has, and the writing worker has not, is left to that.
    """

    keys: list[int]
    at: int


class WorkTaken(msgspec.Struct, frozen=True):
    """The writing worker wants work: up to `limit` runs of `workflows` without an owner that are due, or pending.

    Due is a ``waiting`` run whose `wake_at` is not after `at`; a ``pending`` one must not stand in a queue. The longest
    due come first, then pending ones by age. The result is the list of their keys; they are claimed as by
    `RunsClaimed`. Of *suspects* (see `Membership.reap`) at most one is taken, and only while none is under way
    anywhere. Runs of versions are left to others as by `RunsClaimed`.
    """

    workflows: list[str]
    at: int
    limit: int


class RunsReleased(msgspec.Struct, frozen=True):
    """These waiting runs leave the memory of the writing worker, which owns them: now anyone may claim them.

    The result is the list of those for which something arrived that the worker has not seen; they stay its own. One
    that made progress since it was last blamed for a crash (see `Membership.reap`) has its count of crashes set to 0.
    """

    keys: list[int]


class NotesTaken(msgspec.Struct, frozen=True):
    """The owner will look at these runs: forget that something arrived for them (see `RunWoken`).

    Those that wait are due until they move: should the owner die before it has looked, the next one does.
    """

    keys: list[int]


class WorkerServes(msgspec.Struct, frozen=True):
    """The writing worker has these workflows now; see `Membership.register`."""

    workflows: list[str]
    versions: list[tuple[str, int]] = []


class RunVersioned(msgspec.Struct, frozen=True):
    """A run begins, or goes on, with a version of its workflow. Raises nothing where it is another worker's now."""

    run: int
    version: int


class RunWoken(msgspec.Struct, frozen=True):
    """Something arrived for a run that whoever carries it on should look at.

    - A run without an owner that waits becomes due: its `wake_at` becomes `at` where it was later or unset.
    - So does a waiting run of the writing worker. The worker knows, and says what the run waits for next; but should it
      die before it has acted, whoever takes its runs over finds that this one has something to look at.
    - For a run that another worker owns a note is left (`WorkerReads.news`), and that worker is told after the commit.
    - Nothing is done about a run of its own that is running, or about any that is pending, halted or over.

    `MessageSent`, `CancelRequested`, `ChildrenCancelled` and `RunFinished` (for watchers) do the same to the runs that
    they concern.
    """

    run: int
    at: int
