"""When a worker next has something to do by itself: asks all parts that have times of their own.

Timers and deadlines of runs in memory, runs that nobody owns, decisions about queues, retention: each is a `Due`, and
what is to come (schedules) will be another. Whoever keeps the time asks `DueTimes` alone.
"""

from __future__ import annotations

from typing import Protocol


class Due(Protocol):
    """Something that has a time of its own."""

    def due_at(self) -> int | None:
        """Return when it has to act, in microseconds of engine time; None: not until something happens."""
        ...

    def advance(self, now: int) -> None:
        """Act on what is due at `now`."""
        ...


class DueTimes:
    """Several that are due, as one. They act in the order in which they were given."""

    def __init__(self, *parts: Due) -> None:
        self._parts = list(parts)

    def add(self, part: Due) -> None:
        """Have another one act, after those that are here."""
        self._parts.append(part)

    def due_at(self) -> int | None:
        """Return when the first of them has to act; None: not until something happens."""
        found: int | None = None
        for part in self._parts:
            due = part.due_at()
            if due is not None and (found is None or due < found):
                found = due
        return found

    def advance(self, now: int) -> None:
        """Have those act that are due at `now`."""
        for part in self._parts:
            due = part.due_at()
            if due is not None and due <= now:
                part.advance(now)


class Earliest:
    """The earliest of the times that were noted; None: there is none."""

    def __init__(self) -> None:
        self.at: int | None = None

    def note(self, at: int | None) -> None:
        """Note a time; None says nothing."""
        if at is not None and (self.at is None or at < self.at):
            self.at = at
