"""What may do I/O while workflow code executes, because nothing that the workflow does follows from it.

That is Python's own machinery and what stands in for it: imports, which read files wherever they are written; source
lines for tracebacks; logging; time zones; a debugger. Libraries may also read what is installed with them (tables of
time zones, translations), which is as fixed as their code. `stepwell.runtime.io_guard` asks this before it refuses
anything.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import Final

#: Where the standard library is; installed packages are often in a folder inside it.
_LIBRARY: Final = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - pathlib takes 3 ms to import
_INSTALLED: Final = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))

#: Modules and packages of the standard library that may do I/O, whoever called them.
_LIBRARY_FILES: Final = frozenset(
    {"bdb.py", "cmd.py", "gettext.py", "inspect.py", "linecache.py", "locale.py", "mimetypes.py", "pdb.py"}
    | {"sysconfig.py", "tokenize.py", "traceback.py", "warnings.py"}
)
_LIBRARY_FOLDERS: Final = ("encodings", "importlib", "logging", "sysconfig", "zoneinfo")

#: Debuggers, which talk to a terminal or an editor, and a logger that opens its files late: folders of packages, and
#: modules. Their names are their own wherever they are installed (editors bring some along).
_PACKAGES: Final = frozenset(
    {"IPython", "_pydev_bundle", "_pydevd_bundle", "bpdb", "debugpy", "ipdb", "loguru", "prompt_toolkit", "pudb"}
    | {"pydevd", "remote_pdb", "web_pdb"}
)
_PACKAGE_FILES: Final = frozenset({"pdbpp.py", "pydevd.py", "remote_pdb.py", "web_pdb.py"})
#: pytest's own debugger is a part of it; the rest of pytest is not meant.
_PYTEST_DEBUGGER: Final = os.path.join("_pytest", "debugging.py")  # noqa: PTH118 - as above

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_READING_EVENTS: Final = frozenset({"os.listdir", "os.scandir"})


def is_permitted(event: str, args: tuple[object, ...], caller: FrameType | None, outermost: CodeType) -> bool:
    """Tell whether an audit event may happen in workflow code.

    `caller` is the frame in which it happens, `outermost` the code of the one in which workflow code began.
    """
    if _describes_a_time_zone(args):
        return True
    reads_installed = _reads_what_is_installed(event, args)
    frame = caller
    while frame is not None and frame.f_code is not outermost:
        filename = frame.f_code.co_filename
        if reads_installed and _is_installed(filename) and frame is caller:
            return True
        if _is_machinery(filename):
            return True
        frame = frame.f_back
    return False


def _describes_a_time_zone(args: tuple[object, ...]) -> bool:
    """Tell whether the file describes a time zone: `zoneinfo` reads it from C, where no frame shows it."""
    # Absent where nobody uses time zones, and half made while it is being imported.
    folders: tuple[str, ...] = getattr(sys.modules.get("zoneinfo"), "TZPATH", ())
    return bool(args) and isinstance(args[0], str) and args[0].startswith(tuple(f"{each}{os.sep}" for each in folders))


def _reads_what_is_installed(event: str, args: tuple[object, ...]) -> bool:
    if not args or not isinstance(args[0], str):
        return False
    if event == "open":
        flags = args[-1]  # of path, mode and flags
        if not isinstance(flags, int) or flags & _WRITING:
            return False
    elif event not in _READING_EVENTS:
        return False
    return _is_installed(args[0])


def _is_installed(filename: str) -> bool:
    return filename.startswith((_LIBRARY, "<frozen ")) or any(folder in filename for folder in _INSTALLED)


def _is_machinery(filename: str) -> bool:
    if filename.startswith(("<frozen importlib", "<frozen zipimport")):
        return True
    if filename.startswith(_LIBRARY):
        module = filename[len(_LIBRARY) :]
        if module in _LIBRARY_FILES or module.partition(os.sep)[0] in _LIBRARY_FOLDERS:
            return True
    *folders, name = filename.split(os.sep)  # noqa: PTH206 - as above
    return name in _PACKAGE_FILES or filename.endswith(_PYTEST_DEBUGGER) or not _PACKAGES.isdisjoint(folders)
