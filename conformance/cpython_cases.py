"""CPython's tests as pytest items: each case of `unittest.IsolatedAsyncioTestCase` as one coroutine.

Where a test measures time, it is given the clock of its event loop: the real one says something else in each replay.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
import unittest
from typing import Any, Final

import pytest

#: The modules of the package `test.test_asyncio` that test what workflow code uses of asyncio.
MODULES: Final = ("test_taskgroups", "test_timeouts", "test_locks", "test_queues", "test_waitfor")


class Case:
    """One method of a test case; prints as its name."""

    def __init__(self, module: str, owner: type[unittest.IsolatedAsyncioTestCase], method: str) -> None:
        self._module = module
        self._owner = owner
        self._method = method

    def __str__(self) -> str:
        return f"CPython {self._module}.{self._owner.__name__}.{self._method}"

    async def run(self) -> None:
        """Do what `unittest` does for one case, on the loop that runs already."""
        case = self._owner(self._method)
        case.setUp()
        await case.asyncSetUp()
        await _settled(getattr(case, self._method)())
        await case.asyncTearDown()
        case.tearDown()
        cleanups: list[Any] = case._cleanups  # type: ignore[attr-defined]  # `doCleanups` wants a loop of its own
        while cleanups:
            function, args, kwargs = cleanups.pop()
            await _settled(function(*args, **kwargs))


class _LoopTime:
    """What tests use of the module `time`."""

    sleep = staticmethod(time.sleep)

    @staticmethod
    def monotonic() -> float:
        """Return the time of the event loop."""
        return asyncio.get_running_loop().time()


async def _settled(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def _cases() -> list[Case]:
    found: list[Case] = []
    loader = unittest.TestLoader()
    for name in MODULES:
        module = importlib.import_module(f"test.test_asyncio.{name}")
        if hasattr(module, "time"):
            vars(module)["time"] = _LoopTime
        for owner in vars(module).values():
            if isinstance(owner, type) and issubclass(owner, unittest.IsolatedAsyncioTestCase):
                found += [Case(name, owner, method) for method in loader.getTestCaseNames(owner)]
    return found


@pytest.mark.parametrize("case", _cases(), ids=str)
async def test_cpython(case: Case) -> None:
    """Run one of CPython's tests."""
    await case.run()
