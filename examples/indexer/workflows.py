"""The indexer as durable workflows: a run for the tree, a child run for each package, a step for each file."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import stepwell
from indexer.analysis import FileFacts, Listing, Package, Report, SourceFile, analyse, find_packages, merge, summarise
from stepwell import step, workflow

#: Names the file to which each true execution of a step appends a line, so that the driver can count them.
EXECUTIONS_VARIABLE = "INDEXER_EXECUTIONS"

#: Sets how many seconds indexing a file takes at least, so that a small tree leaves time to be killed.
PACE_VARIABLE = "INDEXER_PACE_SECONDS"


@dataclass(frozen=True, slots=True)
class Job:
    """What to index: the files below `root` but for directories named in `without`.

    `packages_at_once` and `files_at_once` bound the concurrency: of child runs, and of steps within each of them.
    """

    root: str
    without: list[str]
    packages_at_once: int = 4
    files_at_once: int = 4


@dataclass(frozen=True, slots=True)
class PackageJob:
    """One package of a `Job`."""

    package: Package
    files_at_once: int


@step
def list_packages(job: Job) -> Listing:
    """Find what there is to index."""
    return find_packages(Path(job.root), job.without)


@step
def index_file(source: SourceFile) -> FileFacts:
    """Read, hash and parse one file, and count what it holds."""
    _note_execution(source.path)
    pace_seconds = float(os.environ.get(PACE_VARIABLE, "0"))
    if pace_seconds:
        time.sleep(pace_seconds)
    return analyse(source)


@workflow
async def index_package(job: PackageJob) -> Report:
    """Index the files of one package."""
    sources = [SourceFile(job.package.root, path) for path in job.package.files]
    return summarise(await stepwell.map(index_file, sources, limit=job.files_at_once))


@workflow
async def index_tree(job: Job) -> Report:
    """Index a tree: list it, run a child for each package, add their reports up."""
    listing = list_packages(job)
    jobs = [PackageJob(package, job.files_at_once) for package in listing.packages]
    reports = await stepwell.map(index_package, jobs, limit=job.packages_at_once)
    return merge([Report(problems=listing.problems), *reports])


def _note_execution(path: str) -> None:
    """Append a line with this process and the file; one write to an O_APPEND file is whole or absent, kill or not."""
    name = os.environ.get(EXECUTIONS_VARIABLE)
    if name is None:
        return
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps([os.getpid(), path]).encode() + b"\n")
    finally:
        os.close(descriptor)
