"""Which patches the code of a workflow asks for: the names in its calls of `patched`, without executing it."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, Final

from stepwell.operations.patch import patched
from stepwell.replay.blocking import follow

_NAME: Final = patched.__name__
#: How many instructions may stand between the function and the name that it is called with.
_NEAR: Final = 3


def patch_names(function: Callable[..., Any]) -> set[str]:
    """Return the names that a workflow, or a helper that it mentions, gives to `patched` as literal text."""
    return {name for each in follow(function) for code in _codes(each) for name in _named(code)}


def _codes(function: FunctionType) -> Iterator[CodeType]:
    found = [function.__code__]
    while found:
        code = found.pop()
        yield code
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _named(code: CodeType) -> Iterator[str]:
    if _NAME not in code.co_names:
        return
    instructions = list(dis.get_instructions(code))
    for at, instruction in enumerate(instructions):
        if instruction.argval == _NAME and instruction.opname.startswith("LOAD_"):
            for following in instructions[at + 1 : at + 1 + _NEAR]:
                if following.opname == "LOAD_CONST":
                    if isinstance(following.argval, str):
                        yield following.argval
                    break
