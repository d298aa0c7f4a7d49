"""Tools for the tests of those who use Stepwell: a clock that stands still, and an engine on it that can crash.

`stepwell.testing.plugin` offers both as pytest fixtures; `stepwell.testing.contract` is the suite for authors of
stores, and is imported from there.
"""

from stepwell.testing.clock import VirtualClock
from stepwell.testing.engine import TestEngine

__all__ = ["TestEngine", "VirtualClock"]
