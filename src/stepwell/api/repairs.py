"""Rewinding, restarting, forking and settling runs. A base of `stepwell.Run`, which has all other methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias, cast

from stepwell.api.asking.request_factory import RequestFactory
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import UNSET, Unset
from stepwell.runtime.serving.requests import Request

#: Makes a request about a run of a workflow.
Make: TypeAlias = Callable[[RequestFactory, Workflow[..., Any]], Request]


class Repairs:
    """What `Run` has of this. `id` is the run's."""

    id: str

    def _asked(self, make: Make) -> Any:
        """Have the engine do what is asked, and return its answer."""
        raise NotImplementedError

    def _other(self, run_id: str) -> Self:
        """Return the handle of another run of the same workflow."""
        raise NotImplementedError

    def rewind(
        self,
        to: int,
        *,
        results: Mapping[int, object] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Have the run go on from operation `to` of its present chapter (see `journal`), in another chapter.

        What its code asked for before that is kept, and never executed again; operation `to` and all that was asked for
        after it is done anew, with the code as it is now. `results` gives operations other results than are recorded:
        of those that are kept, and of `to` itself, which is not executed then. `args` and `kwargs` are other input.
        With either, the code is tried on what is kept first: where it would not go on, this raises `InvalidArgument`,
        and nothing was changed.

        Messages that were received since can be received again; what was sent stays sent, what was published stays
        until it is published anew. Children that were started since are cancelled, unless they have ids of their own or
        are detached. `reason` and `by` as in `retry`.

        Raises `RunNotEnded` for a run that is under way, `InvalidArgument` where it has no such operation,
        `RunNotFound`.
        """
        self._asked(lambda make, flow: make.rewind(self.id, flow, to, results, args, kwargs, by, reason))

    def restart(
        self, *args: Any, kwargs: Mapping[str, Any] | None = None, reason: str | None = None, by: str | None = None
    ) -> None:
        """Have the run begin again, in another chapter: with its input, or with `args` (and `kwargs`) in place of that.

        Nothing that it was told is kept, and all of it is done anew; the rest is as in `rewind`.
        """
        self._asked(lambda make, flow: make.restart(self.id, flow, args, kwargs, by, reason))

    def fork(
        self,
        to: int,
        *,
        id: str | None = None,
        results: Mapping[int, object] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Self:
        """Start another run that begins with what this one has up to operation `to`, and return its handle.

        It is what this run would be if it were rewound to that (see `rewind`, also for `results`, `args` and `kwargs`),
        under another id; this run is not touched, and may be at anything. Copies go along: of what is kept of its
        present chapter, of the messages that can be received, and of what is kept of the values that it published.
        It waits in the queue of this run, and has no parent. Children that are kept stay children of this run.

        `id`: that of the new run; without it, one is generated. The same fork under the same id again is the same run.
        Where this program has the code, it is tried on what is kept first, which does not fit if the run's own id is
        in it. `reason` and `by` as in `retry`; the new run has them in its `acts`, and in its `chapters` where it
        comes from. Raises `InvalidArgument` where there is no such operation or the code would not go on, `RunConflict`
        where the id is taken, `RunNotFound`.
        """
        found = self._asked(lambda make, flow: make.fork(self.id, flow, to, id, results, args, kwargs, by, reason))
        return self._other(cast("str", found))

    def settle(
        self,
        op: int,
        *,
        result: object = UNSET,
        error: BaseException | str | Unset = UNSET,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Say how a step of the run ended whose outcome nobody knows: with a `result`, or with an `error`.

        `op` is its operation, as the journal and what the run waits for number it. It may be under way, and stuck, in
        this program or in another one: the attempt is given up, and what it still answers is dropped. It may wait for
        its next attempt; its run may be halted, because the result could not be recorded; or have failed, because the
        step was cut off (`StepInterrupted`, `StepTimeout`, `StepProcessDied`): then the run is brought back, as by a
        `retry`. A paused run stays paused.

        A `result` is checked against what the step returns; where this program does not have the code, by the worker
        that has it, which drops one that does not fit and says so in the log. A text as `error` stands for a
        `StepFailed`. The step is not tried again. `reason` and `by` as in `retry`. Raises `InvalidArgument` where the
        run waits for no such step, or its outcome is known (see `rewind`), `RunEnded`, `RunNotFound`.
        """
        self._asked(lambda make, _flow: make.settle(self.id, op, result, error, by, reason))
