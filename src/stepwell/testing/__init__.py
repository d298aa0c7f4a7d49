"""Tools for the tests of those who use Stepwell: a clock that stands still, and an engine on it that can crash.

`stepwell.testing.plugin` offers both as pytest fixtures; `stepwell.testing.contract`, the suite for authors of stores,
is imported from there. The names are imported when they are first used, because pytest imports the plugin wherever
Stepwell is installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.testing.clock import VirtualClock
    from stepwell.testing.engine import TestEngine

__all__ = ["TestEngine", "VirtualClock"]


def __getattr__(name: str) -> Any:
    if name == "TestEngine":
        from stepwell.testing.engine import TestEngine

        return TestEngine
    if name == "VirtualClock":
        from stepwell.testing.clock import VirtualClock

        return VirtualClock
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
