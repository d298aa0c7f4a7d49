"""Async generators that the code of a run abandons: ``async for … break`` leaves one suspended, in the middle.

asyncio closes such a generator when the last reference to it is gone, so that its ``finally`` blocks run, and all that
are left when the program ends. When the last reference is gone, is chance where the generator is part of a cycle: the
garbage collector finds it then, at any time, or before a replay gets there. So the moment is made an entry of the
journal, which says by number which generator is closed. Generators have numbers in the order in which they begin, which
is the same in every replay. A replay closes them where the journal says so, whether or not they are referenced still.

A generator of a run that has left memory is freed without executing anything. See docs/adr/0021-what-code-leaves.md.
"""

from __future__ import annotations

import weakref
from asyncio.events import _get_running_loop
from collections import deque
from types import AsyncGeneratorType
from typing import Any, Final, TypeAlias

Generator: TypeAlias = AsyncGeneratorType[Any, Any]

#: Whose generator has which address, and its number. Python calls one finaliser for all generators of a thread, when
#: weak references are dead already.
_owners: Final[dict[int, tuple[Generators, int]]] = {}


class Generators:
    """The async generators of one run."""

    __slots__ = ("_begun", "_is_closed", "_kept", "_prune_at", "_references", "abandoned", "closing")

    def __init__(self) -> None:
        #: The numbers of those that are abandoned and not closed yet. Filled from any thread.
        self.abandoned: deque[int] = deque()
        #: The tasks that close some.
        self.closing: set[Any] = set()
        self._begun = 0
        self._is_closed = False
        self._kept: dict[int, Generator] = {}  # those that are abandoned
        self._references: dict[int, tuple[int, weakref.ref[Generator]]] = {}  # by number, with their addresses
        self._prune_at = 16

    def add(self, generator: Generator) -> None:
        """Take note of a generator that begins."""
        self._begun = number = self._begun + 1
        _owners[id(generator)] = self, number
        self._references[number] = id(generator), weakref.ref(generator)
        if len(self._references) > self._prune_at:
            for gone in [number for number in self._references if self._find(number) is None]:
                self._forget(gone)
            self._prune_at = max(16, 2 * len(self._references))

    def keep(self, number: int, generator: Generator) -> None:
        """Keep a generator that is abandoned, so that it can be closed."""
        if not self._is_closed:
            self._kept[number] = generator
            self.abandoned.append(number)

    def take(self, number: int) -> Generator | None:
        """Return the generator with a number, to be closed; None where the code, which has changed, has none."""
        if number in self.abandoned:
            self.abandoned.remove(number)
        generator = self._find(number)
        self._kept.pop(number, None)
        self._forget(number)
        return generator

    def take_unfinished(self) -> list[Generator]:
        """Return those that have begun and not ended, to be closed: the oldest first, abandoned or not.

        Not those that a task is iterating over.
        """
        found = [(number, generator) for number, generator in self.unfinished() if not generator.ag_running]
        for number, _ in found:
            self.take(number)
        return [generator for _, generator in found]

    def unfinished(self) -> list[tuple[int, Generator]]:
        """Return those that have begun and not ended, with their numbers, oldest first."""
        found = [(number, self._find(number)) for number in list(self._references)]
        return [(number, each) for number, each in found if each is not None and each.ag_frame is not None]

    def _find(self, number: int) -> Generator | None:
        if number in self._kept:
            return self._kept[number]
        return self._references[number][1]() if number in self._references else None

    def _forget(self, number: int) -> None:
        address, _ = self._references.pop(number, (0, None))
        if _owners.get(address) == (self, number):
            del _owners[address]

    def close(self) -> None:
        """Let go of all: those that are left are freed without executing anything."""
        self._is_closed = True
        for number in list(self._references):
            self._forget(number)
        self.abandoned.clear()
        self.closing.clear()
        self._kept.clear()


def began(generator: Any) -> None:
    """Take note of a generator that begins; Python calls this in the thread of the run."""
    loop: Any = _get_running_loop()
    if getattr(loop, "host", None) is not None:
        loop.generators.add(generator)
    else:
        _owners.pop(id(generator), None)  # of one that ended, and had this address


def finalise(generator: Any) -> None:
    """Decide what becomes of a generator that nothing refers to any more; Python calls this in any thread."""
    owner = _owners.pop(id(generator), None)
    if owner is not None:
        generators, number = owner
        generators.keep(number, generator)
