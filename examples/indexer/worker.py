"""The process that runs the indexer, and that the driver kills: ``python -m indexer.worker DATABASE JOB``.

`JOB` is a `Job` as JSON. Standard output carries one JSON object a line: an event, when it happened (`at`, microseconds
since the epoch) and, at the end, the report.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Literal

import msgspec

from indexer.analysis import Report
from indexer.workflows import Job, index_tree
from stepwell import Engine

#: Every worker asks for this run; only the first one makes it.
RUN_ID = "index"


class Event(msgspec.Struct, frozen=True):
    """A line of the worker's output."""

    event: Literal["opening", "opened", "done"]
    at: int
    report: Report | None = None


def main() -> None:
    """Run, or go on with, the run `RUN_ID`."""
    database, job = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Job)
    # Parsing old sources warns about their escapes; that is no concern of this program.
    warnings.simplefilter("ignore")
    _emit("opening")
    with Engine(database) as engine:
        _emit("opened")
        run = engine.start(index_tree, job, id=RUN_ID)
        _emit("done", run.result())


def _emit(event: Literal["opening", "opened", "done"], report: Report | None = None) -> None:
    line = msgspec.json.encode(Event(event, time.time_ns() // 1000, report)) + b"\n"
    os.write(sys.stdout.fileno(), line)


if __name__ == "__main__":
    main()
