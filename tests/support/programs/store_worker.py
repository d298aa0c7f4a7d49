"""A worker of a SQLite store in a process of its own, which does what its parent says.

The process answers each call with its result or its error. `Remote` is the parent's end.
"""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stepwell import errors
from stepwell.store.changes import Change
from stepwell.store.claims import WorkTaken
from stepwell.store.notifications import Notification
from stepwell.store.sqlite.store import SqliteStore

# Not from the whole contract: hypothesis takes a second to import.
from stepwell.testing.contract_kit import NOW, Worker, step

#: After this long, a test that waits for another process fails.
PATIENCE_SECONDS = 30.0


class Heard:
    """What a store was told by other processes."""

    def __init__(self, store: SqliteStore, *, answers: bool = True) -> None:
        self._told: queue.Queue[Notification] = queue.Queue()
        self._answers = answers
        store.notifications.watch(self._hear)

    def _hear(self, news: Notification) -> None:
        if news.reply is None:
            self._told.put(news)
        elif self._answers:
            news.reply()

    def until(self, kind: str) -> list[Notification]:
        """Wait until something of this kind was told; return it with all before it, but for ``anything``."""
        found: list[Notification] = []
        while not found or found[-1].kind != kind:
            news = self._told.get(timeout=PATIENCE_SECONDS)
            if news.kind != "anything" or kind == "anything":
                found.append(news)
        return found


class _Servant:
    """What the process does."""

    def __init__(self, path: str) -> None:
        self.store = SqliteStore.open(path, durability="normal")
        self.heard = Heard(self.store)
        self.worker: Worker | None = None

    def _worker(self) -> Worker:
        assert self.worker is not None
        return self.worker

    def register(self, takes_work: bool) -> int:
        self.worker = Worker(self.store, takes_work=takes_work)
        return self.worker.epoch

    def die_unseated(self) -> None:
        """Die after the row of the worker is in the file, and before it is said whose it is."""
        self.store._members.announce = lambda *_, **__: os._exit(9)  # type: ignore[method-assign]
        Worker(self.store)

    def apply(self, *changes: Change) -> list[Any]:
        return self._worker().apply(*changes)

    def create(self, run_id: str, status: Any = "running") -> int:
        return self._worker().create(run_id, status)

    def reap(self, now: int) -> int:
        return self._worker().reap(now)

    def news(self) -> list[int]:
        return self._worker().news()

    def until(self, kind: str) -> list[tuple[str, tuple[int, ...]]]:
        return [news[:2] for news in self.heard.until(kind)]

    def listen(self, on: bool) -> None:
        self.store.notifications.listen(on)

    def agree_on_clock(self, offset: int) -> int:
        return self.store.membership.agree_on_clock(offset)

    def take_all(self, limit: int) -> list[int]:
        """Take work as long as there is some."""
        found: list[int] = []
        while taken := self._worker().apply(WorkTaken(["shop.checkout"], NOW + 10**9, limit))[0]:
            found += taken
        return found

    def write_for(self, run: int, seconds: float) -> int:
        """Commit as often as possible for a time; return how often."""
        give_up_at, count = time.monotonic() + seconds, 0
        while time.monotonic() < give_up_at:
            self._worker().apply(step(run, count + 1))
            count += 1
        return count

    def mark_fault(self) -> None:
        with self._worker().writing():
            self.store._members.mark_fault()

    def close(self) -> None:
        self.store.writers.acquire()
        try:
            self.store.close(None if self.worker is None else self.worker.claim, NOW + 3)
        finally:
            self.store.writers.release()


def _serve(path: str, pipe: Connection) -> None:
    try:
        servant = _Servant(path)
        pipe.send(None)
        while True:
            name, arguments = pipe.recv()
            try:
                pipe.send((True, getattr(servant, name)(*arguments)))
            except errors.StepwellError as error:
                pipe.send((False, (type(error).__name__, str(error))))
    except EOFError:
        return


class Remote:
    """The parent's end of a worker in another process. A call of a method of `_Servant` is made there."""

    def __init__(self, path: Path, *, registered: bool = True, takes_work: bool = True) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(str(path), theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._receive()
        self.epoch = self.register(takes_work) if registered else 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.send(name, *arguments)
            return self.result()

        return call

    def send(self, name: str, *arguments: Any) -> None:
        """Have a method called; `result` waits for its end."""
        self._pipe.send((name, arguments))

    def result(self) -> Any:
        """Return, or raise, what the method that was sent last came to."""
        went_well, result = self._receive()
        if went_well:
            return result
        raise getattr(errors, result[0])(result[1])

    def _receive(self) -> Any:
        if not self._pipe.poll(PATIENCE_SECONDS):
            raise TimeoutError("the other process does not answer")
        return self._pipe.recv()

    def kill(self) -> None:
        """End the process with SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.join(PATIENCE_SECONDS)

    def pause(self) -> None:
        """Stop the process (SIGSTOP), and wait until it stands still."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it run again."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill the process if it still lives."""
        if self.process.is_alive():
            self.kill()
        self._pipe.close()
