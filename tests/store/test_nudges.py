"""Letters, deaths and ticks: what one process does, the others hear of, and nothing that is lost stays unheard."""

from __future__ import annotations

import ast
import asyncio
import errno
import logging
import os
import queue
import selectors
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import combinations_with_replacement, product
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
from tests.support.processes import Member, child, line, member

from stepwell.store.sqlite.file.locking import SLOT_BASE, Identity, LockFile
from stepwell.store.sqlite.file.opening import Database, open_database
from stepwell.store.sqlite.peers import datagrams, places, questions
from stepwell.store.sqlite.peers import membership as membership_module
from stepwell.store.sqlite.peers.datagrams import ANYTHING, DIED, ENDED, MAIL, MAX_KEYS, MEMBERS, WORK, Post
from stepwell.store.sqlite.peers.deaths import Deaths
from stepwell.store.sqlite.peers.listener import Callback, Listener

INITIAL = "CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT;"
Heard = tuple[bytes, tuple[int, ...]]


@pytest.fixture
def migrations(tmp_path: Path) -> str:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_initial.sql").write_text(INITIAL)
    return str(made)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "orders.db")


@pytest.fixture
def database(path: str, migrations: str) -> Iterator[Database]:
    opened = open_database(path, migrations=migrations)
    opened.membership.announce(1, takes_work=True)
    yield opened
    opened.close()


class Ear:
    """What was heard so far, and what comes."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()

        self.threads: set[tuple[bytes, str]] = set()

    def __call__(self, kind: bytes, keys: tuple[int, ...]) -> None:
        self.threads.add((kind, threading.current_thread().name))
        self.heard.put((kind, keys))

    def wait_for(self, *kinds: bytes) -> Heard:
        """Return the next thing heard that is of one of these kinds."""
        while True:
            heard = self.heard.get(timeout=60)
            if heard[0] in kinds:
                return heard


class Reading:
    """A loop that reads letters, as an engine's does."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="a loop")

    def add_reader(self, descriptor: int, ready: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(self.loop.add_reader, descriptor, ready)

    def remove_reader(self, descriptor: int, then: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(self.loop.remove_reader, descriptor)
        self.loop.call_soon_threadsafe(then)


@pytest.fixture(params=["its thread", "a loop"])
def readers(request: pytest.FixtureRequest) -> Iterator[Reading | None]:
    if request.param == "its thread":
        yield None
        return
    reading = Reading()
    reading.thread.start()
    yield reading
    reading.loop.call_soon_threadsafe(reading.loop.stop)
    reading.thread.join()
    reading.loop.close()


@contextmanager
def watching(database: Database, readers: Reading | None = None) -> Iterator[Ear]:
    ear = Ear()
    database.membership.watch(ear, readers)
    yield ear
    database.membership.stop_watching()


def seat(other: Member, epoch: int) -> None:
    other.ask(f"membership.announce({epoch}, takes_work=True)")


# --- letters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ("b'w', [1]", (WORK, ())),
        ("b'm', [1]", (MAIL, ())),
        ("b'e', [1], [7, -1, 2**62]", (ENDED, (7, -1, 2**62))),
        ("b'e', [1]", (ENDED, ())),
        (f"b'e', [1], range({MAX_KEYS})", (ENDED, tuple(range(MAX_KEYS)))),
        # Too many to name: some have ended.
        (f"b'e', [1], range({MAX_KEYS + 1})", (ENDED, ())),
    ],
)
def test_a_letter_says_what_to_look_at(path: str, migrations: str, database: Database, sent: str, heard: Heard) -> None:
    with member(path, migrations) as other, watching(database) as ear:
        assert other.ask(f"membership.nudge({sent})") is None
        assert ear.wait_for(heard[0]) == heard


def test_joining_and_leaving_is_told_to_the_others(
    path: str, migrations: str, database: Database, readers: Reading | None
) -> None:
    with watching(database, readers) as ear, member(path, migrations) as other:
        seat(other, 2)
        ear.wait_for(MEMBERS)
        other.ask("database.close()")
        ear.wait_for(MEMBERS)
        assert database.membership.others() == []


