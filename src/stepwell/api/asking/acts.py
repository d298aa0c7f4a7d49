"""Who did what to a run or a queue, and why, as users see it; and who the caller is where nobody says."""

from __future__ import annotations

import os
import pwd
from datetime import datetime
from functools import cache
from typing import Final

import msgspec

from stepwell.model.acts import ActKind, Actor, ActRecord
from stepwell.model.clock import datetime_of
from stepwell.model.names import check_name, check_text

#: What was done, in the words of a sentence that goes on with "by".
_WORDS: Final[dict[ActKind, str]] = {
    "cancel": "cancelled",
    "resume": "resumed",
    "retry": "retried",
    "rewind": "rewound",
    "restart": "restarted",
    "fork": "forked",
    "settle": "settled",
    "terminate": "terminated",
    "reschedule": "rescheduled",
    "takeover": "taken over",
    "pause": "paused",
    "unpause": "unpaused",
    "note": "noted",
    "describe": "described",
    "resolve": "answered",
    "reject": "rejected",
    "archive": "archived",
}


class Act(msgspec.Struct, frozen=True):
    """Something that somebody did to a run or a queue, at `at` (aware, UTC): `act` says what.

    `by` says who did it: what was passed as `by=`, else user, host and process; for a ``takeover`` the worker that
    noticed the death of the owner, or whoever fenced it. `reason` is what was passed as `reason=`, or None; for a
    ``takeover`` it names the former owner.
    """

    act: ActKind
    at: datetime
    by: str
    reason: str | None

    @classmethod
    def of(cls, record: ActRecord, ahead: int = 0) -> Act:
        """Make it from a row; `ahead` is how much later engine time is than the wall clock."""
        return cls(record.act, datetime_of(record.at - ahead), record.by, record.reason)

    @property
    def verb(self) -> str:
        """What was done, as a participle: ``cancelled``. Of a newer release's acts, their name."""
        return _WORDS.get(self.act, self.act)


def checked_actor(by: str | None, reason: str | None) -> Actor:
    """Return who acts and why; by default this process and its user. Raises `InvalidArgument`."""
    return Actor(
        f"{user_at_host()} pid {os.getpid()}" if by is None else check_name(by, "by"), check_text(reason, "reason")
    )


def user_at_host() -> str:
    """Return the user of this process, as the operating system knows it, and the host."""
    return f"{_user(os.getuid())}@{os.uname().nodename}"


@cache  # a directory service may take its time
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container knows numbers without names
        return f"user {number}"
