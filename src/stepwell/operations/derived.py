"""The time, randomness and UUIDs of a run: derived from what is recorded anyway, so nothing is written for them."""

from __future__ import annotations

import random as _random
import uuid
from datetime import UTC, datetime

from stepwell.model.clock import datetime_of
from stepwell.operations.calling_run import calling_run_or_none


def now() -> datetime:
    """Return the current time, UTC; in a workflow the time of its last journal entry, the same in every replay."""
    run = calling_run_or_none()
    return datetime.now(UTC) if run is None else datetime_of(run.now - run.ahead)


def random() -> float:
    """Return a number from 0 up to, not including, 1; in a workflow the same in every replay."""
    run = calling_run_or_none()
    return _random.random() if run is None else run.random().random()  # noqa: S311 - outside of a run it is Python's


def uuid4() -> uuid.UUID:
    """Return a random UUID; in a workflow the same in every replay."""
    run = calling_run_or_none()
    return uuid.uuid4() if run is None else uuid.UUID(int=run.random().getrandbits(128), version=4)
