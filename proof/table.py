"""The table in ``docs/explanation/reliability.md``, made from the results that the harnesses wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from proof.result import Result

PAGE: Final = Path(__file__).parents[1] / "docs" / "explanation" / "reliability.md"
BEGIN: Final = "<!-- proof: begin (made by `python -m proof table`, do not edit) -->"
END: Final = "<!-- proof: end -->"


def read_results(folder: Path) -> list[Result]:
    """Return the results in `folder`, by name."""
    return [Result.read(path) for path in sorted(folder.glob("*.json"))]


def table(results: Iterable[Result], kept: Mapping[str, str] | None = None) -> str:
    """Return a Markdown table with a row for each result, and rows that are `kept`, by the names of their harnesses."""
    rows = {**(kept or {}), **{result.name: _row(result) for result in results}}
    head = ["| fault | cases | failures | controls that were caught | run it |", "|---|---|---|---|---|"]
    return "\n".join((*head, *(rows[name] for name in sorted(rows))))


def _row(result: Result) -> str:
    controls = "; ".join(
        control.name if control.caught else f"**not caught: {control.name}**" for control in result.controls
    )
    commands = f"`{result.command}`" + (f", soak: `{result.soak}`" if result.soak else "")
    return (
        f"| {result.fault} | {result.cases:,} in {result.seconds:,.0f} s | {result.failures:,} | {controls or '-'} "
        f"| {commands} |"
    )


def rows_of(text: str) -> dict[str, str]:
    """Return the rows of a table by the names of the harnesses, which their commands have."""
    found = ((re.search(r"`python -m proof ([a-z-]+)", line), line) for line in text.splitlines())
    return {name[1]: line for name, line in found if name is not None and line.startswith("|")}


def rewrite(page: Path, results: Iterable[Result]) -> list[str]:
    """Replace what is between the markers of `page` by the table of `results`.

    So a machine that is at rest for a while can do one harness after the other: the row of one that has no result stays
    as it is. Return the names of those.
    """
    results = list(results)
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no two lines {BEGIN!r} and {END!r}; put them where the table shall be")
    kept = rows_of(rest.partition(END)[0])
    for result in results:
        kept.pop(result.name, None)
    page.write_text(f"{before}{BEGIN}\n\n{table(results, kept)}\n\n{END}{after}", encoding="utf-8")
    return sorted(kept)
