"""What both read sides ask about queues and limits."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from stepwell.store.queues import QueueFacts, QueueState
from stepwell.store.sql.queue_facts import SqlFacts, state_of
from stepwell.store.sql.reading import Reader


class QueueReader(Reader):
    """A `stepwell.store.queues.QueueReads`."""

    @contextmanager
    def queue_facts(self) -> Generator[QueueFacts, None, None]:
        """Return facts that agree with each other, for a short look."""
        with self._reads.lend() as execute:
            execute(self._sql["read_begun"])
            yield SqlFacts(execute, self._sql)
            execute(self._sql["read_ended"])

    def queues(self) -> list[QueueState]:
        """Return all queues and limits, by name."""
        return [state_of(row) for row in self._rows("queue_states")]
