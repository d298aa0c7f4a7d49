"""Workers that have stopped answering: telling them from busy ones and, where asked for, taking over from them.

A worker that is stopped (SIGSTOP, a debugger, a machine that swaps) keeps its locks and its runs. Nobody can know
whether it will go on, so by default it merely shows as stalled. An engine with `take_over_stalled_after` asks the other
workers from time to time, and fences one that has not answered for that long: its late writes are refused then. One
that cannot be asked keeps its runs: that nothing is heard of it proves nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from stepwell.errors import StepwellError
from stepwell.model.steady import monotonic
from stepwell.store.membership import Membership

_log: Final = logging.getLogger("stepwell")

#: How long a worker has for its answer, in seconds; one whose thread is held up by a commit answers after that.
ANSWER_SECONDS: Final = 2.0
#: How often the others are asked, as a part of the limit.
_LOOKS_PER_LIMIT: Final = 4


class StallWatch:
    """Asks the other workers of a store whether they work, in a thread of its own.

    `own_epoch` is who asks; `take_over` is called with the epoch of a worker that has not answered for `limit_seconds`.
    """

    def __init__(
        self,
        membership: Membership,
        limit_seconds: float,
        own_epoch: Callable[[], int],
        take_over: Callable[[int], object],
    ) -> None:
        self._membership = membership
        self._limit_seconds = limit_seconds
        self._own_epoch = own_epoch
        self._take_over = take_over
        self._silent_since: dict[int, float] = {}
        self._unreachable: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stepwell-stalls", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._limit_seconds / _LOOKS_PER_LIMIT):
            try:
                self._look()
            except (StepwellError, OSError) as error:  # the file may be closed meanwhile
                if not self._stop.is_set():
                    _log.warning("the other workers could not be asked: %s", error)

    def _look(self) -> None:
        own = self._own_epoch()
        others = [
            member.epoch for member in self._membership.members() if member.epoch != own and member.state != "dead"
        ]
        asked_at = monotonic()
        answers = self._membership.ping(others, min(ANSWER_SECONDS, self._limit_seconds / _LOOKS_PER_LIMIT))
        silent = {epoch for epoch, answer in answers.items() if answer == "silent"}
        self._silent_since = {epoch: self._silent_since.get(epoch, asked_at) for epoch in silent}
        self._note_unreachable({epoch for epoch, answer in answers.items() if answer == "unreachable"})
        for epoch in silent:
            if monotonic() - self._silent_since[epoch] >= self._limit_seconds and not self._stop.is_set():
                _log.warning("worker %d has not answered for %g s; its runs are taken over", epoch, self._limit_seconds)
                self._take_over(epoch)
                del self._silent_since[epoch]

    def _note_unreachable(self, epochs: set[int]) -> None:
        for epoch in epochs - self._unreachable:
            _log.warning("worker %d lives, but cannot be asked whether it works; it keeps its runs", epoch)
        self._unreachable = epochs
