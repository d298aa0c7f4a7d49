"""The clock of an engine: agreed with the other workers of the file, and compared with the machine's."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

from stepwell.model.clock import MICROSECONDS, SystemClock, datetime_of
from stepwell.store.store import Store

_log: Final = logging.getLogger("stepwell")

#: From how far apart on the file's times and this machine's clock are worth a word.
_SAID_MICROSECONDS: Final = 60 * MICROSECONDS


def system_clock(store: Store) -> SystemClock:
    """Return the clock of this machine as all workers of the store share it; say where the two do not agree."""
    clock = SystemClock.shared(store.membership.agree_on_clock, store.membership.wall_clock, store.membership.last_at())
    ahead = clock.ahead()
    if abs(ahead) >= _SAID_MICROSECONDS:
        wall = datetime_of(clock.now() - ahead).isoformat(" ", "seconds")
        _log.warning(
            "%s: its times are %s %s this machine's clock, which says %s. Something was written to it while a clock "
            "was wrong, or this clock is wrong now: then set it right, and start again. Timers and dates are kept all "
            "the same, dates by this machine's clock. To have the times in its tables right again as well, let its "
            "runs end, delete them with engine.purge(0), and open it anew",
            store.location,
            timedelta(seconds=round(abs(ahead) / MICROSECONDS)),
            "ahead of" if ahead > 0 else "behind",
            wall,
        )
    return clock
