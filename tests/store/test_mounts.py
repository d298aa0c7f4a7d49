"""Which file system holds a path, on samples of what the kernels say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from stepwell.errors import FileNotUsable
from stepwell.store.sqlite.file import mounts
from stepwell.store.sqlite.file.mounts import explain_unsafe, find_mount, parse_mount_output, parse_mountinfo

LAPTOP = """\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw
28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
29 28 259:1 / /boot rw,relatime shared:31 - vfat /dev/nvme0n1p1 rw
31 28 0:41 / /home/ann/share rw,relatime shared:60 - nfs4 server:/export rw,vers=4.2
32 28 0:42 / /home/ann/My\\040Cloud rw,relatime shared:61 - fuse.sshfs ann@host:/ rw,user_id=1000
33 31 259:2 /srv/fast /home/ann/share/fast rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
34 28 0:43 / /mnt/odd\\134name\\012x rw - cifs //server/share rw
35 28 0:44 / /mnt/vm rw,relatime master:7 propagate_from:2 - 9p hostshare rw,trans=virtio
36 28 0:45 / /mnt/vm2 rw,relatime - virtiofs tag rw
37 28 8:17 / /media/usb rw - fuseblk /dev/sdb1 rw,user_id=0
38 28 0:46 / /tmp rw,nosuid - tmpfs tmpfs rw
39 28 0:47 / /data rw - zfs pool/data rw
"""

CONTAINER = """\
730 611 0:95 / / rw,relatime master:250 - overlay overlay rw,lowerdir=/var/lib/x,upperdir=/var/lib/y
731 730 0:98 / /proc rw,nosuid - proc proc rw
745 730 254:1 /srv/app/orders.db /app/orders.db rw,relatime - ext4 /dev/vda1 rw
746 730 254:1 /srv/data /data rw,relatime - ext4 /dev/vda1 rw
747 730 0:99 / /shared rw - fuse.grpcfuse grpcfuse rw
"""

#: /a was mounted with NFS below it; then a local disk was mounted over all of /a.
COVERED = """\
1 1 0:1 / / rw - rootfs rootfs rw
28 1 8:1 / / rw - ext4 /dev/sda1 rw
40 28 8:2 / /a rw - ext4 /dev/sda2 rw
41 40 0:50 / /a/b rw - nfs server:/b rw
42 40 8:3 / /a rw - xfs /dev/sda3 rw
"""

MACOS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse, protect)
/dev/disk4s1 on /Volumes/Time on disk (hfs, local, nodev, nosuid)
//ann@server/share on /Volumes/share (smbfs, nodev, nosuid, mounted by ann)
server:/export on /Volumes/nfs (nfs)
unknown:/ on /Volumes/strange (newnetfs, nodev)
"""


def type_at(text: str, path: str) -> str:
    mount = find_mount(parse_mountinfo(text), path)
    assert mount is not None
    return mount.fs_type


@pytest.mark.parametrize(
    ("path", "fs_type"),
    [
        ("/home/ann/orders.db", "ext4"),
        ("/home/ann/share/orders.db", "nfs4"),
        ("/home/ann/share", "nfs4"),
        ("/home/ann/shared/orders.db", "ext4"),
        ("/home/ann/share/fast/orders.db", "ext4"),
        ("/home/ann/My Cloud/orders.db", "fuse.sshfs"),
        ("/mnt/odd\\name\nx/orders.db", "cifs"),
        ("/mnt/vm/orders.db", "9p"),
        ("/mnt/vm2/orders.db", "virtiofs"),
        ("/media/usb/orders.db", "fuseblk"),
        ("/tmp/orders.db", "tmpfs"),
        ("/data/orders.db", "zfs"),
    ],
)
def test_the_mount_that_the_path_is_on_is_found(path: str, fs_type: str) -> None:
    assert type_at(LAPTOP, path) == fs_type


