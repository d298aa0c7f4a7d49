"""What drives a turn loop: the engine's thread, or a simulator. The loop itself has no clock and executes nothing."""

from __future__ import annotations

from typing import Protocol

from stepwell.definitions.step_call import StepCall


class Driver(Protocol):
    """What drives a turn loop, and carries out its effects."""

    def wake(self) -> None:
        """Have `TurnLoop.turn` called soon; from any thread."""
        ...

    def time(self) -> int:
        """Return the time as it is now, in microseconds; `TurnLoop.turn` is given that of its beginning."""
        ...

    def run_steps(self, attempts: list[StepCall]) -> None:
        """Execute attempts of steps; their ends come back through `TurnLoop.steps_finished`."""
        ...

    def drop_steps(self, attempts: list[StepCall]) -> None:
        """Cancel attempts whose results nobody wants any more."""
        ...

    def store_unavailable(self) -> None:
        """Call `TurnLoop.try_store_again` some time later."""
        ...

    def failed(self) -> None:
        """Take note that the loop stopped for good, with `TurnLoop.failure`."""
        ...
