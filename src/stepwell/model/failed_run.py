"""A failure as the workflow is told of it that an engine, or a workflow, has for failures (`on_failure`)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class FailedRun(msgspec.Struct, frozen=True):
    """A run that failed, or was halted.

    - `run_id`, `workflow`: which.
    - `status`: ``"failed"``, or ``"halted"``: the engine stopped it, and it goes on when its cause is mended.
    - `error_type`, `message`: what it failed with, or what halted it, as `result()` raises it.
    - `at`: when, aware, UTC.
    - `step`, `operation`: the name and number of the step that failed; None if it was not a step.
    """

    run_id: str
    workflow: str
    status: Literal["failed", "halted"]
    error_type: str
    message: str
    at: datetime
    step: str | None = None
    operation: int | None = None
