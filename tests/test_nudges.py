"""Letters, deaths and ticks: what one process does, the others hear of, and nothing that is lost stays unheard."""

from __future__ import annotations

import ast
import logging
import os
import queue
import selectors
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import combinations_with_replacement, product
from pathlib import Path

import apsw
import pytest
from tests.processes import Member, child, line, member

from stepwell.store.sqlite import nudges
from stepwell.store.sqlite.locking import SLOT_BASE, Identity, LockFile
from stepwell.store.sqlite.lookout import Callback, Lookout
from stepwell.store.sqlite.nudges import ANYTHING, DIED, ENDED, MAIL, MAX_KEYS, MEMBERS, PONG, WORK, Post
from stepwell.store.sqlite.obituaries import Obituaries
from stepwell.store.sqlite.opening import Database, open_database

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

    def __call__(self, kind: bytes, keys: tuple[int, ...]) -> None:
        self.heard.put((kind, keys))

    def wait_for(self, *kinds: bytes) -> Heard:
        """Return the next thing heard that is of one of these kinds."""
        while True:
            heard = self.heard.get(timeout=60)
            if heard[0] in kinds:
                return heard


@contextmanager
def watching(database: Database) -> Iterator[Ear]:
    ear = Ear()
    database.membership.watch(ear)
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


def test_joining_and_leaving_is_told_to_the_others(path: str, migrations: str, database: Database) -> None:
    with watching(database) as ear, member(path, migrations) as other:
        seat(other, 2)
        ear.wait_for(MEMBERS)
        other.ask("database.close()")
        ear.wait_for(MEMBERS)
        assert database.membership.others() == []


def test_letters_reach_a_member_under_its_new_epoch(path: str, migrations: str, database: Database) -> None:
    with member(path, migrations) as other, watching(database) as ear:
        database.membership.announce(5, takes_work=True)
        assert other.ask("membership.ping(5, 60)")
        database.membership.announce(6, takes_work=True)
        assert other.ask("membership.ping(6, 60)")
        other.ask("membership.nudge(b'w', [6])")
        ear.wait_for(WORK)
        assert not other.ask("membership.ping(1, 30)")
        assert not other.ask("membership.ping(5, 30)")


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
    address = database.membership._post.address_of(1)
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
    """A file as `lookout` sees it: the table of members, who of them lives, and SQLite's `data_version`.

    Before each look at it, what the test has planned for that look happens.
    """

    def __init__(self) -> None:
        self.mailbox: nudges.Mailbox | None = None
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

    def pinged(self, reply: Callable[[], None]) -> None: ...

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


class TableObituaries(Obituaries):
    """Asks the `Table` who lives."""

    def __init__(self, table: Table, selector: selectors.BaseSelector) -> None:
        super().__init__(LockFile("", -1, Identity(0, 0), "orders.db"), selector, pidfds=False)
        self._table = table

    def _holder(self, key: tuple[int, int]) -> int | None:
        return 1 if key in self._table.living else None


@contextmanager
def looking_at(table: Table, hear: Callback) -> Iterator[tuple[Lookout, Obituaries]]:
    """A lookout whose thread is the test."""
    post = Post(Identity(0, 0))

    def open_version() -> AbstractContextManager[Callable[[], int]]:
        return nullcontext(table.version)

    lookout = Lookout(table, LockFile("", -1, Identity(0, 0), "orders.db"), post, open_version, hear)
    with selectors.DefaultSelector() as selector:
        yield lookout, TableObituaries(table, selector)
    post.close()
    os.close(lookout._bell)
    os.close(lookout._rope)


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

        with looking_at(table, hear) as (lookout, obituaries):
            lookout._look_first(obituaries, table.version)
            # What was committed by now, whoever asked for the watch reads in the file.
            noticed.append(table.commits)
            for letter in (*letters, "nothing", "nothing"):
                if "members" in letter:
                    lookout._look_at_members(obituaries)
                if "death" in letter:
                    obituaries.poll()
                lookout._tick(obituaries, table.version)
        assert table.commits == 1
        assert noticed[-1] == 1, f"{moments}"


def test_a_commit_is_noticed_when_the_file_could_not_be_read_before_it() -> None:
    table = Table()
    ear = Ear()

    def fails() -> int:
        raise apsw.BusyError("database is locked")

    with looking_at(table, ear) as (lookout, obituaries):
        lookout._look_first(obituaries, table.version)
        table.join()
        lookout._tick(obituaries, fails)
        assert ear.heard.get(timeout=1) == (ANYTHING, ())
        table.commit()
        table.die()
        obituaries.poll()
        lookout._tick(obituaries, table.version)
        assert ear.heard.get(timeout=1) == (ANYTHING, ())


def test_alone_with_the_file_nobody_is_roused_by_their_own_commits() -> None:
    table = Table()
    ear = Ear()

    with looking_at(table, ear) as (lookout, obituaries):
        lookout._look_first(obituaries, table.version)

        def is_roused() -> bool:
            table.commit()
            lookout._tick(obituaries, table.version)
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
        obituaries = Obituaries(database.membership._file, selector)
        with member(path, migrations) as first:
            seat(first, 7)
            assert obituaries.update({(1, 7): True}) == []
            first.kill()
        with member(path, migrations) as second:
            assert second.ask("membership.take_seat()") == 1
            seat(second, 8)
            dead += obituaries.update({(1, 8): True})
            assert dead == [(1, 7)]
            # One that left in order is nobody's loss.
            second.ask("membership.leave()")
            assert obituaries.update({(1, 8): False}) == []
        obituaries.close()


