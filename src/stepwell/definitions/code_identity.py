"""A number for the code of a step: another one once the step, or what it uses of the same program, was changed.

A step whose result could not be recorded has acted. Whether it may be executed once more by itself depends on whether
somebody has mended it since, which nobody tells the engine. So the code is compared: the function, its annotations, and
in turn the functions and classes that it names, as far as they are the program's own. The standard library and
installed packages are left out: they change without mending anything. So are the values of variables, of defaults too:
whether they are constants or what the program has come to (a counter, its start, a path), nobody can tell.
"""

from __future__ import annotations

import functools
import sys
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast
from zlib import crc32

from stepwell.definitions.durable import Definition

#: How many functions and classes are looked at, at most.
_MOST: Final = 2000


def code_fingerprint(definition: Definition[..., Any]) -> int:
    """Return the number for the code of a step, from 0 to 2**32 - 1.

    The same code gives the same number in every process with the same version of Python, run as a script or imported.
    """
    reader = _Reader()
    reader.add(definition.function)
    return reader.sum


class _Reader:
    def __init__(self) -> None:
        self.sum = 0
        self._seen: set[int] = set()
        self._left = _MOST

    def _feed(self, text: object) -> None:
        self.sum = crc32(repr(text).encode("utf-8", "backslashreplace"), self.sum)

    def add(self, thing: Any) -> None:
        """Take something into account that the code refers to."""
        if id(thing) in self._seen or self._left <= 0:
            return
        self._seen.add(id(thing))
        self._left -= 1
        if isinstance(thing, Definition):
            self.add(thing.function)
        elif isinstance(thing, (MethodType, staticmethod, classmethod)):
            self.add(cast("Any", thing).__func__)
        elif isinstance(thing, property):
            self.add(thing.fget)
            self.add(thing.fset)
        elif isinstance(thing, functools.partial):
            self.add(thing.func)
        elif isinstance(thing, FunctionType):
            self._add_function(thing)
        elif isinstance(thing, type):
            self._add_class(thing)

    def _add_function(self, function: FunctionType) -> None:
        self._feed(function.__qualname__)
        if not _is_own(function.__module__):
            return
        self.add(getattr(function, "__wrapped__", None))
        self._add_annotations(function)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # of a name that has no value yet
                self.add(cell.cell_contents)
        self._add_code(function.__code__, function.__globals__)

    def _add_code(self, code: CodeType, names: dict[str, Any]) -> None:
        self._feed((code.co_code, code.co_names, code.co_varnames))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._add_code(constant, names)
            elif isinstance(constant, frozenset):
                self._feed(sorted(repr(part) for part in cast("frozenset[object]", constant)))
            else:
                self._feed(constant)
        for name in code.co_names:
            found = names.get(name)
            if isinstance(found, ModuleType):
                if _is_own(found.__name__):
                    for member in code.co_names:
                        self.add(vars(found).get(member))
            elif found is not None:
                self.add(found)

    def _add_class(self, cls: type) -> None:
        self._feed((cls.__qualname__, [base.__qualname__ for base in cls.__mro__]))
        if not _is_own(cls.__module__):
            return
        self._add_annotations(cls)
        for name, member in sorted(vars(cls).items()):
            if not name.startswith("__") or isinstance(member, FunctionType):
                self._feed(name)
                self.add(member)
        for base in cls.__bases__:
            self.add(base)

    def _add_annotations(self, thing: Any) -> None:
        annotations: Any = getattr(thing, "__annotations__", None) or {}
        for name, annotation in dict[str, Any](annotations).items():
            self._feed(name)
            if isinstance(annotation, str):
                self._feed(annotation)
                self.add(getattr(thing, "__globals__", {}).get(annotation))
            elif isinstance(annotation, type):
                self.add(annotation)
            else:
                self._feed(str(annotation))
                for part in cast("tuple[object, ...]", getattr(annotation, "__args__", ())):
                    self.add(part)


@functools.cache
def _is_own(module: str | None) -> bool:
    """Tell whether a module is the program's own."""
    top = (module or "").partition(".")[0]
    if not top or top == "stepwell" or (top in sys.stdlib_module_names and top != "__main__"):
        return False
    path = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" not in path and "dist-packages" not in path
