"""Disk errors at the nth call: what was acknowledged stays, nothing hangs, and the engine goes on or says why not.

The shop runs on a VFS that fails one call, the next few, or all until the disk is "released" a moment later: a write
(whole or in part), a sync, a truncation, a read, the size of a file, a lock, opening, deleting; with an I/O error or,
where a disk can be full, with that. A failed sync may have written part of what was pending, and the kernel then takes
the rest for written ("lose" in `proof.disk`). What the engine does is looked at in this order:

1. Calls return or raise a `StoreError` (`EngineClosed` once the engine has stopped), and none takes longer than
   `_HANG_SECONDS`.
2. After the release the same engine either carries everything to the end or refuses with such an error; it closes.
3. Where it did not, another engine on the same files carries everything to the end.
4. The files as they are hold every fact that was acknowledged. So do those that the disk holds after a power loss, at
   the moment of the error, at a later one, and at the end; in half of the cases an engine carries one of them to the
   end as well.
"""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, Literal
from unittest.mock import patch

import apsw

from proof import broken
from proof.client import Client, Plan
from proof.disk import Disk, Image
from proof.finishing import finish
from proof.holding import Held, look_into, missing
from proof.patience import Hangs, no_longer_than
from proof.pool import scratch, spread
from proof.recorder import Op, Recording, RecordingFile, RecordingVFS, recording
from proof.recording import small_logs
from proof.result import Control, Result, judged
from proof.shop import OBSERVER, Fact
from stepwell.errors import EngineClosed, StoreError
from stepwell.runtime import engine_thread
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing import TestEngine

FAULT: Final = "EIO and ENOSPC at the nth call, once or until released; power loss after it, failed syncs forgotten"
CI_CASES: Final = 1_000
SOAK: Final = "make proof NAME=disk-errors CASES=100000"

Call = Literal["write", "sync", "truncate", "read", "size", "lock", "open", "delete"]
#: How often each kind of call is the one that fails.
_CALLS: Final[dict[Call, int]] = {
    "write": 30, "sync": 30, "truncate": 8, "read": 12, "size": 6, "lock": 4, "open": 6, "delete": 4,
}  # fmt: skip
_CAN_BE_FULL: Final = frozenset({"write", "truncate", "open"})
#: An engine, or one of its answers, that takes longer than this hangs.
_HANG_SECONDS: Final = 20.0
#: How long a client waits under a fault, in seconds. The machine may be slow where the fault never happens.
_PATIENCE_SECONDS: Final = 3.0
#: Longer than that, so that it is noticed.
_LONG_SECONDS: Final = 60.0
_CHUNK: Final = 50
_FAILURES_TOLD: Final = 20
_CONTROL_CASES: Final = 600
#: What is said of a fact that was acknowledged and is missing: the complaint that the controls must cause.
_LOST: Final = "acknowledged, but lost"
#: So large a log is not copied into the file before the end.
_NO_LIMIT_BYTES: Final = 1 << 22


# --- the fault --------------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """Which calls fail: those of the kind `call` from the `at`-th on, `count` of them, or all for `seconds`."""

    call: Call
    at: int
    is_full: bool = False
    count: int = 1
    seconds: float = 0.0
    #: How much of a write that fails is done, 0 to 1.
    done: float = 0.0
    released: bool = False
    hits: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    #: How long the recording was when the first call failed.
    position: int = 0
    _began: float = 0.0

    def strikes(self, call: Call, length: int) -> bool:
        """Count a call, the recording being `length` long, and return whether it fails."""
        self.calls[call] += 1
        if self.released or call != self.call or self.calls[call] < self.at:
            return False
        if not self.hits:
            self._began = time.monotonic()
            self.position = length
        over = time.monotonic() > self._began + self.seconds if self.seconds else self.hits >= self.count
        self.hits += not over
        return not over

    def error(self) -> apsw.Error:
        """Return what the failed call raises."""
        if self.is_full:
            return apsw.FullError("database or disk is full (injected)")
        if self.call == "open":
            return apsw.CantOpenError("unable to open database file (injected)")
        return apsw.IOError("disk I/O error (injected)")


