"""What is wrong with a file, or will be soon, in words: `stepwell doctor`. It reads, and changes nothing.

Each examination looks at one thing and says what it found; what needs nobody is said as well, so that silence never has
to be interpreted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from stepwell.api.reading.file_reads import file_reads
from stepwell.api.reading.read_service import ReadService
from stepwell.model.clock import MICROSECONDS
from stepwell.model.sizes import size_in_words
from stepwell.values.transforms import Compression

if TYPE_CHECKING:
    from stepwell.store.sqlite.file.holders import Holder
    from stepwell.store.sqlite.file_facts import FileFacts, LargePayload

#: ``ok``: looked at, and as it should be. ``warning``: it will hurt. ``problem``: it hurts now.
Severity = Literal["ok", "warning", "problem"]

_MEGABYTE: Final = 1_000_000
#: A log of more than this means that something reads one old commit for long, or that checkpoints fail.
_LARGE_LOG_BYTES: Final = 64 * _MEGABYTE
#: Fewer days than this until the disk is full is told.
_FEW_DAYS: Final = 14
_LITTLE_ROOM_BYTES: Final = 500 * _MEGABYTE
#: More than this between the newest time in the file and the clock means that a clock is, or was, wrong.
_AHEAD_SECONDS: Final = 1.0
_LARGE_PAYLOAD_BYTES: Final = _MEGABYTE
#: Options with which a file system does not wait until the disk has what it was told to keep.
_NO_BARRIERS: Final = frozenset({"nobarrier", "barrier=0", "noflush"})
#: Types of file systems whose files do not last.
_PASSING: Final = {
    "tmpfs": "which is memory: the file is gone when the machine is restarted",
    "ramfs": "which is memory: the file is gone when the machine is restarted",
    "overlay": "a container's own layer: the file is gone when the container is deleted",
}
#: How many runs are named of each kind.
_NAMED: Final = 5
_MOST: Final = 1000
#: How much free space within the file, as a share of it, is worth a word.
_FREE_SHARE: Final = 0.5


class Finding(msgspec.Struct, frozen=True):
    """What an examination found: `about` names it, `text` says what, `remedy` what to do (empty: nothing)."""

    severity: Severity
    about: str
    text: str
    remedy: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings about a file, what hurts first, and its facts."""

    path: str
    findings: list[Finding]
    facts: FileFacts

    @property
    def ok(self) -> bool:
        """Whether nothing needs anybody."""
        return all(finding.severity == "ok" for finding in self.findings)


def examine(path: str | os.PathLike[str]) -> Diagnosis:
    """Examine a file, beside its workers or without any; raises as `file_reads` does where it cannot be read."""
    from stepwell.store.sqlite.file.read_only import look_into

    now = time.time_ns() // 1_000
    with look_into(path) as look:
        facts = look.facts(now)
    with file_reads(path, f"`stepwell list --db {path}`", f"`stepwell queues --db {path}`") as reads:
        pids = {worker.pid for worker in reads.workers()}
        about_runs = [*_of_workers(reads), *_of_runs(reads), *_of_queues(reads)]
    found = [*_of_file(facts, now), *_of_holders(facts, pids), *about_runs]
    order: list[Severity] = ["problem", "warning", "ok"]
    return Diagnosis(facts.path, sorted(found, key=lambda finding: order.index(finding.severity)), facts)


def stuck(reads: ReadService) -> list[Finding]:
    """Return what needs somebody among workers, runs and queues, what hurts first."""
    found = [*_of_workers(reads), *_of_runs(reads), *_of_queues(reads)]
    order: list[Severity] = ["problem", "warning"]
    return sorted((each for each in found if each.severity != "ok"), key=lambda each: order.index(each.severity))


# --- the file ---------------------------------------------------------------------------------------------------------


def _of_file(facts: FileFacts, now: int) -> Iterator[Finding]:
    yield Finding(
        "ok",
        "library",
        f"SQLite {facts.sqlite_version}, without the known defects of older ones; {_compiled(facts)}",
    )
    yield _file_system(facts)
    yield _settings(facts)
    yield _log(facts)
    yield _disk(facts)
    yield _clock(facts, now)
    yield _payloads(facts)
    if facts.free_pages_bytes > _FREE_SHARE * facts.size_bytes > _MEGABYTE:
        yield Finding(
            "ok",
            "size",
            f"{size_in_words(facts.free_pages_bytes)} of {size_in_words(facts.size_bytes)} are free pages, "
            "which new runs fill first",
            "To give them back to the disk, stop the workers and call SQLite's VACUUM.",
        )


