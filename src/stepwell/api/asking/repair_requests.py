"""Makes the requests that go back to an earlier point of a run's journal; a part of `request_factory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.api.asking.acts import checked_actor
from stepwell.api.asking.listing_options import at_least
from stepwell.api.asking.sortable_ids import SortableIds
from stepwell.definitions.definition import Workflow, checked_kwargs
from stepwell.definitions.queues import Unset
from stepwell.errors import InvalidArgument, StepFailed
from stepwell.model.clock import Clock
from stepwell.model.journal import Payload
from stepwell.model.names import check_id, check_name
from stepwell.runtime.serving.requests import ForkRun, RewindRun, SettleStep
from stepwell.shown import shown
from stepwell.values.codec import Codec
from stepwell.worker.repair.rewinding import NewInput


class RepairRequestFactory:
    """What `RequestFactory` has of this."""

    _codec: Codec
    _clock: Clock
    _ids: SortableIds

    def rewind(
        self,
        run_id: str,
        workflow: Workflow[..., Any],
        to: int,
        results: Mapping[int, object] | None,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        by: str | None,
        reason: str | None,
    ) -> RewindRun:
        """Return the request to rewind a run to an operation."""
        given = self._given(run_id, workflow, args, kwargs)
        return RewindRun(
            run_id,
            at_least(to, 1, "the operation to rewind to"),
            checked_actor(by, reason),
            self._results(run_id, results),
            given,
        )

    def restart(
        self,
        run_id: str,
        workflow: Workflow[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        by: str | None,
        reason: str | None,
    ) -> RewindRun:
        """Return the request to restart a run, with its own input where nothing is given."""
        given = self._given(run_id, workflow, args or None, kwargs)
        return RewindRun(run_id, None, checked_actor(by, reason), given=given)

    def fork(
        self,
        run_id: str,
        workflow: Workflow[..., Any],
        to: int,
        fork_id: str | None,
        results: Mapping[int, object] | None,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        by: str | None,
        reason: str | None,
    ) -> ForkRun:
        """Return the request to fork a run from an operation."""
        given = self._given(run_id, workflow, args, kwargs)
        return ForkRun(
            run_id,
            at_least(to, 1, "the operation to fork from"),
            self._ids.new(self._clock.now()) if fork_id is None else check_id(fork_id),
            checked_actor(by, reason),
            self._results(run_id, results),
            given,
        )

    def settle(
        self,
        run_id: str,
        op: int,
        result: object,
        error: BaseException | str | Unset,
        by: str | None,
        reason: str | None,
    ) -> SettleStep:
        """Return the request to set the outcome of a step."""
        if isinstance(result, Unset) is isinstance(error, Unset):
            raise InvalidArgument("settle() takes either result= or error=, how the step ended")
        number, actor = at_least(op, 1, "the operation to settle"), checked_actor(by, reason)
        if isinstance(error, Unset):
            where = f"the result of operation {number} of run {run_id!r}"
            return SettleStep(run_id, number, "step", self._codec.encode_untyped(result, where), actor)
        failure = StepFailed(check_name(error, "error")) if isinstance(error, str) else error
        if not isinstance(failure, BaseException):
            raise InvalidArgument(f"error must be an exception or a text, not {shown(failure)}")
        return SettleStep(run_id, number, "step_failed", self._codec.encode_failure(failure), actor)

    def _results(self, run_id: str, results: Mapping[int, object] | None) -> tuple[tuple[int, Payload], ...]:
        if results is None:
            return ()
        if not isinstance(results, Mapping):
            raise InvalidArgument(
                f"results must be a mapping of operations to values, {{3: value}}, not {shown(results)}"
            )
        return tuple(
            (
                at_least(op, 1, "an operation whose result is replaced"),
                self._codec.encode_untyped(value, f"the result of operation {op} of run {run_id!r}"),
            )
            for op, value in results.items()
        )

    def _given(
        self,
        run_id: str,
        workflow: Workflow[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
    ) -> NewInput | None:
        """Return the input that a run is given in place of its own; None where it keeps that."""
        if args is None and kwargs is None:
            return None
        if isinstance(args, str) or not isinstance(() if args is None else args, Sequence):
            raise InvalidArgument(f"args must be a sequence of arguments, not {shown(args)}")
        positional, named = tuple(args or ()), checked_kwargs(kwargs)
        workflow.signature.bind_check(positional, named)
        where = f"the input of workflow {workflow.name!r} for run {run_id!r}"
        is_typed = not workflow.is_named_only
        payload, fingerprint = self._codec.seal_input(positional, named, workflow.signature, where, is_typed=is_typed)
        return NewInput(payload, fingerprint)