class FaultyFile(RecordingFile):
    """A file on a disk with a fault."""

    def __init__(self, fault: Fault, found: Recording, name: Any, flags: list[int], suffix: str) -> None:
        super().__init__(found, name, flags, suffix)
        self._fault = fault

    def _check(self, call: Call) -> None:
        if self._fault.strikes(call, len(self._recording.log)):
            raise self._fault.error()

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's names
        """Write, or a part."""
        if self._fault.strikes("write", len(self._recording.log)):
            part = bytes(data)[: int(len(data) * self._fault.done)]
            if part:
                super().xWrite(part, offset)
            raise self._fault.error()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Sync, or fail so that the kernel forgets what is not on the disk."""
        if self._fault.strikes("sync", len(self._recording.log)):
            self._recording.add("lose", self._number, self._suffix)
            raise self._fault.error()
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Truncate, or fail."""
        self._check("truncate")
        super().xTruncate(newsize)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Read, or fail."""
        self._check("read")
        return super().xRead(amount, offset)

    def xFileSize(self) -> int:  # noqa: N802
        """Return the size, or fail."""
        self._check("size")
        return super().xFileSize()

    def xLock(self, level: int) -> None:  # noqa: N802
        """Lock, or fail."""
        # SQLite asks for the exclusive lock when it closes, and bears an error; apsw would raise it all the same.
        if level < apsw.SQLITE_LOCK_EXCLUSIVE:
            self._check("lock")
        super().xLock(level)


class FaultyVFS(RecordingVFS):
    """SQLite's VFS on a disk with a fault."""

    def __init__(self, fault: Fault, found: Recording) -> None:
        super().__init__(found)
        self._fault = fault

    def _open(self, recording: Recording, name: Any, flags: list[int], suffix: str) -> RecordingFile:
        if self._fault.strikes("open", len(recording.log)):
            raise self._fault.error()
        return FaultyFile(self._fault, recording, name, flags, suffix)

    def lengthen(self, begin: int, end: int) -> None:
        """Write zeros to the log, or fail."""
        if self._fault.strikes("write", len(self._recording.log)):
            raise OSError(errno.ENOSPC if self._fault.is_full else errno.EIO, "injected")
        super().lengthen(begin, end)

    def cut(self, length: int) -> None:
        """Cut the log off, or fail."""
        if self._fault.strikes("truncate", len(self._recording.log)):
            raise OSError(errno.EIO, "injected")
        super().cut(length)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete, or fail."""
        if self._fault.strikes("delete", len(self._recording.log)):
            raise self._fault.error()
        super().xDelete(filename, syncdir)


# --- one case ---------------------------------------------------------------------------------------------------------


class Case:
    """The shop on a disk with a fault, in `folder`."""

    def __init__(self, folder: Path, plan: Plan, fault: Fault, random: Random) -> None:
        self._folder = folder
        self._path = folder / "case.db"
        self._plan = plan
        self._fault = fault
        self._random = random
        self.wrong: list[str] = []
        #: Whether images that fail are kept.
        self.keeps = True
        #: What became of the engine under the fault, for the statistics.
        self.end = ""

    def run(self) -> None:
        """Run the case; afterwards `wrong` says what promises were broken."""
        self._folder.mkdir()
        try:
            with recording(str(self._path), partial(FaultyVFS, self._fault)) as found:
                self._live(found)
            self._check_files(found.log)
            self._check_power_loss(found.log)
        except Hangs as hang:
            self.wrong.append(f"hangs: {hang}")
        finally:
            OBSERVER.reset(None)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _live(self, found: Recording) -> None:
        OBSERVER.reset(found.acknowledge)
        client: Client | None = None
        try:
            with no_longer_than(_HANG_SECONDS):
                # On a sound disk nothing keeps anybody waiting but the machine.
                client = self._open(_LONG_SECONDS if self._fault.released else _PATIENCE_SECONDS)
                _do_everything(client)
            self.end = "nothing seen"
        except Exception as error:
            self._judge(error, "under the fault", may_be_late=self._fault.hits > 0)
            self.end = f"raised {type(error).__name__}"
        self._fault.released = True
        went_on = client is not None and self._goes_on(client, again=self.end != "nothing seen")
        self.end += ", went on" if went_on else ", did not open" if client is None else ", stopped"
        if not went_on:
            self._begin_again()

    def _open(self, patience_seconds: float) -> Client:
        engine = TestEngine(self._path, max_waiting_in_memory=self._random.choice([0, 1_000]))
        return Client(engine, self._plan, patience_seconds)

    def _goes_on(self, client: Client, *, again: bool) -> bool:
        """Try again with the engine that met the fault, close it, and return whether it did everything."""
        client.patience_seconds = _LONG_SECONDS
        went_on = False
        with no_longer_than(_HANG_SECONDS):
            try:
                if again:
                    _do_everything(client)
                went_on = True
            except Exception as error:
                self._judge(error, "after the fault", may_be_late=False)
        with no_longer_than(_HANG_SECONDS):
            try:
                client.engine.close()
            except Exception as error:
                self._judge(error, "closing", may_be_late=False)
        return went_on

    def _begin_again(self) -> None:
        """Do everything with another engine, which may not close."""
        with no_longer_than(_HANG_SECONDS):
            try:
                client = self._open(_LONG_SECONDS)
            except Exception as error:
                self.wrong.append(f"does not open again: {type(error).__name__}: {error}")
                return
            try:
                _do_everything(client)
            except Exception as error:
                self.wrong.append(f"opened again: {type(error).__name__}: {error}")
            if self._random.random() < 0.5:
                client.engine.crash()
            client.engine.close()

    def _judge(self, error: Exception, when: str, *, may_be_late: bool) -> None:
        if isinstance(error, (StoreError, EngineClosed)) and "defect" not in str(error):
            return
        if may_be_late and isinstance(error, TimeoutError):
            return
        self.wrong.append(f"{when}: {type(error).__name__}: {error}")

    def _check_files(self, log: list[Op]) -> None:
        facts = [op.fact for op in log if op.kind == "fact"]
        self._check(self._path, facts, "the files", to_the_end=False)

    def _check_power_loss(self, log: list[Op]) -> None:
        """Check what the disk holds after a power loss: right after the error, a little later, and at the end."""
        seed = self._random.random()
        points = {self._fault.position + 1, len(log)}
        points.add(self._random.randint(min(self._fault.position + 1, len(log)), len(log)))
        # One disk for all points: what a failed sync lost is lost for good.
        disk, random = Disk(), Random(seed)
        facts: list[Fact] = []
        last = self._random.choice(sorted(points))
        known: dict[bytes, Held] = {}
        for number, op in enumerate(log, 1):
            if op.kind == "fact":
                facts.append(op.fact)
            disk.play(op, random)
            if number in points:
                for image in (disk.dropped(), disk.some(self._random)):
                    text = f"power loss at {number} of {len(log)}, {image.how}"
                    to_the_end = number == last and image.how != "dropped" and self._random.random() < 0.5
                    digest = image.digest()
                    if digest in known and not to_the_end:
                        self.wrong += [f"{text}: lost {fact}" for fact in missing(known[digest], facts)]
                        continue
                    before = len(self.wrong)
                    held = self._check(self._lay_out(image), facts, text, to_the_end=to_the_end)
                    if held is not None:
                        known[digest] = held
                    if len(self.wrong) > before and self.keeps:
                        image.keep(f"{self._folder.parent.name}-{self._folder.name}", "; ".join(self.wrong))

    def _lay_out(self, image: Image) -> Path:
        folder = self._folder / "image"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for suffix, content in image.files.items():
            (folder / f"image.db{suffix}").write_bytes(content)
        return folder / "image.db"

    def _check(self, path: Path, facts: list[Fact], what: str, *, to_the_end: bool) -> Held | None:
        """Check files, and return what they hold; None where they cannot be used."""
        held: Held | None = None
        try:
            with no_longer_than(_HANG_SECONDS):
                SqliteStore.open(path).close(None, 0)
            held = look_into(str(path))
            wrong = held.wrong + [f"{_LOST}: {fact}" for fact in missing(held, facts)]
            if not wrong and to_the_end:
                with no_longer_than(_HANG_SECONDS):
                    wrong = finish(str(path), self._plan, held)
        except Hangs:
            raise
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        self.wrong += [f"{what}: {text}" for text in wrong]
        return held


def _do_everything(client: Client) -> None:
    client.do_all()
    client.end_all()


# --- many cases -------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was seen."""

    cases: int = 0
    missed: int = 0
    failures: int = 0
    failed: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


