"""Workflows that somebody chose, some of them in several versions; see `Versioned` and ADR 0052.

Apart from the registry, which has all that a process defines: an engine serves the ones or the other, and asks both
alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stepwell.definitions.definition import Versioned, Workflow
from stepwell.errors import InvalidArgument


class Chosen(Versioned):
    """Workflows of a list. It does not change, and what it is asked with every look for work is known before."""

    def __init__(self, chosen: Iterable[Workflow[..., Any]] = ()) -> None:
        """Raise `InvalidArgument` for two of one name and version."""
        self._latest: dict[str, Workflow[..., Any]] = {}
        self._all: dict[tuple[str, int | None], Workflow[..., Any]] = {}
        for workflow in chosen:
            if self._all.setdefault((workflow.name, workflow.version), workflow) is not workflow:
                raise InvalidArgument(
                    f"workflows has two of the name {workflow.name!r}; give one of them another name="
                )
            before = self._latest.get(workflow.name)
            if before is None or (before.version or 0) < (workflow.version or 0):
                self._latest[workflow.name] = workflow
        self._versions = frozenset((name, version) for name, version in self._all if version is not None)

    def in_version(self, name: str, version: int) -> Workflow[..., Any] | None:
        """Return the workflow of this name in this version, or None."""
        return self._all.get((name, version))

    def versions(self) -> frozenset[tuple[str, int]]:
        """Return the names and versions of all that have one."""
        return self._versions

    def __getitem__(self, name: str) -> Workflow[..., Any]:
        """Return the workflow of this name in its highest version."""
        return self._latest[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._latest)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._latest)


class WithOne(Versioned):
    """Workflows, also a live view of them, with another one, in place of one of its name and version."""

    def __init__(self, others: Versioned, one: Workflow[..., Any]) -> None:
        self._others = others
        self._one = one

    def in_version(self, name: str, version: int) -> Workflow[..., Any] | None:
        """Return the workflow of this name in this version, or None."""
        one = self._one
        return one if (name, version) == (one.name, one.version) else self._others.in_version(name, version)

    def versions(self) -> frozenset[tuple[str, int]]:
        """Return the names and versions of all that have one."""
        one, found = self._one, self._others.versions()
        return found if one.version is None else found | {(one.name, one.version)}

    def __getitem__(self, name: str) -> Workflow[..., Any]:
        """Return the workflow of this name in its highest version."""
        one = self._one
        if name != one.name:
            return self._others[name]
        other = self._others.get(name)
        return one if other is None or (other.version or 0) <= (one.version or 0) else other

    def __contains__(self, name: object) -> bool:
        """Tell whether there is one of this name."""
        return name == self._one.name or name in self._others

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        yield from self._others
        if self._one.name not in self._others:
            yield self._one.name

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._others) + (self._one.name not in self._others)


def versioned(workflows: Mapping[str, Workflow[..., Any]]) -> Versioned:
    """Return workflows by name as such a mapping, which they may be already."""
    return workflows if isinstance(workflows, Versioned) else Chosen(workflows.values())
