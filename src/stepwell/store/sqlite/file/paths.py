"""From what a user calls a file to one real path that is fit for a database, before anything is written.

SQLite names the write-ahead log after the database, so one file under two names has two logs, and they damage it. Names
are therefore resolved to the real path, and a second hard link is refused.
"""

# ruff: noqa: PTH112, PTH116, PTH118, PTH119, PTH120 -- SQLite's paths are strings

from __future__ import annotations

import os
import stat
from typing import Final

from stepwell.errors import FileNotUsable, InvalidArgument
from stepwell.shown import shown

#: SQLite's limit for Unix paths is 512 bytes, the suffix of the journal included.
MAX_PATH_BYTES: Final = 500
#: Room for ``-backup-v9999-partial`` below the usual limit of 255 bytes for one name.
MAX_NAME_BYTES: Final = 230

WAL_SUFFIX: Final = "-wal"
SHM_SUFFIX: Final = "-shm"
JOURNAL_SUFFIX: Final = "-journal"
LOCK_SUFFIX: Final = "-lock"
#: The folder in which the processes that have the file open have their mailboxes.
PEERS_SUFFIX: Final = "-peers"


def resolve(path: str | os.PathLike[str], *, to_look: bool = False) -> str:
    """Return the absolute path of `path` without symbolic links, after checking what lies there.

    Whoever opens it `to_look` need not be allowed to write to it, or beside it. Raises `InvalidArgument` for a path of
    the wrong type, `FileNotUsable` for one that no database can have.
    """
    name = text_of(path, "the path of the database")
    _check_spelling(name)
    try:
        # A leading double slash means the same as one on Linux and macOS, but not in a URI.
        real = "/" + os.path.realpath(name).lstrip("/")
    except OSError as error:
        raise FileNotUsable(f"{name!r} cannot be resolved: {error.strerror}.") from error
    _check_encoding(real)
    base = os.path.basename(real)
    if len(os.fsencode(real)) > MAX_PATH_BYTES or len(os.fsencode(base)) > MAX_NAME_BYTES:
        raise FileNotUsable(
            f"{real!r} is too long: SQLite allows {MAX_PATH_BYTES} bytes of path here, {MAX_NAME_BYTES} of them in the "
            "name."
        )
    for suffix in (WAL_SUFFIX, SHM_SUFFIX, JOURNAL_SUFFIX, LOCK_SUFFIX, PEERS_SUFFIX):
        if base.endswith(suffix):
            raise FileNotUsable(
                f"{name!r} is named like a file that belongs to a database, not like one. "
                f"Give the database itself, which would be {real.removesuffix(suffix)!r}."
            )
    _check_folder(name, os.path.dirname(real), to_look=to_look)
    _check_file(name, real, to_look=to_look)
    return real


def may_write(real: str) -> bool:
    """Tell whether this user may write to the existing file at `real`, and beside it.

    Root may write to anything; a file that nobody may write was still made read-only by someone for a reason.
    """
    return (
        bool(os.stat(real).st_mode & 0o222)
        and _has_access(real, os.R_OK | os.W_OK)
        and _has_access(os.path.dirname(real), os.W_OK | os.X_OK)
    )


def text_of(path: str | os.PathLike[str], what: str) -> str:
    """Return a path as text; raises `InvalidArgument` where it is none, or has characters that no path can have."""
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- not everyone has a type checker
        raise InvalidArgument(f"{what} must be a str or a path object, not {type(name).__name__} {shown(name)}")
    if name and not is_usable_name(name):
        raise FileNotUsable(f"{what} is {shown(name)}: no file has a NUL character, or a lone surrogate, in its name.")
    return name


def is_usable_name(name: str) -> bool:
    """Tell whether a file can have a name."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def uri(path: str, mode: str) -> str:
    """Return the URI that opens the absolute `path`; `mode` is ``ro``, ``rw`` or ``immutable``.

    ``psow=0`` makes SQLite write whole sectors: on devices where power loss while writing one sector tears its
    neighbour, the write-ahead log lost commits without it.
    """
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file://{quoted}?psow=0&" + ("mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}")


def sync_folder(folder: str) -> None:
    """Make the names in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_bytes(path: str) -> int | None:
    """Return the size of the file at `path`, None where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _check_spelling(name: str) -> None:
    if not name:
        raise FileNotUsable('The path of the database is empty. Give the path of a file, as "orders.db".')
    if name == ":memory:":
        raise FileNotUsable(
            'The path is ":memory:", but a durable engine needs a file. For tests use a file in a temporary folder.'
        )
    if name.startswith("file:"):
        raise FileNotUsable(
            f"{name!r} looks like a URI; give a plain path, the engine chooses SQLite's options itself. "
            f"(For a file that is really named so: {'./' + name!r}.)"
        )
    if name.endswith("/"):
        raise FileNotUsable(f"{name!r} names a folder. Give the path of a file, as {name + 'orders.db'!r}.")
    if "\0" in name:
        raise FileNotUsable(f"{name!r} contains a NUL character, which no file name can.")
    _check_encoding(name)


def _check_encoding(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FileNotUsable(
            f"{name!r} is not valid UTF-8, which SQLite needs of a path. Rename the file or folder."
        ) from None


def _check_folder(name: str, folder: str, *, to_look: bool) -> None:
    if not os.path.isdir(folder):
        kind = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise FileNotUsable(f"{name!r} cannot be opened: {folder!r} {kind}. Create the folder first.")
    if not _has_access(folder, os.X_OK if to_look else os.W_OK | os.X_OK):
        raise FileNotUsable(
            f"{name!r} cannot be opened: the folder {folder!r} is not writable for this user, and SQLite keeps its log "
            "beside the file. Change the folder's permissions or owner, or put the file elsewhere."
        )


def _check_file(name: str, real: str, *, to_look: bool) -> None:
    try:
        found = os.stat(real)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileNotUsable(f"{name!r} cannot be opened: {error.strerror}.") from error
    if stat.S_ISDIR(found.st_mode):
        example = os.path.join(name, "stepwell.db")
        raise FileNotUsable(f"{name!r} is a folder. Give the path of a file in it, as {example!r}.")
    if not stat.S_ISREG(found.st_mode):
        raise FileNotUsable(f"{name!r} is not a plain file but a device, pipe or socket.")
    if to_look:
        if not _has_access(real, os.R_OK):
            raise FileNotUsable(f"{name!r} is not readable for this user. Change its permissions, or its owner.")
    elif not found.st_mode & 0o222 or not _has_access(
        real, os.R_OK | os.W_OK
    ):  # also where root could: see `may_write`
        raise FileNotUsable(
            f"{name!r} is read-only, or not readable, for this user. Change its permissions (chmod u+rw) or its owner; "
            "an archived file is best copied first."
        )
    if found.st_nlink > 1:
        raise FileNotUsable(
            f"{name!r} has {found.st_nlink} names (hard links). SQLite names its log after the file, so two names mean "
            "two logs and a damaged file. Remove the other names (`find -samefile` shows them), or make a copy with a "
            "name of its own."
        )


def _has_access(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
