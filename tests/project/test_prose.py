"""The pages can be read: their lines are not too wide, and the words of the glossary are those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import apsw
import pytest

import stepwell
from stepwell.cli.group import COMMANDS
from stepwell.model.acts import ActKind
from stepwell.model.lifecycle import STATUSES
from stepwell.store.sqlite.file import migrate

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GLOSSARY = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
TERMS: Final = dict(re.findall(r"^\| ([a-z ]+) \| (.+) \|$", GLOSSARY, re.MULTILINE))

MOST_CHARACTERS = 125


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page with their numbers, without code and tables, whose rows cannot be broken."""
    is_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.lstrip().startswith("|"):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_line_of_a_page_is_too_wide_to_be_read(page: Path) -> None:
    wide = [f"{page.relative_to(ROOT)}:{number}" for number, line in prose(page) if len(line) > MOST_CHARACTERS]
    assert not wide, f"lines of more than {MOST_CHARACTERS} characters: {', '.join(wide)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_speaks_of_a_part_of_the_program_as_of_a_person(page: Path) -> None:
    found = [
        f"{page.relative_to(ROOT)}:{number}"
        for number, line in prose(page)
        if re.search(r"\b([Hh]e|[Hh]im|[Hh]is|[Ss]he)\b", re.sub(r"`[^`]*`", "", line))
    ]
    assert not found, f"he, him, his or she: {', '.join(found)}"


def test_no_comment_speaks_of_a_part_of_the_program_as_of_a_person() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "src").rglob("*"))
        if path.suffix in (".py", ".sql")
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if re.search(r"\b([Hh]e|[Hh]im|[Hh]is|[Ss]he)\b", line)
    ]
    assert not found, f"he, him, his or she: {', '.join(found)}"


# --- the glossary -----------------------------------------------------------------------------------------------------

#: Tables that are named after no term.
INNER_TABLES = {"statuses"}  # the words of a column
#: Public names of classes that are no terms: what is shown, what a name is bound to, what Python knows already.
OTHER_NAMES = {
    "DeclaredSchedules",
    "Every",
    "Clock",
    "Connection",
    "Current",
    "FailureInfo",
    "Restoration",
    "Rows",
    "Verification",
    "WaitInfo",
}


def tables() -> list[str]:
    connection = apsw.Connection(":memory:")
    migrate.migrate(connection, "a test's file", migrate.load_migrations())
    rows = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'stepwell~_%' ESCAPE '~'"
    )
    return [str(name).removeprefix("stepwell_") for (name,) in rows]


def singular(noun: str) -> str:
    return re.sub(r"(ch)es$|(entr|summar)ies$|s$", lambda found: found[1] or (found[2] + "y" if found[2] else ""), noun)


def test_the_terms_stand_in_their_order_and_once() -> None:
    terms = re.findall(r"^\| ([a-z ]+) \| .+ \|$", GLOSSARY, re.MULTILINE)[1:]  # the first is the heading
    assert terms == sorted(set(terms))
    assert len(terms) > 40


def test_each_table_is_named_after_a_term() -> None:
    named = {
        table: [part for part in {table, *singular(table).split("_")} if part in TERMS or singular(part) in TERMS]
        for table in tables()
    }
    assert len(named) > 10
    assert {table for table, terms in named.items() if not terms} == INNER_TABLES


@pytest.mark.parametrize("word", [*STATUSES, *get_args(ActKind)])
def test_states_and_acts_are_explained(word: str) -> None:
    assert word in TERMS or word in TERMS["act"]


def test_each_command_is_named_in_the_glossary() -> None:
    commands = set(COMMANDS)
    # The others say in English what they do.
    missing = {command for command in commands if singular(command) not in TERMS and command not in TERMS["act"]}
    assert missing <= {
        *("mcp", "docs", "demo", "bench", "prune"),
        "show",
        "list",
        "completion",
        "verify",
        "start",
        "send",
        "doctor",
        "restore",
        "delete",
        "check",
        "bulk",
        "ui",
    }


def test_each_public_class_is_named_after_a_term() -> None:
    nouns = [
        name
        for name in stepwell.__all__
        if isinstance(found := getattr(stepwell, name), type) and not issubclass(found, Exception)
    ]
    assert len(nouns) > 15
    missing = {name for name in nouns if not any(each in TERMS for each in parts_of(name))}
    assert missing == OTHER_NAMES


def parts_of(name: str) -> list[str]:
    return [part.lower() for part in re.findall("[A-Z][a-z]+", name)]
