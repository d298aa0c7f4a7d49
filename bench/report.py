"""The results: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from bench.figures import Figure, Sizes

ROOT = Path(__file__).parent.parent


def machine(folder: Path) -> dict[str, Any]:
    """Return the facts about this machine that bound the figures."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "file_system": _file_system(folder),
        "commit": commit.stdout.strip() or None,
    }


def _file_system(folder: Path) -> str | None:
    """Return the type of the file system of `folder`, where the system tells."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return None
    place = folder.resolve()
    fields = [line.split() for line in mounts.read_text().splitlines()]
    found = [(len(mount), kind) for _, mount, kind, *_ in fields if place.is_relative_to(mount)]
    return max(found)[1] if found else None


def load() -> list[float]:
    """Return the load averages of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def number(value: float | None) -> str:
    """Return a number with about three digits."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def target(figure: Figure) -> str:
    """Return what is to be reached, in words."""
    limits = (
        (figure.at_most, "<= {}"),
        (figure.at_least, ">= {}"),
        (figure.ratio_at_most, "<= {} x"),
        (figure.ratio_at_least, ">= {} x"),
    )
    return ", ".join(words.format(f"{limit:,g}") for limit, words in limits if limit is not None)


def best_peer(ours: Figure, peers: Mapping[str, Sequence[Figure]]) -> str:
    """Return the name of the peer with the best figure of the same kind; empty where none was measured."""
    found = [
        (one.value, name)
        for name, figures in peers.items()
        for one in figures
        if (one.workload, one.what) == (ours.workload, ours.what)
    ]
    if not found:
        return ""
    # Rates shall be high; everything else that is measured (time, memory, the file) shall be low.
    return (max if ours.unit == "/s" else min)(found)[1]


def table(figures: Sequence[Figure], peers: Mapping[str, Sequence[Figure]]) -> str:
    """Return the figures as a table, those of peers in columns beside them."""
    others = {name: {(one.workload, one.what): one for one in found} for name, found in peers.items()}
    head = ["", "what", "unit", "stepwell", "raw", "ratio", "to reach", "", *others, "best peer", "raw is"]
    rows = [head]
    for one in figures:
        beside = [found.get((one.workload, one.what)) for found in others.values()]
        rows.append(
            [
                one.workload,
                one.what,
                one.unit,
                number(one.value),
                number(one.baseline),
                number(one.ratio),
                target(one),
                {None: "", True: "yes", False: "NO"}[one.reached],
                *(number(peer.value) if peer is not None else "" for peer in beside),
                best_peer(one, peers),
                one.baseline_is,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = {3, 4, 5, *range(8, 8 + len(others))}
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def to_json(
    figures: Mapping[str, Sequence[Figure]],
    sizes: Mapping[str, Sizes],
    raw: dict[str, float],
    facts: dict[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return all of a run of the benchmarks as JSON data; `bench.readme` makes the README's rows of it."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "raw": raw,
        "notes": list(notes),
        "sizes": {name: asdict(each) for name, each in sizes.items()},
        "systems": {
            name: [{**asdict(one), "reached": one.reached} for one in found] for name, found in figures.items()
        },
    }


def write(folder: Path, data: dict[str, Any]) -> Path:
    """Write the results below `folder`, under the time and as ``latest.json``; return the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=2) + "\n"
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(text, encoding="utf-8")
    (folder / "latest.json").write_text(text, encoding="utf-8")
    return path