def run(cases: int, jobs: int, seed: int) -> Result:
    """Run `cases` cases; see `proof.result`."""
    chunks = [(seed * 1_000_003 + start, min(_CHUNK, cases - start)) for start in range(0, cases, _CHUNK)]
    total = Tally()
    for tally in spread(run_chunk, chunks, jobs):
        total.cases += tally.cases
        total.missed += tally.missed
        total.failures += tally.failures
        total.failed = (total.failed + tally.failed)[:_FAILURES_TOLD]
        total.calls += tally.calls
        total.ends += tally.ends
    controls = spread(_run_control, [(name, seed) for name in _CONTROLS], jobs)
    details: dict[str, Any] = {f"{call} failed": count for call, count in sorted(total.calls.items())}
    details |= {f"engine {end}": count for end, count in total.ends.most_common()}
    details["cases run again because the call was not reached"] = total.missed
    if total.failed:
        details["failed"] = total.failed
    return Result("disk-errors", FAULT, total.cases, total.failures, details, controls, 0.0, "")


def run_chunk(task: tuple[int, int], *, only: Call | None = None) -> Tally:
    """Run cases; where `only` calls of one kind shall fail, until something that was acknowledged is lost."""
    seed, count = task
    logging.getLogger("stepwell").setLevel(logging.CRITICAL + 1)
    tally = Tally()
    random = Random(seed)
    # Checkpoints mend what a failed sync lost, so a control has none.
    limit_bytes = _NO_LIMIT_BYTES if only else random.choice([16_384, _NO_LIMIT_BYTES])
    with scratch() as folder, small_logs(limit_bytes), _quick_retries():
        plan = Plan(orders=(1,), placed=(11,), passing=1, wide=1, jobs=1)
        usual = _usual_calls(folder / "usual", plan, is_sound=only is None)
        while tally.cases < count and not (only and any(_LOST in text for text in tally.failed)):
            fault = _some_fault(random, usual, only)
            case = Case(folder / str(tally.cases), plan, fault, random)
            case.keeps = only is None
            case.run()
            if not fault.hits and not case.wrong:
                tally.missed += 1
                continue
            tally.cases += 1
            tally.calls[f"{fault.call}{' (full)' if fault.is_full else ''}"] += 1
            tally.ends[case.end] += 1
            if case.wrong:
                tally.failures += 1
                tally.failed.append(f"chunk {seed}, case {tally.cases}, {_words(fault)}: {'; '.join(case.wrong[:3])}")
    return tally


