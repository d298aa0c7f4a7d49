"""One thread of each process that hears what others do to the file: letters, deaths, and a tick that misses nothing.

It sleeps until a letter comes (`datagrams`), until a member dies (`deaths`), or until the tick: ten times a second
it looks whether somebody asks if this process is well (`questions`), and compares SQLite's `data_version` and the table
of members with what it saw last. A change counts as all letters at once, so a letter that is lost, or was never sent
because its sender died, costs a tenth of a second and nothing else.

An engine's own loop reads the letters (`Readers`), since it acts on them: nothing is handed from thread to thread. The
thread has the rest, and looks at the members when the loop rings for that.

Alone with the file it leaves `data_version` at that: what has changed is its own process's doing. Whoever writes is in
the table first, and a table is never again what it was before a member came (`membership`). So it was alone from one
tick to the next if and only if both found nobody alive, and found the same table. What the thread has heard in between
does not count: a letter can show it a member that has left already, and whose commits no one has told of.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from typing import Final, Protocol

from stepwell.model.steady import monotonic
from stepwell.store.notifications import Readers
from stepwell.store.sqlite.file.locking import LockFile
from stepwell.store.sqlite.peers import datagrams
from stepwell.store.sqlite.peers.datagrams import Letter, Mailbox
from stepwell.store.sqlite.peers.deaths import POLL_SECONDS, Deaths, Key

TICK_SECONDS: Final = 0.1
#: How long `stop` waits for a callback to return.
_STOP_PATIENCE_SECONDS: Final = 5.0

#: What the thread calls: a kind of `datagrams`, and keys of runs (ENDED) or the epochs of the dead (DIED).
Callback = Callable[[bytes, tuple[int, ...]], None]
#: Returns a number that differs whenever anybody has committed.
Version = Callable[[], int]

_log: Final = logging.getLogger("stepwell")


class Table(Protocol):
    """What the thread asks of the table of members; `membership.Membership` is it."""

    mailbox: Mailbox | None

    def read_table(self) -> bytes:
        """Return the table as it stands in the file."""
        ...

    def members_in(self, table: bytes) -> dict[Key, bool]:
        """Return the other members in a table by slot and epoch, and whether each is still there."""
        ...

    def forget_view(self) -> None:
        """Have the living members looked up anew."""
        ...

    def look_for_questions(self) -> None:
        """Have questions to this process answered by whoever proves that it is well."""
        ...

    def stopped_looking(self) -> None:
        """Note that nobody looks for questions any more."""
        ...


class Listener:
    """The thread. `open_version` is called in it, and gives what reads the version for as long as it runs."""

    def __init__(
        self,
        table: Table,
        lock_file: LockFile,
        open_version: Callable[[], AbstractContextManager[Version]],
        callback: Callback,
        *,
        readers: Readers | None = None,
        is_here: Callable[[int], bool] = lambda _slot: True,
    ) -> None:
        self._table = table
        self._file = lock_file
        self._is_here = is_here
        self._open_version = open_version
        self._callback = callback
        self._readers = readers
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._bell, self._rope = os.pipe()
        os.set_blocking(self._bell, False)
        self._mailbox: Mailbox | None = None
        self._seen_table = b""
        # As of the last tick.
        self._ticked_version = 0
        self._ticked_table = b""
        self._was_alone = False
        self._thread = threading.Thread(target=self._run, name="stepwell-listener", daemon=True)

    def start(self) -> None:
        """Start; return once the first look was taken, from which on every commit of others will be noticed."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """End the thread and wait for it. Not for the thread itself."""
        self._stopping.set()
        self.ring()
        self._thread.join(_STOP_PATIENCE_SECONDS)
        if not self._thread.is_alive():
            os.close(self._bell)
            os.close(self._rope)

    def ring(self) -> None:
        """Have the thread look around: the mailbox is another one, or it is to stop."""
        os.write(self._rope, b"!")

    # --- in the thread
    # ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                version = stack.enter_context(self._open_version())
                selector = stack.enter_context(selectors.DefaultSelector())
                deaths = Deaths(self._file, selector, is_here=self._is_here)
                stack.callback(deaths.close)
                selector.register(self._bell, selectors.EVENT_READ)
                self._use_mailbox(selector)
                dead = self._look_first(deaths, version)
                self._started.set()
                self._tell_deaths(dead)
                self._watch(selector, deaths, version)
        except BaseException as error:  # noqa: BLE001 -- told to who started it, or else to the log
            self._failure = error
            if self._started.is_set() and not self._stopping.is_set():
                _log.exception("%s: changes of other processes are not noticed any more", self._file.database_path)
                with suppress(OSError):
                    self._table.stopped_looking()
            self._started.set()

    def _watch(self, selector: selectors.BaseSelector, deaths: Deaths, version: Version) -> None:
        next_tick = monotonic() + TICK_SECONDS
        while not self._stopping.is_set():
            wait_seconds = next_tick - monotonic()
            if deaths.polls:
                wait_seconds = min(wait_seconds, POLL_SECONDS)
            events = selector.select(max(0.0, wait_seconds))
            if self._stopping.is_set():
                return
            dead: list[Key] = []
            letters: list[Letter] = []
            for selected, _ in events:
                if selected.data is not None:
                    deaths.ended(selected.data)
                    dead.append(selected.data)
                elif selected.fd == self._bell:
                    os.read(self._bell, 4096)
                    self._use_mailbox(selector)
                    dead += self._look_at_members(deaths)
                elif self._mailbox is not None:
                    letters = self._mailbox.receive()
            if deaths.polls:
                dead += deaths.poll()
            self._tell_deaths(dead)
            if any(letter.kind == datagrams.MEMBERS for letter in letters):
                self._tell_deaths(self._look_at_members(deaths))
            self._tell(letters)
            if monotonic() >= next_tick:
                self._tick(deaths, version)
                next_tick = monotonic() + TICK_SECONDS

    def _use_mailbox(self, selector: selectors.BaseSelector) -> None:
        """Listen at the present mailbox in place of an earlier one."""
        present = self._table.mailbox
        if present is self._mailbox:
            return
        earlier, self._mailbox = self._mailbox, present
        if self._readers is not None:
            if earlier is not None:
                self._readers.remove_reader(earlier.fileno(), earlier.close)
            if present is not None:
                self._readers.add_reader(present.fileno(), partial(self._receive, present))
            return
        if earlier is not None:
            selector.unregister(earlier)
            earlier.close()
        if present is not None:
            selector.register(present, selectors.EVENT_READ)

    def _receive(self, mailbox: Mailbox) -> None:
        """Take out what has arrived; called by `readers`, in their thread."""
        if self._stopping.is_set():
            return
        letters = mailbox.receive()
        if any(letter.kind == datagrams.MEMBERS for letter in letters):
            self.ring()
        self._tell(letters)

    def _look_first(self, deaths: Deaths, version: Version) -> list[Key]:
        """Take in how things stand, as the first tick shall compare them; return the members that are dead."""
        self._ticked_version = version()
        dead = self._look_at_members(deaths)
        self._ticked_table, self._was_alone = self._seen_table, deaths.watches_nobody
        return dead

    def _tick(self, deaths: Deaths, version: Version) -> None:
        self._table.look_for_questions()
        self._tell_deaths(self._look_at_members(deaths))
        is_alone = deaths.watches_nobody
        changed = self._seen_table != self._ticked_table
        try:
            seen = version()
        except Exception:  # noqa: BLE001 -- the file is locked or unreadable for a moment: better one look too many
            changed = True
        else:
            changed = changed or (seen != self._ticked_version and not (is_alone and self._was_alone))
            self._ticked_version = seen
        self._ticked_table, self._was_alone = self._seen_table, is_alone
        if changed:
            self._call(datagrams.ANYTHING, ())

    def _look_at_members(self, deaths: Deaths) -> list[Key]:
        table = self._table.read_table()
        if table == self._seen_table:
            return []
        self._seen_table = table
        return deaths.update(self._table.members_in(table))

    def _tell_deaths(self, dead: list[Key]) -> None:
        if dead:
            self._table.forget_view()
            self._call(datagrams.DIED, tuple(epoch for _, epoch in dead))

    def _tell(self, letters: list[Letter]) -> None:
        kinds: dict[bytes, list[Letter]] = {}
        for letter in letters:
            kinds.setdefault(letter.kind, []).append(letter)
        if kinds.pop(datagrams.PING, []):
            self._table.look_for_questions()
        for kind in (datagrams.WORK, datagrams.TURN, datagrams.MAIL, datagrams.MEMBERS):
            if kind in kinds:
                self._call(kind, ())
        if datagrams.ENDED in kinds:
            self._call(datagrams.ENDED, _keys_of(kinds[datagrams.ENDED]))
        if len(letters) >= datagrams.QUEUE_LENGTH:
            self._call(datagrams.ANYTHING, ())

    def _call(self, kind: bytes, keys: tuple[int, ...]) -> None:
        try:
            self._callback(kind, keys)
        except Exception:  # noqa: BLE001 -- whatever it is, the next letter must be heard
            _log.exception("%s: hearing of other processes' changes failed", self._file.database_path)


def _keys_of(letters: Iterable[Letter]) -> tuple[int, ...]:
    """Return all keys of the letters, none (which means "some") where one has none."""
    found: dict[int, None] = {}
    for letter in letters:
        if not letter.keys:
            return ()
        found.update(dict.fromkeys(letter.keys))
    return tuple(found)
