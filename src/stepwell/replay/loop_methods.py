"""What the event loop of workflow code answers, besides executing: its settings, and why it has no sockets.

`AbstractEventLoop` has sixty methods. Those that execute code and keep time are in `stepwell.replay.loop`. Here are the
questions that libraries ask of a loop, the settings that concern the run alone, and a refusal for each of the others,
which are about the world outside. A refusal is a `NotImplementedError` as well, which is what callers expect of a loop
that lacks a method, and says where the call belongs: not all of them belong in a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from stepwell.errors import LoopMethodMissing
from stepwell.replay.source_location import executing_at

#: How the messages end that asyncio sends from finalisers. When those run is chance, so they are logged, and never
#: handed to code of the run.
_FROM_FINALISERS: Final = ("exception was never retrieved", "was destroyed but it is pending!")

_STEP: Final = "Move that line into a step"
_SERVER: Final = (
    "Let the program around the engine serve, and have it start runs (engine.start) or send them messages (engine.send)"
)
_SIGNAL: Final = (
    "Signals belong to the process: handle them in the program that opens the engine, and send the run a message"
)
_RUNNING: Final = "This loop is running already: await the coroutine, or make a task of it"
_ENDING: Final = "The engine ends it, after the workflow has returned or raised"
_EXECUTOR: Final = "Steps execute where the engine has them execute: see `Engine(step_threads=)` and `@step(isolate=)`"

#: What to do in place of each method.
_ADVICE: Final[dict[str, str]] = {
    **dict.fromkeys(["run_forever", "run_until_complete"], _RUNNING),
    **dict.fromkeys(["close", "stop", "shutdown_asyncgens", "shutdown_default_executor"], _ENDING),
    **dict.fromkeys(["set_default_executor"], _EXECUTOR),
    **dict.fromkeys(["add_signal_handler", "remove_signal_handler"], _SIGNAL),
    **dict.fromkeys(["create_server", "create_unix_server", "connect_accepted_socket", "sock_accept"], _SERVER),
}


class LoopMethods(asyncio.AbstractEventLoop):
    """The part of `stepwell.replay.loop.DeterministicLoop` that executes nothing."""

    #: For whoever has a running loop and must know of which kind it is.
    is_deterministic: Final = True

    # On the class, because hardly any run sets them.
    _task_factory: Any = None
    _exception_handler: Any = None

    def missing(self, method: str, why: str = "reaches outside the run") -> LoopMethodMissing:
        """Return the error for a method that the loop lacks, called by the code that is executing now."""
        return LoopMethodMissing(
            f"run {self.run_id!r}: the event loop of workflow code has no {method}(), which {why}, called at "
            f"{executing_at()}. {_ADVICE.get(method, _STEP)}"
        )

    @property
    def run_id(self) -> str:
        """The id of the run whose code the loop executes."""
        raise NotImplementedError

    def report(self, context: dict[str, Any]) -> None:
        """Log what code of the run left unhandled, once."""
        raise NotImplementedError

    # --- questions -----------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        """Return True: code that asks is being run by this loop."""
        return True

    def get_debug(self) -> bool:
        """Return False: asyncio's debug mode measures real time."""
        return False

    def get_task_factory(self) -> Any:
        """Return what `set_task_factory` was given, or None."""
        return self._task_factory

    def get_exception_handler(self) -> Any:
        """Return what `set_exception_handler` was given, or None."""
        return self._exception_handler

    # --- settings ------------------------------------------------------------------------------------------------

    def set_debug(self, enabled: bool) -> None:
        """Accept False."""
        if enabled:
            raise self.missing("set_debug", "would measure real time, another in each replay")

    def set_task_factory(self, factory: Any) -> None:
        """Have `create_task` call a factory; None for the loop's own tasks."""
        if factory is not None and not callable(factory):
            raise TypeError(f"task factory must be a callable or None, not {factory!r}")
        self._task_factory = factory

    def set_exception_handler(self, handler: Any) -> None:
        """Have a handler called with what code of this run left unhandled; None for the log.

        It is called again in a replay, as all code is. What is noticed only when an object is freed ("exception was
        never retrieved") goes to the log in any case: when that happens is chance.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what was left unhandled."""
        self.report(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand what was left unhandled to the handler that was set, or to the log."""
        handler = self._exception_handler
        if handler is None or str(context.get("message", "")).endswith(_FROM_FINALISERS):
            self.report(context)
            return
        try:
            handler(self, context)
        except Exception as error:  # noqa: BLE001 - as asyncio does: a handler that fails must not stop the loop
            self.report({"message": "the exception handler raised", "exception": error})


def _missing(name: str) -> Callable[..., Any]:
    def refuse(self: LoopMethods, *_args: Any, **_kwargs: Any) -> Any:
        raise self.missing(name)

    refuse.__name__ = name
    refuse.__qualname__ = f"LoopMethods.{name}"
    refuse.__doc__ = "Raise `LoopMethodMissing`."
    return refuse


def refuse_the_rest(loop_class: Any) -> None:
    """Make every method of `AbstractEventLoop` that a class does not define, or inherit from `LoopMethods`, refuse."""
    for name in dir(asyncio.AbstractEventLoop):
        is_own = any(name in vars(owner) for owner in loop_class.__mro__ if issubclass(owner, LoopMethods))
        if not name.startswith("_") and not is_own:
            setattr(loop_class, name, _missing(name))
