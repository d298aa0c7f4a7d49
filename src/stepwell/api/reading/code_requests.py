"""What only a run's code knows, and no journal: arguments of a step, the type of an answer, the line that waits.

Found out by a replay that executes nothing, where the code is in this process. Forms that know the types are made of
it, and of what a workflow takes.
"""

# Values are of any type, of which pyright knows nothing:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
import linecache
from typing import Any, Final

import msgspec

from stepwell.api.asking.options import QUERY_SECONDS
from stepwell.api.reading.time_travel import plain
from stepwell.definitions.definition import Versioned, Workflow
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepwellError
from stepwell.model.run import RunRecord
from stepwell.operations.table import OPERATIONS
from stepwell.runtime.time_bound import time_bound
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.codec import Codec
from stepwell.values.decoders import is_untyped, show
from stepwell.values.json_schema import schema_of
from stepwell.worker.copies.moments import CodeFrame, CodeRequest, Moments

#: Longer journals are not replayed each time that somebody looks: 2,000 entries take about 20 ms.
_MOST_ENTRIES: Final = 2_000


class AskedFor(msgspec.Struct, frozen=True):
    """An operation as the code asks for it.

    - `type`, `schema`: the name and the JSON schema of the type of its answer; empty where everything fits.
    - `arguments`: those of a step, by the names of its parameters, as plain data; None of anything else.
    - `place`, `line`: where it is waited for, as ``file:line in function``, and that line; empty where it is not known.
    """

    number: int
    kind: str
    name: str
    type: str
    schema: dict[str, Any]
    arguments: dict[str, Any] | None
    place: str
    line: str


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a workflow, with the name and the JSON schema of its type."""

    name: str
    type: str
    schema: dict[str, Any]
    is_required: bool


def asked_for(
    reads: WorkerReads, record: RunRecord, workflows: Versioned, codec: Codec, number: int | None
) -> list[AskedFor]:
    """Return an operation as the code asked for it, or, for None, all that it waits for; none where that is unknown."""
    definition = workflows.fitting(record.workflow, record.version)
    if definition is None:
        return []
    snapshots = reads.load([record.key])
    if not snapshots or len(snapshots[0].entries) > _MOST_ENTRIES:
        return []
    try:
        with time_bound(QUERY_SECONDS, f"the replay of run {record.id!r}"):
            found = Moments(codec, OPERATIONS.kinds).requests(snapshots[0], definition, number)
    except StepwellError:  # the page says elsewhere what is wrong with the code
        return []
    return [_shown(each) for each in found]


def parameters_of(definition: Workflow[..., Any]) -> list[Parameter] | None:
    """Return what a workflow takes, each of it by name; None where that cannot be said so."""
    found: list[Parameter] = []
    for each in definition.signature.parameters.parameters.values():
        if each.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            return None
        type_name, schema = _type(definition.signature.annotation_of(each.name))
        found.append(Parameter(each.name, type_name, schema, each.default is inspect.Parameter.empty))
    return found


def _shown(found: CodeRequest) -> AskedFor:
    type_name, schema = _type(found.annotation)
    place, line = ("", "") if found.place is None else _place(found.place)
    arguments = None if found.step is None else _arguments(found.step)
    return AskedFor(found.number, found.kind, found.name, type_name, schema, arguments, place, line)


def _type(annotation: Any) -> tuple[str, dict[str, Any]]:
    return ("", {}) if annotation is None or is_untyped(annotation) else (show(annotation), schema_of(annotation))


def _place(frame: CodeFrame) -> tuple[str, str]:
    line = linecache.getline(frame.file, frame.line).strip()
    return f"{frame.file}:{frame.line} in {frame.function}", line


def _arguments(call: StepCall) -> dict[str, Any]:
    signature = call.definition.signature
    by_place = {signature.place(index) or str(index): plain(value) for index, value in enumerate(call.args)}
    return by_place | {name: plain(value) for name, value in call.kwargs.items()}
