"""The pytest plugin that runs each collected coroutine function as the body of workflows, and writes down its end.

It stands in for anyio's own plugin and for the `conftest` of anyio's tests, which would run them on event loops of
their own. What a test asks of those that does not concern workflows is answered with the plain backend of asyncio.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from conformance.trial import MODES, Mode, run_trial

#: Where the verdicts go, one JSON object a line; one file for each process.
RESULTS_VARIABLE: Final = "CONFORMANCE_RESULTS"
_MODE: Final = "conformance_mode"


def _stand_in(name: str, **contents: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def pytest_configure() -> None:
    """Give the tests the modules that they import beside what they test."""
    # The stand-in is found before the file of that name is looked for.
    _stand_in("tests.conftest", asyncio_params=[pytest.param("asyncio", id="asyncio")], no_other_refs=list)
    if "pytest_mock" not in sys.modules:
        _stand_in("pytest_mock", MockerFixture=Any)


@pytest.fixture
def mocker() -> Iterator[Any]:
    """Return what the tests use of the fixture that pytest-mock has."""

    def spy(owner: object, name: str) -> Any:
        return mock.patch.object(owner, name, wraps=getattr(owner, name)).start()

    yield types.SimpleNamespace(spy=spy)
    mock.patch.stopall()


@pytest.fixture
def anyio_backend() -> str:
    """Return the only backend that workflow code has."""
    return "asyncio"


@pytest.fixture
def anyio_backend_name() -> str:
    """As `anyio_backend`."""
    return "asyncio"


@pytest.fixture
def anyio_backend_options() -> dict[str, Any]:
    """Return no options."""
    return {}


def pytest_pycollect_makeitem(obj: object) -> None:
    """Let coroutine functions be parametrised by fixtures that they do not name."""
    if inspect.iscoroutinefunction(obj):
        pytest.mark.usefixtures("anyio_backend")(obj)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each coroutine function in every mode."""
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.fixturenames.append(_MODE)
        metafunc.parametrize(_MODE, MODES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is no coroutine function: such tests start event loops of their own, or need none."""
    items[:] = [item for item in items if isinstance(item, pytest.Function) and _mode_of(item) is not None]


def _mode_of(item: pytest.Function) -> Mode | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(_MODE)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test as a workflow; pytest hears that it passed, whatever the verdict is."""
    mode = _mode_of(pyfuncitem)
    if mode is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    verdict = run_trial(lambda: pyfuncitem.obj(**arguments), mode)
    _write({"test": _name_of(pyfuncitem, mode), "mode": mode, **asdict(verdict)})
    return True


def _name_of(item: pytest.Function, mode: Mode) -> str:
    """Return the test's name, the same for all modes."""
    if "case" in item.funcargs:
        return str(item.funcargs["case"])
    parameters = [part for part in item.name.partition("[")[2].removesuffix("]").split("-") if part]
    parameters = [part for part in parameters if part not in {mode, "asyncio"}]
    owner = f"{item.cls.__name__}." if item.cls is not None else ""
    suffix = f"[{'-'.join(parameters)}]" if parameters else ""
    return f"anyio {item.path.stem}.{owner}{item.originalname}{suffix}"


def _write(record: dict[str, str]) -> None:
    path = Path(os.environ[RESULTS_VARIABLE]) / f"{os.getpid()}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
