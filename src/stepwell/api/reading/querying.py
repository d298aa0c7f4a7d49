"""Answers queries of runs, for an engine, or for the command line without one.

The code is that of this process. ADR 0057.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from stepwell.api.asking.options import QUERY_SECONDS
from stepwell.definitions.arguments import encoded_arguments
from stepwell.definitions.definition import Workflow, registered_workflows
from stepwell.errors import QueryFailed, RunNotFound
from stepwell.model.names import check_id, check_name
from stepwell.model.run import RunRecord
from stepwell.operations.table import OPERATIONS
from stepwell.runtime.time_bound import time_bound
from stepwell.store.worker_reads import WorkerReads
from stepwell.values.codec import Codec
from stepwell.worker.copies.asking import Asker


class Querying:
    """Asks runs that `reads` reads from the file that `location` names. Safe from any thread."""

    def __init__(self, reads: WorkerReads, codec: Codec, location: str) -> None:
        self._reads: Final = reads
        self._codec: Final = codec
        self._location: Final = location
        self._asker: Final = Asker(codec, OPERATIONS.kinds)

    def ask(
        self,
        record: RunRecord,
        workflow: Workflow[..., Any] | None,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        seconds: float | None,
    ) -> Any:
        """Ask a run, whose workflow is None where this process does not have it; see `stepwell.Run.query`."""
        run_id = record.id
        check_name(name, "the name of a query")
        if workflow is None:
            raise QueryFailed(
                f"run {run_id!r} cannot be asked {name!r}: workflow {record.workflow!r} is not defined in this "
                "process. Import the module that defines it, or ask from a process that has it"
            )
        given = encoded_arguments(self._codec, args, kwargs, f"the arguments of query {name!r} of run {run_id!r}")
        snapshots = self._reads.load([record.key])
        if not snapshots:
            raise RunNotFound(f"{self._location} has no run {run_id!r} any more")
        return self._asker.query(snapshots[0], workflow, name, given, partial(time_bound, seconds))


def query_in_file(
    path: str | os.PathLike[str], run_id: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Any:
    """Ask a run of a file that no engine of this process has open: it is only read."""
    from stepwell import audit_hook
    from stepwell.runtime import io_guard
    from stepwell.store.sqlite.file.read_only import look_into

    io_guard.listen(audit_hook.add_listener)
    with look_into(path) as look:
        record = look.run_facts(check_id(run_id))
        if record is None:
            raise RunNotFound(f"{os.fspath(path)} has no run {run_id!r}")
        workflow = registered_workflows().fitting(record.workflow, record.version)
        return Querying(look.runs, Codec(), os.fspath(path)).ask(record, workflow, name, args, kwargs, QUERY_SECONDS)
