"""A file that was deleted, renamed or replaced is noticed, and not by reading times that its next write would renew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stepwell.store.sqlite.file import file_identity
from stepwell.store.sqlite.file.file_identity import FileInPlace
from stepwell.store.sqlite.file.opening import open_database

GONE = "was deleted or renamed"
REPLACED = "was replaced by another file"


@pytest.fixture(params=["kept by its descriptor", "looked at by name", "no /proc"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], FileInPlace]]:
    made: list[FileInPlace] = []
    if request.param == "no /proc":
        monkeypatch.setattr(file_identity, "_read_link", lambda _link: "")

    def make(path: Path) -> FileInPlace:
        path.write_bytes(b"1")
        made.append(FileInPlace(str(path), is_written=request.param != "looked at by name"))
        return made[-1]

    yield make
    for file in made:
        file.close()


def test_a_file_that_is_written_to_stays_in_place(tmp_path: Path, make: Callable[[Path], FileInPlace]) -> None:
    path = tmp_path / "file"
    file = make(path)
    path.write_bytes(b"22")
    path.chmod(0o600)
    assert file.what_happened() is None


def test_a_deleted_file_is_noticed(tmp_path: Path, make: Callable[[Path], FileInPlace]) -> None:
    path = tmp_path / "file"
    file = make(path)
    path.unlink()
    assert file.what_happened() == GONE


def test_a_file_that_comes_back_is_in_place_again(tmp_path: Path, make: Callable[[Path], FileInPlace]) -> None:
    path = tmp_path / "file"
    file = make(path)
    path.rename(tmp_path / "aside")
    assert file.what_happened() == GONE
    (tmp_path / "aside").rename(path)
    assert file.what_happened() is None


@pytest.mark.parametrize("over", [True, False])
def test_another_file_of_the_name_is_noticed(
    tmp_path: Path, make: Callable[[Path], FileInPlace], *, over: bool
) -> None:
    path = tmp_path / "file"
    file = make(path)
    other = tmp_path / "other"
    other.write_bytes(b"1")
    if not over:
        path.rename(tmp_path / "aside")
    other.replace(path)
    assert file.what_happened() == REPLACED


def test_a_renamed_folder_is_noticed(tmp_path: Path, make: Callable[[Path], FileInPlace]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = make(folder / "file")
    folder.rename(tmp_path / "elsewhere")
    assert file.what_happened() == GONE


def test_a_database_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        open_database(str(tmp_path / "orders.db")).close()
    assert len(os.listdir("/dev/fd")) == before
