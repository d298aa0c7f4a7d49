"""The table in ``docs/explanation/reliability.md``, made from the results that the harnesses wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from proof.result import Result

PAGE: Final = Path(__file__).parents[1] / "docs" / "explanation" / "reliability.md"
BEGIN: Final = "<!-- proof: begin (made by `python -m proof table`, do not edit) -->"
END: Final = "<!-- proof: end -->"


def read_results(folder: Path) -> list[Result]:
    """Return the results in `folder`, by name."""
    return [Result.read(path) for path in sorted(folder.glob("*.json"))]


def table(results: Iterable[Result]) -> str:
    """Return the results as a Markdown table, one row each."""
    lines = ["| fault | cases | failures | controls that were caught | run it |", "|---|---|---|---|---|"]
    for result in results:
        controls = "; ".join(
            control.name if control.caught else f"**not caught: {control.name}**" for control in result.controls
        )
        commands = f"`{result.command}`" + (f", soak: `{result.soak}`" if result.soak else "")
        lines.append(
            f"| {result.fault} | {result.cases:,} in {result.seconds:,.0f} s | {result.failures:,} | {controls or '-'} "
            f"| {commands} |"
        )
    return "\n".join(lines)


def rewrite(page: Path, results: Iterable[Result]) -> None:
    """Replace what is between the markers of `page` by the table of `results`."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no two lines {BEGIN!r} and {END!r}; put them where the table shall be")
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")
