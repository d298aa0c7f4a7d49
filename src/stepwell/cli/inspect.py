"""The commands that look into a file, and those that leave a request in it.

What only looks reads as any SQLite tool may, beside running workers or without any. What changes something opens an
engine that serves no workflow: the request is recorded, and a worker carries it out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, TypedDict, cast

import msgspec

from stepwell.api.acts import Act, user_at_host
from stepwell.api.engine import Engine
from stepwell.api.views import JournalEntry, QueueInfo, RunInfo, WorkerInfo
from stepwell.api.why import Reasons
from stepwell.cli import FAILED, USAGE
from stepwell.errors import InvalidArgument, RunEnded, RunNotEnded, RunNotFound, StepwellError
from stepwell.model.clock import to_seconds
from stepwell.model.journal import TICK, VALUELESS
from stepwell.model.lifecycle import ENDED, RETRIABLE, STATUSES, Status
from stepwell.model.run import RunRecord
from stepwell.operations.functions import check_id
from stepwell.store.inspector import Inspector, RunFilter
from stepwell.store.sqlite.file.read_only import Look, look_into
from stepwell.values.codec import Codec
from stepwell.values.failure_info import FailureInfo, failure_info

#: How much of a value a line of the journal shows, in characters; `--json` shows all of it.
_VALUE_CHARS: Final = 100
#: How many failures of its journal are shown with their tracebacks.
_MAX_FAILURES: Final = 10
#: How many of the things that somebody did to a run are shown.
_MAX_ACTS: Final = 10
#: How many children of a run are shown.
_MAX_CHILDREN: Final = 20


def run(options: argparse.Namespace) -> int:
    """Carry out a command; return the exit code."""
    commands = {
        "runs": _runs,
        "show": _show,
        "cancel": _cancel,
        "resume": _resume,
        "retry": _retry,
        "workers": _workers,
        "takeover": _take_over,
        "queues": _queues,
        "pause": _pause,
        "unpause": _pause,
    }
    try:
        return commands[options.command](options)
    except InvalidArgument as error:
        print(f"stepwell {options.command}: {error}", file=sys.stderr)
        return USAGE
    except StepwellError as error:
        print(f"stepwell {options.command}: {error}", file=sys.stderr)
        return FAILED


# --- looking ----------------------------------------------------------------------------------------------------------


def _runs(options: argparse.Namespace) -> int:
    wanted = None if options.status is None else cast("tuple[Status, ...]", tuple(options.status))
    for status in wanted or ():
        if status not in STATUSES:
            raise InvalidArgument(f"--status must be one of {', '.join(STATUSES)}, not {status!r}")
    run_filter = RunFilter(status=wanted, workflow=options.workflow, id_prefix=options.id_prefix, limit=options.limit)
    with look_into(options.db) as inspector:
        reasons = _reasons(inspector)
        found = [RunInfo.of(record, reasons) for record in inspector.list_runs(run_filter)]
    if options.json:
        _print_json(found)
    else:
        rows = [(info.id, info.workflow, info.status, _time(info.created_at), _remark(info)) for info in found]
        _print_table(("ID", "WORKFLOW", "STATUS", "CREATED", "REMARK"), rows)
        if len(found) == options.limit:  # what is not shown must not seem not to be there
            sys.stdout.flush()
            print(f"These are the newest {options.limit}; --limit shows more.", file=sys.stderr)
    return 0


def _remark(info: RunInfo) -> str:
    """Return what matters most about a run in its state, in one line."""
    return (info.error or info.reason or "").partition("\n")[0]


def _reasons(look: Look) -> Reasons:
    wall, now = time.time_ns() // 1_000, _engine_time(look)
    return Reasons(look, look.workers, now, ahead=now - wall)


def _engine_time(look: Look) -> int:
    """Return the time by which the file goes: later than the wall clock where something was written in the future."""
    return max(time.time_ns() // 1_000, look.last_at())


def _show(options: argparse.Namespace) -> int:
    codec = Codec()
    with look_into(options.db) as inspector:
        record = _record(inspector, options)
        reasons = _reasons(inspector)
        info = RunInfo.of(record, reasons)
        facts: dict[str, Any] = {field.name: getattr(info, field.name) for field in fields(info)}
        facts["input"] = codec.show(record.input, "the input")
        failure = record.error if record.status == "failed" else inspector.halted_by(record.key)
        if failure is not None:
            facts["failure"] = failure_info(failure)
        if record.status == "completed":
            facts["result"] = codec.show(record.result, "the result")
        facts["published"] = {
            key: codec.show(value, f"the value {key!r}") for key, value in sorted(inspector.values(record.key).items())
        }
        children = _children(inspector, record, reasons)
        acts = [Act.of(act, record.ahead) for act in inspector.acts(record.key)]
        entries = _entries(inspector, record, codec)
    if options.json:
        _print_json({**facts, "children": children, "acts": acts, "journal": entries})
        return 0
    del facts["waiting_on"]  # the reason says it in words
    if record.status == "halted" and failure is not None:  # what the reason says already is left out
        facts["failure"] = facts["failure"].origin
    if children:
        facts["children"] = "\n".join(
            f"{child['id']} ({child['status']}) {child['remark']}".rstrip() for child in children
        )
    if acts:
        facts["acts"] = _acts_in_words(acts)
    _print_facts(facts)
    print()
    rows = [_journal_row(entry, count) for entry, count in _ticks_together(entries)]
    _print_table(("OP", "KIND", "NAME", "AT", "ATTEMPT", "VALUE"), rows)
    _print_failures(entries)
    return 0


def _acts_in_words(acts: Sequence[Act]) -> str:
    """Return who did what to a run or queue, a line for each of the last; why stands behind it."""
    lines = [] if len(acts) <= _MAX_ACTS else [f"{len(acts) - _MAX_ACTS} before these are left out; --json has all"]
    for act in acts[-_MAX_ACTS:]:
        why = "" if act.reason is None else f": {act.reason}"
        lines.append(f"{act.verb} by {act.by} at {_time(act.at)}{why}")
    return "\n".join(lines)


def _print_failures(entries: Sequence[JournalEntry]) -> None:
    """Print how the last attempts and operations failed that did, below the journal's one line for each."""
    failed = [entry for entry in entries if entry.failure is not None]
    if len(failed) > _MAX_FAILURES:
        print(f"\n{len(failed) - _MAX_FAILURES} failures before these are left out; --json has all")
    for entry in failed[-_MAX_FAILURES:]:
        attempt = "" if entry.attempt is None else f", attempt {entry.attempt}"
        print(f"\nOP {entry.operation} {entry.kind} {entry.name}{attempt}:")
        print(entry.failure.text if entry.failure is not None else "")


