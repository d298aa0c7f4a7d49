"""What callers are told when the engine stops: that what they asked for will not be done. Each is told once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from stepwell.errors import StepwellError
from stepwell.runtime.serving.requests import Asked, Event
from stepwell.worker.state.unit_of_work import UnitOfWork


def refuse_units(units: Iterable[UnitOfWork], failure: StepwellError) -> None:
    """Tell the callers whose requests were not written that they will not be."""
    for unit in units:
        for on_refusal in unit.refusals():
            with suppress(Exception):  # where the unit failed half-way, some may have had their answer
                on_refusal(failure)


def refuse_events(events: deque[Event], failure: StepwellError) -> None:
    """Take all events from a queue, and tell the callers of the requests among them."""
    while events:
        event = events.popleft()
        if isinstance(event, Asked):
            with suppress(Exception):  # where the event failed half-way, it may have had its answer
                event.reply(None, failure)
