"""Talking to a run whose code answers: queries. A base of `stepwell.Run`, which has all else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from stepwell.api.caller import Caller
from stepwell.api.options import QUERY_SECONDS
from stepwell.model.clock import to_seconds


class Talking:
    """A handle of a run, as far as its code is asked something. `id` names it."""

    def __init__(self, engine: Caller, run_id: str) -> None:
        self.id = run_id
        self._engine = engine

    def query(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | timedelta = QUERY_SECONDS,
    ) -> Any:
        """Return what the run answers to a query, which its code has registered with `stepwell.query`.

        The answer is of a copy of the run, made here from what is committed of it: so it can be asked whatever its
        state is, ended as well, and whichever process has it; the code of its workflow must be in this one. Nothing is
        written, and no step starts. `timeout` bounds the time of the handler, in seconds or a timedelta.

        Raises what the handler raises; `HandlerNotFound` where the run has no such query; `QueryFailed` where its code
        is not here, or does not fit its journal, and where the handler calls a step, waits, or does not come to an end;
        `DefinitionError` and `SerializationError` for arguments that do not fit; `RunNotFound`.
        """
        return self._engine._session.query_run(self.id, name, args, kwargs, to_seconds(timeout, "timeout"))
