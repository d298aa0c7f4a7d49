"""The judge of what runs write elsewhere than to their journals: tables of the user's, and streams.

`entries` are those of the journals of all runs, by run: operation, kind, name, value.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from proof.sim.faults import Violation


def check_effects(rows: Callable[..., list[Any]], ids: dict[int, str], entries: dict[int, list[Any]]) -> None:
    """Compare what transactional steps wrote to a table of the user's with what is recorded of them."""
    found = Counter((run, op) for run, op in rows("SELECT run, op FROM effects WHERE run <> ''"))
    recorded = {
        (ids[run], op)
        for run, of_run in entries.items()
        for op, kind, name, _ in of_run
        if kind == "step" and name.startswith("sim.tx")
    }
    for place in recorded | found.keys():
        if found[place] != (place in recorded):
            raise Violation(
                "a transactional step takes effect once",
                f"{place} did {found[place]} times, recorded: {place in recorded}",
            )


def check_streams(rows: Callable[..., list[Any]], entries: dict[int, list[Any]], *, but: set[int]) -> None:
    """Compare the items of streams with what is recorded of their writing, but for those of some runs."""
    found = rows(
        "SELECT stream.run, stream.key, item.number, item.op FROM stepwell_stream_items AS item "
        "JOIN stepwell_streams AS stream ON stream.key = item.stream ORDER BY stream.key, item.number"
    )
    found = [row for row in found if row[0] not in but]
    written = Counter((run, op) for run, _, _, op in found)
    recorded = Counter((run, op) for run, of_run in entries.items() for op, kind, _, _ in of_run if kind == "streamed")
    for place in recorded.keys() | written.keys():
        # What the code gave up within the activation that wrote it has an item, and no entry.
        if not recorded[place] <= written[place] <= 1:
            raise Violation(
                "an item of a stream is written once",
                f"operation {place} wrote {written[place]} items, recorded: {recorded[place]}",
            )
    offsets: dict[int, list[int]] = defaultdict(list)
    for _, stream, number, _ in found:
        offsets[stream].append(number)
    for stream, numbers in offsets.items():
        if numbers != list(range(len(numbers))):
            raise Violation("the offsets of a stream are dense", f"stream {stream}: {numbers}")