def test_letters_reach_a_member_under_its_new_epoch(
    path: str, migrations: str, database: Database, readers: Reading | None
) -> None:
    with member(path, migrations) as other, watching(database, readers) as ear:
        database.membership.announce(5, takes_work=True)
        assert other.ask("membership.ask([5], 60)") == {5: "answered"}
        other.ask("membership.nudge(b'w', [5])")
        ear.wait_for(WORK)
        database.membership.announce(6, takes_work=True)
        assert other.ask("membership.ask([6], 60)") == {6: "answered"}
        other.ask("membership.nudge(b'w', [6])")
        ear.wait_for(WORK)
        assert other.ask("membership.ask([1, 5], 30)") == {1: "unreachable", 5: "unreachable"}
        assert (WORK, "stepwell-listener" if readers is None else "a loop") in ear.threads


def test_a_letter_to_nobody_or_to_a_full_mailbox_neither_raises_nor_waits(
    path: str, migrations: str, database: Database
) -> None:
    with member(path, migrations) as other:
        # Nobody empties this mailbox yet.
        other.ask("[membership.nudge(b'w', [1, 99]) for _ in range(1000)]")
        with watching(database) as ear:
            # Some were lost, nobody knows which.
            ear.wait_for(ANYTHING)


def test_strange_datagrams_are_dropped(database: Database) -> None:
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    (address, _) = database.membership._post.addresses_of(1)
    with watching(database) as ear, stranger:
        for payload in (b"", b"w12345678", b"e123", b"\xff", b"p", b"w"):
            stranger.sendto(payload, address)
        assert ear.wait_for(WORK, ENDED) == (WORK, ())