def test_a_process_that_cannot_be_watched_is_asked_for_again_and_again(
    path: str, migrations: str, database: Database
) -> None:
    with selectors.DefaultSelector() as selector, member(path, migrations) as other:
        obituaries = Obituaries(database.membership._file, selector, pidfds=False)
        seat(other, 7)
        assert obituaries.update({(1, 7): True, (5, 9): True}) == [(5, 9)]
        assert obituaries.polls
        assert obituaries.poll() == []
        other.kill()
        assert obituaries.poll() == [(1, 7)]
        assert obituaries.watches_nobody
        assert not selector.get_map()
        obituaries.close()


def test_a_process_id_that_was_used_again_is_not_watched(
    path: str, migrations: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with selectors.DefaultSelector() as selector, member(path, migrations) as other:
        obituaries = Obituaries(database.membership._file, selector)
        seat(other, 7)
        real_open = os.pidfd_open

        def open_too_late(pid: int) -> int:
            other.kill()
            return real_open(os.getpid() if pid == other.pid else pid)

        monkeypatch.setattr(os, "pidfd_open", open_too_late)
        assert obituaries.update({(1, 7): True}) == [(1, 7)]
        assert not selector.get_map()
        obituaries.close()


# --- pings ------------------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_by_whoever_is_well_and_by_nobody_else(
    path: str, migrations: str, database: Database
) -> None:
    membership = database.membership
    with member(path, migrations) as other:
        seat(other, 7)
        # Nobody looks into that mailbox.
        assert not membership.ping(7, 0.01)
        other.ask("membership.watch(lambda kind, keys: None)")
        assert membership.ping(7, 60)
        other.ask("membership.answer_pings(heard.put)")
        answers: list[bool] = []
        asking = threading.Thread(target=lambda: answers.append(membership.ping(7, 60)))
        asking.start()
        reply = "heard.get(timeout=60)()"
        assert other.ask(reply) is None
        asking.join()
        assert answers == [True]
        # The watching thread lives, but whoever should reply does not.
        assert not membership.ping(7, 0.01)
        other.stop()
        assert not membership.ping(7, 0.01)
    assert not membership.ping(7, 30)


def test_a_ping_waits_for_room_in_a_full_mailbox(path: str, migrations: str, database: Database) -> None:
    with member(path, migrations) as other:
        seat(other, 7)
        for _ in range(1000):
            database.membership.nudge(WORK, [7])
        other.begin("membership.watch(lambda kind, keys: None)")
        assert database.membership.ping(7, 60)
        assert other.end() is None


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for sockets, with a short name: a socket's has room for about 100 bytes."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name) / f"stepwell-{os.getuid()}"


def test_where_names_cannot_be_abstract_mailboxes_are_private_files(folder: Path) -> None:
    post = Post(Identity(1, 2), abstract=False)
    mailbox = post.open_mailbox(3)
    assert mailbox is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert post.send(3, nudges.encode(ENDED, (4, 5)))
    assert [letter[:2] for letter in mailbox.receive()] == [(ENDED, (4, 5))]
    assert not post.send(9, WORK)
    # A dead member's file takes no letters, and is swept away by the first of the next.
    abandoned = post.open_mailbox(6)
    other_post = Post(Identity(1, 20), abstract=False)
    other_files = other_post.open_mailbox(6)
    assert abandoned is not None
    assert other_files is not None
    abandoned.socket.close()
    assert not post.send(6, WORK)
    assert len(list(folder.iterdir())) == 3
    mailbox.close()
    post.sweep()
    assert [file.name for file in folder.iterdir()] == ["1-14-6"]
    other_files.close()
    assert not list(folder.iterdir())
    post.close()
    other_post.close()


def test_a_ping_works_through_files_as_well(folder: Path) -> None:
    post = Post(Identity(1, 2), abstract=False)
    mailbox = post.open_mailbox(3)
    assert mailbox is not None

    def answer() -> None:
        while not (letters := mailbox.receive()):
            os.sched_yield()
        post.answer(letters[0].sender, nudges.encode(PONG, letters[0].keys))

    thread = threading.Thread(target=answer)
    thread.start()
    assert post.ping(3, 60)
    thread.join()
    mailbox.close()
    assert not list(folder.iterdir())
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
    post = Post(Identity(1, 2), abstract=False)
    assert post.open_mailbox(3) is None
    assert not post.ping(3, 30)
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
from stepwell.store.sqlite.opening import open_database
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
        assert database.membership.ping(7, 60)
        parent.kill()
        parent.wait()
        assert ear.wait_for(DIED) == (DIED, (7,))
        assert not database.membership.is_seated(1, 7)
        with member(path, migrations) as other:
            seat(other, 8)
            other.ask("membership.watch(lambda kind, keys: None)")
            assert database.membership.ping(8, 60)


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
