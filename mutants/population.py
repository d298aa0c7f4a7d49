"""Which mutants there are: cosmic-ray's operators, applied where code decides something.

Only the bodies of functions are changed; there, what is only said (docstrings, annotations, messages that are raised or
logged, `__repr__`) is no behaviour. Of the comparisons only neighbours are made (``<`` becomes ``<=``, not ``is``): the
others are found at once.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from mutants.known import Change
from mutants.targets import ROOT

OPERATORS: Final = (
    "core/AddNot",
    "core/NumberReplacer",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceBinaryOperator_Add_Sub",
    "core/ReplaceBinaryOperator_Sub_Add",
    "core/ReplaceBinaryOperator_Mul_Div",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/ReplaceComparisonOperator_Eq_NotEq",
    "core/ReplaceComparisonOperator_NotEq_Eq",
    "core/ReplaceComparisonOperator_Is_IsNot",
    "core/ReplaceComparisonOperator_IsNot_Is",
    "core/ReplaceComparisonOperator_Lt_LtE",
    "core/ReplaceComparisonOperator_LtE_Lt",
    "core/ReplaceComparisonOperator_Gt_GtE",
    "core/ReplaceComparisonOperator_GtE_Gt",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceTrueWithFalse",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/ZeroIterationForLoop",
)


@dataclass(frozen=True, slots=True, order=True)
class Mutant:
    """One change: the `occurrence` of an operator in a module, as cosmic-ray counts, and the line where it is."""

    module: str
    line: int
    operator: str
    occurrence: int

    @property
    def path(self) -> str:
        """The file, below the root."""
        return f"src/{self.module.replace('.', '/')}.py"

    def changed(self) -> str | None:
        """Return the file's text with the change; None where it makes no valid Python."""
        source = (ROOT / self.path).read_text(encoding="utf-8")
        changed: str | None = mutate_code(source, get_operator(self.operator)(), self.occurrence)
        if changed is None or changed == source:
            return None
        try:
            ast.parse(changed)
        except SyntaxError:
            return None
        return changed

    def change(self, changed: str) -> Change:
        """Return what people see of it: the line before and after."""
        source = (ROOT / self.path).read_text(encoding="utf-8")
        lines = [line for line in difflib.ndiff(source.splitlines(), changed.splitlines()) if line[:2] in ("- ", "+ ")]
        was, becomes = (" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
        return Change(self.path.removeprefix("src/stepwell/"), was, becomes)


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yield the mutants of a module."""
    source = (ROOT / f"src/{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    wanted = _lines_that_decide(ast.parse(source))
    nodes = list(ast_nodes(get_ast(source)))
    for name in OPERATORS:
        operator: Any = get_operator(name)()
        occurrence = 0
        for node in nodes:
            for (line, _), _ in operator.mutation_positions(node):
                if line in wanted:
                    yield Mutant(module, line, name, occurrence)
                occurrence += 1


def _lines_that_decide(tree: ast.Module) -> set[int]:
    found: set[int] = set()
    silent: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                for statement in node.body:
                    found.update(_lines(statement))
                if name in ("__repr__", "__str__"):
                    silent.update(_lines(node))
                elif node.body[0].lineno > node.lineno:  # what stands between the two are annotations and defaults
                    silent.update(range(node.lineno, node.body[0].lineno))
            case ast.AnnAssign(annotation=annotation):
                silent.update(_lines(annotation) if node.value is None else ())
            case ast.Raise() | ast.Call(func=ast.Attribute(value=ast.Name(id="_log"))):
                silent.update(_lines(node))
            case ast.ClassDef() if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
                silent.update(_lines(node))
            case _:
                pass
    return found - silent


def _lines(node: ast.AST) -> range:
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
    return range(first, last + 1)