def _children(inspector: Inspector, parent: RunRecord, reasons: Reasons) -> list[dict[str, str]]:
    """Return children that have not ended, which a run may wait for: first those that need somebody."""
    first: tuple[Status, ...] = ("halted",)
    others: tuple[Status, ...] = tuple(status for status in STATUSES if status not in ENDED and status not in first)
    found: list[RunRecord] = []
    for statuses in (first, others):
        wanted = RunFilter(status=statuses, parent=parent.key, limit=_MAX_CHILDREN - len(found))
        found += inspector.list_runs(wanted) if wanted.limit else []
    infos = [RunInfo.of(record, reasons) for record in found]
    return [
        {"id": info.id, "workflow": info.workflow, "status": info.status, "remark": _remark(info)} for info in infos
    ]


def _entries(inspector: Inspector, run: RunRecord, codec: Codec) -> list[JournalEntry]:
    entries: list[JournalEntry] = []
    after = 0
    while page := inspector.journal(run.key, after=after):
        entries += [JournalEntry.of(entry, codec, run.ahead) for entry in page]
        after = page[-1].position
    return entries


def _ticks_together(entries: Sequence[JournalEntry]) -> Iterator[tuple[JournalEntry, int]]:
    """Yield entries and how many each stands for: the last tick for those right before it, which may be thousands."""
    ticks = 0
    for entry, following in zip(entries, [*entries[1:], None], strict=False):  # no entries, no pairs
        ticks += 1
        if not (_is_tick(entry) and following is not None and _is_tick(following)):
            yield entry, ticks
            ticks = 0


def _is_tick(entry: JournalEntry) -> bool:
    return entry.operation == 0 and entry.name == TICK