@pytest.mark.parametrize("path", ["/home/ann/orders.db", "/home/ann/share/fast/x.db", "/tmp/x.db", "/data/x.db"])
def test_a_local_file_system_is_accepted(path: str) -> None:
    mount = find_mount(parse_mountinfo(LAPTOP), path)
    assert mount is not None
    assert explain_unsafe(mount, path) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/home/ann/share/x.db", ["'nfs4'", "'/home/ann/share'", "'server:/export'", "local disk"]),
        ("/home/ann/My Cloud/x.db", ["'fuse.sshfs'"]),
        ("/mnt/odd\\name\nx/x.db", ["'cifs'"]),
        ("/mnt/vm/x.db", ["'9p'"]),
        ("/mnt/vm2/x.db", ["'virtiofs'"]),
        ("/media/usb/x.db", ["'fuseblk'"]),
    ],
)
def test_a_network_or_user_space_file_system_is_refused_by_its_name(path: str, words: list[str]) -> None:
    mount = find_mount(parse_mountinfo(LAPTOP), path)
    assert mount is not None
    reason = explain_unsafe(mount, path)
    assert reason is not None
    for word in words:
        assert word in reason


def test_overlays_and_folders_bound_into_a_container_are_accepted_but_not_a_single_file() -> None:
    listed = parse_mountinfo(CONTAINER)
    for path in ("/root/orders.db", "/data/orders.db"):
        mount = find_mount(listed, path)
        assert mount is not None
        assert explain_unsafe(mount, path) is None
    mount = find_mount(listed, "/app/orders.db")
    assert mount is not None
    assert "Mount the folder" in (explain_unsafe(mount, "/app/orders.db") or "")


def test_a_mount_that_a_later_one_covers_is_not_taken_for_it() -> None:
    assert type_at(COVERED, "/a/b/orders.db") == "xfs"
    assert type_at(COVERED, "/etc/orders.db") == "ext4"


def test_without_a_root_in_the_list_the_mount_is_unknown_or_the_one_that_is_listed() -> None:
    chroot = "50 28 0:46 / /proc rw - proc proc rw\n51 28 0:47 / /share rw - nfs server:/ rw\n"
    assert find_mount(parse_mountinfo(chroot), "/orders.db") is None
    assert type_at(chroot, "/share/orders.db") == "nfs"


def test_lines_of_an_unknown_shape_are_left_out() -> None:
    assert parse_mountinfo("\nnonsense\n1 2 3\n1 0 8:1 / / rw -\n") == []
    assert len(parse_mountinfo(LAPTOP + "nonsense")) == 12


@pytest.mark.parametrize(
    ("path", "fs_type", "safe"),
    [
        ("/Users/ann/orders.db", "apfs", True),
        ("/Volumes/Time on disk/orders.db", "hfs", True),
        ("/Volumes/share/orders.db", "smbfs", False),
        ("/Volumes/nfs/orders.db", "nfs", False),
        ("/Volumes/strange/orders.db", "newnetfs", False),
    ],
)
def test_on_macos_whatever_is_not_local_is_refused(path: str, fs_type: str, safe: bool) -> None:
    # "/Volumes/Time on disk" shows that the mount point is what follows the first " on ".
    mount = find_mount(parse_mount_output(MACOS), path)
    assert mount is not None
    assert mount.fs_type == fs_type
    assert (explain_unsafe(mount, path) is None) is safe


def test_the_folder_of_this_test_is_on_a_file_system_that_is_found(tmp_path: Path) -> None:
    mounts.check_mount(str(tmp_path / "orders.db"))


@pytest.mark.parametrize("major", [0, 8])
def test_where_the_list_is_silent_only_a_disk_of_its_own_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, major: int
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(mounts, "parse_mountinfo", lambda _text: [])
    monkeypatch.setattr(os, "major", lambda _device: major)
    if major:
        mounts.check_mount(str(tmp_path / "orders.db"))
    else:
        with pytest.raises(FileNotUsable, match="does not say on what file system"):
            mounts.check_mount(str(tmp_path / "orders.db"))
