"""Fixtures for pytest, there wherever Stepwell is installed (entry point ``stepwell``).

Switch them off with ``-p no:stepwell``. The rest of Stepwell is imported only when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stepwell.testing import TestEngine, VirtualClock


@pytest.fixture
def stepwell_clock() -> VirtualClock:
    """Return the clock of `stepwell_engine`, a `stepwell.testing.VirtualClock`."""
    from stepwell.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def stepwell_engine(tmp_path: Path, stepwell_clock: VirtualClock) -> Iterator[TestEngine]:
    """Yield a `stepwell.testing.TestEngine` on a file of its own, closed after the test."""
    from stepwell.testing import TestEngine

    with TestEngine(tmp_path / "stepwell.db", clock=stepwell_clock) as engine:
        yield engine
