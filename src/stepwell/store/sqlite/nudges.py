"""Short letters between the processes that share a file: "look", and at what. Hints, never facts.

Each member has a mailbox, a Unix datagram socket that is named after the lock file and the member's epoch. A letter is
one datagram, sent without waiting; it is lost where the mailbox is full or its owner gone, and that does no harm: what
it tells about stands in the file, and whoever does not hear of it finds it at the next tick (see `lookout`). Nobody
acts on a letter but by looking into the file, so one that a stranger sends costs a look and does nothing else.

::

    byte 0      kind, one of the constants below
    then        keys of runs, as many as there are, each 8 bytes, little endian, signed;
                in a ping and its pong: one number, which tells pings apart

On Linux the names are abstract: no file is left behind by a process that dies, and a container with its own network
cannot be reached (it has its tick). Elsewhere they are files in a folder that only this user can enter.
"""

# ruff: noqa: PTH102, PTH108, PTH118, PTH208 -- names of sockets are strings

from __future__ import annotations

import os
import secrets
import select
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from stepwell.store.sqlite.locking import Identity

#: There is work that nobody owns.
WORK: Final = b"w"
#: There is work in a queue.
TURN: Final = b"q"
#: There is mail for runs of the receiver.
MAIL: Final = b"m"
#: These runs have ended or published something; without keys: some have.
ENDED: Final = b"e"
#: A process has joined or left.
MEMBERS: Final = b"h"
PING: Final = b"p"
PONG: Final = b"P"
#: Never sent: made by `lookout` where a member died, and where a letter may have been lost.
DIED: Final = b"d"
ANYTHING: Final = b"?"

#: Linux keeps no more than this many letters that were not received yet, if nobody has changed the setting
#: net.unix.max_dgram_qlen; so whoever finds as many may have missed one.
QUEUE_LENGTH: Final = 10
#: With more keys than this, a letter says "some" instead.
MAX_KEYS: Final = 1000

#: Before a ping is tried again that found the mailbox full.
_FULL_PAUSE_SECONDS: Final = 0.005

_MAX_BYTES: Final = 1 + 8 * MAX_KEYS
#: How many letters are taken out at a time, so that a flood of them keeps nobody from the rest of their work.
_MAX_LETTERS: Final = 256


class Letter(NamedTuple):
    """What was received; `sender` is where an answer goes, empty where the sender has no name."""

    kind: bytes
    keys: tuple[int, ...]
    sender: str | bytes


class Post:
    """Names the mailboxes of one lock file's members, and delivers to them."""

    def __init__(self, identity: Identity, *, abstract: bool = sys.platform == "linux") -> None:
        self._prefix = f"{identity.device:x}-{identity.inode:x}"
        self._abstract = abstract
        self._folder = "" if abstract else os.path.join(tempfile.gettempdir(), f"stepwell-{os.getuid()}")
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def address_of(self, epoch: int | str) -> str | bytes:
        """Return the name of the mailbox of the member with `epoch`."""
        if self._abstract:
            return f"\0stepwell/{self._prefix}/{epoch}".encode()
        return os.path.join(self._folder, f"{self._prefix}-{epoch}")

    def open_mailbox(self, epoch: int) -> Mailbox | None:
        """Return the mailbox of the member with `epoch`, which is this one; None where it cannot be made."""
        try:
            return Mailbox(self._bind(self.address_of(epoch)))
        except OSError:
            return None

    def send(self, epoch: int, payload: bytes) -> bool:
        """Deliver without waiting; return False where the mailbox does not exist, True where it does, even if full."""
        try:
            self._sender.sendto(payload, self.address_of(epoch))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Full, most likely.
            return True
        return True

    def answer(self, sender: str | bytes, payload: bytes) -> None:
        """Deliver to whoever sent a letter."""
        if sender:
            with suppress(OSError):
                self._sender.sendto(payload, sender)

    def ping(self, epoch: int, timeout_seconds: float) -> bool:
        """Return whether the member with `epoch` answers in time. May be called from any thread."""
        number = secrets.randbits(32)
        # Short: the whole path of a socket has room for 103 characters on macOS.
        address = self.address_of(f"p{number:x}")
        try:
            mailbox = Mailbox(self._bind(address))
        except OSError:
            return False
        try:
            give_up_at = time.monotonic() + timeout_seconds
            is_sent = False
            while (left := give_up_at - time.monotonic()) > 0:
                if not is_sent:
                    is_sent = self._try_send(mailbox.socket, encode(PING, (number,)), epoch)
                if _is_readable(mailbox.socket, left if is_sent else min(left, _FULL_PAUSE_SECONDS)) and any(
                    letter[:2] == (PONG, (number,)) for letter in mailbox.receive()
                ):
                    return True
        except OSError:
            return False
        finally:
            mailbox.close()
        return False

    def sweep(self) -> None:
        """Remove what mailboxes of the dead have left behind; for the only process that has the lock file open."""
        if not self._abstract:
            with suppress(OSError):
                for name in os.listdir(self._folder):
                    if name.startswith(self._prefix + "-"):
                        os.unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        """Stop delivering; letters that are sent from now on are lost."""
        self._sender.close()

    def _try_send(self, sender: socket.socket, payload: bytes, epoch: int) -> bool:
        """Send without waiting; return False where the mailbox is full, raise `OSError` where there is none."""
        try:
            sender.sendto(payload, self.address_of(epoch))
        except BlockingIOError:
            return False
        return True

    def _bind(self, address: str | bytes) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if not self._abstract:
                _make_private(self._folder)
            bound.setblocking(False)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return bound


class Mailbox:
    """Where the letters to one member arrive."""

    def __init__(self, bound: socket.socket) -> None:
        self.socket = bound

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self.socket.fileno()

    def receive(self) -> list[Letter]:
        """Take out what has arrived; what is no letter is dropped."""
        letters: list[Letter] = []
        with suppress(OSError):
            for _ in range(_MAX_LETTERS):
                payload, sender = self.socket.recvfrom(_MAX_BYTES)
                letter = decode(payload, sender)
                if letter is not None:
                    letters.append(letter)
        return letters

    def close(self) -> None:
        """Take the mailbox away."""
        name = self.socket.getsockname() if self.socket.fileno() >= 0 else b""
        self.socket.close()
        if isinstance(name, str) and name:
            with suppress(OSError):
                os.unlink(name)


def encode(kind: bytes, keys: Sequence[int] = ()) -> bytes:
    """Return the datagram for a letter; keys beyond `MAX_KEYS` become "some"."""
    if not keys or len(keys) > MAX_KEYS:
        return kind
    return kind + struct.pack(f"<{len(keys)}q", *keys)


def decode(payload: bytes, sender: str | bytes | None) -> Letter | None:
    """Return the letter in a datagram, None where it is none."""
    count, odd = divmod(len(payload) - 1, 8)
    if odd or not payload:
        return None
    return Letter(payload[:1], struct.unpack_from(f"<{count}q", payload, 1), sender or b"")


def _is_readable(waiting: socket.socket, timeout_seconds: float) -> bool:
    # Not `select`: it knows no descriptor above 1023.
    poll = select.poll()
    poll.register(waiting, select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


def _make_private(folder: str) -> None:
    """Make the folder for sockets; raise `OSError` where it is someone else's, or open to others."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder!r} is not a folder of this user alone")