def _compiled(facts: FileFacts) -> str:
    """Say how the library was compiled: what bears on the file; `--json` has all of it."""
    telling = ("THREADSAFE", "DEFAULT_SYNCHRONOUS", "DEFAULT_WAL_SYNCHRONOUS", "TEMP_STORE")
    options = [option for option in facts.compile_options if option.partition("=")[0] in telling]
    return f"compiled with {', '.join(options)}" if options else "how it was compiled is not known"


def _file_system(facts: FileFacts) -> Finding:
    options = facts.mount_options.split(",") if facts.mount_options else []
    shown = f"{facts.file_system} ({facts.mount_options})" if options else facts.file_system
    if "ro" in options:
        return Finding(
            "problem",
            "file system",
            f"{shown}: it is mounted read-only, so no worker can write",
            "Look at the system's log: Linux does that after an error of the disk. Mount it writable.",
        )
    careless = [option for option in options if option in _NO_BARRIERS]
    if careless:
        return Finding(
            "warning",
            "file system",
            f"{shown}: with {', '.join(careless)} a power cut may lose commits, or damage the file",
            "Mount it without that option.",
        )
    kind = facts.file_system.partition(" ")[0]
    if kind in _PASSING:
        return Finding("ok", "file system", f"{shown}, {_PASSING[kind]}", "Keep what must last on a disk.")
    return Finding("ok", "file system", f"{shown}, which keeps its locks")


def _settings(facts: FileFacts) -> Finding:
    shown = ", ".join(f"{name} {value}" for name, value in facts.pragmas.items())
    mode = facts.pragmas.get("journal_mode", "wal")
    if mode == "wal":
        return Finding("ok", "settings", shown or "not read")
    return Finding(
        "warning",
        "settings",
        f"{shown}: a program has set another journal mode than wal, in which readers and writers wait for each other",
        "Find that program, and let it be. A worker sets the mode back when it opens the file.",
    )


def _log(facts: FileFacts) -> Finding:
    shown = f"{size_in_words(facts.log_bytes)} of commits"
    if facts.log_pages is not None and facts.folded_pages is not None:
        shown += f" ({facts.folded_pages} of {facts.log_pages} pages of them are in the database as well)"
    all_folded = facts.log_pages is not None and facts.log_pages == facts.folded_pages
    if facts.log_bytes <= _LARGE_LOG_BYTES or all_folded:
        return Finding("ok", "log", f"{shown} stand in it")
    readers = [holder for holder in facts.holders or () if "reads" in holder.roles]
    who = ", ".join(map(_who, readers or facts.holders or ())) or "not known"
    return Finding(
        "warning",
        "log",
        f"{shown} stand in {facts.path}-wal: something reads an old commit and keeps it",
        f"Look for a program with an open read transaction on the file. "
        f"{'Reading all the time' if readers else 'Processes that have it open'}: {who}.",
    )


def _of_holders(facts: FileFacts, workers: Container[int]) -> Iterator[Finding]:
    """Say who has the file open, and who of them keeps a lock; `workers` are the processes of workers."""
    if facts.holders is None:
        yield Finding("ok", "open in", "not known: this system does not say which processes have a file open")
        return
    for holder in facts.holders:
        if "keeps all others out" in holder.roles:
            yield Finding(
                "problem",
                "open in",
                f"{_who(holder)} has locked the whole file, so nobody reads or writes",
                "End it, or have it give up its lock (`PRAGMA locking_mode=EXCLUSIVE`, an open transaction).",
            )
        elif "writes" in holder.roles and holder.pid not in workers:
            yield Finding(
                "warning",
                "open in",
                f"{_who(holder)} is no worker, and keeps the lock that every commit needs",
                "Let it commit or roll back its transaction, or end it.",
            )
        elif "reads" in holder.roles and holder.pid not in workers:
            yield Finding(
                "warning" if facts.log_bytes > _LARGE_LOG_BYTES else "ok",
                "open in",
                f"{_who(holder)} reads the same commit all the time; the log keeps all that was written since",
                "Let it end its read transaction.",
            )
        else:
            yield Finding("ok", "open in", _who(holder))
    if not facts.holders:
        yield Finding("ok", "open in", "no other process that this user may see")


def _who(holder: Holder) -> str:
    since = ""
    if holder.started_at is not None:
        since = f", since {datetime.fromtimestamp(holder.started_at / MICROSECONDS).astimezone():%Y-%m-%d %H:%M:%S %z}"
    return f"process {holder.pid} ({holder.command}{since})"


def _disk(facts: FileFacts) -> Finding:
    days = facts.disk_free_bytes / facts.bytes_a_day if facts.bytes_a_day else float("inf")
    room = f"{size_in_words(facts.disk_free_bytes)} are free on its disk"
    growth = f", and the file grew by {size_in_words(facts.bytes_a_day)} in the last day" if facts.bytes_a_day else ""
    remedy = "Free some space, or let `retention` delete runs that ended (see the page on keeping runs)."
    if facts.disk_free_bytes < max(_LITTLE_ROOM_BYTES, facts.bytes_a_day):
        return Finding("problem", "disk", f"only {room}{growth}", remedy)
    if days < _FEW_DAYS:
        return Finding("warning", "disk", f"{room}{growth}: enough for {days:.0f} days", remedy)
    return Finding("ok", "disk", room + growth)


