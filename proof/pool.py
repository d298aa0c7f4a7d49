"""Run the cases of a harness in several processes, and in a fast scratch folder."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

#: How much room a memory file system must have before scratch files go there, in bytes.
_ENOUGH_BYTES: Final = 2 << 30


def spread(function: Callable[[Item], Answer], items: Iterable[Item], jobs: int) -> list[Answer]:
    """Return ``[function(item) for item in items]``, computed by `jobs` fresh processes (none for one job).

    Raises `BrokenProcessPool` where a process dies.
    """
    listed = list(items)
    if jobs <= 1 or len(listed) <= 1:
        return [function(item) for item in listed]
    context = multiprocessing.get_context("spawn")
    number = context.Value("i", 0)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(number,)) as pool:
        return list(pool.map(function, listed))


def _begin(number: Any) -> None:
    # Should the process die of a signal, it says where.
    faulthandler.enable()
    with number.get_lock():
        settle(number.value)
        number.value += 1


def settle(number: int) -> None:
    """Keep this process on one CPU, where the system has a way to say so: the `number`-th process on the next one.

    An engine hands each request from one thread to another and back. On one CPU that takes half as long as on two,
    which have to wake each other up (measured on 2 virtual CPUs, each with such a process: a life of the shop that
    takes 60 ms takes 95 ms without this).
    """
    if sys.platform == "linux":
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[number % len(processors)]})


@contextmanager
def scratch() -> Generator[Path]:
    """Make a folder for files that nobody will miss, in memory where there is room; remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="stepwell-proof-", dir=_memory_folder()) as folder:
        yield Path(folder)


def _memory_folder() -> str | None:
    """Return the mount point of a file system in memory that this user may write to; None for the usual folder."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in mounts:
        _, place, kind, *_ = line.split(" ")
        if kind == "tmpfs" and os.access(place, os.W_OK | os.X_OK):
            room = os.statvfs(place)
            if room.f_bavail * room.f_frsize >= _ENOUGH_BYTES:
                return place
    return None
