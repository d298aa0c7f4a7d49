"""The processes that have the file open: who they are, whether they live, and what they tell each other.

A process has a *slot* from opening the file to closing it: the lock on one byte (`locking`), which the kernel drops
when the process dies. A process that registered as a worker is *seated*: its epoch stands in the table, at its slot. So
"epoch 7 is alive" means: the table has 7 at that slot, and the slot's byte is locked. No lease, no clock.

The content of the lock file, little endian::

    0       1,024 bytes of text, for people
    1,024   header: magic, layout (u32), device and inode of the database (u64 each), and `shared_clock`
    1,152   what a transaction of user code says of itself (`writer_note`)
    2,048   the last commit (`lastcommit`)
    4,088   1 where the disk failed a member (the fault mark)
    4,096   questions to the slots, and answers, 16 bytes a slot (`questions`)
    69,632  where the holders of the slots run, 16 bytes a slot (`places`)
    135,168 the table: 16 bytes a slot, epoch (u64) and flags (u64)
    200,704 until when the holders of the slots may be silent, 8 bytes a slot (`busy`)

The header is written with the door held; an entry by the member whose slot it is, its epoch with the writers' lock
held; the fault mark by whoever has the writers' lock. The table is never again what it was before a member came: who
leaves clears its flags and leaves its epoch behind, and who takes the slot next keeps that epoch in the upper bytes of
the flags until it has one of its own. `listener` depends on that.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final, Literal, NamedTuple

from stepwell.errors import FileInUse, FileNotUsable
from stepwell.model.run import MemberState
from stepwell.model.steady import monotonic
from stepwell.store.membership import Answer
from stepwell.store.notifications import Readers
from stepwell.store.sqlite.file import locking, paths
from stepwell.store.sqlite.file.locking import SLOT_BASE, SLOTS, Identity, LockFile
from stepwell.store.sqlite.peers import busy, datagrams, in_words, places, questions, shared_clock
from stepwell.store.sqlite.peers.datagrams import Mailbox, Post
from stepwell.store.sqlite.peers.deaths import Key
from stepwell.store.sqlite.peers.listener import Callback, Listener, Version
from stepwell.store.sqlite.peers.places import own_place
from stepwell.values import large_values

HEADER_OFFSET: Final = 1024
FAULT_OFFSET: Final = 4088
TABLE_OFFSET: Final = 135_168

_MAGIC: Final = b"stepwell"
_LAYOUT: Final = 2
_HEADER: Final = struct.Struct("<8sIIQQ")

_ENTRY: Final = struct.Struct("<QQ")
_TABLE_BYTES: Final = SLOTS * _ENTRY.size
_FLAGS_OFFSET: Final = 8
_MEMBER: Final = 1
_TAKES_WORK: Final = 2
_LISTENS: Final = 4
_WATCHES: Final = 8
#: The flags are one byte; above it is the last epoch of the slot, while the present holder has none.
_LAST_EPOCH_SHIFT: Final = 8
_FLAGS_MASK: Final = 2**64 - 1

_MAX_LISTED_PIDS: Final = 8
#: Between two looks for an answer.
_FIRST_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.01


class Seat(NamedTuple):
    """A living member: its slot and epoch, whether it serves workflows, whether it waits for ends and values."""

    slot: int
    epoch: int
    takes_work: bool
    listens: bool


class Membership:
    """This process among those that have the file open. All methods may be called from any thread.

    `lock_file` has the door held, until `enter` has returned.
    """

    def __init__(self, lock_file: LockFile) -> None:
        #: Gives what reads SQLite's `data_version`, in the thread that reads it; `watch` needs it.
        self.open_version: Callable[[], AbstractContextManager[Version]] | None = None
        self.mailbox: Mailbox | None = None
        self.slot = -1
        self.epoch = 0
        self._file = lock_file
        self._descriptor = lock_file.descriptor
        self._post = Post(lock_file.identity, lock_file.database_path + paths.PEERS_SUFFIX)
        self._place = own_place()
        self._flags = 0
        #: The table as last looked at, and the living others in it.
        self._view: tuple[bytes, list[Seat]] = (b"", [])
        self._listener: Listener | None = None
        self._post_reply: Callable[[Callable[[], None]], None] | None = None
        self._seen_question = 0
        self._mutex = threading.RLock()

    # --- opening and closing
    # -------------------------------------------------------------------------------------------

    def others_pids(self) -> list[int]:
        """Return the ids of the other processes that have the file open, 0 for those not visible from here."""
        return [found.pid for found in locking.holders(self._descriptor, SLOT_BASE, SLOTS)]

    def is_alone(self) -> bool:
        """Whether no other process has the file open."""
        return locking.holder(self._descriptor, SLOT_BASE, SLOTS) is None

    def check_others(self, database: Identity | None) -> None:
        """Raise where the living others have another database file open than the one at the path, or other rules."""
        magic, layout, _, device, inode = _HEADER.unpack(os.pread(self._descriptor, _HEADER.size, HEADER_OFFSET))
        path, pids = self._file.database_path, describe(self.others_pids())
        if (magic, layout) != (_MAGIC, _LAYOUT):
            raise FileInUse(
                f"{path!r} is open in {pids}, which run another release of Stepwell that cannot share it with this "
                "one. Stop those processes first; on SIGTERM they finish the steps under way."
            )
        if database != (device, inode):
            what = "deleted" if database is None else "replaced by another file"
            raise FileNotUsable(
                f"{path!r} was {what} while {pids} had it open. What they write goes to a file that no one else can "
                "see. Stop those processes, put the files back together (or restore a backup), and start again."
            )

    def begin_afresh(self, database: Identity) -> None:
        """Set up the lock file for the database file; for the only process that has it open, with the door held."""
        os.ftruncate(self._descriptor, HEADER_OFFSET)
        header = _HEADER.pack(_MAGIC, _LAYOUT, 0, *database)
        self._file.write(header.ljust(TABLE_OFFSET - HEADER_OFFSET, b"\0"), HEADER_OFFSET)
        self._post.sweep()

    def enter(self) -> None:
        """Take the first free slot; with the door held."""
        for slot in range(SLOTS):
            if locking.try_lock(self._descriptor, SLOT_BASE + slot):
                # Whoever had the slot before is dead from now on, for everybody who looks.
                self._file.write(_vacated(_read_entry(self._descriptor, slot)), TABLE_OFFSET + slot * _ENTRY.size)
                places.write(self._descriptor, slot, self._place)
                questions.make_room(self._descriptor, slot)
                busy.clear(self._descriptor, slot)
                self.slot = slot
                large_values.watchers.add(self.busy_for)
                return
        raise FileInUse(
            f"{self._file.database_path!r} is open in {SLOTS} processes, which is as many as can share it. Stop some."
        )

    def leave(self) -> None:
        """Give up the seat and the slot, and tell the others. Harmless when repeated."""
        self.stop_watching()
        large_values.watchers.discard(self.busy_for)
        with self._mutex:
            others = self.others() if self.epoch else []
            if self.slot >= 0:
                with suppress(OSError):
                    self._write_flags(0)
                    locking.unlock(self._descriptor, SLOT_BASE + self.slot)
            self.slot, self.epoch = -1, 0
            if self.mailbox is not None:
                self.mailbox.close()
                self.mailbox = None
        self.nudge(datagrams.MEMBERS, [seat.epoch for seat in others])
        with suppress(OSError):
            if self.is_alone():
                self._post.remove_folder()
        self._post.close()

    # --- the seat
    # --------------------------------------------------------------------------------------------------------

    def take_seat(self) -> int:
        """Return the slot of this process, for the worker's row. Called with the writers' lock held."""
        return self.slot

    def announce(self, epoch: int, *, takes_work: bool) -> None:
        """Seat this process as the worker with `epoch`, in place of an earlier one of its own, and tell the others.

        Called when the worker's row is committed, with the writers' lock still held since before: the others take a
        worker that has a row and no seat for dead.
        """
        with self._mutex:
            earlier, self.mailbox = self.mailbox, self._post.open_mailbox(epoch)
            self.epoch = epoch
            self._flags = _MEMBER | (_TAKES_WORK if takes_work else 0) | self._flags & (_LISTENS | _WATCHES)
            self._file.write(_ENTRY.pack(epoch, self._flags), TABLE_OFFSET + self.slot * _ENTRY.size)
            if self._listener is not None:
                # It closes the earlier mailbox, which it is listening at.
                self._listener.ring()
            elif earlier is not None:
                earlier.close()
        self.nudge(datagrams.MEMBERS, [seat.epoch for seat in self.others()])

    def listen(self, on: bool) -> None:
        """Say whether this process waits for ends and values of runs; before it looks at their state in the file."""
        self._set_flag(_LISTENS, on)

    def _set_flag(self, flag: int, on: bool) -> None:
        with self._mutex:
            if self.slot < 0:
                return
            flags = self._flags & ~flag | (flag if on else 0)
            if flags != self._flags:
                self._flags = flags
                self._write_flags(flags)

    # --- the others
    # ------------------------------------------------------------------------------------------------------

    def others(self) -> list[Seat]:
        """Return the other members that live, as of the last time the table changed or a death was noticed.

        One read of the file, some 5 µs, while nobody comes or goes. The list is not the caller's to change.
        """
        if self.slot < 0:
            return []
        table = self.read_table()
        seen, seats = self._view
        if table != seen:
            seats = [
                Seat(slot, epoch, bool(flags & _TAKES_WORK), bool(flags & _LISTENS))
                for slot, (epoch, flags) in _entries(table)
                if epoch and flags & _MEMBER and slot != self.slot and self._is_locked(slot)
            ]
            self._view = (table, seats)
        return seats

    def is_seated(self, slot: int, epoch: int) -> bool:
        """Return whether the worker with `epoch` has its seat at `slot`; if not, it is dead or has left."""
        if slot == self.slot:
            return epoch == self.epoch
        found, flags = _read_entry(self._descriptor, slot)
        return found == epoch and bool(flags & _MEMBER) and self._is_locked(slot)

    def pid_of(self, slot: int) -> int | None:
        """Return the process that has `slot`; None where nobody has it, 0 where it is not visible from here."""
        if slot == self.slot:
            return os.getpid()
        found = locking.holder(self._descriptor, SLOT_BASE + slot)
        return None if found is None else found.pid

    def state_of(self, slot: int) -> Literal["active", "stopped"]:
        """Return "stopped" where the process that has `slot` was stopped by a signal or a debugger (Linux only).

        Of one that is not visible from here "active", which is all that its lock tells; see `ask`.
        """
        return _state_of(self.pid_of(slot), is_here=self._is_here(slot))

    def _is_here(self, slot: int) -> bool:
        return places.is_here(self._descriptor, slot, self._place)

    # --- letters
    # ---------------------------------------------------------------------------------------------------------

    def nudge(self, kind: bytes, epochs: Iterable[int], keys: Sequence[int] = ()) -> None:
        """Send a letter (a kind of `datagrams`) to the members with these epochs; never blocks, never raises."""
        payload = datagrams.encode(kind, keys)
        for epoch in epochs:
            if not self._post.send(epoch, payload):
                # Nobody is there any more, or not yet.
                self.forget_view()

    def watch(self, callback: Callback, readers: Readers | None = None) -> None:
        """Have `callback` called with a kind of `datagrams` and keys when others have done something; see `listener`.

        It is called in a thread of its own, or for letters by `readers`, until `stop_watching`, and must not block.
        Returns when the first look was taken: what others commit later is noticed, if by no letter then by the next
        tick. Raises `StoreError` where the file cannot be read.
        """
        assert self.open_version is not None, "set by the database"
        listener = Listener(self, self._file, self.open_version, callback, readers=readers, is_here=self._is_here)
        listener.start()
        self._set_flag(_WATCHES, True)
        with self._mutex:
            self._listener = listener
            # Announced since the thread looked, perhaps.
            listener.ring()

    def stop_watching(self) -> None:
        """End the calls that `watch` asked for. Not for the thread that makes them."""
        with self._mutex:
            listener, self._listener = self._listener, None
        if listener is not None:
            self.stopped_looking()
            listener.stop()

    def ask(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]:
        """Ask members whether they are well; see `stepwell.store.membership.Membership.ping` and `questions`.

        One is ``silent`` only where it has a thread that looks for questions, and had this one before its eyes; what it
        said beforehand (`busy`) is an answer.
        """
        slots = {epoch: slot for slot, (epoch, _) in _entries(self.read_table()) if epoch in epochs}
        answers: dict[int, Answer] = dict.fromkeys(epochs, "unreachable")
        asked: dict[int, int] = {}
        for epoch, slot in slots.items():
            if epoch == self.epoch:
                answers[epoch] = "answered"
                continue
            with self._mutex, suppress(OSError):
                if self.slot >= 0:  # else this process has left: see `busy_for`
                    asked[epoch] = questions.ask(self._descriptor, slot)
                    if _read_entry(self._descriptor, slot)[1] & _WATCHES:
                        answers[epoch] = "silent"
        self.nudge(datagrams.PING, asked)
        give_up_at, pause_seconds = monotonic() + timeout_seconds, _FIRST_PAUSE_SECONDS
        while asked:
            for epoch, number in list(asked.items()):
                answer = self._answer_of(slots[epoch], number)
                if answer is not None:
                    answers[epoch] = answer
                    del asked[epoch]
            if monotonic() >= give_up_at:
                break
            if asked:
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        return answers

    def _answer_of(self, slot: int, number: int) -> Answer | None:
        """Return what is known of a question: None while it may be answered; nothing ever, once this process left."""
        with self._mutex:
            if self.slot < 0:
                return "unreachable"
            answered = questions.read(self._descriptor, slot)[1] >= number
            return "answered" if answered or busy.seconds_left(self._descriptor, slot) else None

    def answer_pings(self, post: Callable[[Callable[[], None]], None]) -> None:
        """Have `post(reply)` called, in the thread of `watch`, for a question; whoever is well then calls `reply`.

        Without it, the thread answers by itself.
        """
        self._post_reply = post

    # --- what all share
    # --------------------------------------------------------------------------------------------------

    def shared_offset(self, own_offset_ns: int) -> int:
        """Return the offset between the clocks that all members use; see `shared_clock.offset`."""
        return shared_clock.offset(self._file, own_offset_ns)

    @property
    def faulty(self) -> bool:
        """Whether the disk failed a member in a way that may have lost what the log seems to hold."""
        return os.pread(self._descriptor, 1, FAULT_OFFSET) == b"\1"

    def mark_fault(self) -> None:
        """Have whoever gets the writers' lock next fold the whole log into the file before anything else."""
        with self._mutex:
            if self.slot >= 0:
                self._file.write(b"\1", FAULT_OFFSET)

    def clear_fault(self) -> None:
        """Note that the log was folded into the file since `mark_fault`. The caller has the writers' lock."""
        with self._mutex:
            if self.slot >= 0:
                self._file.write(b"\0", FAULT_OFFSET)

    # --- for the listener
    # -------------------------------------------------------------------------------------------------

    def read_table(self) -> bytes:
        """Return the table as it stands in the file, up to the highest slot that was ever used."""
        return os.pread(self._descriptor, _TABLE_BYTES, TABLE_OFFSET)

    def members_in(self, table: bytes) -> dict[Key, bool]:
        """Return the other members in a table, and whether each is still there; false for those that have left."""
        return {
            (slot, epoch): bool(flags & _MEMBER)
            for slot, (epoch, flags) in _entries(table)
            if epoch and slot != self.slot
        }

    def forget_view(self) -> None:
        """Have `others` ask for the locks of all members again."""
        self._view = (b"", [])

    def look_for_questions(self) -> None:
        """Have a question answered that was not seen before."""
        slot = self.slot
        asked, answered = questions.read(self._descriptor, slot)
        if slot < 0 or asked <= max(answered, self._seen_question):
            return
        self._seen_question = asked

        def reply() -> None:
            with self._mutex, suppress(OSError):
                if self.slot == slot:
                    questions.answer(self._descriptor, slot, asked)

        if self._post_reply is None:
            reply()
        else:
            self._post_reply(reply)

    def busy_for(self, seconds: float) -> None:
        """Say that this process may not answer for so long, and is well; from any thread."""
        with self._mutex:  # once the slot is given up, the descriptor's number may be that of any other file
            if self.slot >= 0:
                with suppress(OSError):
                    busy.say(self._descriptor, self.slot, seconds)

    def stopped_looking(self) -> None:
        """Note that nobody looks for questions here any more."""
        self._set_flag(_WATCHES, False)

    def _is_locked(self, slot: int) -> bool:
        return locking.holder(self._descriptor, SLOT_BASE + slot) is not None

    def _write_flags(self, flags: int) -> None:
        # One byte, so that nobody ever reads half an entry; the epoch stays.
        self._file.write(bytes([flags]), TABLE_OFFSET + self.slot * _ENTRY.size + _FLAGS_OFFSET)