def _clock(facts: FileFacts, now: int) -> Finding:
    ahead = (facts.last_at - now) / MICROSECONDS
    if ahead <= _AHEAD_SECONDS:
        return Finding("ok", "clock", "no time in the file is ahead of this machine's clock")
    return Finding(
        "warning",
        "clock",
        f"the newest time in the file is {timedelta(seconds=round(ahead))} ahead of this machine's clock, so a clock "
        "is wrong, or was; the engine goes by the file's time, and timers are not early",
        "Look whether this machine's clock is right (`timedatectl`).",
    )


def _payloads(facts: FileFacts) -> Finding:
    unknown = facts.marks - {Compression.mark}
    if unknown:
        return Finding(
            "problem",
            "payloads",
            f"some are in formats that this release does not know ({', '.join(map(str, sorted(unknown)))})",
            "Upgrade the package on this machine to the release that the workers have.",
        )
    large = [each for each in facts.payloads if each.size_bytes >= _LARGE_PAYLOAD_BYTES]
    if not large:
        largest = f": {_payload(facts.payloads[0])} is the largest of the last ones" if facts.payloads else ""
        return Finding("ok", "payloads", f"none has more than {size_in_words(_LARGE_PAYLOAD_BYTES)}{largest}")
    named = ", ".join(map(_payload, large[:_NAMED]))
    return Finding(
        "warning",
        "payloads",
        f"large ones are kept for ever and read at each replay: {named}",
        "Keep large data in files or object stores, and record where it is.",
    )


def _payload(payload: LargePayload) -> str:
    return f"{payload.kind} of {payload.name} in run {payload.run!r} ({size_in_words(payload.size_bytes)})"


# --- workers, runs, queues --------------------------------------------------------------------------------------------


def _of_workers(reads: ReadService) -> Iterator[Finding]:
    workers = reads.workers()
    working = [worker for worker in workers if worker.takes_work and worker.state == "active"]
    for worker in workers:
        if worker.state == "stalled":
            yield Finding(
                "problem",
                "workers",
                f"worker {worker.epoch} (process {worker.pid} on {worker.host}) is stopped or hangs, with "
                f"{worker.runs} runs in its memory",
                f"Continue it, kill it, or take its runs: `stepwell takeover {worker.epoch} --db FILE`.",
            )
    waiting = reads.infos(status=("pending",), limit=1) or reads.infos(status=("running",), limit=1)
    if working:
        yield Finding("ok", "workers", f"{len(working)} active: {', '.join(str(worker.pid) for worker in working)}")
    elif waiting:
        yield Finding(
            "problem",
            "workers",
            f"no worker has the file open, and run {waiting[0].id!r} waits for one, among others",
            "Start one: `stepwell worker MODULE --db FILE`.",
        )
    else:
        yield Finding("ok", "workers", "none has the file open, and no run is due")


def _of_runs(reads: ReadService) -> Iterator[Finding]:
    halted = reads.infos(status=("halted",), limit=_MOST)
    if halted:
        named = "; ".join(f"{info.id}: {info.remark}" for info in halted[:_NAMED])
        yield Finding(
            "problem",
            "halted runs",
            f"{_many(len(halted))} cannot go on until somebody mends something: {named}",
            "`stepwell show RUN` says what; then `stepwell resume RUN`.",
        )
    else:
        yield Finding("ok", "halted runs", "none")
    stuck = [info for info in reads.infos(status=("pending",), limit=_MOST) if "no worker" in info.remark]
    if stuck:
        names = sorted({info.workflow for info in stuck})
        yield Finding(
            "problem",
            "runs without code",
            f"{_many(len(stuck))} {_wait(len(stuck))} for a worker with the workflow {', '.join(names[:_NAMED])}",
            "Start a worker with the module that defines it, under the name it had.",
        )


def _of_queues(reads: ReadService) -> Iterator[Finding]:
    still = [info for info in reads.queues() if info.waiting and info.reason is not None]
    for info in still:
        hurts = info.halted or info.paused
        yield Finding(
            "warning" if hurts else "ok",
            f"{info.kind} {info.name}",
            f"{info.waiting} {_wait(info.waiting)}: {info.reason}",
        )
    if not still:
        yield Finding("ok", "queues", "none stands still")


def _many(number: int) -> str:
    runs = "1 run" if number == 1 else f"{number} runs"
    return f"at least {runs}" if number == _MOST else runs


def _wait(number: int) -> str:
    return "waits" if number == 1 else "wait"
