"""What starts of one workflow with the same options have in common: checked once, however many runs they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from stepwell.definitions.definition import Workflow
from stepwell.definitions.queue_slots import QueueSlot, batch_count
from stepwell.errors import InvalidArgument
from stepwell.model.attributes import Description
from stepwell.model.names import check_id
from stepwell.model.start_policy import StartPolicy
from stepwell.shown import shown
from stepwell.store.changes import RunCreated
from stepwell.values.codec import Codec
from stepwell.worker.rules.queue_policy import entered

_NONE: Final[dict[str, Any]] = {}


class StartPlan:
    """Makes the `RunCreated` of each run. `named` are the arguments that all are given by name."""

    __slots__ = (
        "_by",
        "_codec",
        "_deadline_at",
        "_description",
        "_is_typed",
        "_named",
        "_policy",
        "_signature",
        "_slot",
        "_workflow",
    )

    def __init__(
        self,
        codec: Codec,
        workflow: Workflow[..., Any],
        named: dict[str, Any] = _NONE,
        slot: QueueSlot | None = None,
        deadline_at: int | None = None,
        description: Description | None = None,
        by: str = "",
        policy: StartPolicy | None = None,
    ) -> None:
        self._codec = codec
        self._workflow = workflow.name
        self._signature = workflow.signature
        self._is_typed = not workflow.is_named_only
        self._named = named
        self._slot = slot
        self._deadline_at = deadline_at
        self._description = description
        self._by = by
        self._policy = policy

    def run(self, run_id: str, args: tuple[Any, ...], now: int, ahead: int) -> RunCreated:
        """Return the start of one run; raises for arguments that do not fit, or that cannot be recorded."""
        slot, named = self._slot, self._named
        self._signature.bind_check(args, named)
        where = f"the input of workflow {self._workflow!r} for run {run_id!r}"
        payload, fingerprint = self._codec.seal_input(args, named, self._signature, where, is_typed=self._is_typed)
        return RunCreated(
            run_id,
            self._workflow,
            payload,
            fingerprint,
            "running" if slot is None else "pending",
            now,
            deadline_at=self._deadline_at,
            entry=None if slot is None else entered(slot, now, count=batch_count(slot.queue, args, named)),
            ahead=ahead,
            description=self._description,
            described_by=self._by,
            policy=self._policy,
        )


def argument_lists(args: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the arguments of each of many runs; raises `InvalidArgument` for what is no tuple of them."""
    if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Iterable):
        raise InvalidArgument(
            f"start_many() needs the arguments of each run, as an iterable of tuples, not {shown(cast('object', args))}"
        )
    found = list(args)
    for index, each in enumerate(found):
        if not isinstance(each, tuple):
            raise InvalidArgument(
                f"start_many() needs a tuple of arguments for each run, and number {index} is {shown(each)}: write "
                "(argument,) for a single one, () for none"
            )
    return found


def given_ids(ids: Iterable[str], count: int) -> list[str]:
    """Return the ids that are given to `count` runs; raises `InvalidArgument`."""
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise InvalidArgument(f"ids must be an iterable of one id for each run, not {shown(ids)}")
    found = [check_id(each) for each in ids]
    if len(found) != count:
        raise InvalidArgument(f"start_many() was given {len(found)} ids for {count} runs; each run needs one")
    return found
