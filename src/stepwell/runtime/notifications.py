"""What a worker makes of notifications from other processes: what it looks at, and when.

They are hints that something stands in the store, never facts. So they are only noted, as kinds and keys, and one look
serves all that was noted before it.
"""

from __future__ import annotations

from stepwell.runtime.serving.waiters import Waiters
from stepwell.store.notifications import Notification
from stepwell.worker.worker import Worker


class Notifications:
    """What one worker was notified of, since it last looked."""

    def __init__(self, worker: Worker, waiters: Waiters) -> None:
        self._worker = worker
        self._waiters = waiters
        self._kinds: set[str] = set()
        self._ended: set[int] | None = set()  # None: any run may have ended

    def note(self, news: Notification) -> None:
        """Take note of news, for the next look."""
        self._kinds.add(news.kind)
        if not news.keys and news.kind in ("ends", "anything"):
            self._ended = None
        elif self._ended is not None:
            self._ended.update(news.keys)

    def may_be_of_deaths(self) -> bool:
        """Tell whether a worker may have died, so that the turn loop looks at them before `look`."""
        return "anything" in self._kinds or "death" in self._kinds

    def look(self) -> None:
        """Look in the store for what was noted."""
        kinds, self._kinds = self._kinds, set()
        ended, self._ended = self._ended, set()
        everything = "anything" in kinds
        if everything or "mail" in kinds:
            self._worker.take_mail()
        if everything:
            self._worker.inbox.drop_terminated()
        if everything or "work" in kinds:
            self._worker.claims.look()
            self._worker.scheduler.look()
            self._worker.schedules.look()
        elif "turn" in kinds:
            self._worker.scheduler.look_for_turn()
        if everything or "ends" in kinds:
            self._waiters.look(ended)
