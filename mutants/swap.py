"""Puts changed code into the functions of a running process, and notes which statements are reached.

Modules take each other's functions when they are imported, so a module cannot be imported anew. The function objects
stay, and get the code of the changed source. What holds a code object itself (some modules know frames by theirs) gets
the new one as well. Functions are found by their names and lines, since pytest changes the code of those that assert.
"""

from __future__ import annotations

import ast
import builtins
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Final, TypeAlias

#: The name under which instrumented code finds what it calls before each statement.
_REACHED: Final = "__reached__"


#: The qualified name of a function, and the line on which it begins.
Place: TypeAlias = tuple[str, int]


class NothingToChangeError(Exception):
    """The change is in no function that exists."""


def swap(module: ModuleType, changed: str | ast.Module) -> None:
    """Give the functions of `module` the code that `changed` has for them."""
    path = str(module.__file__)
    before = compile(Path(path).read_text(encoding="utf-8"), path, "exec", dont_inherit=True)
    after = compile(changed, path, "exec", dont_inherit=True)
    codes = dict(_changed_functions(before, after))
    functions = [
        function
        for function in gc.get_objects()
        if type(function) is FunctionType
        and function.__globals__ is vars(module)
        and function.__code__.co_filename == path
        and _place(function.__code__) in codes
    ]
    if not functions:
        raise NothingToChangeError(path)
    held = {function.__code__: codes[_place(function.__code__)] for function in functions}
    for function in functions:
        try:
            function.__code__ = codes[_place(function.__code__)]
        except ValueError:  # it has other variables of the functions around it
            raise NothingToChangeError(path) from None
    _replace_held(held)


def _place(code: CodeType) -> Place:
    return code.co_qualname, code.co_firstlineno


def _changed_functions(before: CodeType, after: CodeType) -> Iterator[tuple[Place, CodeType]]:
    """Yield the places of the outermost functions whose code differs, each with the other code."""
    for one, other in zip(_inner(before), _inner(after), strict=True):
        if not one.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
            yield from _changed_functions(one, other)
        elif one != other:
            yield _place(one), other


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _replace_held(codes: dict[CodeType, CodeType]) -> None:
    for module in [module for name, module in sys.modules.items() if name.startswith("stepwell.")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, CodeType) and value in codes:
                setattr(module, name, codes[value])
            elif isinstance(value, frozenset) and not value.isdisjoint(codes):
                setattr(module, name, frozenset(codes.get(one, one) for one in value))


def note_what_is_reached(module: ModuleType, note: Callable[[tuple[str, int]], object]) -> None:
    """Call `note` with the module's name and the line of each statement of a function, before it is executed."""
    vars(builtins)[_REACHED] = note
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    swap(module, ast.fix_missing_locations(_Noting(module.__name__).visit(tree)))


class _Noting(ast.NodeTransformer):
    """Puts a call before each statement inside functions."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if self._depth:
            for field in ("body", "orelse", "finalbody"):
                statements = getattr(node, field, None)
                if isinstance(statements, list) and not isinstance(node, ast.ClassDef):
                    setattr(node, field, [new for statement in statements for new in self._noted(statement)])
        return node

    def _noted(self, statement: ast.stmt) -> list[ast.stmt]:
        match statement:
            case ast.Expr(value=ast.Constant()):  # a docstring must stay the first
                return [statement]
            case _:
                place = ast.Tuple([ast.Constant(self._module), ast.Constant(statement.lineno)], ast.Load())
                call = ast.Expr(ast.Call(ast.Name(_REACHED, ast.Load()), [place], []))
                return [ast.copy_location(call, statement), statement]


def statement_of(source: str, line: int) -> int:
    """Return the line on which the innermost statement begins that `line` is part of."""
    starts = [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(starts, default=line)
