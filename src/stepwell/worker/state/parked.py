"""What a run in memory waits for, as the file shall say it (`stepwell.model.waits`)."""

from __future__ import annotations

from itertools import islice
from typing import Final

from stepwell.model.waits import MAX_NAMED, Wait, encode_waits
from stepwell.worker.state.loaded_run import LoadedRun

_NOTHING: Final = '[{"kind":"nothing"'


def waits_of(run: LoadedRun) -> str:
    """Return the text for `waiting_on`. Takes the same time however much the run waits for."""
    pending = run.execution.pending
    waits = [run.execution.kinds.waits(operation) for operation in islice(pending.values(), MAX_NAMED)]
    if len(pending) > MAX_NAMED:
        waits.append(Wait("more", count=len(pending) - MAX_NAMED))
    elif not waits:
        name, place = run.execution.awaited()
        waits.append(Wait("nothing", name=name, at=place))
    return encode_waits(waits)


def waited_for(run: LoadedRun) -> str | None:
    """Return the same of a run that pauses: of what its code asked for before that."""
    begun = (operation for operation in run.execution.pending.values() if operation.number <= run.opened)
    waits = [run.execution.kinds.waits(operation) for operation in islice(begun, MAX_NAMED)]
    return encode_waits(waits) if waits else None


def waits_for_nothing(text: str) -> bool:
    """Tell whether a text of `waits_of` says that nothing can bring about what the run waits for."""
    return text.startswith(_NOTHING)
