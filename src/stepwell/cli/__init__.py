"""The command ``stepwell``: what may be written on the line, and which module carries each command out.

Nothing but argparse is imported before it is known what was asked for, so that help and mistakes are answered at once.

Exit codes: 0 done; 1 the file, the disk or the run is not as the command needs it; 2 the command line is wrong, or a
module of workflows cannot be imported; 128 + n ended by signal n at once, as shells count.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from stepwell import __version__

#: How long steps under way have to end after the first signal, in seconds.
DRAIN_TIMEOUT_SECONDS: Final = 30.0
#: How many runs `stepwell runs` lists.
LISTED: Final = 50

FAILED: Final = 1
USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command line (by default the process's own) and return the exit code."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(line)
    options.line = line
    try:
        code = _carry_out(options)
        sys.stdout.flush()  # here, where it can be seen that nobody reads
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _carry_out(options: argparse.Namespace) -> int:
    if options.command == "worker":
        if options.processes > 1 and options.control_descriptor is None:
            from stepwell.cli import supervisor

            return supervisor.run(options)
        from stepwell.cli import worker

        return worker.run(options)
    from stepwell.cli import inspect

    return inspect.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepwell",
        description="Durable workflows whose whole state is one SQLite file.",
        epilog="`stepwell COMMAND --help` tells about one command.",
    )
    parser.add_argument("--version", action="version", version=f"stepwell {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_worker(commands)

    runs = _add(commands, "runs", "list runs, newest first")
    runs.add_argument("--status", action="append", metavar="S", help="only runs in this state (may be given again)")
    runs.add_argument("--workflow", metavar="W", help="only runs of this workflow")
    runs.add_argument("--id-prefix", metavar="TEXT", help="only runs whose id begins so")
    runs.add_argument("--limit", type=_count, default=LISTED, metavar="N", help=f"at most so many (default: {LISTED})")
    runs.add_argument("--roots", action="store_true", help="only runs that no other run started: no children")
    _add_json(runs)

    show = _add(commands, "show", "show a run: its facts, what it published, its journal")
    show.add_argument("run", metavar="RUN", help="the run's id")
    show.add_argument("--tail", type=_count, metavar="N", help="only the last N lines of its journal")
    _add_json(show)

    cancel = _add(commands, "cancel", "ask a run to stop; its `finally` blocks are executed by a worker")
    cancel.add_argument("run", metavar="RUN", help="the run's id")
    _add_reason(cancel, "why; the run's result shows it, and `stepwell show`")

    resume = _add(commands, "resume", "have a halted run tried again, with the code that the workers have now")
    resume.add_argument("run", metavar="RUN", help="the run's id")
    _add_reason(resume)

    _add_retry(commands)

    workers = _add(commands, "workers", "list the workers that have the file open, and what they are at")
    _add_json(workers)

    takeover = _add(commands, "takeover", "take the runs of a stalled worker, and let others carry them on")
    takeover.add_argument("epoch", type=_count, metavar="EPOCH", help="the worker's number, as `stepwell workers` says")
    takeover.add_argument("--yes", action="store_true", help="do not ask")
    _add_reason(takeover)

    queues = _add(commands, "queues", "list the queues and limits of the file, and how full they are")
    _add_json(queues)

    pause = _add(commands, "pause", "let nothing start from a queue, or under a limit; what is under way goes on")
    pause.add_argument("queue", metavar="QUEUE", help="the name of the queue or limit")
    _add_reason(pause, "why; `stepwell queues` shows it")

    unpause = _add(commands, "unpause", "let what waits in a paused queue start again")
    unpause.add_argument("queue", metavar="QUEUE", help="the name of the queue or limit")
    _add_reason(unpause, "why; `queue.acts()` returns it")
    return parser


def _add_retry(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    retry = _add(commands, "retry", "bring failed and cancelled runs back: they go on from the step that failed")
    retry.add_argument("runs", nargs="*", metavar="RUN", help="the ids of runs; or say which ones by the options below")
    retry.add_argument(
        "--status",
        action="append",
        choices=("failed", "cancelled", "halted"),
        help="all runs in this state (may be given again; by default failed, where another option is given)",
    )
    retry.add_argument("--workflow", metavar="W", help="only runs of this workflow")
    retry.add_argument("--id-prefix", metavar="TEXT", help="only runs whose id begins so")
    retry.add_argument(
        "--started-since",
        type=_since,
        metavar="TIME",
        help="only runs that began then or later: 90m, 24h, 7d ago, or a time as 2026-11-27T16:00Z",
    )
    retry.add_argument("--dry-run", action="store_true", help="count the runs, and do nothing")
    retry.add_argument("--yes", action="store_true", help="do not ask")
    _add_reason(retry)


def _add_worker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    worker = _add(commands, "worker", "execute the workflows of some modules until told to stop")
    worker.add_argument(
        "modules", nargs="+", metavar="MODULE", help="what to import: package.module, or the path of a .py file"
    )
    worker.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="how many worker processes (default: 1)"
    )
    worker.add_argument("--max-running", type=_count, metavar="N", help="how many runs each may have under way at once")
    worker.add_argument("--step-threads", type=_count, metavar="N", help="how many `def` steps each executes at once")
    worker.add_argument(
        "--step-processes", type=_count, metavar="N", help="how many steps with isolate='process' each executes at once"
    )
    worker.add_argument(
        "--queues", type=_names, metavar="A,B", help="the queues to take runs from, besides runs in none (default: all)"
    )
    worker.add_argument(
        "--durability",
        choices=("full", "normal"),
        help="full (default): commits survive power loss; normal: only the death of the process",
    )
    worker.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=DRAIN_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long steps under way have to end after the first SIGTERM or SIGINT "
        f"(default: {DRAIN_TIMEOUT_SECONDS:g}); a second signal ends them at once",
    )
    worker.add_argument(
        "--take-over-stalled-after",
        type=_seconds,
        metavar="SECONDS",
        help="take the runs of another worker that has not answered for so long (default: never)",
    )
    worker.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="what is logged to standard error (default: info)",
    )
    # For the supervisor's children only: the socket through which they are told to stop, and notice its death.
    worker.add_argument("--control-descriptor", type=int, help=argparse.SUPPRESS)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.add_argument("--db", required=True, metavar="FILE", help="the database file")
    return parser


def _add_reason(parser: argparse.ArgumentParser, help_text: str = "why; `stepwell show` tells it") -> None:
    parser.add_argument("--reason", metavar="TEXT", help=help_text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"must name queues, with commas between, not {text!r}")
    return names


def _since(text: str) -> datetime | timedelta:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    try:
        if text[-1:] in units:
            return timedelta(seconds=float(text[:-1]) * units[text[-1]])
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be like 90m, 24h, 7d, or 2026-11-27T16:00Z, not {text!r}") from None
    return found if found.tzinfo is not None else found.astimezone()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, not {text!r}")
    return seconds