def states_of(descriptor: int, seats: Iterable[tuple[int, int]]) -> dict[int, MemberState]:
    """Return how the workers with these seats (epoch and slot) are, for one who is no member: see `locking.look`."""
    states: dict[int, MemberState] = {}
    place = own_place()
    for epoch, slot in seats:
        found, flags = _read_entry(descriptor, slot)
        holder = locking.holder(descriptor, SLOT_BASE + slot) if found == epoch and flags & _MEMBER else None
        is_here = places.is_here(descriptor, slot, place)
        states[epoch] = "dead" if holder is None else _state_of(holder.pid, is_here=is_here)
    return states


def _read_entry(descriptor: int, slot: int) -> tuple[int, int]:
    """Return the epoch and the flags at a slot, zeros where nobody ever had it."""
    entry = os.pread(descriptor, _ENTRY.size, TABLE_OFFSET + slot * _ENTRY.size)
    epoch, flags = _ENTRY.unpack(entry.ljust(_ENTRY.size, b"\0"))
    return epoch, flags


def _state_of(pid: int | None, *, is_here: bool) -> Literal["active", "stopped"]:
    return "stopped" if pid is not None and pid > 0 and is_here and in_words.is_stopped(pid) else "active"


def describe(pids: Sequence[int]) -> str:
    """Return the processes in words, for a message."""
    listed = ", ".join(f"process {pid}" if pid else "a process of another container" for pid in pids[:_MAX_LISTED_PIDS])
    more = len(pids) - _MAX_LISTED_PIDS
    return listed + (f" and {more} more" if more > 0 else "") if pids else "another process"


def _vacated(entry: tuple[int, int]) -> bytes:
    """Return the entry for a slot whose next holder is not seated yet: no epoch, and the last one in the flags."""
    epoch, flags = entry
    last = epoch or flags >> _LAST_EPOCH_SHIFT
    return _ENTRY.pack(0, last << _LAST_EPOCH_SHIFT & _FLAGS_MASK)


def _entries(table: bytes) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Return each slot of a table with its epoch and flags, but for empty ones behind all others.

    A piece of an entry at the end of the table is left out.
    """
    entries = len(table) // _ENTRY.size
    table = table[: entries * _ENTRY.size]
    # Of 4,096 nearly all are empty: to look at each takes half a millisecond of every start of an engine, this 10 us.
    while entries > 1 and table.endswith(bytes(entries // 2 * _ENTRY.size)):
        entries -= entries // 2
        table = table[: entries * _ENTRY.size]
    return enumerate(_ENTRY.iter_unpack(table))
