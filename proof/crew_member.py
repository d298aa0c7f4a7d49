"""A nursery of worker processes: an interpreter that has all imported, and forks one for each line that it is given.

A line is the JSON of an `Order`; the answer is the process's id. Nothing of an engine exists before the fork, so each
process opens the file as a fresh one does, without the fifth of a second for imports. They die with the nursery.

A process serves until it gets SIGTERM, then closes its engine. It ends with 1 where the engine stopped by itself. At
SIGUSR1 it says where its threads are.
`CONTROLS` are the deliberately broken engines of the harnesses on real processes.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from proof import orders
from stepwell import Engine
from stepwell.definitions.definition import registered_workflows
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file.file_identity import FileInPlace
from stepwell.store.sqlite.membership import SqliteMembership
from stepwell.store.sqlite.peers.datagrams import Mailbox
from stepwell.store.sqlite.peers.listener import Listener
from stepwell.store.sqlite.statements import SQL
from stepwell.worker.rules import queue_policy
from stepwell.worker.scheduling import queue_scheduler

#: prctl(2): what the kernel sends when the parent dies.
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Order:
    """What a process is to be: its name in the log, its file, the log, where its words go.

    `options` are those of its engine, `serves` the names of its workflows where not all; `forks` gives it a child that
    outlives it; `control` is how it is broken. `wall` is a file with the microseconds by which its wall clock is wrong,
    at any time; `zone` is its time zone, `version` that of its code.
    """

    name: str
    database: str
    log: str
    words: str
    options: dict[str, Any] = field(default_factory=dict)
    forks: bool = False
    control: str = ""
    serves: list[str] | None = None
    wall: str = ""
    zone: str = ""
    version: int = 1


def main() -> None:
    """Fork what the lines of standard input ask for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if not pid:
            _be(order)
        sys.stdout.write(json.dumps(pid) + "\n")
        sys.stdout.flush()


def _be(order: Order) -> None:
    code = 1
    try:
        # First, so that a signal finds its handler, or kills a process that has nothing yet.
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        words = os.open(order.words, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nothing, 0), (nothing, 1), (words, 2)):
            os.dup2(source, target)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        logging.basicConfig(format=f"{order.name}: %(message)s", level=logging.WARNING)
        orders.LOG.open(order.log, order.name, forks=order.forks)
        orders.LOG.version = order.version
        if order.control:
            CONTROLS[order.control]()
        if order.wall:
            _be_wrong(order.wall, order.zone)
        options = dict(order.options)
        if order.serves is not None:
            options["workflows"] = [registered_workflows()[name] for name in order.serves]
        with Engine(order.database, **options) as engine:
            turn_loop = engine._session.engine_thread.turn_loop
            while not stop.wait(0.2) and turn_loop.failure is None:
                pass
            code = int(turn_loop.failure is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _be_wrong(file: str, zone: str) -> None:
    """Have a wall clock that anyone may set, by way of a file, and a time zone of one's own."""
    os.environ["TZ"] = zone
    time.tzset()
    right = time.time_ns

    def wrong() -> int:
        return right() + int(Path(file).read_text()) * 1000

    vars(time).update(time_ns=wrong, time=lambda: wrong() / 1e9)
    _put(SqliteMembership, "wall_clock", lambda _self: wrong())


# --- deliberately broken engines --------------------------------------------------------------------------------------


def _put(owner: object, name: str, value: object) -> None:
    """Put something else in place of a part of the engine; raises where the engine has no part of that name."""
    getattr(owner, name)
    setattr(owner, name, value)


def _put_sql(statements: dict[str, str], name: str, old: str, new: str) -> None:
    """Put other words into a statement; raises where it is not there, or has no such words."""
    text = statements[name]
    if old not in text:
        raise LookupError(f"the statement {name} has no {old!r}")
    statements[name] = text.replace(old, new)


def _without_epochs() -> None:
    """Let a worker that was fenced write on."""
    _put_sql(SQL, "worker_may_write", SQL["worker_may_write"], "SELECT 1 FROM (SELECT ?1)")


def _children_are_skipped() -> None:
    """Leave the runs that another one started to their dead worker."""
    _put_sql(SQL, "runs_of_worker_released", "WHERE owner = ?1", "WHERE owner = ?1 AND parent IS NULL")


def _deaf() -> None:
    """Lose every letter, and do without the tick that makes up for lost ones."""
    receive = Mailbox.receive

    def lose(self: Mailbox) -> list[Any]:
        receive(self)
        return []

    _put(Mailbox, "receive", lose)
    _put(Listener, "_tick", lambda *_: None)


def _locks_are_inherited() -> None:
    """Hold locks that belong to the descriptor, which forked children have as well, and not to the process."""

    def ofd(kind: int, command: int, descriptor: int, first: int, length: int) -> None:
        question = locking._FLOCK.pack(kind, os.SEEK_SET, first, length, 0)
        fcntl.fcntl(descriptor, command, question)

    def try_lock(descriptor: int, first: int, length: int = 1) -> bool:
        try:
            ofd(fcntl.F_WRLCK, fcntl.F_OFD_SETLK, descriptor, first, length)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def lock(descriptor: int, first: int) -> None:
        ofd(fcntl.F_WRLCK, fcntl.F_OFD_SETLKW, descriptor, first, 1)

    def unlock(descriptor: int, first: int, length: int = 1) -> None:
        ofd(fcntl.F_UNLCK, fcntl.F_OFD_SETLK, descriptor, first, length)

    for replacement in (try_lock, lock, unlock):
        _put(locking, replacement.__name__, replacement)


def _counted_outside() -> None:
    """Decide about queues and limits from what was running when this process looked last."""
    seen: dict[str, int] = {}

    class Stale:
        def __init__(self, facts: Any) -> None:
            self._facts = facts

        def __getattr__(self, name: str) -> Any:
            return getattr(self._facts, name)

        def state(self, queue: str) -> Any:
            state = self._facts.state(queue)
            before, seen[queue] = seen.get(queue, state.running), state.running
            return msgspec.structs.replace(state, running=before)

    decide = queue_policy.take

    def take(facts: Any, *args: Any, **options: Any) -> Any:
        return decide(Stale(facts), *args, **options)

    _put(queue_scheduler, "take", take)


def _blind() -> None:
    """Do not look whether the file is still what its name means."""
    _put(FileInPlace, "what_happened", lambda _self: None)


def _own_clock() -> None:
    """Go by the wall clock of this process, instead of one clock that all have agreed on."""
    _put(SqliteMembership, "agree_on_clock", lambda _self, offset: offset)


CONTROLS: Final[dict[str, Callable[[], None]]] = {
    "no epoch in writes": _without_epochs,
    "recovery that skips a child": _children_are_skipped,
    "wake-up lost without the fallback": _deaf,
    "lock inherited by a child": _locks_are_inherited,
    "a file that was taken away is not missed": _blind,
    "every worker has a clock of its own": _own_clock,
    "a queue limit counted outside the transaction": _counted_outside,
}


if __name__ == "__main__":
    main()
