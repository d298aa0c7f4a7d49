"""One call of a step and its attempts: what is to be executed, and how the latest attempt ended.

Made by the execution when the code calls the step, completed by the worker, executed by a runner. There is one for
every step of every run, hence a `msgspec.Struct`: it is made in a third of the time that a class with slots takes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

import msgspec

from stepwell.definitions.definition import Step
from stepwell.definitions.reports import Progress, Reports
from stepwell.errors import SerializationError
from stepwell.model.journal import Payload
from stepwell.model.permit_states import PermitState
from stepwell.model.progress import ProgressRow
from stepwell.values.inspection import MISSING


class Poll:
    """That a call is tried again until what it returns fits: every `every` microseconds, for `timeout` at most.

    `until` is asked whether it fits. `tries` returned what did not, the last one of them as attempt number `tried`.
    `began_at` is 0 until one has ended.
    """

    __slots__ = ("began_at", "every", "timeout", "tried", "tries", "until")

    def __init__(self, until: Callable[[Any], object], every: int, timeout: int | None) -> None:
        self.until = until
        self.every = every
        self.timeout = timeout
        self.tries = self.tried = self.began_at = 0

    def ends_at(self, call: StepCall) -> int | None:
        """Return when it is tried for the last time; None: whenever."""
        return None if self.timeout is None else (self.began_at or call.first_started_at) + self.timeout


class StepCall(msgspec.Struct, eq=False):
    """Times are microseconds since the epoch.

    Each attempt executes in a copy of `context`, that of the code which called the step. `attempt` is the number of the
    attempt under way or due next, from 1; `retry_at` is set while the call waits for it, and `last_error` is the class
    and text of why the one before it failed.

    `wanted` turns false once nobody waits for the result, `visible` true once the journal shows the attempt under way.
    The attempt ended with a `value` (which is read already as `delivered`, where it ended in this process), with an
    `error`, or with a result that cannot be recorded (`refused`).

    Of a step with a limit `permit` says whether the attempt asks for a permit in the commit under way, waits for it, or
    has it, or was left with it because nobody waits for its end any more; `began_at` is when its execution really
    began, 0 until then, and `start_told` whether the store knows. `lingers` is set where it counts as ended and its
    thread goes on. `leaving` are the numbers of attempts whose leaving is not committed yet, and whether they have
    ended all the same. `interruptions` counts how often the program cancelled the task that executed it.
    `ahead` is that of the run. `forgiven` is how many of its attempts its retry policy does not count any more.
    `reports` are what its attempts said of how far they are, once one did. `poll` is set where it
    is called until what it returns fits.
    """

    run_key: int
    run_id: str
    definition: Step[..., Any]
    name: str
    fingerprint: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: Context
    operation: int = 0
    attempt: int = 1
    first_started_at: int = 0
    started_at: int = 0
    retry_at: int | None = None
    last_error: str = ""
    wanted: bool = True
    visible: bool = False
    value: Payload = None
    delivered: Any = MISSING
    error: BaseException | None = None
    refused: SerializationError | None = None
    permit: PermitState = None
    began_at: int = 0
    start_told: bool = False
    lingers: bool = False
    leaving: dict[int, bool] = {}  # a struct makes a new one for each of its objects
    interruptions: int = 0
    ahead: int = 0
    forgiven: int = 0
    reports: Reports | None = None
    poll: Poll | None = None

    def __str__(self) -> str:
        """Name the result, for messages of the codec."""
        return f"the result of step {self.name!r} in run {self.run_id!r}"


class History:
    """What the journal says of the earlier attempts of one step call."""

    __slots__ = (
        "attempts",
        "first_started_at",
        "forgiven",
        "last_error",
        "poll",
        "progress",
        "refused",
        "retry_at",
        "started",
    )

    def __init__(self) -> None:
        self.attempts = 0  # that failed
        self.forgiven = 0  # of these, that the retry policy does not count any more
        self.first_started_at = 0
        self.retry_at = 0
        self.last_error = ""
        self.started = False  # an attempt was recorded as under way, with no outcome
        #: By the number of the code that was executed (see `stepwell.definitions.code_identity`): the failures of
        #: attempts whose results could not be recorded.
        self.refused: dict[int, str] = {}
        self.poll: ProgressRow | None = None  # what the file has of a poll
        self.progress: Progress | None = None  # what the last attempt said of how far it was