def test_whoever_fails_to_act_on_a_letter_hears_the_next_one(
    path: str, migrations: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()

    def fail_at_work(kind: bytes, keys: tuple[int, ...]) -> None:
        ear(kind, keys)
        if kind == WORK:
            raise LookupError("nothing there")

    with member(path, migrations) as other, caplog.at_level(logging.ERROR, "stepwell"):
        database.membership.watch(fail_at_work)
        other.ask("membership.nudge(b'w', [1])")
        ear.wait_for(WORK)
        other.ask("membership.nudge(b'm', [1])")
        ear.wait_for(MAIL)
        database.membership.stop_watching()
    assert "nothing there" in caplog.text


# --- what was lost, or never sent -------------------------------------------------------------------------------------


def test_a_commit_that_nobody_tells_of_is_noticed_by_the_next_tick(
    path: str, migrations: str, database: Database
) -> None:
    with member(path, migrations) as other:
        seat(other, 2)
        with watching(database) as ear:
            other.ask("database.writer.execute('INSERT INTO stepwell_a (v) VALUES (1)') and None")
            ear.wait_for(ANYTHING)


def test_what_happens_after_watch_has_returned_is_noticed_even_if_the_member_is_gone_by_then(
    path: str, migrations: str, database: Database
) -> None:
    with watching(database) as ear:
        with member(path, migrations) as other:
            seat(other, 2)
            # From here on nothing is told any more.
            other.ask("setattr(membership, 'nudge', lambda *args: None)")
            other.ask("database.writer.execute('INSERT INTO stepwell_a (v) VALUES (1)') and None")
            other.ask("database.close()")
        ear.wait_for(ANYTHING)


class Table:
    """A file as `listener` sees it: the table of members, who of them lives, and SQLite's `data_version`.

    Before each look at it, what the test has planned for that look happens.
    """

    def __init__(self) -> None:
        self.mailbox: datagrams.Mailbox | None = None
        self.entries: dict[tuple[int, int], bool] = {}
        self.living: set[tuple[int, int]] = set()
        self.commits = 0
        self.looks = 0
        self.plan: dict[int, list[Callable[[], None]]] = {}

    def look(self) -> None:
        for happens in self.plan.get(self.looks, []):
            happens()
        self.looks += 1

    def read_table(self) -> bytes:
        self.look()
        return repr(self.entries).encode()

    def version(self) -> int:
        self.look()
        return self.commits

    def members_in(self, table: bytes) -> dict[tuple[int, int], bool]:
        return dict(ast.literal_eval(table.decode()))

    def forget_view(self) -> None: ...

    def look_for_questions(self) -> None: ...

    def stopped_looking(self) -> None: ...

    def join(self, key: tuple[int, int] = (1, 2)) -> None:
        self.entries[key] = True
        self.living.add(key)

    def commit(self) -> None:
        self.commits += 1

    def leave(self, key: tuple[int, int] = (1, 2)) -> None:
        self.entries[key] = False
        self.living.discard(key)

    def die(self, key: tuple[int, int] = (1, 2)) -> None:
        self.living.discard(key)


class TableDeaths(Deaths):
    """Asks the `Table` who lives."""

    def __init__(self, table: Table, selector: selectors.BaseSelector) -> None:
        super().__init__(LockFile("", -1, Identity(0, 0), "orders.db"), selector, pidfds=False)
        self._table = table

    def _holder(self, key: tuple[int, int]) -> int | None:
        return 1 if key in self._table.living else None


@contextmanager
def looking_at(table: Table, hear: Callback) -> Iterator[tuple[Listener, Deaths]]:
    """A listener whose thread is the test."""

    def open_version() -> AbstractContextManager[Callable[[], int]]:
        return nullcontext(table.version)

    listener = Listener(table, LockFile("", -1, Identity(0, 0), "orders.db"), open_version, hear)
    with selectors.DefaultSelector() as selector:
        yield listener, TableDeaths(table, selector)
    os.close(listener._bell)
    os.close(listener._rope)


#: What a member does, in this order; the commit is told of by no letter.
LIVES: dict[str, tuple[Callable[[Table], None], ...]] = {
    "leaves": (Table.join, Table.commit, Table.leave),
    "is killed": (Table.join, Table.commit, Table.die),
    "stays": (Table.join, Table.commit),
    "was there, and leaves": (Table.commit, Table.leave),
    "was there, and is killed": (Table.commit, Table.die),
}
#: What the thread hears of between two ticks.
LETTERS = ("nothing", "members", "death", "members death")
#: The first look, and two ticks with what is heard before each, look at the file this often at most.
LOOKS = 2 + 2 * 3


@pytest.mark.parametrize("letters", list(product(LETTERS, repeat=2)))
@pytest.mark.parametrize("life", LIVES)
def test_a_commit_is_noticed_whatever_the_thread_has_seen_of_its_member(life: str, letters: tuple[str, str]) -> None:
    acts = LIVES[life]
    for moments in combinations_with_replacement(range(LOOKS), len(acts)):
        table = Table()
        if life.startswith("was there"):
            table.join()
        for moment, act in zip(moments, acts, strict=True):
            table.plan.setdefault(moment, []).append(partial(act, table))
        noticed: list[int] = []

        def hear(kind: bytes, _keys: tuple[int, ...], noticed: list[int] = noticed, table: Table = table) -> None:
            if kind == ANYTHING:
                noticed.append(table.commits)

        with looking_at(table, hear) as (listener, deaths):
            listener._look_first(deaths, table.version)
            # What was committed by now, whoever asked for the watch reads in the file.
            noticed.append(table.commits)
            for letter in (*letters, "nothing", "nothing"):
                if "members" in letter:
                    listener._look_at_members(deaths)
                if "death" in letter:
                    deaths.poll()
                listener._tick(deaths, table.version)
        assert table.commits == 1
        assert noticed[-1] == 1, f"{moments}"


def test_a_commit_is_noticed_when_the_file_could_not_be_read_before_it() -> None:
    table = Table()
    ear = Ear()

    def fails() -> int:
        raise apsw.BusyError("database is locked")

    with looking_at(table, ear) as (listener, deaths):
        listener._look_first(deaths, table.version)
        table.join()
        listener._tick(deaths, fails)
        assert ear.heard.get(timeout=1) == (ANYTHING, ())
        table.commit()
        table.die()
        deaths.poll()
        listener._tick(deaths, table.version)
        assert ear.heard.get(timeout=1) == (ANYTHING, ())


def test_alone_with_the_file_nobody_is_roused_by_their_own_commits() -> None:
    table = Table()
    ear = Ear()

    with looking_at(table, ear) as (listener, deaths):
        listener._look_first(deaths, table.version)

        def is_roused() -> bool:
            table.commit()
            listener._tick(deaths, table.version)
            return not ear.heard.empty() and ear.heard.get() == (ANYTHING, ())

        assert not is_roused()
        assert not is_roused()
        table.join()
        assert is_roused()
        assert is_roused()  # a commit, whoever's
        table.leave()
        assert is_roused()
        assert not is_roused()


def test_a_watch_that_cannot_read_the_file_says_so_at_once(database: Database) -> None:
    def fails() -> AbstractContextManager[Callable[[], int]]:
        raise apsw.IOError("disk I/O error")

    database.membership.open_version = fails
    with pytest.raises(apsw.IOError, match="disk I/O"):
        database.membership.watch(Ear())


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_a_death_is_told_with_the_epoch(path: str, migrations: str, database: Database) -> None:
    with member(path, migrations) as first, member(path, migrations) as second, watching(database) as ear:
        seat(first, 7)
        seat(second, 8)
        for other, epoch in ((second, 8), (first, 7)):
            other.kill()
            assert ear.wait_for(DIED) == (DIED, (epoch,))
            assert epoch not in [seat.epoch for seat in database.membership.others()]


def test_a_death_from_before_is_told_to_whoever_begins_to_watch(path: str, migrations: str, database: Database) -> None:
    with member(path, migrations) as other:
        seat(other, 7)
        other.kill()
    with watching(database) as ear:
        assert ear.wait_for(DIED) == (DIED, (7,))


def test_a_member_whose_slot_was_taken_by_another_before_anyone_looked_is_dead_all_the_same(
    path: str, migrations: str, database: Database
) -> None:
    dead: list[tuple[int, int]] = []
    with selectors.DefaultSelector() as selector:
        deaths = Deaths(database.membership._file, selector)
        with member(path, migrations) as first:
            seat(first, 7)
            assert deaths.update({(1, 7): True}) == []
            first.kill()
        with member(path, migrations) as second:
            assert second.ask("membership.take_seat()") == 1
            seat(second, 8)
            dead += deaths.update({(1, 8): True})
            assert dead == [(1, 7)]
            # One that left in order is nobody's loss.
            second.ask("membership.leave()")
            assert deaths.update({(1, 8): False}) == []
        deaths.close()


def test_a_process_that_cannot_be_watched_is_asked_for_again_and_again(
    path: str, migrations: str, database: Database
) -> None:
    with selectors.DefaultSelector() as selector, member(path, migrations) as other:
        deaths = Deaths(database.membership._file, selector, pidfds=False)
        seat(other, 7)
        assert deaths.update({(1, 7): True, (5, 9): True}) == [(5, 9)]
        assert deaths.polls
        assert deaths.poll() == []
        other.kill()
        assert deaths.poll() == [(1, 7)]
        assert deaths.watches_nobody
        assert not selector.get_map()
        deaths.close()


def test_a_process_id_that_was_used_again_is_not_watched(
    path: str, migrations: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with selectors.DefaultSelector() as selector, member(path, migrations) as other:
        deaths = Deaths(database.membership._file, selector)
        seat(other, 7)
        real_open = os.pidfd_open

        def open_too_late(pid: int) -> int:
            other.kill()
            return real_open(os.getpid() if pid == other.pid else pid)

        monkeypatch.setattr(os, "pidfd_open", open_too_late)
        assert deaths.update({(1, 7): True}) == [(1, 7)]
        assert not selector.get_map()
        deaths.close()


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["letters", "the file alone"])
def by(request: pytest.FixtureRequest, database: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a question comes to the member: by a letter, or by what it finds in the file at its next tick."""
    if request.param == "the file alone":
        monkeypatch.setattr(database.membership, "nudge", lambda *_: None)
    return str(request.param)


@pytest.mark.usefixtures("by")
def test_a_question_is_answered_by_whoever_is_well_and_by_nobody_else(
    path: str, migrations: str, database: Database
) -> None:
    ask = database.membership.ask
    with member(path, migrations) as other:
        assert ask([7], 60) == {7: "unreachable"}
        seat(other, 7)
        # Nobody there looks for questions: that it does not answer means nothing.
        assert ask([7], 0.01) == {7: "unreachable"}
        other.ask("membership.watch(lambda kind, keys: None)")
        assert ask([7], 60) == {7: "answered"}
        other.ask("membership.answer_pings(heard.put)")
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.append(ask([7, 1, 99], 60)))
        asking.start()
        assert other.ask("heard.get(timeout=60)()") is None
        asking.join()
        assert answers == [{7: "answered", 1: "answered", 99: "unreachable"}]
        # The watching thread lives, but whoever should reply does not.
        assert ask([7], 0.3) == {7: "silent"}
        other.ask("membership.answer_pings(lambda reply: reply())")
        assert ask([7], 60) == {7: "answered"}
        other.stop()
        assert ask([7], 0.3) == {7: "silent"}
        os.kill(other.pid, signal.SIGCONT)
        assert ask([7], 60) == {7: "answered"}
        other.ask("membership.stop_watching()")
        assert ask([7], 0.01) == {7: "unreachable"}
    assert ask([7], 0.01) == {7: "unreachable"}


def test_a_question_that_cannot_be_written_says_nothing_about_who_is_asked(
    path: str, migrations: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _slot: int) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with member(path, migrations) as other:
        seat(other, 7)
        other.ask("membership.watch(lambda kind, keys: None)")
        monkeypatch.setattr(questions, "ask", full)
        assert database.membership.ask([7], 60) == {7: "unreachable"}


def test_who_leaves_while_it_waits_for_an_answer_reads_and_writes_nothing_any_more(
    path: str, migrations: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = database.membership
    with member(path, migrations) as other:
        seat(other, 7)
        monkeypatch.setattr(membership_module, "time", SimpleNamespace(sleep=lambda _seconds: database.close()))
        assert membership.ask([7], 60) == {7: "unreachable"}
        monkeypatch.undo()
        # The number of the closed file may be that of any other one.
        monkeypatch.setattr(questions, "read", lambda *_: pytest.fail("it looked at a file that is not its own"))
        monkeypatch.setattr(membership, "read_table", lambda: b"".join(map(_seat_in_table, (0, 7))))
        assert membership.ask([7], 60) == {7: "unreachable"}


def _seat_in_table(epoch: int) -> bytes:
    return epoch.to_bytes(8, "little") + (1).to_bytes(8, "little")


def test_two_who_ask_at_once_have_the_same_answer(path: str, migrations: str, database: Database) -> None:
    with member(path, migrations) as asked, member(path, migrations) as asking:
        seat(asked, 7)
        seat(asking, 8)
        asked.ask("membership.watch(lambda kind, keys: None)")
        for _ in range(20):
            asking.begin("membership.ask([7], 60)")
            assert database.membership.ask([7], 60) == {7: "answered"}
            assert asking.end() == {7: "answered"}


def test_a_question_to_an_earlier_holder_of_a_slot_is_no_hindrance(
    path: str, migrations: str, database: Database
) -> None:
    with member(path, migrations) as first:
        seat(first, 7)
        assert database.membership.ask([7], 0.01) == {7: "unreachable"}
        first.kill()
    with member(path, migrations) as second:
        seat(second, 8)
        second.ask("membership.watch(lambda kind, keys: None)")
        assert database.membership.ask([7, 8], 60) == {7: "unreachable", 8: "answered"}


def test_a_member_whose_thread_has_ended_by_an_error_is_not_taken_for_stalled(
    path: str, migrations: str, database: Database
) -> None:
    with member(path, migrations) as other:
        seat(other, 7)
        other.ask("membership.watch(lambda kind, keys: None)")
        assert database.membership.ask([7], 60) == {7: "answered"}
        other.ask("setattr(membership, 'look_for_questions', None)")  # calling it raises
        other.ask("membership._listener._thread.join()")
        assert database.membership.ask([7], 0.01) == {7: "unreachable"}


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_member_of_another_boot_is_asked_for_its_lock_and_never_looked_up_by_its_process_id(
    path: str, migrations: str, database: Database
) -> None:
    membership = database.membership
    with selectors.DefaultSelector() as selector, member(path, migrations) as other:
        seat(other, 7)
        slot = other.ask("membership.take_seat()")
        places.write(membership._descriptor, slot, b"a boot elsewhere")
        deaths = Deaths(membership._file, selector, is_here=membership._is_here)
        assert deaths.update({(slot, 7): True}) == []
        assert deaths.polls
        assert not selector.get_map()
        # Stopped is a process of that number, which may be any.
        other.stop()
        assert membership.state_of(slot) == "active"
        assert membership.is_seated(slot, 7)
        other.kill()
        assert deaths.poll() == [(slot, 7)]
        deaths.close()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """The folder for mailboxes beside a database whose path is longer than the name of any socket."""
    folder = tmp_path / ("f" * 120) / ("g" * 120)
    folder.mkdir(parents=True)
    return folder / "orders.db-peers"


def test_mailboxes_are_private_files_beside_the_database_however_long_its_path_is(peers: Path) -> None:
    post = Post(Identity(1, 2), str(peers))
    mailbox = post.open_mailbox(3)
    assert mailbox is not None
    assert peers.stat().st_mode & 0o777 == 0o700
    assert (peers / "3").stat().st_mode & 0o777 == 0o600
    assert post.send(3, datagrams.encode(ENDED, (4, 5)))
    assert mailbox.receive() == [(ENDED, (4, 5))]
    assert not post.send(9, WORK)
    # A dead member's file takes no letters, and is swept away by the first of the next. What is no socket stays.
    abandoned = post.open_mailbox(6)
    assert abandoned is not None
    abandoned.socket.close()
    assert not post.send(6, WORK)
    (peers / "note").touch()
    mailbox.close()
    post.sweep()
    assert [file.name for file in peers.iterdir()] == ["note"]
    post.remove_folder()
    assert (peers / "note").exists()
    (peers / "note").unlink()
    post.remove_folder()
    assert not peers.exists()
    post.close()


def test_a_mailbox_takes_the_place_of_one_that_a_dead_member_left_and_of_no_other(peers: Path) -> None:
    post = Post(Identity(1, 2), str(peers))
    abandoned = post.open_mailbox(3)
    assert abandoned is not None
    abandoned.socket.close()
    mailbox = post.open_mailbox(3)
    assert mailbox is not None
    assert post.send(3, WORK)
    assert mailbox.receive() == [(WORK, ())]
    assert post.open_mailbox(3) is None
    assert post.send(3, MAIL)
    assert mailbox.receive() == [(MAIL, ())]
    mailbox.close()
    post.close()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for sockets, with a short name: a socket's has room for about 100 bytes."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setattr(datagrams, "_DESCRIPTORS", "/nowhere")
        monkeypatch.setattr(sys, "platform", "darwin")
        yield Path(name) / f"stepwell-{os.getuid()}"


def test_elsewhere_mailboxes_are_private_files_in_a_folder_for_temporary_ones(folder: Path) -> None:
    post = Post(Identity(1, 2), "/beside/orders.db-peers")
    mailbox = post.open_mailbox(3)
    assert mailbox is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert post.send(3, datagrams.encode(ENDED, (4, 5)))
    assert mailbox.receive() == [(ENDED, (4, 5))]
    other_post = Post(Identity(1, 20), None)
    other_files = other_post.open_mailbox(6)
    abandoned = post.open_mailbox(6)
    assert other_files is not None
    assert abandoned is not None
    abandoned.socket.close()
    mailbox.close()
    post.sweep()
    assert [file.name for file in folder.iterdir()] == ["1-14-6"]
    other_files.close()
    assert not list(folder.iterdir())
    post.close()
    other_post.close()


@pytest.mark.parametrize("where", ["no folder can be made", "no sockets can be made"])
def test_where_no_sockets_can_be_made_beside_the_database_their_names_are_abstract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "no folder can be made":
        (tmp_path / "orders.db-peers").touch()
    else:
        real_bind = datagrams._bind

        def bind(address: str | bytes) -> socket.socket:
            if isinstance(address, str):
                raise PermissionError(errno.EPERM, "this file system has no sockets")
            return real_bind(address)

        monkeypatch.setattr(datagrams, "_bind", bind)
    post = Post(Identity(os.getpid(), 2), str(tmp_path / "orders.db-peers"))
    mailbox = post.open_mailbox(3)
    assert (mailbox is not None) == (sys.platform == "linux")
    if mailbox is not None:
        assert post.send(3, WORK)
        assert mailbox.receive() == [(WORK, ())]
        mailbox.close()
    assert not post.send(3, WORK)
    post.close()


@pytest.mark.parametrize("kind", ["open to others", "a link", "no folder"])
def test_a_folder_that_is_not_this_users_alone_is_not_used(folder: Path, kind: str) -> None:
    if kind == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    elif kind == "a link":
        (folder.parent / "elsewhere").mkdir(0o700)
        folder.symlink_to(folder.parent / "elsewhere")
    else:
        folder.touch(0o600)
    post = Post(Identity(1, 2), None)
    assert post.open_mailbox(3) is None
    post.close()


def test_a_member_whose_name_is_taken_does_without_letters(path: str, migrations: str, database: Database) -> None:
    squatter = database.membership._post.open_mailbox(7)
    assert squatter is not None
    with member(path, migrations) as other:
        seat(other, 7)
        assert other.ask("membership.mailbox") is None
        other.ask("membership.watch(lambda kind, keys: heard.put(kind))")
        database.writer.execute("INSERT INTO stepwell_a (v) VALUES (1)")
        assert other.ask("heard.get(timeout=60)") == ANYTHING
    squatter.close()


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_that_outlives_a_member_keeps_neither_its_seat_nor_its_name(
    path: str, migrations: str, database: Database
) -> None:
    script = """
import os, sys
from stepwell.store.sqlite.file.opening import open_database
database = open_database(sys.argv[1], migrations=sys.argv[2])
database.membership.announce(7, takes_work=True)
database.membership.watch(lambda kind, keys: None)
if os.fork() == 0:
    database.close()
    print("forked", flush=True)
    sys.stdin.readline()
    os._exit(0)
sys.stdin.readline()
"""
    with watching(database) as ear, child(script, path, migrations) as parent:
        assert line(parent) == "forked"
        assert database.membership.is_seated(1, 7)
        assert database.membership.ask([7], 60) == {7: "answered"}
        parent.kill()
        parent.wait()
        assert ear.wait_for(DIED) == (DIED, (7,))
        assert not database.membership.is_seated(1, 7)
        with member(path, migrations) as other:
            seat(other, 8)
            other.ask("membership.watch(lambda kind, keys: None)")
            assert database.membership.ask([8], 60) == {8: "answered"}


def test_what_is_held_in_the_slot_range_by_others_is_no_member(path: str, database: Database) -> None:
    # Another program that locks bytes of the lock file is nobody's neighbour, but it has the file open.
    script = """
import os, sys, fcntl
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.readline()
"""
    with child(script, path + "-lock", SLOT_BASE + 3) as stranger:
        assert line(stranger) == "held"
        assert database.membership.others() == []
        assert database.membership.others_pids() == [stranger.pid]
