"""One table of the kinds of operations: complete, consistent, and all that anything below it knows of them."""

from __future__ import annotations

import ast
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

from stepwell import DeterminismError, operations, workflow
from stepwell.model.journal import Entry, EntryForm
from stepwell.model.run import RunRecord
from stepwell.model.waits import Wait
from stepwell.operations.calling_run import calling_run
from stepwell.operations.table import OPERATIONS
from stepwell.package import ROOT
from stepwell.replay.execution import Execution
from stepwell.replay.kinds import Kinds, RecordedKind
from stepwell.replay.operation import Operation
from stepwell.values.codec import Codec
from stepwell.worker.state.operation_kinds import OperationKind

NOTE = RecordedKind(name="note", entries=(EntryForm("noted"),), words="a note")


def declared() -> dict[str, OperationKind]:
    """Return the kinds that the files of the operations declare."""
    modules = [
        import_module(f"stepwell.operations.{found.name}") for found in pkgutil.iter_modules(operations.__path__)
    ]
    return {
        value.name: value for module in modules for value in vars(module).values() if isinstance(value, OperationKind)
    }


def test_the_table_has_every_kind_that_is_declared() -> None:
    forms = [form.kind for kind in declared().values() for form in kind.entries]
    assert OPERATIONS.kinds.entry_kinds == sorted([*forms, "cancel", "chapter", "update"])


def test_each_kind_but_steps_says_what_is_done_about_it() -> None:
    assert set(OPERATIONS.openings) == set(declared()) - {"step"}


@pytest.mark.parametrize(
    ("kinds", "clash"),
    [
        ([NOTE, NOTE], "noted"),
        ([NOTE, RecordedKind(name="other", entries=(EntryForm("noted"),))], "noted"),
        ([RecordedKind(name="cancel", entries=(EntryForm("other"),))], "other"),
    ],
)
def test_two_kinds_of_one_name_are_refused(kinds: list[RecordedKind], clash: str) -> None:
    with pytest.raises(ValueError, match=clash):
        Kinds(kinds)


@workflow(name="takes a note")
async def takes_a_note() -> str:
    await calling_run("note()").perform("note", "first")
    return "noted"


def execution(kinds: Kinds) -> Execution:
    record = RunRecord(1, "run", takes_a_note.name, "running", None, 0, 1, 1, started_at=1)
    return Execution(record, takes_a_note, Codec(), kinds)


def test_a_kind_of_its_own_needs_nothing_but_its_declaration() -> None:
    run = execution(Kinds([NOTE]))
    run.begin()
    (operation,) = run.issued
    run.deliver(operation.answer(1, "noted", 2))
    assert run.outcome is not None
    assert run.outcome.result == "noted"


def test_a_divergence_has_the_words_of_the_kind() -> None:
    run = execution(Kinds([NOTE]))
    run.replay([Entry(1, 1, "noted", "second", 0, 2)])
    assert isinstance(run.halted, DeterminismError)
    assert (run.halted.expected, run.halted.actual) == ("a note 'second'", "a note 'first'")


def test_an_entry_of_a_kind_that_only_a_newer_release_knows_halts_the_run() -> None:
    run = execution(Kinds([NOTE]))
    run.replay([Entry(1, 1, "hooked", "first", 0, 2)])
    assert isinstance(run.halted, DeterminismError)
    assert run.halted.expected == "hooked 'first'"


@pytest.mark.parametrize(
    ("kind", "wait"),
    [("timer", Wait("timer", 3, until=7)), ("receive", Wait("message", 3, "x")), ("result", Wait("run", 3, "x"))],
)
def test_a_kind_says_why_a_run_waits_for_it(kind: str, wait: Wait) -> None:
    assert OPERATIONS.kinds.waits(Operation(3, kind, "x", 0, None, 7)) == wait


#: What only the file of the operation may name.
NAMES = {"publish", "published", "send", "sent", "send_failed", "patch", "patched"}


@pytest.mark.parametrize("package", ["worker", "replay", "executors", "runtime", "values"])
def test_nothing_else_names_an_operation(package: str) -> None:
    found = {
        f"{path.name}:{node.lineno}: {node.value}"
        for path in (Path(ROOT) / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in NAMES
    }
    assert not found
