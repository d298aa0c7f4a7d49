"""Two different functions of one name are told apart, or refused: the file knows them by their names alone."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import DefinitionError, step, workflow
from stepwell.testing import TestEngine

TWO = """
from stepwell import step, transaction, workflow

@{first}(name="{name}")
def shop(*args): return "shop"

@{second}(name="{name}")
def hotel(*args): return "hotel"
"""

ONE = """
from stepwell import step, workflow

@step(name="{name} step")
def charge(): return {value}

@workflow(name="{name}")
def checkout(): return charge()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that modules are imported from; they are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, module: str, text: str, **fields: object) -> None:
    (folder / f"{module}.py").write_text(textwrap.dedent(text.format(**fields)), encoding="utf-8")
    importlib.invalidate_caches()


def test_two_workflows_of_one_name_in_a_module_are_refused_with_both_places(folder: Path) -> None:
    write(folder, "twins", TWO, first="workflow", second="workflow", name="twins")
    with pytest.raises(DefinitionError) as raised:
        importlib.import_module("twins")
    for part in ("twins.hotel", "twins.shop", "twins.py:", "name="):
        assert part in str(raised.value)


@pytest.mark.parametrize("second", ["step", "transaction", "workflow"])
def test_a_step_may_have_the_name_of_another_and_of_a_workflow(folder: Path, second: str) -> None:
    write(folder, f"both_{second}", TWO, first="step", second=second, name=f"both {second}")
    importlib.import_module(f"both_{second}")


def test_two_functions_of_one_name_in_two_modules_are_refused(folder: Path) -> None:
    for module in ("shop_one", "shop_two"):
        write(folder, module, ONE, name="two modules", value=module.encode())
    importlib.import_module("shop_one")
    with pytest.raises(DefinitionError, match=r"shop_two\.checkout.*shop_one\.checkout"):
        importlib.import_module("shop_two")


def test_a_module_may_be_reloaded_and_its_new_code_counts(folder: Path, engine: TestEngine) -> None:
    write(folder, "reloaded", ONE, name="reloaded", value=1)
    module = importlib.import_module("reloaded")
    assert engine.start(module.checkout).result(timeout=60) == 1
    before = module.checkout
    write(folder, "reloaded", "# changed, so that no cache is taken for it\n" + ONE, name="reloaded", value=22)
    module = importlib.reload(module)
    assert engine.start(module.checkout).result(timeout=60) == 22
    assert engine.start(before).result(timeout=60) == 22  # the same workflow, of an older version


def test_a_file_may_be_imported_under_two_names(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    write(folder / "package", "inner", ONE, name="two paths", value=1)
    importlib.import_module("package.inner")
    sys.path.insert(0, str(folder / "package"))
    try:
        importlib.import_module("inner")
    finally:
        sys.path.remove(str(folder / "package"))


def test_a_script_may_import_itself(folder: Path) -> None:
    write(
        folder,
        "itself",
        ONE + "\nif __name__ == '__main__':\n    import itself\n    print('fine')\n",
        name="i",
        value=1,
    )
    done = subprocess.run([sys.executable, "itself.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_what_is_typed_in_may_be_typed_anew_under_another_function_name(folder: Path) -> None:
    typed = TWO.format(first="workflow", second="workflow", name="typed in") + "\nprint('fine')\n"
    line = [sys.executable, "-i", "-q"]
    done = subprocess.run(line, input=typed, cwd=folder, capture_output=True, text=True, check=False)
    assert "fine" in done.stdout, done.stderr


def test_a_module_that_was_taken_out_again_is_in_nobodys_way(folder: Path) -> None:
    write(folder, "gone", ONE, name="gone", value=1)
    importlib.import_module("gone")
    del sys.modules["gone"]
    write(folder, "came", ONE, name="gone", value=2)
    assert importlib.import_module("came").checkout.name == "gone"


def test_a_later_version_in_a_function_takes_the_name_and_an_engine_starts_none_in_anothers_place(
    engine: TestEngine,
) -> None:
    @workflow(name="versions of a test")
    async def first() -> str:
        return "first"

    assert engine.start(first).result(timeout=60) == "first"

    @workflow(name="versions of a test")
    async def second() -> str:
        return "second"

    assert engine.start(second).result(timeout=60) == "second"
    for _ in range(2):
        with pytest.raises(DefinitionError, match=r"executes .*second.*, not .*first"):
            engine.start(first)
        with pytest.raises(DefinitionError, match="not"), engine.transaction() as tx:
            tx.start(first)
        engine.reopen()
    assert len(engine.list()) == 2


def test_a_workflow_that_a_function_makes_again_with_other_values_is_another(engine: TestEngine) -> None:
    def make(word: str) -> Any:
        @step(name="made again step")
        async def say() -> str:
            return word

        @workflow(name="made again")
        async def speaks() -> str:
            return await say()

        return speaks

    old, new = make("old"), make("new")
    assert engine.start(new).result(timeout=60) == "new"
    with pytest.raises(DefinitionError, match="not "):
        engine.start(old)


def test_two_workflows_that_a_module_makes_with_one_function_need_two_names(folder: Path) -> None:
    text = """
    from stepwell import workflow
    def converter(rate):
        @workflow
        def converts(amount: int) -> int: return amount * rate
        return converts
    euros = converter(2)
    dollars = converter({rate})
    """
    write(folder, "made_twice", text, rate=3)
    with pytest.raises(DefinitionError, match=r"made_twice\..*converts"):
        importlib.import_module("made_twice")
    write(folder, "made_once", text, rate=2)  # the same function, twice
    importlib.import_module("made_once")


def first_of_two() -> str:
    return "first"


def second_of_two() -> str:
    return "second"


def test_what_code_declares_after_the_import_is_a_new_version(engine: TestEngine) -> None:
    for function in (first_of_two, second_of_two):
        assert engine.start(workflow(name="declared twice")(function)).result(timeout=60) == function()


def test_a_decorator_of_ones_own_declares_for_the_module(folder: Path) -> None:
    text = """
    from stepwell import workflow
    def mine(function): return workflow(name="{name}")(function)
    @mine
    def shop(): ...
    @mine
    def hotel(): ...
    """
    write(folder, "by_decorator", text, name="by a decorator")
    with pytest.raises(DefinitionError, match=r"by_decorator\.hotel"):
        importlib.import_module("by_decorator")
