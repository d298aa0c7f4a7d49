"""Permits of limits, as attempts of steps ask for them, use them and return them.

An attempt asks in the commit of the activation that issued it, and the decision is part of that commit; until it is
known the run counts as running, so that a permit that is free costs no further commit. The permit goes back in the
commit that records how the attempt ended.
"""

from __future__ import annotations

from typing import Protocol

from stepwell.attempts import Attempts
from stepwell.flow import used
from stepwell.resident import Resident
from stepwell.store.queueing import PermitAsked, PermitKept, PermitReturned
from stepwell.work import Work


class PermitDesk(Protocol):
    """The worker, as far as permits need it."""

    now: int

    def permit_asked(self, run: Resident, attempts: Attempts, limit: str, work: Work) -> None:
        """Decide about a permit in the commit under way; make the limit known to the file before it is asked for."""
        ...

    def limit_touched(self, limit: str) -> None:
        """Decide about a limit in the commit under way, because a permit of it comes free."""
        ...


class Permits:
    """Asks for permits and returns them, on behalf of attempts. Holds no state of its own."""

    def __init__(self, desk: PermitDesk) -> None:
        self._desk = desk

    def held(self, run: Resident, attempts: Attempts, work: Work) -> bool:
        """Tell whether an attempt has its permit from an earlier worker; else ask for one."""
        limit = attempts.definition.step_options.limit
        assert limit is not None
        now, number = self._desk.now, attempts.operation
        known = run.permits.pop(number, None)
        if known is not None and known.granted and known.limit == limit.name:
            if known.holder is None or limit.settings.rate_limit is None:
                attempts.permit = "held"
                work.changes.append(PermitKept(run.key, number))
                return True
            # An attempt may have started with it, so this one is another start; not in the same microsecond, though,
            # because the store takes two starts of one operation at one time for the same.
            work.changes.append(PermitReturned(run.key, number, now, now - 1))
        elif known is not None and known.limit != limit.name:
            work.changes.append(PermitReturned(run.key, number, now))
        attempts.permit, attempts.began_at, attempts.start_told = "asked", 0, False
        self._desk.permit_asked(run, attempts, used(limit).name, work)
        work.changes.append(PermitAsked(run.key, number, limit.name, now))
        return False

    def give_back(self, attempts: Attempts, work: Work, *, started: bool = True) -> None:
        """Return the permit of an attempt, or its place in the line, where it has one."""
        limit = attempts.definition.step_options.limit
        if attempts.permit is None or limit is None:
            return
        attempts.permit = None
        now = self._desk.now
        started_at = (attempts.began_at or now) if started else None
        work.changes.append(PermitReturned(attempts.run_key, attempts.operation, now, started_at))
        self._desk.limit_touched(limit.name)

    def forget(self, attempts: Attempts) -> None:
        """Note that the end of the run, or its halt, returns the permit of an attempt."""
        limit = attempts.definition.step_options.limit
        if attempts.permit is not None and limit is not None:
            attempts.permit = None
            self._desk.limit_touched(limit.name)
