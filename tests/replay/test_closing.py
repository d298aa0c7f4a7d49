"""Code that leaves memory is closed with all that it has made and not begun, whoever holds that."""

from __future__ import annotations

from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, cast

import pytest

from stepwell.replay.closing import close


class InSlots:
    """What holds a coroutine until its method awaits it, as anyio's handle of a task does."""

    __slots__ = ("held",)

    def __init__(self, held: Coroutine[Any, Any, None]) -> None:
        self.held = held

    async def run(self) -> None:
        await self.held


class InAttributes:
    def __init__(self, held: Coroutine[Any, Any, None]) -> None:
        self.held = held

    async def run(self) -> None:
        await self.held


@pytest.mark.parametrize("kind", [InSlots, InAttributes])
def test_a_method_that_never_began_takes_along_what_its_object_holds(kind: type[InSlots | InAttributes]) -> None:
    async def never_begun() -> None: ...

    held = cast("CoroutineType[Any, Any, None]", never_begun())
    close(kind(held).run())
    assert held.cr_frame is None
