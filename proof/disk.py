"""What a disk may hold after a power loss: a model, and the images that follow from it.

A file has what is safe, and operations that are pending since. A sync makes the pending ones safe, in one file;
nothing orders the files among themselves. At a power loss each pending operation may have happened, or not, or in part,
in any order; a write that made the file longer may have left the size and not the bytes, which then are zeros. A write
that was under way may tear: 512-byte or 4-KiB sectors of it are old or new each for itself, or, on a disk that rewrites
4 KiB at once, the whole sector is garbage, its neighbours' bytes that were safe before included.

Names are pending in the same way until the folder is synced: a file that was made may not be there, one that was
removed may be back.

Where a sync fails, the kernel may mark the pages clean all the same ("lose" in a recording): what was pending then
never gets to the disk, although every program that reads the file sees it, and later syncs succeed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from proof.recorder import Op

SECTORS_BYTES: Final = (512, 4096)
#: Images that failed are kept here.
FAILED: Final = Path(__file__).with_name("results") / "failed-images"
#: The files of an image: contents by suffix.
Files = dict[str, bytes]


class Image(NamedTuple):
    """One state that a disk may be in: how it came about, and the files."""

    how: str
    files: Files

    def digest(self) -> bytes:
        """Return what tells the files from others."""
        total = hashlib.sha1()
        for suffix, content in sorted(self.files.items()):
            total.update(f"{suffix}:{len(content)}:".encode())
            total.update(content)
        return total.digest()

    def keep(self, name: str, text: str) -> None:
        """Keep the files in a folder of that name, with a note, for whoever looks into what failed."""
        place = FAILED / name
        with suppress(OSError):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for suffix, content in self.files.items():
                (place / f"image.db{suffix}").write_bytes(content)
            (place / "note.txt").write_text(text + "\n", encoding="utf-8")


class _File:
    """A file: what is safe, what is pending, and what will never get to the disk."""

    def __init__(self) -> None:
        self.safe = bytearray()
        self.pending: list[Op] = []

    def sync(self) -> None:
        for op in self.pending:
            _apply(self.safe, op)
        self.pending = []


class Disk:
    """Plays a recording, operation by operation; `images` says what a power loss now could leave."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._pending_names: list[Op] = []

    @property
    def pending(self) -> int:
        """How many operations are not safe yet."""
        return len(self._pending_names) + sum(len(self._files[number].pending) for number in self._now().values())

    def play(self, op: Op, random: Random | None = None) -> None:
        """Let one operation happen. `random` decides what a failed sync lost."""
        match op.kind:
            case "given":
                self._files[op.file] = _File()
                self._files[op.file].safe.extend(op.data)
                self._names[op.suffix] = op.file
            case "make":
                self._files.setdefault(op.file, _File())
                self._pending_names.append(op)
            case "remove":
                self._pending_names.append(op)
            case "sync_folder":
                _rename(self._names, self._pending_names)
                self._pending_names = []
            case "sync":
                self._files[op.file].sync()
            case "lose":
                self._lose(self._files[op.file], random)
            case "write" | "truncate":
                self._files[op.file].pending.append(op)
            case "fact":
                pass

    def _lose(self, file: _File, random: Random | None) -> None:
        kept = [op for op in file.pending if random is not None and random.random() < 0.5]
        for op in kept:
            _apply(file.safe, op)
        file.pending = []

    def _now(self) -> dict[str, int]:
        names = dict(self._names)
        _rename(names, self._pending_names)
        return names

    def kept(self) -> Image:
        """Return the image in which everything happened: the death of the process, but not of the machine."""
        return Image("kept", self._image(self._now(), lambda file: _all(file.safe, file.pending)))

    def dropped(self) -> Image:
        """Return the image in which nothing happened that is not safe."""
        return Image("dropped", self._image(self._names, lambda file: bytes(file.safe)))

    def some(self, random: Random) -> Image:
        """Return one of the images in which something happened, and something else did not."""
        names = dict(self._names)
        _rename(names, [op for op in self._pending_names if random.random() < 0.5])
        ways: list[str] = []

        def choose(file: _File) -> bytes:
            if not file.pending:
                return bytes(file.safe)
            way = random.choice(_WAYS)
            ways.append(f"{way.__name__.strip('_')} of {len(file.pending)}")
            return way(file, random)

        files = self._image(names, choose)
        return Image(", ".join(ways) or "names", files)

    def _image(self, names: dict[str, int], content: Callable[[_File], bytes]) -> Files:
        return {suffix: content(self._files[number]) for suffix, number in names.items()}