def _journal_row(entry: JournalEntry, count: int) -> tuple[str, ...]:
    value = (
        f"{count} times"
        if count > 1
        else entry.error
        if entry.error is not None
        else ""
        if entry.kind in VALUELESS
        else _short(entry.value)
    )
    return (
        str(entry.operation),
        entry.kind,
        entry.name,
        _time(entry.at),
        "" if entry.attempt is None else str(entry.attempt),
        value.partition("\n")[0],
    )


def _record(inspector: Inspector, options: argparse.Namespace) -> RunRecord:
    record = inspector.run_by_id(check_id(options.run))
    if record is None:
        raise RunNotFound(f"{options.db} has no run {options.run!r}; `stepwell runs --db {options.db}` lists them")
    return record


def _workers(options: argparse.Namespace) -> int:
    with _client(options) as engine:
        own = engine._client.core.machine.claimed().epoch
        found = [worker for worker in engine.workers() if worker.epoch != own]
    if options.json:
        _print_json(found)
    else:
        rows = [
            (str(info.epoch), str(info.pid), info.host, _what(info), str(info.runs), _time(info.started_at))
            for info in found
        ]
        _print_table(("EPOCH", "PID", "HOST", "STATE", "RUNS", "SINCE"), rows)
    return 0


def _what(info: WorkerInfo) -> str:
    return info.state if info.takes_work else f"{info.state} (client)"


def _queues(options: argparse.Namespace) -> int:
    with look_into(options.db) as inspector:
        now = _engine_time(inspector)
        reasons = _reasons(inspector)
        found = [QueueInfo.of(state, inspector, reasons, now) for state in inspector.queues()]
        ahead = now - time.time_ns() // 1_000
        acts = {info.name: [Act.of(act, ahead) for act in inspector.acts_of_queue(info.name)[-1:]] for info in found}
    if options.json:
        _print_json(found)
    else:
        header = ("NAME", "KIND", "STATE", "WAITING", "DELAYED", "RUNNING", "OLDEST WAIT", "BOUNDS")
        _print_table(header, [_queue_row(info) for info in found])
        # Below and not beside: a reason is a sentence. That a queue is paused stands in the table.
        hindered = [info for info in found if info.reason is not None and (info.halted or not info.paused)]
        remarks = [f"{info.name}: {info.reason}" for info in hindered]
        # Why one is paused, where that was said; that it is stands in the table.
        said = [info.name for info in found if info.paused and any(act.reason for act in acts[info.name])]
        remarks += [f"{name}: {_acts_in_words(acts[name])}" for name in said]
        if remarks:
            print("", *remarks, sep="\n")
    return 0


def _queue_row(info: QueueInfo) -> tuple[str, ...]:
    bounds = {
        "concurrency": info.concurrency,
        "per worker": info.per_worker,
        "per partition": info.partition_concurrency,
        "rate": None if info.rate is None else f"{info.rate.limit} in {to_seconds(info.rate.per, 'rate'):g} s",
    }
    return (
        info.name,
        info.kind,
        "paused" if info.paused else "open",
        str(info.waiting),
        str(info.delayed),
        str(info.running),
        "" if info.oldest_wait_seconds is None else f"{info.oldest_wait_seconds:.1f} s",
        ", ".join(f"{name} {bound}" for name, bound in bounds.items() if bound is not None),
    )


# --- leaving a request ------------------------------------------------------------------------------------------------


def _cancel(options: argparse.Namespace) -> int:
    record = _look_at(options)
    if record.status in ENDED:
        print(f"stepwell cancel: run {record.id!r} is {record.status} already", file=sys.stderr)
        return FAILED
    with _client(options) as engine:
        engine.get(record.id).cancel(**_said(options))
    print(f"run {record.id!r}: cancellation requested")
    return 0


def _resume(options: argparse.Namespace) -> int:
    record = _look_at(options)
    if record.status not in ("halted", "waiting"):
        what = "only a halted or a waiting run is resumed"
        if record.status in RETRIABLE:
            what += f"; `stepwell retry {record.id} --db {options.db}` brings it back"
        print(f"stepwell resume: run {record.id!r} is {record.status}; {what}", file=sys.stderr)
        return FAILED
    with _client(options) as engine:
        engine.get(record.id).resume(**_said(options))
    print(f"run {record.id!r}: a worker will try it again")
    return 0


