"""The demo counts sources rightly, survives its kills on a small tree, and would notice whatever was lost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from indexer import analysis
from indexer.analysis import (
    FileFacts,
    ModuleSize,
    Problem,
    Report,
    SourceFile,
    analyse,
    find_packages,
    merge,
    summarise,
)
from indexer.ledger import Execution, Recorded
from indexer.verdict import Evidence, Worker, judge

EXAMPLES = Path(__file__).parents[2] / "examples"


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


# --- analysis ---------------------------------------------------------------------------------------------------------


def test_definitions_and_imports_are_counted_wherever_they_stand(tmp_path: Path) -> None:
    source = """
import os, os.path
from . import near
from collections.abc import Iterable
if True:
    import json
class A:
    def f(self): return lambda: 0
    async def g(self):
        match 1:
            case 1:
                class B: pass
try:
    pass
except OSError:
    def h():
        while True:
            import re
"""
    write_tree(tmp_path, {"a.py": source})
    facts = analyse(SourceFile(str(tmp_path), "a.py"))
    tree = ast.parse(source)
    assert (
        facts.functions == sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree)) == 3
    )
    assert facts.classes == sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)) == 2
    assert facts.import_statements == 5
    assert facts.imports == ["collections", "json", "os", "re"]
    assert facts.lines == source.count("\n")
    assert facts.problem is None


@pytest.mark.parametrize("text", ["def", "\0", "# coding: nonsense\n", "x = " + "(" * 500, "print 'old'"])
def test_a_file_that_does_not_parse_is_counted_with_the_reason(tmp_path: Path, text: str) -> None:
    write_tree(tmp_path, {"bad.py": text})
    facts = analyse(SourceFile(str(tmp_path), "bad.py"))
    assert facts.problem is not None
    assert facts.problem.startswith("cannot be parsed: ")
    assert facts.size_bytes == len(text)
    assert summarise([facts]).problems == [Problem("bad.py", facts.problem)]
    assert summarise([facts]).files == 1


def test_a_file_that_cannot_be_read_is_counted_with_the_reason(tmp_path: Path) -> None:
    assert analyse(SourceFile(str(tmp_path), "gone.py")).problem == "cannot be read: No such file or directory"


def test_every_directory_with_sources_is_a_package_and_nothing_is_left_out_silently(tmp_path: Path) -> None:
    names = ["top.py", "p/b.py", "p/a.py", "p/note.txt", "p/q/c.py", "site/x.py"]
    root = write_tree(tmp_path / "tree", dict.fromkeys(names, ""))
    (root / "link").symlink_to(root / "p")
    listing = find_packages(root, ["site"])
    assert [(package.name, package.files) for package in listing.packages] == [
        (".", ["top.py"]),
        ("p", ["p/a.py", "p/b.py"]),
        ("p.q", ["p/q/c.py"]),
    ]
    assert listing.problems == [Problem("link", "is a link to a directory; not followed")]
    assert listing.count() == 4


def test_a_file_name_that_is_not_utf8_becomes_text_that_can_be_recorded() -> None:
    name = analysis._relative(Path("/tree", os.fsdecode(b"caf\xe9.py")), Path("/tree"))
    assert name.encode() == b"caf\\xe9.py"


def test_reports_add_up_in_any_grouping() -> None:
    facts = [FileFacts(f"{n}.py", 10 * n, n, n, 1, 2, ["os", f"m{n}"], f"hash{n}") for n in range(1, 13)]
    whole = summarise(facts)
    parts = merge([summarise(facts[:5]), summarise(facts[5:])])
    assert replace(parts, sha256="") == replace(whole, sha256="")
    assert whole.files == 12
    assert whole.lines == 78
    assert whole.largest[0] == ModuleSize("12.py", 12, 13)
    assert len(whole.largest) == 10
    assert whole.most_imported()[0] == ("os", 12)


def test_a_changed_byte_in_any_file_changes_the_report() -> None:
    facts = [FileFacts("a.py", sha256="1"), FileFacts("b.py", sha256="2")]
    assert summarise(facts) != summarise([facts[0], replace(facts[1], sha256="3")])


# --- verdict ----------------------------------------------------------------------------------------------------------

GOOD = Evidence(
    files=frozenset({"a", "b", "c"}),
    workers=[Worker(1, 1_000_000, recorded=1), Worker(2, 5_000_000, recorded=2), Worker(3, 7_000_000)],
    recorded=[Recorded("a", 2_000_000), Recorded("b", 5_250_000), Recorded("c", 7_500_000)],
    executions=[Execution(1, "a"), Execution(1, "b"), Execution(2, "b"), Execution(3, "c")],
    report=Report(files=3),
    uninterrupted=Report(files=3),
)


def test_a_flawless_demo_is_judged_so_with_its_figures() -> None:
    verdict = judge(GOOD)
    assert verdict.failures == []
    assert (verdict.kept, verdict.rerun, verdict.repeated) == (2, 0, 1)
    assert verdict.recoveries_seconds == [0.25, 0.5]


def test_a_kill_before_anything_new_was_recorded_leaves_no_recovery_to_measure() -> None:
    workers = [Worker(1, 0, recorded=1), Worker(2, 0, recorded=1), Worker(3, 5_000_000)]
    assert judge(replace(GOOD, workers=workers)).recoveries_seconds == [None, 0.25]


@pytest.mark.parametrize(
    ("broken", "failure"),
    [
        (replace(GOOD, executions=[*GOOD.executions, Execution(3, "a")]), "1 steps ran again although"),
        (replace(GOOD, recorded=[*GOOD.recorded, Recorded("c", 8_000_000)]), "1 steps were recorded more than once"),
        (replace(GOOD, files=GOOD.files | {"d"}), "1 files have no recorded step"),
        (replace(GOOD, files=frozenset({"a", "b"})), "1 recorded files are not in the tree"),
        (replace(GOOD, executions=GOOD.executions[:-1]), "1 results are recorded of files that were never read"),
        (replace(GOOD, report=Report(files=2)), "the report differs"),
    ],
)
def test_each_broken_promise_fails_the_demo(broken: Evidence, failure: str) -> None:
    (found,) = judge(broken).failures
    assert found.startswith(failure)


# --- the whole --------------------------------------------------------------------------------------------------------


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "index_source.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demo_survives_two_kills_on_a_small_tree_and_says_so(tmp_path: Path) -> None:
    files = {f"pkg{n % 5}/m{n}.py": f"import os\ndef f{n}(): pass\n" for n in range(40)}
    done = run_demo("--source", str(write_tree(tmp_path, {**files, "bad.py": "def"})), "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "41 files" in done.stdout
    assert "killed             2 times with SIGKILL" in done.stdout
    assert "bad.py cannot be parsed" in done.stdout
    assert "report             equal to that of an uninterrupted run" in done.stdout


def test_the_demo_works_on_a_tree_of_one_file(tmp_path: Path) -> None:
    done = run_demo("--source", str(write_tree(tmp_path, {"only.py": "x = 1\n"})))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_fails_clearly_on_a_tree_without_sources(tmp_path: Path) -> None:
    done = run_demo("--source", str(tmp_path))
    assert done.returncode == 1
    assert "there are no .py files below" in done.stderr
