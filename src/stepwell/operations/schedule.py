"""What the run of a schedule can ask about its schedule: which tick it is, and how the runs before it ended.

Nothing of its own is recorded: the tick stands in the run's id, and the outcome of the runs before comes as messages
that were sent in the commit that started the run.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from weakref import WeakKeyDictionary

from stepwell.model.schedule import LAST_FAILURE, LAST_RESULT, tick_of
from stepwell.operations.calling_run import calling_run
from stepwell.operations.receive import receive

if TYPE_CHECKING:
    from stepwell.replay.loop import DeterministicLoop

T = TypeVar("T")

#: What runs in memory have received, by their loops and the name of the message: it is there once, and may be asked for
#: again.
_received: Final[WeakKeyDictionary[DeterministicLoop, dict[str, Any]]] = WeakKeyDictionary()


def scheduled_at() -> datetime | None:
    """Return the time of the tick that started this run, in UTC; None in a run that no schedule started."""
    found = tick_of(calling_run("scheduled_at()").run_id)
    return None if found is None else found[1]


@overload
async def last_result(type: type[T]) -> T | None: ...
@overload
async def last_result(type: Any = Any) -> Any: ...


async def last_result(type: Any = Any) -> Any:
    """Return the result of the last run of the schedule that completed before this one, as `type`; None without one."""
    return await _handed("last_result()", LAST_RESULT, type)


async def last_failure() -> str | None:
    """Return the error of the last run of the schedule as text, if that run failed, else None."""
    failure: str | None = await _handed("last_failure()", LAST_FAILURE, str)
    return failure


async def _handed(what: str, name: str, type: Any) -> Any:
    run = calling_run(what)
    if tick_of(run.run_id) is None:
        return None
    known = _received.setdefault(run.loop, {})
    if name not in known:
        known[name] = await receive(name, type, timeout=0)
    return known[name]
