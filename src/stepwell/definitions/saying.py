"""What a step lets others know while it executes: stream items, published values, progress.

A step says it through the `Outlet` of whatever executes it. What is said here is data that can cross a pipe, because an
isolated step says it in a child process. A step that is called outside of any run has no outlet: it says nothing.
"""

from __future__ import annotations

import asyncio
from asyncio.events import _get_running_loop
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from stepwell.definitions.collector import end_clean_up
from stepwell.definitions.reports import Progress
from stepwell.definitions.step_info import Attempt, entered_here
from stepwell.errors import StepwellError
from stepwell.values.codec import Codec

#: How many items a stream may hold where nobody says otherwise.
MAX_STREAM_ITEMS: Final = 1_000_000


class StreamItems(msgspec.Struct, frozen=True, tag="stream"):
    """Items for a stream, payloads, after which it is closed where `closes` is set.

    `keep`: of old items so many stay, at least; None: all, and more than `limit` are refused.
    """

    name: str
    items: tuple[Any, ...] = ()  # a union of text and bytes is none that msgspec decodes
    closes: bool = False
    keep: int | None = None
    limit: int = MAX_STREAM_ITEMS


class PublishedValue(msgspec.Struct, frozen=True, tag="value"):
    """A value under a key, a payload, in place of the one before."""

    key: str
    value: Any


class ProgressMade(msgspec.Struct, frozen=True, tag="progress"):
    """That there is something new among the reports of a call (see `stepwell.definitions.reports`)."""


Said: TypeAlias = StreamItems | PublishedValue | ProgressMade

#: Called once, from any thread: with None where it is recorded, else with why it is not.
Heard: TypeAlias = Callable[[BaseException | None], None]


class Outlet(Protocol):
    """Where what steps say goes; from any thread."""

    #: Whether `say` calls `heard` before it returns, so that nothing has to be waited for.
    is_immediate: bool

    @property
    def codec(self) -> Codec:
        """What the values are encoded with."""
        ...

    def say(self, attempt: Attempt, number: int, said: Said, heard: Heard) -> None:
        """Have something recorded that attempt `number` of a step says; `heard` is called when it is."""
        ...

    def report(self, attempt: Attempt, progress: Progress) -> None:
        """Have it recorded soon how far an attempt is."""
        ...


class Speaker(msgspec.Struct, frozen=True):
    """The step that is executing here, and its outlet; None outside of any run."""

    attempt: Attempt
    number: int
    outlet: Outlet | None

    def __str__(self) -> str:
        """Name it, for messages."""
        return f"step {self.attempt.name!r} of run {self.attempt.run_id!r}"


def speaker_here() -> Speaker | None:
    """Return the step that is executing in this context, or None; raises `GeneratorExit` in what interrupts it."""
    end_clean_up()
    found = entered_here()
    return None if found is None else Speaker(found.attempt, found.number, found.outlet)


async def say(speaker: Speaker, said: Said) -> None:
    """Have something recorded that a step says, and wait until it is."""
    if speaker.outlet is None:
        return
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def heard(error: BaseException | None) -> None:
        if _get_running_loop() is loop:  # the engine's own, on which the commit was made
            _resolve(future, error)
            return
        try:
            loop.call_soon_threadsafe(_resolve, future, error)
        except RuntimeError:  # the loop is closed: nobody is left to hear it
            return

    speaker.outlet.say(speaker.attempt, speaker.number, said, heard)
    await future


def _resolve(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def say_blocking(speaker: Speaker, what: str, said: Said) -> None:
    """Do as `say`, in a `def` step; raises `StepwellError` on the thread of an event loop, which it would hold up."""
    if speaker.outlet is None:
        return
    if not speaker.outlet.is_immediate and _get_running_loop() is not None:
        raise StepwellError(
            f"{speaker}: {what} would hold up the event loop that it is called on. In an `async def` step await the "
            f"operation of the same name: await {what.replace('sync.', 'stepwell.')}"
        )
    future: Future[Any] = Future()

    def heard(error: BaseException | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    speaker.outlet.say(speaker.attempt, speaker.number, said, heard)
    future.result()
