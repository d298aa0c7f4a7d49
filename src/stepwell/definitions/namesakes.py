"""Two different workflows declared under one name, of which the file could keep only one apart.

The file knows a workflow by its name alone: with a name that two have, runs of the one would execute the other, without
a word. (A step is called by the workflow that imports it, so it may have the name of another.)

So a name that a module gives while it is imported cannot be given to another function of a module. The same function
may be declared again: its module is reloaded, imported by another name as well, or is the script that runs; or a cell
of a notebook is executed once more. What code declares later, in a test say, takes the name as a new version of what
has it; but an engine starts none in the place of another.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

from stepwell import package
from stepwell.definitions.callables import stable_name
from stepwell.definitions.durable import Definition
from stepwell.errors import DefinitionError


def check_workflow(registry: Mapping[str, Any], declared: Definition[..., Any]) -> None:
    """Raise `DefinitionError` where a workflow in the registry, of the same name, is another one of a module."""
    declared.is_of_a_module = _is_executed_by_its_module(declared)
    found: Definition[..., Any] | None = registry.get(declared.name)
    if found is None or not (found.is_of_a_module and declared.is_of_a_module):
        return
    if are_different(found, declared) and _is_imported(found):
        raise DefinitionError(
            f"@{declared.kind} {declared.name!r}: {place_of(declared)} has the name of {place_of(found)}. The file "
            f"knows a {declared.kind} by its name alone: give one of them another name="
        )


def are_different(one: Definition[..., Any], other: Definition[..., Any]) -> bool:
    """Tell whether two definitions of one name are of different functions, and not of one that was declared again."""
    if one is other or one.function is other.function:
        return False
    code = _code(one)
    if code is not None and code is _code(other):  # made by one function that was called twice: each encloses its own
        return _enclosed(one) != _enclosed(other)
    return not _is_interactive(other) and not _is_interactive(one) and _place(one).isdisjoint(_place(other))


def place_of(definition: Definition[..., Any]) -> str:
    """Return the name and place of a definition's function, for messages."""
    code = _code(definition)
    module, qualname = getattr(definition.function, "__module__", None), _qualname(definition)
    name = f"{module}.{qualname}" if module and qualname else repr(definition.function)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def _is_executed_by_its_module(declared: Definition[..., Any]) -> bool:
    """Tell whether the code of the function's module is executed now: a declaration inside a function is another."""
    module = sys.modules.get(getattr(declared.function, "__module__", None) or "")
    if getattr(getattr(module, "__spec__", None), "_initializing", False):  # importlib's mark of an import under way
        return True
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(package.ROOT):
        frame = frame.f_back
    return (
        frame is not None
        and frame.f_code.co_name == "<module>"
        and frame.f_globals is getattr(module, "__dict__", None)
    )


def _is_imported(definition: Definition[..., Any]) -> bool:
    """Tell whether its module is still the one of its name: what was taken out again is in nobody's way."""
    function: Any = inspect.unwrap(definition.function)
    module = sys.modules.get(getattr(definition.function, "__module__", None) or "")
    return not hasattr(function, "__globals__") or getattr(module, "__dict__", None) is function.__globals__


def _place(definition: Definition[..., Any]) -> frozenset[str]:
    """Return by what a function is known again: its name as if imported, and its place in a file."""
    code = _code(definition)
    qualname = _qualname(definition)
    module = getattr(definition.function, "__module__", None)
    names = {stable_name(definition.function)} if qualname and module else {f"{id(definition.function)}"}
    return frozenset(names if code is None else names | {f"{code.co_filename}:{qualname}"})


def _enclosed(definition: Definition[..., Any]) -> list[int]:
    """Return which objects a function has from around it, by identity, and its defaults."""
    function: Any = inspect.unwrap(definition.function)
    cells: list[Any] = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    defaults: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [id(held) for held in (*cells, *defaults)]


def _code(definition: Definition[..., Any]) -> Any:
    function: Any = definition.function
    return getattr(inspect.unwrap(function), "__code__", None)


def _qualname(definition: Definition[..., Any]) -> str:
    return str(getattr(definition.function, "__qualname__", ""))


def _is_interactive(definition: Definition[..., Any]) -> bool:
    """Tell whether it was typed in: a cell that was changed and executed again declares another function."""
    module = getattr(definition.function, "__module__", None)
    return module == "__main__" and getattr(sys.modules.get("__main__"), "__file__", None) is None
