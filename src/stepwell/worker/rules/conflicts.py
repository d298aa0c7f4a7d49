"""What becomes of a start whose id belongs to a run already: the same run, or a conflict.

It is the same run where workflow and input are the same. The input may differ in fields and parameters that the code
has got since and that have their default values: both inputs are read with today's code, and compared.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stepwell.definitions.definition import registered_workflows
from stepwell.errors import RunConflict, SerializationError, StepwellError
from stepwell.model.journal import Payload
from stepwell.model.run import RunRecord
from stepwell.store.changes import Created, RunCreated
from stepwell.values.added_fields import is_recorded
from stepwell.values.codec import Codec
from stepwell.values.inspection import items_of, mapping_of, path_step
from stepwell.values.payload import named
from stepwell.values.signature import Signature
from stepwell.worker.rules.queue_policy import refusal_of

#: How many differences of two inputs are told.
_TOLD: Final = 3


def conflict_of(codec: Codec, change: RunCreated, created: Created) -> StepwellError | None:
    """Return the error for a start that must not have the run that there is; None where all is well."""
    if created.joined is None and created.existing is not None:
        return conflict_with(codec, created.existing, change.id, change.workflow, change.input, change.fingerprint)
    return refusal_of(change, created)


def conflict_with(
    codec: Codec,
    existing: RunRecord,
    run_id: str,
    workflow: str,
    payload: Payload,
    fingerprint: int,
    *,
    parent: str | None = None,
) -> RunConflict | None:
    """Return the error where a run of this id is of another workflow, or has another input; else None.

    `parent` is the run that starts it as its child.
    """
    what = f"another workflow ({existing.workflow!r}, {existing.status})"
    if existing.workflow == workflow:
        if existing.fingerprint == fingerprint or _same_input(codec, existing, workflow, payload):
            return None
        changes = _changes(codec, existing.input, payload, _signature(workflow))
        what = f"other input ({existing.workflow!r}, {existing.status}){': ' if changes else ''}{', '.join(changes)}"
    if parent is not None:
        return RunConflict(
            f"run {parent!r} started a child with the id {run_id!r}, which belongs to a run with {what}; choose "
            "another id"
        )
    return RunConflict(
        f"run {run_id!r} exists already, with {what}; it was not started again. Choose another id, or get the run "
        f"with get({run_id!r})"
    )


def _signature(workflow: str) -> Signature | None:
    definition = registered_workflows().get(workflow)
    return None if definition is None or definition.is_named_only else definition.signature


def _same_input(codec: Codec, existing: RunRecord, workflow: str, payload: Payload) -> bool:
    signature = _signature(workflow)
    if signature is None:
        return False
    where = f"the input of run {existing.id!r}"
    try:
        old_args, old_kwargs = codec.decode_arguments(existing.input, signature, where)
        args, kwargs = codec.decode_arguments(payload, signature, where)
        recorded = codec.fingerprint(old_args, old_kwargs, where)
    except SerializationError:  # today's code cannot read what was recorded
        return False
    # What was read of a dataclass that had fewer fields may be without those, as it was recorded.
    return is_recorded(recorded, args, kwargs, signature)


def _changes(codec: Codec, recorded: Payload, given: Payload, signature: Signature | None) -> list[str]:
    """Return in which places two inputs differ, in words."""
    texts = [codec.text_of(each, "an input", "{}") for each in (recorded, given)]
    try:
        old, new = map(msgspec.json.decode, texts)
    except msgspec.DecodeError:
        return []
    found: list[tuple[str, str]] = []
    _compare(old, new, "$", found)
    told = [f"{named(path, signature).partition(' (')[0]} {what}" for path, what in found[:_TOLD]]
    return told + ["…"] * (len(found) > _TOLD)


def _compare(old: Any, new: Any, path: str, found: list[tuple[str, str]]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = mapping_of(old), mapping_of(new)
        for key in dict.fromkeys([*before, *after]):
            step = path + path_step(key)
            if key not in before:
                found.append((step, "is new"))
            elif key not in after:
                found.append((step, "is missing"))
            else:
                _compare(before[key], after[key], step, found)
    elif isinstance(old, list) and isinstance(new, list) and len(items_of(old)) == len(items_of(new)):
        for index, (one, other) in enumerate(zip(items_of(old), items_of(new), strict=True)):
            _compare(one, other, f"{path}[{index}]", found)
    elif old != new:
        found.append((path, "differs"))
