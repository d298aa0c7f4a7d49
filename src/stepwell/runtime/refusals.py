"""What callers are told whose requests are not done: the engine stops, or nobody can write. Each is told once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from stepwell.errors import StepwellError, StoreUnavailable
from stepwell.runtime.serving.request_gate import copy_of
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


def refuse_asked(events: Iterable[Event], error: StoreUnavailable) -> list[Event]:
    """Tell the callers of the requests among events that nobody can write now; return the other events."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Asked):
            event.reply(None, copy_of(error))
        else:
            kept.append(event)
    return kept
