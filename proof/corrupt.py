"""Damaged files: flipped bits and cut ends in the database, its log and its shared memory.

A worker is killed in the midst of the shop (or closes), its files are damaged in one place or a few, and an engine
takes them up. What may come of it:

- *correct*: everything ends as it must, nothing acknowledged is missing;
- *refused*: a `StoreError` that says what is wrong, when the file is opened or when the damaged page is read;
- *halted*: one run, or a few, are halted with a reason that says which value cannot be read; the others end well.

SQLite has no checksums of pages, so some damage cannot be told from data; it is counted apart, and not hidden:

- *other values*: bits of a value in a row were flipped, and what came out is a value as well. SQLite's integrity check
  finds nothing. Only checksums of the file system (ZFS, Btrfs, dm-integrity) tell.
- *log cut short*: the log is checksummed, and ends for SQLite where a checksum is wrong or the file ends: that is what
  a power loss looks like. The commits behind that place are gone, acknowledged or not; what is left is whole. Since the
  lock file remembers the last commit (`stepwell.store.sqlite.file.last_commit`), that is refused; it is counted to see
  to it.
- *check only*: what was missing or different is found by SQLite's integrity check, which reads everything; but no page
  that the engine read looked damaged.

Everything else is a failure: a crash of the process, a hang, an error that is none of ours, something missing that was
acknowledged. Cases run in child processes, so that a crash of SQLite or Python is seen and counted.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, NamedTuple, cast
from unittest.mock import patch

import apsw

from proof.client import Client, Plan
from proof.holding import Held, holding, integrity, missing
from proof.patience import Hangs, no_longer_than
from proof.pool import scratch
from proof.recording import small_logs
from proof.result import Control, Result
from proof.shop import OBSERVER, PASSING, Fact
from stepwell import RunCancelled, RunHalted
from stepwell.errors import EngineClosed, SerializationError, StepwellError, StoreError
from stepwell.store.sqlite.file import last_commit
from stepwell.store.sqlite.file.last_commit import LastCommit
from stepwell.store.sqlite.file.locking import Identity
from stepwell.testing import TestEngine

FAULT: Final = "bits flipped in, and ends cut off, the database, the log, the shared memory"
CI_CASES: Final = 1_000
SOAK: Final = "make proof NAME=corrupt CASES=100000"

_SUFFIXES: Final = ("", "-wal", "-shm")
_BATCH: Final = 50
#: How many lives are killed or closed; their files are what is damaged.
_BASES: Final = 8
_HANG_SECONDS: Final = 15.0
_FAILURES_TOLD: Final = 20
_CONTROL_CASES: Final = 16

Outcome = Literal["correct", "refused", "halted", "other values", "log cut short", "check only", "failed"]
_PLAN: Final = Plan(orders=(1, 2), placed=(11,), passing=2, wide=2)


class Damage(NamedTuple):
    """What was done to which file: bits flipped, or the end cut off."""

    suffix: str
    how: str


# --- files to damage --------------------------------------------------------------------------------------------------


def _live_and_die(folder: Path, seed: int) -> None:
    """Live in `folder`, and be killed; or close, every third time. What was acknowledged is written down."""
    logging.getLogger("stepwell").setLevel(logging.CRITICAL + 1)
    random = Random(seed)
    facts: list[Fact] = []
    OBSERVER.reset(facts.append)
    with small_logs(random.choice([16_384, 1 << 22])):
        engine = TestEngine(folder / "case.db")
        client = Client(engine, _PLAN)
        client.make_tables()
        client.start_till()
        for number in range(_PLAN.passing):
            client.start_passing(number)
        for number in _PLAN.orders:
            client.start_order(number)
        engine.advance(random.choice([0, 300, 700]))
        client.start_ends()
        for number in _PLAN.placed:
            client.place_order(number)
        client.send_go(1)
        engine.advance(random.choice([0, 20, 40, 700, 1_400]))
    closes = seed % 3 == 0
    if closes:
        engine.close()
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    if not closes:
        os.kill(os.getpid(), signal.SIGKILL)


def make_bases(folder: Path, seed: int, count: int = _BASES) -> None:
    """Make the files to damage."""
    context = multiprocessing.get_context("spawn")
    for number in range(count):
        base = folder / f"base-{number}"
        base.mkdir()
        process = context.Process(target=_live_and_die, args=(base, seed * 3 + number))
        process.start()
        process.join()
        if not (base / "facts.json").exists():
            raise RuntimeError(f"the shop did not live long enough to be damaged: exit code {process.exitcode}")


def _damage(folder: Path, random: Random) -> Damage:
    """Damage one of the files in `folder`; return what was done."""
    there = [suffix for suffix in _SUFFIXES if _size(folder, suffix)]
    suffix = random.choices(there, [{"": 5, "-wal": 4, "-shm": 1}[suffix] for suffix in there])[0]
    path = folder / f"case.db{suffix}"
    content = bytearray(path.read_bytes())
    kind = random.choice(["bit", "bit", "bits", "byte", "sector", "cut", "zeros"])
    at = random.randrange(len(content))
    match kind:
        case "cut":
            at = random.choice([at, at // 512 * 512, at // 4096 * 4096])
            del content[at:]
        case "bit" | "bits":
            for _ in range(1 if kind == "bit" else 8):
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        case "byte":
            content[at] = random.randrange(256)
        case _:
            start = at // 512 * 512
            size = len(content[start : start + 512])
            content[start : start + size] = random.randbytes(size) if kind == "sector" else bytes(size)
    path.write_bytes(content)
    return Damage(suffix, f"{kind} at {at}")


def _keep_last_commit(base: Path, folder: Path) -> None:
    """Have the lock file in `folder` remember what that in `base` does, as if the files had not been copied."""
    boot = last_commit.this_boot()
    record = (base / "case.db-lock").read_bytes()[last_commit.OFFSET :]
    said = last_commit.read(record, _identity(base), boot)
    descriptor = os.open(folder / "case.db-lock", os.O_RDWR)
    try:
        if said is not None:
            name, parameters = said
            LastCommit(descriptor, _identity(folder), boot).note(last_commit.STATEMENTS[name], tuple(parameters))
    finally:
        os.close(descriptor)


def _identity(folder: Path) -> Identity:
    found = (folder / "case.db").stat()
    return Identity(found.st_dev, found.st_ino)


def _size(folder: Path, suffix: str) -> int:
    path = folder / f"case.db{suffix}"
    return path.stat().st_size if path.exists() else 0


# --- one case ---------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What became of a damaged file."""

    outcome: Outcome
    words: str


