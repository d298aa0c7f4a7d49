"""Who has the file open, who of them lives, and what they share: told by locks that real processes hold and lose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.processes import Member, member

from stepwell.errors import FileInUse, FileNotUsable
from stepwell.store.sqlite.file.locking import SLOTS
from stepwell.store.sqlite.file.opening import Database, open_database
from stepwell.store.sqlite.peers import busy, shared_clock
from stepwell.store.sqlite.peers import membership as membership_module
from stepwell.store.sqlite.peers.membership import HEADER_OFFSET, TABLE_OFFSET, Seat, describe

INITIAL = "CREATE TABLE stepwell_a (id INTEGER PRIMARY KEY, v TEXT) STRICT;"
Open = Callable[[], Database]


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
def open_(path: str, migrations: str) -> Iterator[Open]:
    opened: list[Database] = []

    def call() -> Database:
        opened.append(open_database(path, migrations=migrations))
        return opened[-1]

    yield call
    for database in opened:
        database.close()


def seat_of(other: Member, epoch: int, *, takes_work: bool = True) -> int:
    """Seat the other process; return its slot."""
    other.ask(f"membership.announce({epoch}, takes_work={takes_work})")
    slot: int = other.ask("membership.take_seat()")
    return slot


def test_a_process_has_a_slot_from_opening_the_file_to_closing_it(path: str, migrations: str, open_: Open) -> None:
    with member(path, migrations) as first:
        database = open_()
        membership = database.membership
        assert (first.ask("membership.take_seat()"), membership.take_seat()) == (0, 1)
        assert not membership.is_alone()
        assert membership.others_pids() == [first.pid]
        assert membership.pid_of(0) == first.pid
        assert membership.pid_of(1) == os.getpid()
        assert membership.pid_of(2) is None
        first.ask("database.close()")
        assert membership.is_alone()
        # The first free slot is taken again.
        with member(path, migrations) as second:
            assert second.ask("membership.take_seat()") == 0


def test_members_see_each_other_with_what_they_do(path: str, migrations: str, open_: Open) -> None:
    with member(path, migrations) as first, member(path, migrations) as second:
        membership = open_().membership
        assert membership.others() == []
        seat_of(first, 4)
        seat_of(second, 7, takes_work=False)
        assert membership.others() == [Seat(0, 4, True, False), Seat(1, 7, False, False)]
        second.ask("membership.listen(True)")
        assert membership.others() == [Seat(0, 4, True, False), Seat(1, 7, False, True)]
        membership.announce(9, takes_work=False)
        assert first.ask("[tuple(seat) for seat in membership.others()]") == [(1, 7, False, True), (2, 9, False, False)]
        second.ask("membership.listen(False)")
        assert not any(seat.listens for seat in membership.others())


def test_a_seat_ends_with_its_process_and_not_with_its_entry(path: str, migrations: str, open_: Open) -> None:
    membership = open_().membership
    with member(path, migrations) as first, member(path, migrations) as second:
        slot = seat_of(first, 4)
        assert membership.is_seated(slot, 4)
        assert not membership.is_seated(slot, 5)
        assert not membership.is_seated(slot + 1, 4)
        assert not membership.is_seated(SLOTS - 1, 4)
        first.kill()
        assert not membership.is_seated(slot, 4)
        seat_of(second, 5)
        assert [seat.epoch for seat in membership.others()] == [5]
        second.ask("membership.leave()")
        assert membership.others() == []
        assert not membership.is_seated(2, 5)


def test_whoever_takes_the_slot_of_a_dead_member_is_not_taken_for_it(path: str, migrations: str, open_: Open) -> None:
    membership = open_().membership
    with member(path, migrations) as first:
        slot = seat_of(first, 4)
        first.kill()
        with member(path, migrations) as second:
            assert second.ask("membership.take_seat()") == slot
            assert not membership.is_seated(slot, 4)
            assert not second.ask(f"membership.is_seated({slot}, 4)")


@pytest.mark.parametrize("end", ["database.close()", None])
def test_the_table_is_never_again_what_it_was_before_a_member_came(
    path: str, migrations: str, open_: Open, end: str | None
) -> None:
    membership = open_().membership
    seen: list[bytes] = []

    def pass_through(epoch: int | None, end: str | None) -> None:
        """Have a process open the file, take a seat if it has an epoch, and close the file or be killed."""
        with member(path, migrations) as other:
            seen.append(membership.read_table())
            if epoch is not None:
                seat_of(other, epoch)
                seen.append(membership.read_table())
            if end is None:
                other.kill()
            else:
                other.ask(end)
            seen.append(membership.read_table())

    pass_through(None, end)
    # One that only reads takes no seat, and changes nothing that counts.
    assert len(set(seen)) == 1
    for epoch in (4, 9):
        before = list(seen)
        pass_through(epoch, end)
        pass_through(None, end)
        assert not set(seen[len(before) + 1 :]) & set(before)
        assert membership.others() == []
        assert not membership.is_seated(1, epoch)


def test_whatever_stands_in_the_table_a_slot_can_be_taken(path: str, migrations: str, open_: Open) -> None:
    membership = open_().membership
    os.pwrite(membership._descriptor, b"\xff" * 16, TABLE_OFFSET + 16)
    with member(path, migrations) as other:
        assert seat_of(other, 5) == 1
        assert [seat.epoch for seat in membership.others()] == [5]


def test_a_process_that_registers_anew_has_its_new_seat_only(path: str, migrations: str, open_: Open) -> None:
    membership = open_().membership
    with member(path, migrations) as other:
        membership.announce(4, takes_work=True)
        membership.listen(True)
        assert membership.is_seated(0, 4)
        membership.announce(6, takes_work=True)
        assert membership.is_seated(0, 6)
        assert not membership.is_seated(0, 4)
        assert other.ask("(membership.is_seated(0, 4), membership.is_seated(0, 6))") == (False, True)
        # Who listens goes on to.
        assert other.ask("[tuple(seat) for seat in membership.others()]") == [(0, 6, True, True)]


def test_a_member_that_has_left_keeps_no_seat_and_says_nothing_more(path: str, migrations: str, open_: Open) -> None:
    database = open_()
    with member(path, migrations) as other:
        database.membership.announce(4, takes_work=True)
        database.close()
        assert other.ask("(membership.others(), membership.is_seated(0, 4), membership.is_alone())") == (
            [],
            False,
            True,
        )
        before = Path(path + "-lock").read_bytes()
        database.membership.leave()
        database.membership.listen(True)
        database.membership.mark_fault()
        database.membership.clear_fault()
        assert database.membership.others() == []
        assert Path(path + "-lock").read_bytes() == before


def test_a_stopped_process_keeps_its_seat_and_shows_as_stopped(path: str, migrations: str, open_: Open) -> None:
    membership = open_().membership
    with member(path, migrations) as other:
        slot = seat_of(other, 4)
        assert membership.state_of(slot) == "active"
        other.stop()
        assert membership.state_of(slot) == "stopped"
        assert membership.is_seated(slot, 4)
        assert membership.state_of(slot + 1) == "active"


def test_no_more_processes_than_slots_get_in(
    path: str, migrations: str, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with member(path, migrations):
        monkeypatch.setattr(membership_module, "SLOTS", 1)
        with pytest.raises(FileInUse, match="open in 1 processes, which is as many as can share it"):
            open_()
        monkeypatch.undo()
        assert open_().membership.take_seat() == 1


def test_who_said_beforehand_that_it_may_be_silent_is_well_as_long_as_that_holds(
    path: str, migrations: str, open_: Open
) -> None:
    with member(path, migrations) as other:
        membership = open_().membership
        membership.announce(4, takes_work=True)
        slot = membership.take_seat()
        descriptor = membership._descriptor
        # It has questions before its eyes, and answers none: nobody looks.
        membership._set_flag(membership_module._WATCHES, True)
        assert other.ask("membership.ask([4], 0.01)") == {4: "silent"}

        membership.busy_for(60)
        assert other.ask("membership.ask([4], 0.01)") == {4: "answered"}
        membership.busy_for(0.001)  # which does not take back what was said before
        assert 50 < busy.seconds_left(descriptor, slot) <= 60

        busy.clear(descriptor, slot)
        assert other.ask("membership.ask([4], 0.01)") == {4: "silent"}
        busy.say(descriptor, slot, 1e-9)
        assert other.ask("membership.ask([4], 0.01)") == {4: "silent"}
        # A clock that is far ahead is another one.
        os.pwrite(descriptor, b"\xff" * 7 + b"\x7f", busy.OFFSET + 8 * slot)
        assert other.ask("membership.ask([4], 0.01)") == {4: "silent"}
        assert other.ask("membership.ask([5], 0.01)") == {5: "unreachable"}


def test_nobody_is_believed_for_longer_than_the_longest_time(open_: Open) -> None:
    membership = open_().membership
    membership.busy_for(1e12)
    left = busy.seconds_left(membership._descriptor, membership.take_seat())
    assert 0.9 * busy.LONGEST_SECONDS < left <= busy.LONGEST_SECONDS


def test_a_member_that_leaves_meanwhile_writes_into_no_file_that_is_not_its_own(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = open_().membership
    could_leave: list[bool] = []

    def tries() -> bool:
        free = membership._mutex.acquire(blocking=False)
        if free:
            membership._mutex.release()
        return free

    def says(*_args: object) -> None:
        with ThreadPoolExecutor(1) as other:
            could_leave.append(other.submit(tries).result())

    monkeypatch.setattr(busy, "say", says)
    membership.busy_for(60)
    assert could_leave == [False]
    membership.leave()
    membership.busy_for(60)
    assert could_leave == [False]


def test_a_forked_child_does_not_speak_for_its_parent(path: str, migrations: str) -> None:
    program = (
        "import os, sys\n"
        "from stepwell.store.sqlite.file.opening import open_database\n"
        "from stepwell.store.sqlite.peers import busy\n"
        "from stepwell.values import large_values\n"
        "membership = open_database(sys.argv[1], migrations=sys.argv[2]).membership\n"
        "def left(): return busy.seconds_left(membership._descriptor, membership.take_seat()) > 0\n"
        "if not (child := os.fork()):\n"
        "    large_values.note_size(50_000_000)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "said = [left()]\n"
        "large_values.note_size(50_000_000)\n"
        "print(*said, left())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path, migrations], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_a_member_said_goes_with_it(path: str, migrations: str, open_: Open) -> None:
    membership = open_().membership
    with member(path, migrations) as other:
        slot = seat_of(other, 5)
        other.ask("membership.busy_for(60)")
        assert busy.seconds_left(membership._descriptor, slot) > 0
    with member(path, migrations) as other:
        assert seat_of(other, 6) == slot
        assert busy.seconds_left(membership._descriptor, slot) == 0


def test_processes_are_told_in_words() -> None:
    assert describe([12, 0]) == "process 12, a process of another container"
    assert describe(list(range(1, 12))).endswith("process 8 and 3 more")
    assert describe([]) == "another process"


# --- what all share ---------------------------------------------------------------------------------------------------


def test_the_first_members_clock_is_everybodys_for_as_long_as_anybody_lives(
    path: str, migrations: str, open_: Open
) -> None:
    with member(path, migrations) as first:
        assert first.ask("membership.shared_offset(-5)") == -5
        assert first.ask("membership.shared_offset(6)") == -5
        database = open_()
        assert database.membership.shared_offset(7) == -5
        first.kill()
        with member(path, migrations) as third:
            assert third.ask("membership.shared_offset(8)") == -5
        database.close()
        assert open_().membership.shared_offset(9) == 9


def test_a_process_on_another_clock_uses_its_own(
    path: str, migrations: str, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with member(path, migrations) as first:
        first.ask("membership.shared_offset(5)")
        membership = open_().membership
        monkeypatch.setattr(shared_clock, "_clock_key", lambda: b"another boot, or")
        assert membership.shared_offset(7) == 7
        assert first.ask("membership.shared_offset(8)") == 5


def test_a_fault_of_the_disk_is_known_to_all_until_someone_has_dealt_with_it(
    path: str, migrations: str, open_: Open
) -> None:
    database = open_()
    membership = database.membership
    with member(path, migrations) as other:
        assert membership.faulty is False
        other.ask("membership.mark_fault()")
        other.kill()
        assert bool(membership.faulty)
        with member(path, migrations) as third:
            assert third.ask("membership.faulty")
            membership.clear_fault()
            assert not third.ask("membership.faulty")
    membership.mark_fault()
    database.close()
    # Who opens the file alone folds the log before anything else.
    assert not open_().membership.faulty


def test_a_lock_file_of_other_rules_is_refused_while_anybody_lives(path: str, migrations: str, open_: Open) -> None:
    with member(path, migrations) as first:
        descriptor = os.open(path + "-lock", os.O_RDWR)
        os.pwrite(descriptor, b"stepwell\x01", HEADER_OFFSET)
        os.close(descriptor)
        with pytest.raises(FileInUse, match=f"open in process {first.pid}, which run another release of Stepwell"):
            open_()
    open_()


@pytest.mark.parametrize("act", ["deleted", "replaced by another file"])
def test_a_database_deleted_or_replaced_under_others_is_not_opened_beside_them(
    path: str, migrations: str, open_: Open, act: str
) -> None:
    with member(path, migrations) as first:
        os.rename(path, path + ".aside")
        if act.startswith("replaced"):
            Path(path).touch()
        with pytest.raises(FileNotUsable, match=f"was {act} while process {first.pid} had it open"):
            open_()
        assert Path(path).exists() == act.startswith("replaced")


def test_a_table_cut_off_in_the_midst_of_an_entry_is_read_as_far_as_it_goes(
    path: str, migrations: str, open_: Open
) -> None:
    with member(path, migrations) as first, member(path, migrations) as second:
        membership = open_().membership
        seat_of(first, 4)
        seat_of(second, 5)
        os.truncate(path + "-lock", TABLE_OFFSET + 20)
        assert [seat.epoch for seat in membership.others()] == [4]
        assert not membership.is_seated(1, 5)
