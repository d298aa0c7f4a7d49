"""What a store keeps of operations that have not ended: how far they are, by their own account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from stepwell.model.progress import ProgressRow


class ProgressNoted(msgspec.Struct, frozen=True):
    """How far operations of runs are, each in place of what was known of it. `rows` are pairs of a run and its row.

    What is about a run that this worker does not own is left out: it is another worker's to say.
    """

    rows: list[tuple[int, ProgressRow]]


class ProgressReads(Protocol):
    """What both read sides tell of progress."""

    def progress(self, runs: Sequence[int], *, ended: bool) -> dict[int, list[ProgressRow]]:
        """Return how far the operations of these runs are, in order; with `ended` those that are over as well."""
        ...