def _words(fault: Fault) -> str:
    how_long = f"for {fault.seconds:.2f} s" if fault.seconds else f"{fault.count} times"
    return f"{fault.call} {fault.at} {'full' if fault.is_full else 'EIO'} {how_long}"


def _usual_calls(folder: Path, plan: Plan, *, is_sound: bool) -> Counter[str]:
    """Return how many calls of each kind a life without a fault makes; one of an engine that is broken may go wrong."""
    fault = Fault("write", 0, released=True)
    case = Case(folder, plan, fault, Random(0))
    case.run()
    if case.wrong and is_sound:
        raise RuntimeError(f"the shop fails on a sound disk: {case.wrong}")
    return fault.calls


def _some_fault(random: Random, usual: Counter[str], only: Call | None) -> Fault:
    call = only or random.choices(list(_CALLS), list(_CALLS.values()))[0]
    fault = Fault(call, random.randint(1, max(1, usual[call])), done=random.choice([0.0, 0.0, 0.5, 1.0]))
    fault.is_full = call in _CAN_BE_FULL and random.random() < 0.5
    if random.random() < 0.3:
        fault.seconds = random.uniform(0.01, 0.15)
    else:
        fault.count = random.choice([1, 1, 1, 2, 3, 10])
    return fault


@contextmanager
def _quick_retries() -> Generator[None]:
    """Let engines try again soon on a full disk."""
    with patch.object(engine_thread, "_STORE_RETRY_SECONDS", 0.02):
        yield


# --- controls ---------------------------------------------------------------------------------------------------------

_CONTROLS: Final[dict[str, Callable[[], AbstractContextManager[None]]]] = {
    "reopen after a failed fsync": broken.reopening_after_failed_sync,
    "acknowledge before commit": broken.acknowledging_before_commit,
}


def _run_control(task: tuple[str, int]) -> Control:
    name, seed = task
    with _CONTROLS[name]():
        tally = run_chunk((seed, _CONTROL_CASES), only="sync")
    return judged(name, tally.failed, _LOST)
