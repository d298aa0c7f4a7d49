"""A file with a few runs, and browsers in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.web import TOKEN, VIEWER_TOKEN, Browser, approval, browser, checkout

from stepwell import Engine
from stepwell.ui import app


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that is only looked at."""
    path = tmp_path_factory.mktemp("ui") / "orders.db"
    with Engine(path, workflows=[checkout, approval]) as engine:
        runs = [engine.start(checkout, name, id=name) for name in ("order-1", "order-2", "bad/../order?&#")]
        engine.start(approval, "x", id="approval-1")
        for run in runs[:2]:
            run.result(timeout=30)
        with pytest.raises(ValueError, match="no such address"):
            runs[2].result(timeout=30)
    return path


@pytest.fixture
def looking(made: Path) -> Browser:
    return browser(app(made, token=TOKEN, viewer_token=VIEWER_TOKEN)).log_in()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "acted on.db", workflows=[checkout, approval]) as opened:
        yield opened


@pytest.fixture
def acting(engine: Engine) -> Browser:
    return browser(app(engine, token=TOKEN, viewer_token=VIEWER_TOKEN)).log_in()
