"""Engines that are broken on purpose, each until a block ends: the negative controls of the harnesses."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from stepwell.api.engine import Engine
from stepwell.runtime.serving.requests import CancelRun, Request, SendMessage, StartRun
from stepwell.store.sqlite.file import connecting, opening, paths
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.sqlite.writer import Writer


@contextmanager
def acknowledging_before_commit() -> Generator[None]:
    """Let `start`, `send` and `cancel` return as soon as the engine has heard of them."""
    ask = Engine._ask

    def asks(engine: Engine, request: Request) -> Any:
        if isinstance(request, (StartRun, SendMessage, CancelRun)):
            engine._session.engine_thread.submit(request, lambda _value, _error: None)
            return None
        return ask(engine, request)

    with patch.object(Engine, "_ask", asks):
        yield


@contextmanager
def normal_sold_as_full() -> Generator[None]:
    """Ask SQLite for ``synchronous=NORMAL`` where FULL was promised, and expect to read that back."""
    with patch.dict(connecting.SYNCHRONOUS, {"full": connecting.SYNCHRONOUS["normal"]}):
        yield


@contextmanager
def sharing_sectors() -> Generator[None]:
    """Leave out ``psow=0``: commits then share sectors of the disk, and the next one can tear what was safe."""
    uri, require = paths.uri, connecting._require

    def requires(path: str, name: str, wanted: object, got: object) -> None:
        if name != "psow":
            require(path, name, wanted, got)

    with ExitStack() as stack:
        stack.enter_context(patch.object(paths, "uri", lambda path, mode: uri(path, mode).replace("psow=0", "psow=1")))
        stack.enter_context(patch.object(connecting, "_require", requires))
        yield


@contextmanager
def reopening_after_failed_sync() -> Generator[None]:
    """Do not fold the log into the file after an error, nor when the file is closed or opened again: just go on."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(Writer, "_fold_log", _nothing))
        stack.enter_context(patch.object(SqliteStore, "_fold_log", _nothing))
        stack.enter_context(patch.object(opening, "_recover", _nothing))
        yield


def _nothing(*_: object) -> None:
    return
