"""What a worker makes of notifications from other processes: what it looks at, and when.

They are hints that something stands in the store, never facts. So they are only noted, as kinds and keys, and one look
serves all that was noted before it.
"""

from __future__ import annotations

from collections.abc import Callable

from stepwell.runtime.waiters import Waiters
from stepwell.store.notifications import Notification
from stepwell.worker.worker import Worker


class Notifications:
    """What one worker was notified of. `later` queues an event, `look_at_members` finds out who died."""

    def __init__(
        self,
        worker: Worker,
        waiters: Waiters,
        later: Callable[[Callable[[], None]], None],
        look_at_members: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._waiters = waiters
        self._later = later
        self._look_at_members = look_at_members
        # What was noted since the last look; None stands for "any run may have ended".
        self._kinds: set[str] = set()
        self._ended: set[int] | None = set()

    def notified(self, news: Notification, *, more_is_queued: bool) -> None:
        """Take note of news, and look: at once, or where more may have been heard meanwhile, after that; an event."""
        if news.reply is not None:
            news.reply()
            return
        self._note(news)
        if more_is_queued:
            self._later(self._look)
        else:
            self._look()

    def look_at_everything(self) -> None:
        """Look, in an event of its own, at all that may have happened without this worker's knowing."""
        self._note(Notification("anything"))
        self._later(self._look)

    def _note(self, news: Notification) -> None:
        self._kinds.add(news.kind)
        if not news.keys and news.kind in ("ends", "anything"):
            self._ended = None
        elif self._ended is not None:
            self._ended.update(news.keys)

    def _look(self) -> None:
        kinds, self._kinds = self._kinds, set()
        ended, self._ended = self._ended, set()
        everything = "anything" in kinds
        if everything or "death" in kinds:
            self._look_at_members()
        if everything or "mail" in kinds:
            self._worker.inbox.take()
        if everything or "work" in kinds:
            self._worker.claims.look()
            self._worker.scheduler.look()
            self._worker.schedules.look()
        elif "turn" in kinds:
            self._worker.scheduler.look_for_turn()
        if everything or "ends" in kinds:
            self._waiters.look(ended)
