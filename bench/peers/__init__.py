"""Other engines on the same workloads: one module each, with the phases that `bench.inside` has for Stepwell."""

from __future__ import annotations

from typing import Final

#: Workloads that no peer has: of several processes and queues, and of what no peer does.
OURS_ALONE: Final = frozenset(
    {"W3", "W4", "W6x", "takeover", "scaling", "backlog", "isolated", "crowd", "replay", "lives", "requests"}
)
