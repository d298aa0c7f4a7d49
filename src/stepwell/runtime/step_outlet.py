"""Where what the steps of one engine say while they execute comes in: its turn loop, as requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stepwell.definitions.reports import Progress, reports_of
from stepwell.definitions.saying import Heard, ProgressMade, Said
from stepwell.definitions.step_info import Attempt
from stepwell.errors import StoreUnavailable
from stepwell.model.steady import monotonic
from stepwell.runtime.serving.requests import FromStep
from stepwell.values.codec import Codec
from stepwell.worker.state.unit_of_work import Reply

#: How long what a step says waits before it is tried again, where nothing can be written for a while, in seconds.
_AGAIN_SECONDS: Final = 0.25


class StepOutlet:
    """A `stepwell.definitions.saying.Outlet`. `submit` hands a request in, `later` calls something in some seconds.

    What a step says is part of what its run does: while the disk is full, or others write, it waits, and is not refused
    as a caller's request is. Nor is it while the engine closes, for steps under way may come to their end.
    """

    is_immediate = False

    def __init__(
        self,
        codec: Codec,
        submit: Callable[[FromStep, Reply], None],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.codec = codec
        self._submit = submit
        self._later = later

    def say(self, attempt: Attempt, number: int, said: Said, heard: Heard) -> None:
        """Have something recorded that attempt `number` of a step says; from any thread."""
        if attempt.reports is not None:
            attempt.reports.heard_at = monotonic()
        request = FromStep(attempt, number, said)

        def reply(_value: Any, error: BaseException | None, /) -> None:
            if isinstance(error, StoreUnavailable) and attempt.wanted:
                self._later(_AGAIN_SECONDS, again)
            else:
                heard(error)

        def again() -> None:
            self._submit(request, reply)

        again()

    def report(self, attempt: Attempt, progress: Progress) -> None:
        """Have it recorded soon how far an attempt is; from any thread."""
        if reports_of(attempt).say(progress):
            self.say(attempt, progress.attempt, ProgressMade(), _unheard)


def _unheard(_error: BaseException | None) -> None:
    """Nobody waits for it: where the attempt is not wanted any more, what it says next tells it so."""
