"""`make mutants` changes what it says, sees what tests see, and its lists name what exists."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
from mutants import known
from mutants.swap import NothingToChangeError, note_what_is_reached, statement_of, swap
from mutants.targets import MODULES, ROOT, TESTS

SOURCE: Final = '''
"""A module."""

LIMIT = 3


def small(number: int) -> bool:
    """Say whether a number is small."""
    if number < LIMIT:
        return True
    return False


class Box:
    def __init__(self) -> None:
        self.held = 0

    def put(self) -> int:
        self.held += 1
        return self.held


def counter():
    """Return a function that counts."""
    box = Box()
    return lambda: box.put()


HELD = small.__code__
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return `SOURCE` as an imported module."""
    path = tmp_path / "sample.py"
    path.write_text(SOURCE)
    name = "stepwell.sample"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def test_each_module_and_each_test_file_that_is_named_exists() -> None:
    assert [name for name in TESTS if not (ROOT / "tests" / name).is_file()] == []
    assert [name for name in MODULES if importlib.util.find_spec(name) is None] == []
    assert {name.split(".")[1] for name in MODULES} == {"model", "replay", "worker"}
    assert len(MODULES) > 40
    assert len(set(TESTS)) == len(TESTS)


def test_each_known_mutant_has_a_reason_and_is_of_a_line_that_exists() -> None:
    for change, reason in known.read().items():
        lines = {line.strip() for line in (ROOT / "src" / "stepwell" / change.file).read_text().splitlines()}
        assert change.was in lines, f"{change.file} has no such line any more; take it out of known.toml: {change.was}"
        assert change.becomes not in ("", change.was)
        assert len(reason.split()) > 3


def test_the_page_has_the_table_of_known_mutants() -> None:
    page = known.PAGE.read_text(encoding="utf-8")
    assert page == known.written(page, known.read()), "run python -m mutants --write"


def test_functions_that_others_hold_already_get_the_changed_code(module: ModuleType) -> None:
    taken: Callable[[int], bool] = module.small
    swap(module, SOURCE.replace("number < LIMIT", "number <= LIMIT"))
    assert taken(3)
    assert module.HELD is taken.__code__, "who knows a function's frames by its code knows the changed ones"
    assert Path(str(module.__file__)).read_text() == SOURCE, "the file stays as it is"


def test_methods_and_what_functions_make_are_changed_too(module: ModuleType) -> None:
    box = module.Box()
    swap(module, SOURCE.replace("self.held += 1", "self.held += 2"))
    assert box.put() == 2
    assert module.counter()() == 2


def test_functions_whose_asserts_pytest_has_rewritten_are_changed_too(module: ModuleType) -> None:
    # What pytest does to modules of a package that has a plugin: other code than that of the file, on the same lines.
    rewritten = SOURCE.replace("    if number < LIMIT:", "    if number < LIMIT and ():")
    exec(compile(rewritten, str(module.__file__), "exec"), vars(module))
    taken: Callable[[int], bool] = module.small
    assert not taken(1)
    swap(module, SOURCE.replace("number < LIMIT", "number <= LIMIT"))
    assert taken(3)
    assert module.HELD is taken.__code__


def test_a_change_outside_of_functions_is_refused(module: ModuleType) -> None:
    with pytest.raises(NothingToChangeError):
        swap(module, SOURCE.replace("LIMIT = 3", "LIMIT = 4"))


def test_statements_that_are_reached_are_noted_by_their_lines(module: ModuleType) -> None:
    reached = set[tuple[str, int]]()
    note_what_is_reached(module, reached.add)
    assert module.small(1)
    lines = SOURCE.splitlines()
    assert sorted(lines[line - 1].strip() for _, line in reached) == ["if number < LIMIT:", "return True"]
    assert module.small.__doc__ == "Say whether a number is small."
    assert statement_of(SOURCE, lines.index("        return True") + 1) == lines.index("        return True") + 1


SUBJECT: Final = """
def small(number):
    if number < 3:
        return True
    return number < 1

def same(number):
    return number + 0

def count_down(number):
    while number:
        number = number - 1
    return number

LIMIT = 1
"""
TESTS_OF_SUBJECT: Final = """
import subject

def test_small():
    assert subject.small(2)
    assert not subject.small(9)

def test_count_down():
    assert subject.count_down(3) == 0

def test_that_fails_anyhow():
    assert subject.same(1) == 2
"""
TRIAL: Final = """
import pytest
import subject
from mutants.trial import Server

source = open("subject.py").read()

def work(server):
    server.measure(["subject"])
    assert server.failing == ["test_subject.py::test_that_fails_anyhow"], server.failing
    assert server.control(["subject"], 1.0) == ""
    for was, becomes, line in (
        ("return number < 1", "return number < 10", 5),
        ("number < 3", "number <= 3", 3),
        ("number + 0", "number - 0", 8),
        ("number - 1", "number - 0", 12),
        ("LIMIT = 1", "LIMIT = 2", 3),
    ):
        verdict, where = server.try_out("subject", source.replace(was, becomes), ("subject", line), 1.0)
        print("verdict:", verdict, flush=True)

server = Server(work, least_cpu_seconds=1)
pytest.main(["-o", "addopts=", "-q", "-s", "-p", "no:cacheprovider", "test_subject.py"], plugins=[server])
"""


def test_a_mutant_is_noticed_or_survives_or_is_not_reached_or_takes_too_long_or_changes_nothing(tmp_path: Path) -> None:
    for name, text in {"subject": SUBJECT, "test_subject": TESTS_OF_SUBJECT, "trial": TRIAL}.items():
        (tmp_path / f"{name}.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "trial.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    verdicts = [line.partition("verdict: ")[2] for line in done.stdout.splitlines() if "verdict: " in line]
    expected = ["noticed", "survived", "not reached", "too long", "no change"]
    assert verdicts == expected, done.stdout + done.stderr
    assert (tmp_path / "subject.py").read_text() == SUBJECT
