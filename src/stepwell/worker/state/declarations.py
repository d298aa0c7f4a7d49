"""What one engine has told the file of the queues and limits that its code states."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Final

from stepwell.definitions.queues import UNSET, Limit, Queue, QueueSettings
from stepwell.store.queues import QueueDeclared
from stepwell.worker.state.unit_of_work import UnitOfWork

_log: Final = logging.getLogger("stepwell")


class Declarations:
    """Tells each queue or limit once, in the unit that needs it first."""

    def __init__(self, flows: Mapping[str, Queue | Limit]) -> None:
        self._flows = flows
        self._declared: dict[str, QueueSettings | None] = {}  # what this engine has stated, or that it stated nothing

    def of(self, name: str, now: int) -> list[QueueDeclared]:
        """Return the change that tells the file of a queue or limit, where this engine has not told it the same."""
        flow = self._flows.get(name)
        if flow is None or self._declared.get(name, UNSET) == flow.stated:
            return []
        return [QueueDeclared(name, flow.kind, flow.stated, now)]

    def add(self, name: str, work: UnitOfWork, now: int) -> None:
        """Make a queue or limit known to the file in the same unit that needs it."""
        for change in self.of(name, now):
            work.then(change, partial(self.committed, change))

    def committed(self, change: QueueDeclared, before: QueueSettings | None) -> None:
        """Take note of a declaration that is committed; `before` is what it has changed, and the log says so."""
        self._declared[change.name] = change.settings
        if before is not None and change.settings is not None:
            text = "%s %r is bounded by %s from now on, as this program states it; until now it was by %s"
            _log.warning(text, change.kind, change.name, change.settings.text, before.text)

    def is_stated(self, name: str) -> bool:
        """Tell whether the code states bounds of a queue or limit, rather than only naming it."""
        flow = self._flows.get(name)
        return flow is not None and flow.stated is not None
