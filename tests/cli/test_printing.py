"""How tables and sentences are printed on a terminal of some width: nothing of them is lost, words stay whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

import pytest

from stepwell.cli import main, printing

LONG = "warehouse.synchronise_stock_levels_of_all_regional_distribution_centres_with_the_head_office"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as for a terminal of 60 columns."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(printing, "on_terminal", lambda *_: True)


def drawn(capsys: pytest.CaptureFixture[str], header: Sequence[str], *rows: Sequence[str]) -> list[str]:
    printing.print_table(header, rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("terminal")
def test_a_long_name_takes_no_number_away(capsys: pytest.CaptureFixture[str]) -> None:
    lines = drawn(capsys, ("WORKFLOW", "RUNS"), (LONG, "1,234"), ("all", "1,234"))
    assert lines[1].endswith("1,234")
    assert "".join(lines[1:-1]).replace(" ", "").replace("1,234", "") == LONG
    assert max(map(len, lines)) <= 60


@pytest.mark.usefixtures("terminal")
def test_what_no_row_says_has_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn(capsys, ("ID", "STATUS", "REMARK"), ("a", "completed", ""))[0].split() == ["ID", "STATUS"]
    assert drawn(capsys, ("ID", "STATUS", "REMARK"))[0].split() == ["ID", "STATUS", "REMARK"]


@pytest.mark.usefixtures("terminal")
def test_words_that_have_no_room_beside_their_row_stand_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("n" * 28, "paused", "7", "concurrency 3, rate 30 in 1 min"), ("m" * 28, "open", "0", "")]
    lines = drawn(capsys, ("NAME", "STATE", "WAITING", "BOUNDS"), *rows)
    assert [line.split() for line in lines[:2]] == [["NAME", "STATE", "WAITING"], ["n" * 28, "paused", "7"]]
    assert lines[2].strip() == "concurrency 3, rate 30 in 1 min"
    assert lines[3].split() == ["m" * 28, "open", "0"]
    assert lines[1].index("7") == lines[3].index("0")  # numbers stand below each other


@pytest.mark.usefixtures("terminal")
def test_numbers_are_aligned_by_their_last_digit(capsys: pytest.CaptureFixture[str]) -> None:
    lines = drawn(capsys, ("NAME", "RUNS"), ("a", "7"), ("b", "1,234"))
    assert lines[1].rindex("7") == lines[2].rindex("4")


def test_elsewhere_a_row_is_a_line_with_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = drawn(capsys, ("WORKFLOW", "RUNS", "REMARK"), (LONG, "1", ""))
    assert lines[1] == f"{LONG}  1"
    assert lines[0].split() == ["WORKFLOW", "RUNS", "REMARK"]


@pytest.mark.parametrize(
    ("line", "hanging", "expected"),
    [
        ("it waits", "  ", ["it waits"]),
        ("it waits for the message go", "   ", ["it waits for the", "   message go"]),
        ("  code that is indented stays as it is", "", ["  code that is indented stays as it is"]),
        ("  a remedy that is long", "  ", ["  a remedy that is", "  long"]),
        ("/a/path/that/has/no/blank/at/all", "  ", ["/a/path/that/has/no/blank/at/all"]),
        ("\x1b[31mPROBLEM\x1b[0m of some words", "  ", ["\x1b[31mPROBLEM\x1b[0m of some", "  words"]),
    ],
)
def test_sentences_are_broken_between_words(line: str, hanging: str, expected: list[str]) -> None:
    assert printing._broken(line, 18, hanging).split("\n") == expected


def test_moments_in_what_the_engine_says_are_local_and_its_commands_name_the_file() -> None:
    said = printing.for_this_file(
        "paused at 2026-11-28 17:48:22.559Z; `stepwell unpause a` lets it go on", "my orders.db"
    )
    at = printing.moment(datetime.fromisoformat("2026-11-28T17:48:22.559+00:00"))
    assert said == f"paused at {at}; `stepwell unpause a --db 'my orders.db'` lets it go on"


def test_what_click_refuses_is_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["list", "--limit", "an unbelievably large number of runs, more than there are"]
    assert main(line) == 2
    piped = capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(line) == 2
    drawn = capsys.readouterr().err
    assert max(map(len, drawn.splitlines())) <= 40 < max(map(len, piped.splitlines()))
    assert drawn.split() == piped.split()
