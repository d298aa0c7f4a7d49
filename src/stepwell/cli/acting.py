"""Leaving a request in a file: the request is recorded, and a worker carries it out; where there is none, that is said.

What changes something opens an engine that serves no workflow.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import click

from stepwell.api.asking.acts import user_at_host
from stepwell.api.engine import Engine
from stepwell.cli.printing import for_this_file
from stepwell.cli.reading import reads
from stepwell.model.run import RunRecord


@contextmanager
def client(db: str) -> Generator[Engine]:
    """Open an engine that takes no work, on a file that is there and ours."""
    with reads(db):
        pass
    with Engine(db, workflows=[]) as engine:
        yield engine


class Said(TypedDict):
    """Who asks, and why, if that was said; what every act takes."""

    reason: str | None
    by: str


def said(reason: str | None) -> Said:
    """Return who asks, and why."""
    return {"reason": reason, "by": user_at_host()}


def carried_out(engine: Engine, record: RunRecord, db: str) -> str:
    """Say who carries out what was asked of a run: that is no worker, where there is none that could."""
    return missing_worker(engine, [record.workflow], record.queue, db) or "a worker sees to that"


def missing_worker(engine: Engine, workflows: Sequence[str], queue: str | None, db: str) -> str | None:
    """Say which worker is missing that could carry on runs of these workflows (none: of any), None: it is there."""
    missing = engine._session.reads.missing_worker(workflows, queue)
    return None if missing is None else for_this_file(missing, db)


def confirmed(question: str) -> bool:
    """Ask; where nobody can be asked, the answer is no."""
    click.echo(f"{question} Go on? [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def refuse(line: str) -> None:
    """Say on standard error why nothing, or not all, was done."""
    click.echo(line, err=True)
