"""Which file system holds a path: a file on one that is unsafe for SQLite is refused before anything is written.

SQLite's write-ahead log needs two things of a file system: byte-range locks that every opener sees, and a memory
mapping that all of them share. Network file systems, folders shared into a virtual machine and FUSE promise neither; a
database there is damaged in silence, weeks later. `fuseblk` (NTFS and exFAT through FUSE) is refused with the rest of
FUSE: it has no file modes, so the promised 0600 would be a lie.

Linux says what is mounted in ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)), macOS in the output of ``mount``.
Parsing both is pure, so both are tested anywhere.
"""

# ruff: noqa: PTH110, PTH116, PTH120, PTH123 -- SQLite's paths are strings

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from stepwell.errors import FileNotUsable

#: Types of file systems, as the kernels name them, that more than one machine, or a user-space program, answers for.
#: Anything that begins with ``fuse`` is refused as well.
UNSAFE_TYPES: Final = frozenset(
    {
        "9p",
        "acfs",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "cvfs",
        "davfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "macfuse",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "osxfuse",
        "panfs",
        "prl_fs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "webdav",
        "wekafs",
    }
)

#: Identifier, parent, device, root, mount point, options.
_FIELDS_BEFORE_OPTIONAL: Final = 6

_ESCAPES: Final = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\"))


class Mount(msgspec.Struct, frozen=True):
    """One mounted file system, with its options as the system writes them.

    `remote` is what macOS says of it; Linux leaves that to the type.
    """

    mount_id: int
    parent_id: int
    point: str
    fs_type: str
    source: str
    remote: bool = False
    options: str = ""


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts of a ``/proc/self/mountinfo``; lines of an unknown shape are left out."""
    mounts: list[Mount] = []
    for line in text.split("\n"):
        # 36 35 98:0 /root/in/fs /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw
        # The number of optional fields before the lone dash varies, so the line is read from both sides of it.
        left, dash, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if dash and len(before) >= _FIELDS_BEFORE_OPTIONAL and before[0].isdigit() and before[1].isdigit() and after[0]:
            source = _unescape(after[1]) if len(after) > 1 else ""
            # Those of the mount, then those of the file system: "rw,relatime" and "rw,errors=remount-ro".
            options = ",".join(dict.fromkeys(",".join([before[5], *after[2:]]).split(",")))
            mounts.append(
                Mount(
                    int(before[0]), int(before[1]), _unescape(before[4]), _unescape(after[0]), source, options=options
                )
            )
    return mounts


def parse_mount_output(text: str) -> list[Mount]:
    """Return the mounts in the output of macOS's ``mount``: ``/dev/disk1 on /Volumes/a b (apfs, local, journaled)``."""
    mounts: list[Mount] = []
    for number, line in enumerate(text.splitlines(), start=1):
        head, opening, options = line.rpartition(" (")
        source, on, point = head.partition(" on ")
        words = [word.strip() for word in options.rstrip(")").split(",")]
        if opening and on:
            # Every mount but the root hangs on nothing that the output names: the longest mount point decides.
            mounts.append(Mount(number, 0, point, words[0], source, "local" not in words, ",".join(words[1:])))
    return mounts


def find_mount(mounts: Sequence[Mount], path: str) -> Mount | None:
    """Return the mount that holds the absolute, symlink-free `path`, or None where the list does not say.

    The walk is the kernel's: from the root, mount by mount, always to the one that the path meets first. So a mount
    that a later one covers is not found, although its mount point is a longer prefix of the path. Without parents
    (macOS) the longest mount point wins.
    """
    if all(mount.parent_id == 0 for mount in mounts):
        return max((mount for mount in mounts if _is_within(path, mount.point)), key=_length_of_point, default=None)
    known = {mount.mount_id for mount in mounts}
    # Inside a chroot or container, the parent of the topmost mounts is not in the list; a root may be its own parent.
    here = [m for m in mounts if (m.parent_id not in known or m.parent_id == m.mount_id) and _is_within(path, m.point)]
    found: Mount | None = None
    while here:
        # Several at the same place: the last one mounted covers the others.
        shortest = min(map(_length_of_point, here))
        found = next(mount for mount in reversed(here) if _length_of_point(mount) == shortest)
        here = [
            mount
            for mount in mounts
            if mount.parent_id == found.mount_id != mount.mount_id
            and _is_within(path, mount.point)
            and _is_within(mount.point, found.point)
        ]
    return found


def explain_unsafe(mount: Mount, path: str) -> str | None:
    """Return why a database at `path` on `mount` would not be safe and what to do; None where it is safe."""
    kind = mount.fs_type
    if kind in UNSAFE_TYPES or kind.startswith("fuse") or mount.remote:
        return (
            f"{path!r} is on a file system of type {kind!r} (mounted at {mount.point!r} from {mount.source!r}), which "
            "does not give SQLite the locks and the shared memory that keep the file intact. Put the file on a local "
            "disk (ext4, xfs, btrfs, zfs, apfs ...) of the machine that runs the engine."
        )
    if mount.point == path:
        return (
            f"{path!r} is itself a mount point (a file mounted into a container?), so its write-ahead log beside it "
            "would not be the one that is used outside, and the two would damage the file. Mount the folder that "
            "holds it instead."
        )
    return None


def check_mount(path: str) -> None:
    """Raise `FileNotUsable` unless the file system that holds the real path `path` is known to be safe."""
    mount = mount_of(path)
    if mount is None:
        _check_device(path)
    elif (reason := explain_unsafe(mount, path)) is not None:
        raise FileNotUsable(reason)


def mount_of(path: str) -> Mount | None:
    """Return the file system that holds the real path `path`, None where the list of mounts is silent (a chroot).

    Raises `FileNotUsable` where there is no such list.
    """
    if sys.platform == "darwin":
        return find_mount(parse_mount_output(_macos_mount_output()), path)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return find_mount(parse_mountinfo(file.read()), path)
    except OSError as error:
        raise FileNotUsable(
            f"/proc/self/mountinfo cannot be read ({error.strerror}), so it is not known whether {path!r} is on a "
            "network file system, where it would be damaged. Mount /proc in this container or chroot."
        ) from error


def _check_device(path: str) -> None:
    """Judge by the device number where the list of mounts is silent: in a chroot whose root is not a mount point."""
    device = os.stat(path if os.path.exists(path) else os.path.dirname(path)).st_dev
    if os.major(device) == 0:
        # Linux gives major number 0 to everything without a block device, and so to every network file system.
        raise FileNotUsable(
            f"The list of mounts does not say on what file system {path!r} is, and it has no disk of its own; on a "
            "network file system it would be damaged. Mount the folder into this chroot explicitly."
        )


def _macos_mount_output() -> str:
    # Python has no call for a file system's type; the import is late because only macOS pays for it.
    import subprocess  # noqa: PLC0415 -- see above

    return subprocess.run(["/sbin/mount"], check=True, capture_output=True, encoding="utf-8").stdout


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def _length_of_point(mount: Mount) -> int:
    return len(mount.point)


def _unescape(field: str) -> str:
    if "\\" in field:
        for escape, character in _ESCAPES:
            field = field.replace(escape, character)
    return field
