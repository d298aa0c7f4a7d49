"""Queries and updates of a run. A base of `stepwell.Run`, which has all other methods."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast, overload

from stepwell.api.asking.options import QUERY_SECONDS
from stepwell.api.blocking.caller import Caller
from stepwell.errors import UpdateFailed
from stepwell.model.clock import to_seconds
from stepwell.model.updates import MARK, UpdateAnswer, called
from stepwell.runtime.serving.requests import UpdateRun
from stepwell.values.codec import Codec

U = TypeVar("U")


def unanswered(request: UpdateRun) -> str:
    """Say that there is no answer yet, and how to wait for it again."""
    key = (request.message.key or "")[len(MARK) :]
    return f"run {request.run_id!r} has not answered {called(request.message.name)} (key={key!r} asks for the same)"


def answer_of(answer: UpdateAnswer, codec: Codec, run_id: str, type: Any) -> Any:
    """Return what an update was answered with, or raise what it failed with."""
    if answer.failed:
        raise codec.failure_to_raise(answer.payload, UpdateFailed)
    return codec.decode(answer.payload, type, f"the answer of run {run_id!r} to {called(answer.name)}")


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
        timeout: float | timedelta | None = QUERY_SECONDS,
    ) -> Any:
        """Return what the run answers to a query, which its code has registered with `stepwell.query`.

        The answer is of a copy of the run, made here from what is committed of it: so it can be asked whatever its
        state is, ended as well, and whichever process has it; the code of its workflow must be in this one. Nothing is
        written, and no step starts. `timeout` bounds the time of that, in seconds or a timedelta; None does not.

        Raises what the handler raises; `HandlerNotFound` where the run has no such query; `QueryFailed` where its code
        is not here, or does not fit its journal, and where the handler calls a step, waits, or does not come to an end;
        `DefinitionError` and `SerializationError` for arguments that do not fit; `RunNotFound`.
        """
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        return self._engine._session.query_run(self.id, name, args, kwargs, seconds)

    @overload
    def update(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | timedelta | None = None,
        type: type[U],
    ) -> U: ...
    @overload
    def update(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | timedelta | None = None,
        type: Any = ...,
    ) -> Any: ...

    def update(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | timedelta | None = None,
        type: Any = Any,
    ) -> Any:
        """Have the run answer an update, which its code has registered with `stepwell.update`; wait for the answer.

        It is recorded, reaches the run wherever it is, and is carried out once, as a part of the run. `key`: asking
        again with the same key, from any process and after a restart as well, gives the answer of the first time.
        `type`: as in `value`.

        Raises what the handler raised (`UpdateFailed` where that class is not imported here); `UpdateRefused` where the
        run's validator refuses it, and `HandlerNotFound` where its code has no such update: then the journal has
        nothing of it; `RunEnded` where the run has ended, or ends before it has answered, and `RunNotFound`;
        `InvalidArgument` where the key is that of another update; `SerializationError`; `TimeoutError` after `timeout`
        (seconds or a timedelta): the update goes on, and so does its key.
        """
        session = self._engine._session
        request = session.requests.update(self.id, name, args, kwargs, key)
        answer = self._engine._wait(unanswered(request), timeout, request)
        return answer_of(cast("UpdateAnswer", answer), session.codec, self.id, type)
