"""Sets whose order does not depend on addresses, for libraries that keep tasks and scopes in sets.

What asyncio and anyio do with the members of such a set (start them, cancel them) shows in the order in which
operations are issued, so a replay must meet them in the same order. The name `set` is looked up in a module before it
is looked up among the builtins: one attribute of the library's module gives its functions another `set`, however they
were imported. Outside of workflow code that stand-in returns ordinary sets. See docs/adr/0003-asyncio-sets.md.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Iterable, Iterator, MutableSet
from types import ModuleType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class OrderedSet(MutableSet[T]):
    """A set that iterates in the order in which its members were added."""

    __slots__ = ("__weakref__", "_members")

    def __init__(self, members: Iterable[T] = ()) -> None:
        self._members: dict[T, None] = dict.fromkeys(members)

    def __contains__(self, member: object) -> bool:
        """Tell whether `member` was added."""
        return member in self._members

    def __iter__(self) -> Iterator[T]:
        """Yield the members, those first that were added first."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self._members)

    def __repr__(self) -> str:
        """Show the members."""
        return f"{type(self).__name__}({list(self)!r})"

    def add(self, value: T) -> None:
        """Add a member, at the end where it is new."""
        self._members[value] = None

    def discard(self, value: T) -> None:
        """Remove a member that may not be there."""
        self._members.pop(value, None)

    def update(self, *others: Iterable[T]) -> None:
        """Add what is in `others`."""
        for other in others:
            self._members.update(dict.fromkeys(other))

    def copy(self) -> Self:
        """Return a set with the same members in the same order."""
        return type(self)(self)


def _in_workflow_code() -> bool:
    return getattr(events._get_running_loop(), "is_deterministic", False)


def _ordered_set(members: Iterable[Any] = ()) -> Any:
    """Stand in for `set`."""
    return OrderedSet(members) if _in_workflow_code() else set(members)


def _kept_order(members: Iterable[Any] = ()) -> Any:
    """Stand in for `set` inside asyncio.tasks, where the sets that end up with users begin empty."""
    if _in_workflow_code():
        return dict.fromkeys(members) or set[Any]()
    return set(members)


def order_sets_of_asyncio() -> None:
    """Make `asyncio.as_completed` and `asyncio.wait` start coroutines in the order in which they were given.

    Both pass their argument through ``set(...)``, whose order for coroutines depends on addresses.
    """
    asyncio.tasks.__dict__.setdefault("set", _kept_order)


def order_sets_of(module: ModuleType) -> Callable[..., Any]:
    """Make what the functions of a module call `set` keep the order of its members; return the stand-in."""
    made: Callable[..., Any] = module.__dict__.setdefault("set", _ordered_set)
    return made