def _judge(folder: Path, damage: Damage) -> Seen:
    """Take the damaged file up, and say what came of it."""
    path = folder / "case.db"
    facts: list[Fact] = [tuple(fact) for fact in json.loads((folder / "facts.json").read_text(encoding="utf-8"))]
    verdict, lost = _examine_copy(folder, facts)
    unnoticed: Outcome = "check only" if verdict != "ok" else "other values"
    try:
        with no_longer_than(_HANG_SECONDS):
            ends = _carry(path)
    except Hangs as hang:
        return Seen("failed", str(hang))
    except Exception as error:
        return _judge_error(error, unnoticed)
    try:
        # Facts last, so those that were there must be there at the end as well.
        after = _look(path)
    except (apsw.Error, ValueError, LookupError) as error:
        # The engine had no need to read what this tripped over.
        return Seen(unnoticed, f"{type(error).__name__}: {error} ({verdict})")
    wrong = [f"lost {fact}" for fact in lost or missing(after, facts)] + after.wrong
    wrong += [f"{run_id}: {end}" for run_id, end in ends.items() if end not in {"well", "halted"}]
    words = "; ".join(wrong[:3])
    if not wrong:
        halted = [run_id for run_id, end in ends.items() if end == "halted"]
        return Seen("halted", ", ".join(halted)) if halted else Seen("correct", "")
    return Seen("log cut short" if damage.suffix == "-wal" else unnoticed, f"{words} ({verdict})")


