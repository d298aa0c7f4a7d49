"""The mutants that no test needs to notice, each with its reason: ``known.toml``, and its table in the docs.

A mutant is known by the text of its line before and after, so moving code does not make it unknown.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mutants.targets import ROOT

KNOWN: Final = Path(__file__).with_name("known.toml")
PAGE: Final = ROOT / "docs" / "explanation" / "mutants.md"
_BEGIN: Final = "<!-- known: begin (made by `python -m mutants --write`, do not edit) -->"
_END: Final = "<!-- known: end -->"


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """A mutant as people see it: a file below ``src/stepwell``, its line, and what the line becomes."""

    file: str
    was: str
    becomes: str

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.file}: `{self.was}` becomes `{self.becomes}`"


def read(path: Path = KNOWN) -> dict[Change, str]:
    """Return the known mutants with their reasons."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", [])
    return {Change(entry["file"], entry["was"], entry["becomes"]): entry["reason"] for entry in entries}


def table(known: Mapping[Change, str]) -> str:
    """Return the table of the docs."""
    rows = [
        f"| `{change.file}` | {_code(change.was)} | {_code(change.becomes)} | {reason} |"
        for change, reason in sorted(known.items())
    ]
    return "\n".join(["| file | line | as a mutant | why no test notices |", "|---|---|---|---|", *rows])


def _code(text: str) -> str:
    return f"`{text.replace('|', '&#124;')}`" if "|" not in text else f"<code>{text.replace('|', '&#124;')}</code>"


def written(page: str, known: Mapping[Change, str]) -> str:
    """Return the text of the page with the table as it should be."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{table(known)}\n\n{_END}{after}"
