"""Short letters between the processes that share a file: "look", and at what. Hints, never facts.

Each member has a mailbox, a Unix datagram socket that is named after the member's epoch. A letter is one datagram, sent
without waiting; it is lost where the mailbox is full or its owner gone, and that does no harm: what it tells about
stands in the file, and whoever does not hear of it finds it at the next tick (see `listener`). Nobody acts on a letter
but by looking into the file, so one that a stranger sends costs a look and does nothing else.

::

    byte 0      kind, one of the constants below
    then        keys of runs, as many as there are, each 8 bytes, little endian, signed

On Linux the sockets lie in a folder beside the database, so that processes in other containers find them: a name in the
file system is the same in every network namespace, an abstract one is not. The folder is reached by its descriptor, for
a socket's name has room for 107 bytes only, and the path of a database may be longer. Where sockets cannot be made
there, the names are abstract. Elsewhere they are files in a folder for temporary files, with short names, that only
this user can enter.
"""

# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH112, PTH118, PTH208 -- names of sockets are strings

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from stepwell.store.sqlite.file.locking import Identity

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
#: There is a question for the receiver (see `questions`).
PING: Final = b"p"
#: Never sent: made by `listener` where a member died, and where a letter may have been lost.
DIED: Final = b"d"
ANYTHING: Final = b"?"

#: Linux keeps no more than this many letters that were not received yet, if nobody has changed the setting
#: net.unix.max_dgram_qlen; so whoever finds as many may have missed one.
QUEUE_LENGTH: Final = 10
#: With more keys than this, a letter says "some" instead.
MAX_KEYS: Final = 1000

#: Where Linux shows a process its descriptors.
_DESCRIPTORS: Final = "/proc/self/fd"
_MAX_BYTES: Final = 1 + 8 * MAX_KEYS
#: How many letters are taken out at a time, so that a flood of them keeps nobody from the rest of their work.
_MAX_LETTERS: Final = 256


class Letter(NamedTuple):
    """What was received."""

    kind: bytes
    keys: tuple[int, ...]


class Post:
    """Names the mailboxes of the members of one lock file, and delivers to them.

    `beside` is the folder for them, None for one for temporary files.
    """

    def __init__(self, identity: Identity, beside: str | None) -> None:
        self._prefix = f"{identity.device:x}-{identity.inode:x}"
        self._has_abstract_names = sys.platform == "linux"
        if beside is not None and os.path.isdir(_DESCRIPTORS):
            self._folder = beside
            # Found by their folder's descriptor, which is opened when it is needed.
            self._by_descriptor, self._names = True, ""
        else:
            import tempfile  # noqa: PLC0415 -- takes some milliseconds, which hardly anybody need pay

            self._folder = os.path.join(tempfile.gettempdir(), f"stepwell-{os.getuid()}")
            self._by_descriptor, self._names = False, f"{self._prefix}-"
        self._descriptor = -1
        self._mutex = threading.Lock()
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def addresses_of(self, epoch: int) -> list[str | bytes]:
        """Return the names that the mailbox of the member with `epoch` may have."""
        found: list[str | bytes] = []
        if not self._by_descriptor:
            found.append(os.path.join(self._folder, f"{self._names}{epoch}"))
        elif self._open_folder():
            found.append(f"{_DESCRIPTORS}/{self._descriptor}/{epoch}")
        if self._has_abstract_names:
            found.append(f"\0stepwell/{self._prefix}/{epoch}".encode())
        return found

    def open_mailbox(self, epoch: int) -> Mailbox | None:
        """Return the mailbox of the member with `epoch`, which is this one; None where it cannot be made."""
        try:
            _make_private(self._folder)
            addresses = self.addresses_of(epoch)
        except OSError:
            addresses = [address for address in self.addresses_of(epoch) if isinstance(address, bytes)]
        for address in addresses:
            try:
                return Mailbox(_bind(address), address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:  # whoever has it gets the letters that are sent to it
                    return None
        return None

    def send(self, epoch: int, payload: bytes) -> bool:
        """Deliver without waiting; return False where the mailbox does not exist, True where it does, even if full."""
        for address in self.addresses_of(epoch):
            try:
                self._sender.sendto(payload, address)
            except (ConnectionRefusedError, FileNotFoundError):
                continue
            except OSError:
                # Full, most likely.
                return True
            return True
        return False

    def sweep(self) -> None:
        """Remove what mailboxes of the dead have left behind; for the only process that has the lock file open."""
        with suppress(OSError):
            for name in os.listdir(self._folder):
                found = os.path.join(self._folder, name)
                if name.startswith(self._names) and stat.S_ISSOCK(os.lstat(found).st_mode):
                    os.unlink(found)

    def remove_folder(self) -> None:
        """Leave nothing behind beside the database; for the last process that closes it."""
        if self._by_descriptor:
            self.sweep()
            with suppress(OSError):
                os.rmdir(self._folder)

    def close(self) -> None:
        """Stop delivering; letters that are sent from now on are lost."""
        with self._mutex:
            self._sender.close()
            self._by_descriptor = False
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _open_folder(self) -> bool:
        """Open the folder where that was not done yet; return whether it is open."""
        if self._descriptor < 0:
            with self._mutex, suppress(OSError):
                if self._descriptor < 0 and self._by_descriptor:
                    _check_private(self._folder)
                    self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        return self._descriptor >= 0


class Mailbox:
    """Where the letters to one member arrive."""

    def __init__(self, bound: socket.socket, address: str | bytes) -> None:
        self.socket = bound
        self._address = address

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self.socket.fileno()

    def receive(self) -> list[Letter]:
        """Take out what has arrived; what is no letter is dropped."""
        letters: list[Letter] = []
        with suppress(OSError):
            for _ in range(_MAX_LETTERS):
                letter = decode(self.socket.recv(_MAX_BYTES))
                if letter is not None:
                    letters.append(letter)
        return letters

    def close(self) -> None:
        """Take the mailbox away."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        if isinstance(self._address, str):
            with suppress(OSError):
                os.unlink(self._address)


def encode(kind: bytes, keys: Sequence[int] = ()) -> bytes:
    """Return the datagram for a letter; keys beyond `MAX_KEYS` become "some"."""
    if not keys or len(keys) > MAX_KEYS:
        return kind
    return kind + struct.pack(f"<{len(keys)}q", *keys)


def decode(payload: bytes) -> Letter | None:
    """Return the letter in a datagram, None where it is none."""
    count, odd = divmod(len(payload) - 1, 8)
    if odd or not payload:
        return None
    return Letter(payload[:1], struct.unpack_from(f"<{count}q", payload, 1))


def _bind(address: str | bytes) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        try:
            bound.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not isinstance(address, str) or _is_used(address):
                raise
            # Left behind by a process that died: an epoch may come again where an older copy of a file was put back.
            os.unlink(address)
            bound.bind(address)
        if isinstance(address, str):
            os.chmod(address, 0o600)
    except BaseException:
        bound.close()
        raise
    return bound


def _is_used(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(address)
        except OSError:
            return False
    return True


def _make_private(folder: str) -> None:
    """Make the folder for sockets; raise `OSError` where it is someone else's, or open to others."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    _check_private(folder)


def _check_private(folder: str) -> None:
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or (found.st_uid != os.getuid() and os.getuid() != 0):
        raise PermissionError(f"{folder!r} is not a folder of this user alone")
