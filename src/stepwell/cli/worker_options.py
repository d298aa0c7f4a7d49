"""What the line of `stepwell worker` says to one worker process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class WorkerOptions(NamedTuple):
    """What to import, which file to serve, and how.

    `drain_timeout` is in seconds. `control_descriptor` is the socket of a supervisor, None where there is none.
    `engine` has the options of `Engine` that were given; its own defaults stand for the others.
    """

    modules: Sequence[str]
    db: str
    drain_timeout: float
    log_level: str | None
    control_descriptor: int | None
    engine: Mapping[str, Any]