def _judge_error(error: Exception, unnoticed: Outcome) -> Seen:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, (StoreError, EngineClosed)) and "defect" not in words:
        return Seen("refused", words)
    if isinstance(error, StepwellError) and "defect" not in words:
        return Seen(unnoticed, words)  # what the rows say is refused, for what they say: another workflow, say
    return Seen("failed", f"unclear: {words}")


def _examine_copy(folder: Path, facts: list[Fact]) -> tuple[str, list[Fact]]:
    """Return what SQLite's integrity check makes of the damaged files, and which facts are gone, as far as it reads.

    The client of the shop repeats what it asks for, so at the end nobody would see that a run was begun once more.
    """
    for suffix in _SUFFIXES:
        if _size(folder, suffix):
            shutil.copy(folder / f"case.db{suffix}", folder / f"copy.db{suffix}")
    try:
        connection = apsw.Connection(str(folder / "copy.db"))
        try:
            verdict = integrity(connection)
            return verdict, missing(holding(connection, damaged=True), facts)
        finally:
            connection.close()
    except (apsw.Error, ValueError, LookupError) as error:
        return f"{type(error).__name__}: {error}", []


def _look(path: Path) -> Held:
    connection = apsw.Connection(str(path))
    try:
        return holding(connection, damaged=True)
    finally:
        connection.close()


def _carry(path: Path) -> dict[str, str]:
    """Carry everything to the end; return for each run whether it ended ``well``, is ``halted``, or what went wrong.

    Raises what stops the engine.
    """
    OBSERVER.reset(None)
    engine = TestEngine(path)
    client = Client(engine, _PLAN, 5.0)
    try:
        client.do_all()
        engine.advance(10_000, timeout=5.0)
        there = {run.id for run in engine.list(limit=1_000)}
        ends: dict[str, str] = {}
        for run_id, expected in _PLAN.expected().items():
            if run_id in there or not run_id.startswith(PASSING):
                ends[run_id] = _end(engine, run_id, expected)
    finally:
        with suppress(StoreError):  # it was said before, or has nothing to do with what ended
            engine.close()
    return ends


def _end(engine: TestEngine, run_id: str, expected: object) -> str:
    result: object
    try:
        result = engine.get(run_id).result(timeout=5.0)
    except (RunCancelled, ValueError) as error:
        result = type(error)
    except (RunHalted, SerializationError):
        return "halted"
    except StoreError:
        raise
    except TimeoutError as error:
        return "halted" if _waits_for_halted(engine) else str(error)
    except Exception as error:
        return f"ended with {type(error).__name__}: {error}"
    return "well" if result == expected else f"ended with {result!r}, expected {expected!r}"


def _waits_for_halted(engine: TestEngine) -> bool:
    return bool(engine.list(status="halted"))


# --- many cases -------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was seen."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    by_file: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    #: Examples of what cannot be noticed.
    examples: dict[Outcome, str] = field(default_factory=dict)

    def add(self, damage: str, seen: Seen) -> None:
        """Count a case."""
        self.outcomes[seen.outcome] += 1
        self.by_file[f"{damage.split(':', maxsplit=1)[0]}: {seen.outcome}"] += 1
        if seen.outcome == "failed" and len(self.failed) < _FAILURES_TOLD:
            self.failed.append(f"{damage}: {seen.words}")
        elif seen.outcome not in {"correct", "refused"}:
            self.examples.setdefault(seen.outcome, f"{damage}: {seen.words}")


