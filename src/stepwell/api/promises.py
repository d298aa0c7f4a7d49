"""Answers to promises, from outside: with `resolve` or `reject`, of an engine or in a transaction of one."""

from __future__ import annotations

from typing import Any, Protocol

from stepwell.api.asking.acts import checked_actor
from stepwell.api.session import Session
from stepwell.errors import InvalidArgument, PromiseRejected
from stepwell.model.names import check_text
from stepwell.model.promise import PromiseRecord
from stepwell.runtime.serving.promise_requests import ended
from stepwell.runtime.serving.requests import AnswerPromise
from stepwell.shown import shown
from stepwell.values.codec import Codec


def resolved(
    codec: Codec, promise: PromiseRecord, now: int, value: object, by: str | None, reason: str | None
) -> AnswerPromise:
    """Return the request to answer a promise with a value; raises for one that it does not take."""
    from stepwell.values.promise_form import answer_of, read_form

    _check_open(promise, now)
    which = f"the promise, operation {promise.op} of run {promise.run_id!r}"
    answer = answer_of(codec, read_form(codec, promise.form, f"the form of {which}"), value, which)
    return AnswerPromise(promise.token, "resolved", answer, checked_actor(by, reason))


def rejected(
    codec: Codec, promise: PromiseRecord, now: int, error: BaseException | str, by: str | None, reason: str | None
) -> AnswerPromise:
    """Return the request to answer a promise with an error."""
    if isinstance(error, str):
        error = PromiseRejected(check_text(error, "the error of reject()") or "")
    if not isinstance(error, Exception):
        raise InvalidArgument(f"reject() needs an exception, or a text that says why, not {shown(error)}")
    _check_open(promise, now)
    answer = codec.encode_failure(error)
    return AnswerPromise(promise.token, "rejected", answer, checked_actor(by, reason))


def _check_open(promise: PromiseRecord, now: int) -> None:
    """Raise where nobody can answer any more; whether somebody has already is decided with the commit."""
    over = ended(promise, now)
    if over is not None and promise.state not in ("resolved", "rejected"):
        raise over


class _Caller(Protocol):
    """The engine."""

    _session: Session


class Answering:
    """What answers promises: an engine, or an open transaction of one."""

    def _caller(self) -> _Caller:
        """Return the engine."""
        raise NotImplementedError

    def _answer(self, request: AnswerPromise) -> Any:
        """Have it done."""
        raise NotImplementedError

    def resolve(self, token: str, value: object = None, *, by: str | None = None, reason: str | None = None) -> None:
        """Answer the promise with this token; when this returns, the answer is recorded, and the run will get it.

        In a transaction: if, and only if, that commits. A promise is answered once: the same answer again does nothing.
        `by` says who answers, None for this process and its user; the run's acts show it, with `reason`. Raises
        `InvalidArgument` for a value that is not of the promise's type, or none of its choices, `PromiseNotFound`,
        `PromiseEnded` for one that was answered otherwise, or has timed out, `RunEnded`.
        """
        session = self._caller()._session
        promise = session.reads.promise(token)
        self._answer(resolved(session.codec, promise, session.clock.now(), value, by, reason))

    def reject(
        self, token: str, error: BaseException | str, *, by: str | None = None, reason: str | None = None
    ) -> None:
        """Answer the promise with this token with an error, which is raised where the run awaits it.

        `error`: an exception, or a text for a `PromiseRejected`. The rest is as in `resolve`.
        """
        session = self._caller()._session
        promise = session.reads.promise(token)
        self._answer(rejected(session.codec, promise, session.clock.now(), error, by, reason))


class AsyncAnswering:
    """`Answering`, awaited."""

    async def _answer(self, request: AnswerPromise) -> Any:
        """Have it done."""
        raise NotImplementedError

    async def _promise(self, token: str) -> tuple[Session, PromiseRecord]:
        """Return the promise with this token, and the open session."""
        raise NotImplementedError

    async def resolve(
        self, token: str, value: object = None, *, by: str | None = None, reason: str | None = None
    ) -> None:
        """Answer a promise; see `stepwell.Engine.resolve`."""
        session, promise = await self._promise(token)
        await self._answer(resolved(session.codec, promise, session.clock.now(), value, by, reason))

    async def reject(
        self, token: str, error: BaseException | str, *, by: str | None = None, reason: str | None = None
    ) -> None:
        """Answer a promise with an error; see `stepwell.Engine.reject`."""
        session, promise = await self._promise(token)
        await self._answer(rejected(session.codec, promise, session.clock.now(), error, by, reason))