def _rename(names: dict[str, int], ops: Iterable[Op]) -> None:
    for op in ops:
        if op.kind == "make":
            names[op.suffix] = op.file
        elif names.get(op.suffix) == op.file:
            del names[op.suffix]


def _apply(content: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        if op.offset < len(content):
            del content[op.offset :]
        else:
            content.extend(bytes(op.offset - len(content)))
        return
    _write(content, op.offset, op.data)


def _write(content: bytearray, offset: int, data: bytes | bytearray) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _all(safe: bytearray, ops: Iterable[Op]) -> bytes:
    content = bytearray(safe)
    for op in ops:
        _apply(content, op)
    return bytes(content)


# --- what may become of the pending operations of a file -------------------------------------------------------------


def _kept(file: _File, _random: Random) -> bytes:
    return _all(file.safe, file.pending)


def _dropped(file: _File, _random: Random) -> bytes:
    return bytes(file.safe)


def _beginning(file: _File, random: Random) -> bytes:
    return _all(file.safe, file.pending[: random.randrange(len(file.pending))])


def _subset(file: _File, random: Random) -> bytes:
    chance = random.choice([0.1, 0.5, 0.9])
    return _all(file.safe, [op for op in file.pending if random.random() < chance])


def _reordered(file: _File, random: Random) -> bytes:
    ops = [op for op in file.pending if random.random() < 0.7]
    random.shuffle(ops)
    return _all(file.safe, ops)


def _torn_512(file: _File, random: Random) -> bytes:
    return _torn(file, random, SECTORS_BYTES[0])


def _torn_4096(file: _File, random: Random) -> bytes:
    return _torn(file, random, SECTORS_BYTES[1])


def _torn(file: _File, random: Random, sector: int) -> bytes:
    """Let every sector of every write be new or old, each for itself; the size may be new in either case."""
    content = bytearray(file.safe)
    chance = random.choice([0.1, 0.5, 0.9])
    longest = len(content)
    for op in file.pending:
        if op.kind == "truncate":
            if random.random() < chance:
                _apply(content, op)
            continue
        longest = max(longest, op.offset + len(op.data))
        for at, piece in _sectors(op, sector):
            if random.random() < chance:
                _write(content, at, piece)
    if random.random() < 0.5 and len(content) < longest:
        content.extend(bytes(longest - len(content)))
    return bytes(content)


def _cut_short(file: _File, random: Random) -> bytes:
    """Let everything happen up to one write, which ends in its middle, at the border of a sector or not."""
    index = random.randrange(len(file.pending))
    content = bytearray(_all(file.safe, file.pending[:index]))
    op = file.pending[index]
    if op.kind == "write":
        sector = random.choice([1, *SECTORS_BYTES])
        end = (op.offset + random.randrange(len(op.data) + 1)) // sector * sector
        _write(content, op.offset, op.data[: max(0, end - op.offset)])
    return bytes(content)


def _neighbours_torn(file: _File, random: Random) -> bytes:
    """Let everything happen up to one write, of which a whole 4-KiB sector of the disk becomes garbage."""
    writes = [index for index, op in enumerate(file.pending) if op.kind == "write"]
    if not writes:
        return bytes(file.safe)
    index = random.choice(writes)
    content = bytearray(_all(file.safe, file.pending[:index]))
    op = file.pending[index]
    first = op.offset // SECTORS_BYTES[1]
    last = (op.offset + len(op.data) - 1) // SECTORS_BYTES[1]
    at = random.randint(first, last) * SECTORS_BYTES[1]
    garbage = random.choice([bytes(SECTORS_BYTES[1]), random.randbytes(SECTORS_BYTES[1])])
    _write(content, at, garbage)
    return bytes(content)


def _longer_than_written(file: _File, random: Random) -> bytes:
    """Let the new size get to the disk, and not the bytes, or the other way round."""
    everything = _all(file.safe, file.pending)
    if random.random() < 0.5 and len(everything) > len(file.safe):
        return bytes(file.safe) + bytes(len(everything) - len(file.safe))
    return everything[: max(len(file.safe), random.randint(0, len(everything)))]


def _sectors(op: Op, sector: int) -> Iterable[tuple[int, bytes]]:
    start, end = op.offset, op.offset + len(op.data)
    while start < end:
        stop = min(end, (start // sector + 1) * sector)
        yield start, op.data[start - op.offset : stop - op.offset]
        start = stop


_WAYS: Final[Sequence[Callable[[_File, Random], bytes]]] = (
    _kept,
    _dropped,
    _beginning,
    _subset,
    _reordered,
    _torn_512,
    _torn_4096,
    _cut_short,
    _neighbours_torn,
    _longer_than_written,
)
