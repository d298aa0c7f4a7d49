"""The user's functions are called in one place, whatever executes them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from stepwell import Connection, Retry, step, transaction, workflow
from stepwell.definitions import invoke
from stepwell.package import ROOT
from stepwell.testing import TestEngine

HOME = Path(invoke.__file__)


@step(name="invoked on a loop")
async def on_a_loop() -> str:
    return "loop"


@step(name="invoked in a thread")
def in_a_thread() -> str:
    return "thread"


@transaction(name="invoked in a transaction")
def in_a_transaction(connection: Connection) -> str:
    connection.execute("CREATE TABLE IF NOT EXISTS invoked (x)")
    return "transaction"


def never(error: BaseException) -> bool:
    return not isinstance(error, ConnectionError)


@step(name="invoked and fails", retry=Retry(attempts=3, delay=0, when=never))
async def fails() -> str:
    raise ConnectionError("no answer")


@workflow(name="invokes all")
async def invokes_all() -> list[str]:
    said = [await on_a_loop(), in_a_thread(), in_a_transaction()]
    try:
        return [*said, await fails()]
    except ConnectionError:
        return said


def test_each_way_of_executing_passes_the_one_place(engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[tuple[str, str]] = []

    def watched(kind: str, call: Any) -> Any:
        def watch(*args: Any) -> Any:
            name = next((part.name for part in args if hasattr(part, "function") and hasattr(part, "name")), "")
            passed.append((kind, name or args[0].__name__))
            return call(*args)

        return watch

    for kind in ("step", "transaction", "workflow", "predicate"):
        monkeypatch.setattr(invoke, kind, watched(kind, getattr(invoke, kind)))
    run = engine.start(invokes_all)
    assert run.result(timeout=20) == ["loop", "thread", "transaction"]
    assert passed == [
        ("workflow", "invokes all"),
        ("step", "invoked on a loop"),
        ("step", "invoked in a thread"),
        ("transaction", "invoked in a transaction"),
        ("step", "invoked and fails"),
        ("predicate", "never"),
    ]


def calls_of_functions(text: str) -> list[int]:
    """Return the lines in which an attempt is made the current one, or a definition's function is called."""
    found: list[int] = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        is_invoke = isinstance(called, ast.Attribute) and called.attr in ("invoke", "function")
        if is_invoke or (isinstance(called, ast.Name) and called.id in ("enter_step", "_call_transaction")):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [("definition.invoke((), {})", 1), ("x.definition.function(1)", 1), ("enter_step(call)", 1), ("invoke.step(x)", 0)],
)
def test_a_call_of_a_function_is_recognised(text: str, found: int) -> None:
    assert len(calls_of_functions(text)) == found


def test_no_other_module_calls_the_function_of_a_definition() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in Path(ROOT).rglob("*.py")
        if path != HOME and path.relative_to(ROOT).parts[0] != "cli"  # click invokes commands
        for line in calls_of_functions(path.read_text())
    }
    assert not found