def _retry(options: argparse.Namespace) -> int:
    filters = {
        "status": options.status,
        "workflow": options.workflow,
        "started_since": options.started_since,
        "id_prefix": options.id_prefix,
    }
    if options.runs:
        if options.dry_run or any(value is not None for value in filters.values()):
            raise InvalidArgument("either name runs, or say which ones by options, not both")
        return _retry_each(options)
    with _client(options) as engine:
        count = engine.retry_all(**filters, dry_run=True)
        print(f"{_counted(count, 'run')} would be retried" if options.dry_run else f"{_counted(count, 'run')} to retry")
        if options.dry_run or not count:
            return 0
        if not options.yes and not _confirmed("Steps that failed, and what followed them, will be executed again."):
            print("stepwell retry: nothing was done", file=sys.stderr)
            return FAILED
        done = engine.retry_all(**filters, **_said(options))
    print(f"{_counted(done, 'run')} retried, and what came along; workers carry them on")
    return 0


def _retry_each(options: argparse.Namespace) -> int:
    with look_into(options.db) as inspector:
        for run in options.runs:
            if inspector.run_by_id(check_id(run)) is None:
                raise RunNotFound(f"{options.db} has no run {run!r}; `stepwell runs --db {options.db}` lists them")
    refused = False
    with _client(options) as engine:
        for run in options.runs:
            try:
                engine.get(run).retry(**_said(options))
                print(f"run {run!r}: a worker will carry it on")
            except (RunEnded, RunNotEnded) as error:
                print(f"stepwell retry: {error}", file=sys.stderr)
                refused = True
    return FAILED if refused else 0


def _take_over(options: argparse.Namespace) -> int:
    with _client(options) as engine:
        found = next((worker for worker in engine.workers() if worker.epoch == options.epoch), None)
        if found is None:
            raise InvalidArgument(
                f"{options.db} has no worker {options.epoch} now; `stepwell workers --db {options.db}` lists them"
            )
        if not options.yes and not _agreed(found):
            print("stepwell takeover: nothing was done", file=sys.stderr)
            return FAILED
        released = engine.take_over(options.epoch, **_said(options))
    print(f"worker {options.epoch} is fenced; {_counted(released, 'run')} of it can go on elsewhere")
    return 0


def _pause(options: argparse.Namespace) -> int:
    with _client(options) as engine:
        queue = engine.queue(options.queue)
        if options.command == "pause":
            queue.pause(**_said(options))
        else:
            queue.resume(**_said(options))
    print(f"queue {options.queue!r} is {'paused' if options.command == 'pause' else 'open'}")
    return 0


class _Said(TypedDict):
    reason: str | None
    by: str


def _said(options: argparse.Namespace) -> _Said:
    """Return who asks, and why, if that was said."""
    return {"reason": options.reason, "by": user_at_host()}


def _agreed(worker: WorkerInfo) -> bool:
    """Ask whether a worker is to be fenced; where nobody can be asked, the answer is no."""
    question = (
        f"Worker {worker.epoch} (process {worker.pid} on {worker.host}) is {worker.state} and has "
        f"{_counted(worker.runs, 'run')}. Steps that it has under way will be executed again elsewhere."
    )
    return _confirmed(question)


def _confirmed(question: str) -> bool:
    """Ask; where nobody can be asked, the answer is no."""
    print(f"{question} Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _look_at(options: argparse.Namespace) -> RunRecord:
    """Return the run that is meant. Looking first means that a wrong path neither makes a file nor changes one."""
    with look_into(options.db) as inspector:
        return _record(inspector, options)


@contextmanager
def _client(options: argparse.Namespace) -> Generator[Engine]:
    """Open an engine that takes no work, on a file that is there and ours."""
    with look_into(options.db):
        pass
    with Engine(options.db, workflows=[]) as engine:
        yield engine


# --- printing ---------------------------------------------------------------------------------------------------------


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_facts(facts: Mapping[str, Any]) -> None:
    shown = {name: _fact(value) for name, value in facts.items() if value is not None and value != {}}
    width = max(map(len, shown)) + 2
    for name, text in shown.items():
        print(f"{name}:".ljust(width) + text.replace("\n", "\n" + " " * width))


def _fact(value: object) -> str:
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, FailureInfo):
        return value.text
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their longest text; the last is not padded."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…"
