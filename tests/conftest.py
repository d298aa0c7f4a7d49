"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from stepwell.testing import TestEngine

# Examples open files and start threads beside other tests: how long one takes says nothing. `timeout` bounds them all.
settings.register_profile("stepwell", deadline=None)
settings.load_profile("stepwell")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a path at which a test may create its Stepwell file."""
    return tmp_path / "test.db"


@pytest.fixture
def engine(database: Path) -> Iterator[TestEngine]:
    """Yield an engine on a virtual clock; closed after the test."""
    with TestEngine(database) as engine:
        yield engine