def _batch(connection: Connection, bases: Path, numbers: list[int], seed: int) -> None:
    """Run the cases `numbers`, in a process of its own; send each number before, and what was seen after."""
    logging.getLogger("stepwell").setLevel(logging.CRITICAL + 1)
    with scratch() as scrap:
        for number in numbers:
            random = Random(f"{seed}-{number}")
            folder = scrap / str(number)
            base = random.choice(sorted(bases.iterdir()))
            shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*-peers"))
            _keep_last_commit(base, folder)
            damage = _damage(folder, random)
            name = {"": "database", "-wal": "log", "-shm": "shared memory"}[damage.suffix]
            words = f"{name}: case {number}, {damage.how}"
            connection.send((number, words, None))
            connection.send((number, words, _judge(folder, damage)))
            shutil.rmtree(folder, ignore_errors=True)


def watch_batch(bases: Path, numbers: list[int], seed: int) -> list[tuple[str, Seen]]:
    """Run cases in child processes, one after the other; a case that takes its process down is counted as failed."""
    context = multiprocessing.get_context("spawn")
    found: list[tuple[str, Seen]] = []
    while numbers:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_batch, args=(theirs, bases, numbers, seed))
        process.start()
        theirs.close()
        words = ""
        for number, words, seen in _received(ours):  # noqa: B007 - the last one says where the process died
            if seen is not None:
                found.append((words, seen))
                numbers = numbers[1:]
        process.join()
        if numbers and process.exitcode:
            found.append((words, Seen("failed", f"the process died with exit code {process.exitcode}")))
            numbers = numbers[1:]
    return found


def _received(connection: Connection) -> Iterator[tuple[int, str, Seen | None]]:
    with suppress(EOFError):
        while True:
            yield cast("tuple[int, str, Seen | None]", connection.recv())


def run(cases: int, jobs: int, seed: int) -> Result:
    """Damage files `cases` times; see `proof.result`."""
    tally = Tally()
    with scratch() as folder, ThreadPoolExecutor(jobs) as threads:
        make_bases(folder, seed)
        batches = [list(range(start, min(start + _BATCH, cases))) for start in range(0, cases, _BATCH)]
        for found in threads.map(lambda numbers: watch_batch(folder, numbers, seed), batches):
            for damage, seen in found:
                tally.add(damage, seen)
    counts = tally.outcomes
    details: dict[str, Any] = {
        "correct data": counts["correct"],
        "refused with a clear error": counts["refused"],
        "single runs halted with a reason": counts["halted"],
        "cannot be noticed: another value in a row": counts["other values"],
        "a log that ends early and was taken for whole": counts["log cut short"],
        "noticed by an integrity check only": counts["check only"],
        **{f"of {name}": count for name, count in sorted(tally.by_file.items())},
    }
    details |= {f"example of {outcome}": words for outcome, words in tally.examples.items()}
    if tally.failed:
        details["failed"] = tally.failed
    controls = [_run_control(seed)]
    failures = counts["failed"] + counts["log cut short"]
    return Result("corrupt", FAULT, sum(counts.values()), failures, details, controls, 0.0, "")


# --- the control ------------------------------------------------------------------------------------------------------


def _run_control(seed: int) -> Control:
    """Believe SQLite about where the log ends, and cut logs until a commit is lost without an error."""
    name = "believe a log that was cut"
    with scratch() as folder, patch.object(last_commit, "check", lambda *_: None):
        make_bases(folder, seed)
        for number in range(_CONTROL_CASES):
            base, case = folder / f"base-{number % _BASES}", folder / f"case-{number}"
            size = _size(base, "-wal")
            if not size:
                continue
            shutil.copytree(base, case, ignore=shutil.ignore_patterns("*-peers"))
            _keep_last_commit(base, case)
            os.truncate(case / "case.db-wal", size // 2)
            seen = _judge(case, Damage("-wal", "cut"))
            if seen.outcome == "log cut short":
                return Control(name, caught=True, how=f"log {number + 1} of {_CONTROL_CASES}: {seen.words}")
    return Control(name, caught=False, how=f"{_CONTROL_CASES} logs cut, nothing lost")
