"""The project around the code keeps its word: commands, links, changelog and code in the documents are real."""

from __future__ import annotations

import os
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepwell
from stepwell import errors
from stepwell.model import lifecycle, permit_states

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def name_of(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else ""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_blocks(path: Path, language: str) -> Iterator[str]:
    for indent, code in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text_of(path), re.MULTILINE | re.DOTALL):
        yield textwrap.dedent(textwrap.indent(code, indent))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as the forges make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_make_command_in_a_document_exists(path: Path) -> None:
    commands = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text_of(path), re.MULTILINE))
    assert commands <= TARGETS, f"no such targets: {sorted(commands - TARGETS)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_to_a_file_or_heading_resolves(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_python_block_in_a_document_is_python(path: Path) -> None:
    for block in code_blocks(path, "python"):
        inside = "async def document():\n" + textwrap.indent(block, "    ")  # blocks may await, and may return
        compile(inside, str(path), "exec", dont_inherit=True)


def test_every_page_of_the_documentation_can_be_reached_from_its_index() -> None:
    reached, todo = set[Path](), [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s:]+)", text_of(page)):
            target = (page.parent / link).resolve()
            todo += sorted(target.glob("*.md")) if target.is_dir() else [target] if target.suffix == ".md" else []
    assert set((ROOT / "docs").rglob("*.md")) <= reached


def test_the_first_screen_of_the_readme_shows_what_it_is_some_code_and_two_commands() -> None:
    screen = "\n".join(text_of(ROOT / "README.md").splitlines()[:40])
    assert "one SQLite file" in screen
    assert screen.count("```python") == 1
    assert "make demo" in screen
    assert "make test" in screen


def test_the_ci_runs_the_tests_and_the_checks_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = text_of(script).splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    targets = [line.removeprefix("make ") for line in lines if line.startswith("make ")]
    assert targets == ["test", "check", "conformance", "browser", "prove"]


def test_make_help_lists_every_target_that_is_meant_for_people() -> None:
    described = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert described == set(phony.group(1).split()) == TARGETS


def test_the_changelog_keeps_its_format() -> None:
    lines = text_of(ROOT / "CHANGELOG.md").splitlines()
    assert lines[0] == "# Changelog"
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    for line in versions[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", line)
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_core_depends_on_these_packages_and_no_more() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    names = {re.match(r"[\w-]+", requirement).group() for requirement in project["dependencies"]}  # type: ignore[union-attr]
    assert names == {"apsw", "msgspec", "greenlet", "click", "rich", "cronsim", "tzdata"}


def test_every_exception_from_the_rules_of_the_linter_has_its_reason_beside_it() -> None:
    section = (
        text_of(ROOT / "pyproject.toml").partition("[tool.ruff.lint]")[2].partition("[tool.ruff.lint.pydocstyle]")[0]
    )
    codes = [line for line in section.splitlines() if re.match(r' +"[A-Z]+\d*"', line)]
    assert codes
    assert [line for line in codes if "  # " not in line] == []


def test_the_diagram_of_the_states_is_the_one_that_the_code_draws() -> None:
    (diagram,) = code_blocks(ROOT / "docs" / "reference" / "lifecycle.md", "mermaid")
    assert diagram.rstrip("\n") == lifecycle.mermaid()


def test_every_state_and_every_error_is_explained() -> None:
    states = text_of(ROOT / "docs" / "reference" / "lifecycle.md")
    assert [status for status in lifecycle.STATUSES if f"| `{status}` |" not in states] == []


def test_the_page_about_states_has_each_move_of_runs_and_permits() -> None:
    text = text_of(ROOT / "docs" / "reference" / "lifecycle.md")
    _, runs, permits = (part for part in re.split(r"(?m)^\| move \|.*\n\|[-|]+\n", text))
    for found, moves, order in (
        (runs, lifecycle.MOVES, lifecycle.STATUSES),
        (permits, permit_states.PERMIT_MOVES, permit_states.PERMIT_PLACES),
    ):
        rows = re.findall(r"(?m)^\| (.*) \|$", found)
        assert rows == [
            f"{name} | {', '.join(f'`{source}`' for source in order if source in move.sources)} | `{move.target}` | "
            f"`{move.change}` | {move.meaning}"
            for name, move in moves.items()
        ]
    page = text_of(ROOT / "docs" / "reference" / "errors.md")
    classes = [
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert [name for name in classes if f"`{name}`" not in page] == []


def test_every_public_name_is_in_the_reference() -> None:
    page = text_of(ROOT / "docs" / "reference" / "api.md") + text_of(ROOT / "docs" / "reference" / "errors.md")
    assert [name for name in stepwell.__all__ if not re.search(rf"\b{name}\b", page)] == []


def test_no_file_names_a_machine_or_a_registry() -> None:
    # Written in pieces, so that this file does not hold what it looks for.
    forbidden = re.compile(
        "|".join([r"(?<![\w.])/wo" + "rk/", r"/root/\.", "pypi" + r"\.org", "python" + "hosted", "sub" + "agent"])
    )
    folders = ("src", "tests", "examples", "bench", "docs", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.suffix in {".md", ".toml", ""}]
    # In a further work tree of git, ".git" is a file of this machine; it is not part of the project.
    files = [path for path in files if path.name != ".git"]
    found = []
    for path in files:
        if "__pycache__" in path.parts or "results" in path.parts:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if match := forbidden.search(line):
                found.append(f"{name_of(path)}:{number}: {match.group()}")
    assert not found
