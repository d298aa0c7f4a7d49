"""Rewinding, restarting, forking and settling runs from asyncio code; `stepwell.api.repairs`, awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from stepwell.api.repairs import Make
from stepwell.definitions.queues import UNSET, Unset


class AsyncRepairs:
    """What `AsyncRun` has of this. `id` is the run's."""

    id: str

    async def _asked(self, make: Make) -> Any:
        """Have the engine do what is asked, and return its answer."""
        raise NotImplementedError

    def _other(self, run_id: str) -> Self:
        """Return the handle of another run of the same workflow."""
        raise NotImplementedError

    async def rewind(
        self,
        to: int,
        *,
        results: Mapping[int, object] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Have the run go on from operation `to`; see `stepwell.Run.rewind`."""
        await self._asked(lambda make, flow: make.rewind(self.id, flow, to, results, args, kwargs, by, reason))

    async def restart(
        self, *args: Any, kwargs: Mapping[str, Any] | None = None, reason: str | None = None, by: str | None = None
    ) -> None:
        """Have the run begin again; see `stepwell.Run.restart`."""
        await self._asked(lambda make, flow: make.restart(self.id, flow, args, kwargs, by, reason))

    async def fork(
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
        """Start another run that begins with what this one has up to operation `to`; see `stepwell.Run.fork`."""
        found = await self._asked(
            lambda make, flow: make.fork(self.id, flow, to, id, results, args, kwargs, by, reason)
        )
        return self._other(cast("str", found))

    async def settle(
        self,
        op: int,
        *,
        result: object = UNSET,
        error: BaseException | str | Unset = UNSET,
        reason: str | None = None,
        by: str | None = None,
    ) -> None:
        """Say how a step of the run ended whose outcome nobody knows; see `stepwell.Run.settle`."""
        await self._asked(lambda make, _flow: make.settle(self.id, op, result, error, by, reason))
