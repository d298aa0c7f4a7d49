"""Runs that go on with another version of their workflow than they began with, where no worker has that any more.

The replay is the check: it executes nothing, and a run whose journal does not fit is halted. It goes on when a worker
comes that has its version, or when it is resumed with code that fits. ADR 0052.
"""

from __future__ import annotations

from stepwell.errors import RunHalted
from stepwell.model.run import RunRecord


def other_version(halted: RunHalted, record: RunRecord, version: int | None) -> RunHalted:
    """Return why a run is halted, saying that its version is missing; the class and the details stay."""
    has = "code without a version" if version is None else f"version {version}"
    text = (
        f"run {record.id!r} began with version {record.version} of {record.workflow!r}, which no worker has now, and "
        f"what it recorded does not fit {has}. Start a worker that has version {record.version}, then the run goes on "
        "by itself; or mend the code"
    )
    halted.args = (f"{text}. {halted}", *halted.args[1:])
    return halted
