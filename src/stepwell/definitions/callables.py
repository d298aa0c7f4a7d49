"""What a function is, asked when it is decorated: async or not, a method or not, something that can be recorded or not.

The outermost callable decides. A ``def`` around an ``async def`` is a ``def``, whatever `functools.wraps` copied from
inside: it is the outer one that is called.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
import typing
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, Final, Literal

from stepwell.errors import DefinitionError, SerializationError
from stepwell.shown import shown

#: What a decorator of methods below ours says of the first argument: nobody passes it, or a class is passed.
Binding = Literal["static", "class"] | None

#: The name under which a child process imports the script that its parent runs as ``__main__``; so does the module
#: `multiprocessing` of the standard library, hence other code knows it.
MAIN_IN_A_CHILD: Final = "__mp_main__"

#: The return annotation of a ``def`` that returns a coroutine, as text.
_COROUTINE: Final = re.compile(r"([\w.]+\.)?(Awaitable|Coroutine)\b")


def without_binding(function: Any) -> tuple[Any, Binding]:
    """Return the function inside of a static or class method, and which of both it was in."""
    inner: Any = getattr(function, "__func__", None)
    if isinstance(function, staticmethod):
        return inner, "static"
    if isinstance(function, classmethod):
        return inner, "class"
    return function, None


def check(kind: str, function: Any, name: str | None) -> None:
    """Raise `DefinitionError` for what can never be a step or a workflow; `kind` is the decorator's name."""
    if isinstance(function, (property, functools.cached_property)):
        raise DefinitionError(
            f"@{kind} on a property: make it a method, which is called, or put @property above @{kind}"
        )
    if not callable(function) or isinstance(function, type):
        raise DefinitionError(f"@{kind} needs a function, not {shown(function)}")
    named = getattr(function, "__qualname__", None) or shown(function)
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    for code in (inner, _call_of(inner)):
        if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise DefinitionError(f"@{kind} {named}: a generator cannot be recorded; return a list instead of yielding")
    if name is None and not _has_name(function):
        raise DefinitionError(f"@{kind} {shown(function)} has no name of its own, so give it one: name=…")
    if not is_coroutine_function(function) and _returns_a_coroutine(function):
        raise DefinitionError(
            f"@{kind} {named} is a `def` that returns a coroutine, which cannot be recorded: make it an `async def` "
            "that awaits what it returned (`return await …`)"
        )
    if not inspect.isfunction(inspect.unwrap(function)):
        try:
            inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise DefinitionError(
                f"@{kind} {named}: Python cannot tell what it takes ({error}); wrap it in a `def`"
            ) from None


def is_coroutine_function(function: Any) -> bool:
    """Tell whether calling it gives a coroutine: `inspect.iscoroutinefunction`, but for callable objects as well."""
    while isinstance(function, functools.partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if inspect.iscoroutinefunction(function) or _is_marked(function):
        return True
    call = _call_of(function)
    return call is not None and (inspect.iscoroutinefunction(call) or _is_marked(call))


def _call_of(function: Any) -> Any:
    """Return the ``__call__`` of an object that is no function."""
    return None if inspect.isroutine(function) else type(function).__call__


def _is_marked(function: object) -> bool:
    """Tell whether it has asyncio's mark, which libraries put on wrappers before Python 3.12 had a public one."""
    mark = getattr(asyncio.coroutines, "_is_coroutine", None)
    return mark is not None and getattr(function, "_is_coroutine", None) is mark


def _returns_a_coroutine(function: Any) -> bool:
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        return _COROUTINE.match(annotation) is not None
    return (typing.get_origin(annotation) or annotation) in (Awaitable, Coroutine)


def refuse_coroutine(result: object, what: str, where: str) -> None:
    """Raise `SerializationError` for what a ``def`` returned where it is a coroutine, which nobody would await."""
    if not hasattr(type(result), "__await__"):
        return
    close = getattr(result, "close", None)
    if close is not None:  # so that Python does not warn that it was never awaited
        close()
    raise SerializationError(
        f"{what} is a `def`, and it returned a {type(result).__name__}, which nobody awaits and which cannot be "
        "recorded: make it an `async def` that awaits it (`return await …`). The outermost function counts: where the "
        "`def` is a decorator's wrapper, make that an `async def`",
        where=where,
    )


def _has_name(function: Any) -> bool:
    return not getattr(function, "__qualname__", "<lambda>").endswith("<lambda>")


def stable_name(function: Any) -> str:
    """Return ``module.qualname``; for a script run as ``__main__`` the module name that importing it would give."""
    module = getattr(function, "__module__", None) or "unknown"
    if module in ("__main__", MAIN_IN_A_CHILD):
        module = _importable_main_name(module)
    return f"{module}.{function.__qualname__}"


def _importable_main_name(module: str) -> str:
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:  # python -m package.module
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return Path(path).stem if path else "__main__"


def is_in_a_class(function: object) -> bool:
    """Tell whether the function was declared in the body of a class."""
    outside, _, _name = getattr(function, "__qualname__", "").rpartition(".")
    return bool(outside) and not outside.endswith("<locals>")


# --- looking like the function ----------------------------------------------------------------------------------------


def dress(wrapper: Any, function: Any, name: str) -> None:
    """Make `wrapper` look like `function`, as `functools.update_wrapper` does; attributes of its own class stay.

    `name` is for what has none.
    """
    source = _source(function)
    wrapper.__name__, wrapper.__qualname__ = name.rpartition(".")[2], name
    for attribute_name in functools.WRAPPER_ASSIGNMENTS:
        for each in (function, source):
            if isinstance(each, functools.partial) or not hasattr(each, attribute_name):  # its text is about partials
                continue
            if each is function or attribute_name not in ("__name__", "__qualname__"):
                setattr(wrapper, attribute_name, getattr(each, attribute_name))
                break
    for attribute_name, value in getattr(function, "__dict__", {}).items():
        if not hasattr(wrapper.__class__, attribute_name):
            wrapper.__dict__[attribute_name] = value
    wrapper.__wrapped__ = function


def _source(function: Any) -> Any:
    """Return the function of Python whose code is executed first, or None where that is written in C."""
    while isinstance(function, functools.partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return function if hasattr(function, "__code__") else _call_of(function)


async def _a_coroutine_function() -> None: ...


#: What `inspect.iscoroutinefunction` looks for on other objects than functions; from Python 3.12 on.
_MARKS: Final[dict[str, Any]] = {}
if sys.version_info >= (3, 12):
    _MARKS.update(vars(inspect.markcoroutinefunction(lambda: None)))

#: Attributes of functions that tools read without unwrapping: annotations are looked up in the globals, and before
#: Python 3.12 the flags of the code say whether it is async.
_OF_FUNCTIONS: Final = frozenset({"__closure__", "__code__", "__defaults__", "__globals__", "__kwdefaults__"})

#: The names that `attribute` knows.
ASKED_FOR: Final = (*_OF_FUNCTIONS, *_MARKS)


def attribute(function: Any, name: str, *, is_async: bool) -> Any:
    """Return an attribute that a function would have in the place of what wraps it; raise `AttributeError`."""
    if is_async and name in _MARKS:
        return _MARKS[name]
    if name not in _OF_FUNCTIONS:
        raise AttributeError(name)
    found = getattr(_source(function), name)
    if name == "__code__" and is_async and not found.co_flags & inspect.CO_COROUTINE:  # only marked as async
        return _a_coroutine_function.__code__
    return found
