"""Importing the modules that `stepwell worker` names, with errors that point at the user's line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Final

_PACKAGE_FILE: Final = "__init__.py"


class ModuleProblem(Exception):
    """A module cannot be imported, or there is nothing in it. `traceback_text` is the module's own, where it raised."""

    def __init__(self, message: str, traceback_text: str = "") -> None:
        super().__init__(message)
        self.traceback_text = traceback_text


def load(names: Iterable[str]) -> list[ModuleType]:
    """Import modules and return them: by name, as ``python -m`` finds them, or by the path of their file.

    The current folder comes first on `sys.path` (unless Python's safe-path option is on), and before it the folder of
    each module that is given by its path. Raises `ModuleProblem`.
    """
    here = str(Path.cwd())
    if not sys.flags.safe_path and sys.path[:1] not in ([here], [""]):
        sys.path.insert(0, here)
    return [_load_file(name) if name.endswith(".py") or os.sep in name else _import(name, name) for name in names]


def _load_file(name: str) -> ModuleType:
    """Import a file under the name that importing it has elsewhere, since workflows are named after their module."""
    path = Path(name if name.endswith(".py") else f"{name}.py").resolve()
    if not path.is_file():
        raise ModuleProblem(f"there is no file {str(path)!r}; give the path of a .py file, or the name of a module")
    folder, parts = path.parent, [] if path.name == _PACKAGE_FILE else [path.stem]
    while (folder / _PACKAGE_FILE).is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    dotted = ".".join(parts)
    sys.path.insert(0, str(folder))
    module = _import(dotted, name)
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != path:
        raise ModuleProblem(
            f"{name!r} would be the module {dotted!r}, but that name belongs to {found or 'a module without a file'}; "
            "rename the file"
        )
    return module


def _import(dotted: str, given: str) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{dotted}.".startswith(f"{error.name}."):
            raise _broken(given, error) from error
        raise ModuleProblem(
            f"{error}. It was looked for in {Path.cwd()} and the other places of sys.path; give a name as `import` "
            "takes it, or the path of a .py file"
        ) from error
    except (Exception, SystemExit) as error:
        raise _broken(given, error) from error


def _broken(given: str, error: BaseException) -> ModuleProblem:
    """Return the problem of a module that raised, with the traceback from its own first line on."""
    report = traceback.TracebackException.from_exception(error)
    ours = 0
    while ours < len(report.stack) and _is_ours(report.stack[ours].filename):
        ours += 1
    del report.stack[:ours]
    return ModuleProblem(f"importing {given!r} failed: {type(error).__name__}: {error}", "".join(report.format()))


def _is_ours(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen importlib") or filename == importlib.__file__
