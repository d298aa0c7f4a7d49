"""What all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.support.commands import Desk

from stepwell.definitions import definition
from stepwell.runtime.watchdog import OWN_WORK
from stepwell.testing import TestEngine

# Examples open files and start threads beside other tests: how long one takes says nothing. `timeout` bounds them all.
settings.register_profile("stepwell", deadline=None)
settings.load_profile("stepwell")


def pytest_xdist_auto_num_workers() -> int:
    """Have one process more than there are processors: a fifth of the time of the tests is spent waiting for others."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Give the log its level back: the harnesses of the proof silence it, for a process that is theirs."""
    log = logging.getLogger("stepwell")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def _slow_machine_unsaid(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out what the log says of a slow machine, for tests that look at the log; not where that is the subject."""

    def is_said(record: logging.LogRecord) -> bool:
        return record.msg is not OWN_WORK

    log = logging.getLogger("stepwell")
    if request.node.get_closest_marker("slow_machine") is None:
        log.addFilter(is_said)
    yield
    log.removeFilter(is_said)


@pytest.fixture(autouse=True)
def _definitions_as_before() -> Iterator[None]:
    """Give each name back to the module that declared it: a function inside a test may have taken it for a while."""
    before = dict(definition._registry)
    yield
    definition._registry.update(before)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a path at which a test may create its Stepwell file."""
    return tmp_path / "test.db"


@pytest.fixture
def engine(database: Path) -> Iterator[TestEngine]:
    """Yield an engine on a virtual clock; closed after the test."""
    with TestEngine(database) as engine:
        yield engine


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Yield a folder with workflows, in which commands are run; those under way are killed after the test."""
    desk = Desk(tmp_path)
    yield desk
    desk.clear()
