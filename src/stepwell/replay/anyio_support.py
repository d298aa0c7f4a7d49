"""What workflow code needs changed in anyio: the order of its sets, and `to_thread.run_sync` of a step.

Nothing here imports anyio. Where it is imported already, or as soon as it is, its asyncio backend gets both; elsewhere
in the process, on ordinary event loops, the backend does as before.

- anyio keeps cancel scopes in sets, and cancels what is in them in the order of addresses.
- `anyio.to_thread.run_sync(step, …)` is the step, as `asyncio.to_thread(step, …)` is. anyio has threads of its own and
  does not ask the loop for one.
"""

from __future__ import annotations

import sys
from asyncio import events
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

from stepwell.replay.stable_order import order_sets_of

_BACKEND: Final = "anyio._backends._asyncio"
_is_watching = False


def support_anyio() -> None:
    """Change anyio's backend now, or when it is imported; further calls do nothing."""
    global _is_watching  # noqa: PLW0603 - modules belong to the process, so this does
    if _is_watching:
        return
    _is_watching = True
    module = sys.modules.get(_BACKEND)
    if module is None:
        sys.meta_path.insert(0, _Finder())
    else:
        _change(module)


def shield_scope() -> AbstractContextManager[Any]:
    """Return a block in which no cancel scope of anyio cancels, which would do so again at every await."""
    module = sys.modules.get(_BACKEND)
    scope: Any = getattr(module, "CancelScope", None)
    if scope is None:
        return nullcontext()
    shield: AbstractContextManager[Any] = scope(shield=True)
    return shield


class _Finder:
    """Has the backend changed right after it was executed, whoever imports it, also in the middle of a workflow.

    Not derived from `importlib.abc.MetaPathFinder`, whose module takes 10 ms to import and gives it nothing.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - part of the protocol
    ) -> ModuleSpec | None:
        """Return what the ordinary finder returns, for the one module, and nothing for all others."""
        if fullname != _BACKEND:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute: Callable[[ModuleType], None] = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _change(module)

            loader.exec_module = exec_module
        return spec


def _change(module: ModuleType) -> None:
    order_sets_of(module)
    backend: Any = getattr(module, "AsyncIOBackend", None)
    in_thread = getattr(backend, "run_sync_in_worker_thread", None)
    scope: Any = getattr(module, "CancelScope", None)
    if in_thread is None or scope is None:
        return

    async def run_sync_in_worker_thread(
        cls: Any,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool = False,
        limiter: AbstractAsyncContextManager[Any] | None = None,
    ) -> Any:
        loop: Any = events._get_running_loop()
        if not getattr(loop, "is_deterministic", False):
            return await in_thread(func, args, abandon_on_cancel, limiter)
        call = loop.call_in_thread(func, args)
        try:
            await cls.checkpoint()
            async with limiter or nullcontext():
                with scope(shield=not abandon_on_cancel):
                    return await call
        finally:
            call.close()

    backend.run_sync_in_worker_thread = classmethod(run_sync_in_worker_thread)
