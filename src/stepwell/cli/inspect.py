"""The commands that look into a file, and those that leave a request in it.

What only looks reads as any SQLite tool may, beside running workers or without any. What changes something opens an
engine that serves no workflow: the request is recorded, and a worker carries it out; where there is none, that is said.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypedDict, cast

from stepwell.api.acts import user_at_host
from stepwell.api.engine import Engine
from stepwell.api.handles import Run
from stepwell.api.read_service import ReadService, file_reads
from stepwell.api.views import QueueInfo, WorkerInfo
from stepwell.cli import FAILED, USAGE
from stepwell.cli.printing import counted, for_this_file, moment, print_json, print_table
from stepwell.cli.show import acts_in_words, show
from stepwell.errors import InvalidArgument, RunEnded, RunNotEnded, StepwellError
from stepwell.model.clock import to_seconds
from stepwell.model.lifecycle import ENDED, RETRIABLE, STATUSES, Status
from stepwell.model.run import RunRecord


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


def reads(db: str) -> AbstractContextManager[ReadService]:
    """Open a file for reading, as any SQLite tool may; raises as `file_reads` does."""
    return file_reads(db, f"`stepwell runs --db {db}`", f"`stepwell queues --db {db}`")


# --- looking ----------------------------------------------------------------------------------------------------------


def _runs(options: argparse.Namespace) -> int:
    wanted = None if options.status is None else cast("tuple[Status, ...]", tuple(options.status))
    for status in wanted or ():
        if status not in STATUSES:
            raise InvalidArgument(f"--status must be one of {', '.join(STATUSES)}, not {status!r}")
    with reads(options.db) as read:
        found = read.infos(
            status=wanted,
            workflow=options.workflow,
            id_prefix=options.id_prefix,
            limit=options.limit,
            roots=options.roots,
        )
    if options.json:
        print_json(found)
    else:
        rows = [
            (info.id, info.workflow, info.status, moment(info.created_at), for_this_file(info.remark, options.db))
            for info in found
        ]
        print_table(("ID", "WORKFLOW", "STATUS", "CREATED", "REMARK"), rows)
        if len(found) == options.limit:  # what is not shown must not seem not to be there
            sys.stdout.flush()
            print(f"These are the newest {options.limit}; --limit shows more.", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    with reads(options.db) as read:
        details = read.details(options.run)
    show(details, options)
    return 0


def _workers(options: argparse.Namespace) -> int:
    with _client(options) as engine:
        own = engine._session.engine_thread.turn_loop.claimed().epoch
        found = [worker for worker in engine.workers() if worker.epoch != own]
    if options.json:
        print_json(found)
    else:
        rows = [
            (str(info.epoch), str(info.pid), info.host, _what(info), str(info.runs), moment(info.started_at))
            for info in found
        ]
        print_table(("EPOCH", "PID", "HOST", "STATE", "RUNS", "SINCE"), rows)
        if not any(info.takes_work for info in found):
            sys.stdout.flush()
            line = for_this_file("`stepwell worker MODULE --db FILE`", options.db)
            print(f"No worker has the file open, so no run goes on; start one: {line}", file=sys.stderr)
    return 0


def _what(info: WorkerInfo) -> str:
    return info.state if info.takes_work else f"{info.state} (client)"


def _queues(options: argparse.Namespace) -> int:
    with reads(options.db) as read:
        found = read.queues()
        acts = {info.name: read.acts_of_queue(info.name)[-1:] for info in found}
    if options.json:
        print_json(found)
    else:
        header = ("NAME", "KIND", "STATE", "WAITING", "DELAYED", "RUNNING", "OLDEST WAIT", "BOUNDS")
        print_table(header, [_queue_row(info) for info in found])
        # Below and not beside: a reason is a sentence. That a queue is paused stands in the table.
        hindered = [info for info in found if info.reason is not None and (info.halted or not info.paused)]
        remarks = [f"{info.name}: {for_this_file(info.reason or '', options.db)}" for info in hindered]
        # Why one is paused, where that was said; that it is stands in the table.
        said = [info.name for info in found if info.paused and any(act.reason for act in acts[info.name])]
        remarks += [f"{name}: {acts_in_words(acts[name])}" for name in said]
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
        run = engine.get(record.id)
        run.cancel(**_said(options))
        if record.status in ("pending", "halted") and _ends(run):
            print(f"run {record.id!r} is cancelled")
        else:
            print(f"run {record.id!r}: cancellation requested; {_carried_out(engine, record, options)}")
    return 0


def _ends(run: Run[Any]) -> bool:
    """Wait a moment for the end of a run that no worker has to carry out: nobody had begun it, or it was halted."""
    for _ in range(20):
        if run.status in ENDED:
            return True
        time.sleep(0.05)
    return False


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
        done = "read again" if record.status == "waiting" else "tried again"
        print(f"run {record.id!r} is to be {done}; {_carried_out(engine, record, options)}")
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
        print(f"{counted(count, 'run')} would be retried" if options.dry_run else f"{counted(count, 'run')} to retry")
        if options.dry_run or not count:
            return 0
        if not options.yes and not _confirmed("Steps that failed, and what followed them, will be executed again."):
            print("stepwell retry: nothing was done", file=sys.stderr)
            return FAILED
        done = engine.retry_all(**filters, **_said(options))
        workflows = [] if options.workflow is None else [options.workflow]
        missing = _missing(engine, workflows, None, options)
        print(f"{counted(done, 'run')} retried, and what came along; {missing or 'workers carry them on'}")
    return 0


def _retry_each(options: argparse.Namespace) -> int:
    with reads(options.db) as read:
        records = {run: read.record(run) for run in options.runs}
    refused = False
    with _client(options) as engine:
        for run in options.runs:
            try:
                engine.get(run).retry(**_said(options))
                print(f"run {run!r} is to be carried on; {_carried_out(engine, records[run], options)}")
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
    print(f"worker {options.epoch} is fenced; {counted(released, 'run')} of it can go on elsewhere")
    return 0


def _pause(options: argparse.Namespace) -> int:
    with reads(options.db) as read:
        kind = read.queue(options.queue).kind
    with _client(options) as engine:
        queue = engine.queue(options.queue)
        if options.command == "pause":
            queue.pause(**_said(options))
        else:
            queue.resume(**_said(options))
    print(f"{kind} {options.queue!r} is {'paused' if options.command == 'pause' else 'open'}")
    return 0


def _carried_out(engine: Engine, record: RunRecord, options: argparse.Namespace) -> str:
    """Say who carries out what was asked of a run: that is no worker, where there is none that could."""
    return _missing(engine, [record.workflow], record.queue, options) or "a worker sees to that"


def _missing(engine: Engine, workflows: Sequence[str], queue: str | None, options: argparse.Namespace) -> str | None:
    """Say which worker is missing that could carry on runs of these workflows (none: of any), None: it is there."""
    missing = engine._session.reads.missing_worker(workflows, queue)
    return None if missing is None else for_this_file(missing, options.db)


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
        f"{counted(worker.runs, 'run')}. Steps that it has under way will be executed again elsewhere."
    )
    return _confirmed(question)


def _confirmed(question: str) -> bool:
    """Ask; where nobody can be asked, the answer is no."""
    print(f"{question} Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _look_at(options: argparse.Namespace) -> RunRecord:
    """Return the run that is meant. Looking first means that a wrong path neither makes a file nor changes one."""
    with reads(options.db) as read:
        return read.record(options.run)


@contextmanager
def _client(options: argparse.Namespace) -> Generator[Engine]:
    """Open an engine that takes no work, on a file that is there and ours."""
    with reads(options.db):
        pass
    with Engine(options.db, workflows=[]) as engine:
        yield engine
