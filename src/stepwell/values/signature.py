"""What a function takes and returns, as the codec needs it: resolved annotations and a cheap check of calls.

Annotations are resolved at first use and not at import, so that forward references, circular imports and
``from __future__ import annotations`` work. A name that cannot be resolved even then (it is imported only under
``TYPE_CHECKING``, or defined inside another function) makes its annotation `typing.Any`: values go untyped, as JSON
shows them. `Signature.unresolved` lists such annotations.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import SimpleNamespace
from typing import Any

from stepwell.errors import DefinitionError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

#: Annotations that say nothing about one argument: ``*args: P.args``, ``*args: *Ts``.
_PARAMETER_PACKS = (typing.ParamSpec, typing.ParamSpecArgs, typing.ParamSpecKwargs, typing.TypeVarTuple)


class Annotations(typing.NamedTuple):
    """The resolved annotations of a function; `typing.Any` where there is none.

    `positional` are those of the parameters that can be passed by position, `keyword` of those that can be passed by
    name. `more_positional` and `more_keyword` belong to ``*args`` and ``**kwargs``; without these, `Signature.NONE`.
    """

    positional: tuple[Any, ...]
    keyword: dict[str, Any]
    more_positional: Any
    more_keyword: Any
    returns: Any


class Signature:
    """The parameters and the return type of a function.

    `skip_first` leaves the first parameter out: the ``self`` of a method, or what the engine passes in itself.
    Raises `DefinitionError` where Python cannot tell a signature (a few functions written in C).
    """

    #: Stands for "takes no such arguments" in `Annotations`.
    NONE: typing.Final = inspect.Parameter.empty

    def __init__(self, function: Callable[..., Any], *, skip_first: bool = False) -> None:
        self.name: str = getattr(function, "__qualname__", None) or repr(function)
        self._function = function
        try:
            full = _inspect(function)
        except (TypeError, ValueError) as error:
            raise DefinitionError(f"Python cannot tell what {self.name} takes ({error}); wrap it in a `def`") from None
        parameters = list(full.parameters.values())
        if skip_first and not (parameters and parameters[0].kind in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL)):
            raise DefinitionError(f"{self.name} must take a first positional parameter, which the engine fills in")
        if skip_first and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]
        self.parameters = full.replace(parameters=parameters)
        #: Names of what carries an annotation that could not be resolved; filled at the first use of `annotations`.
        self.unresolved: tuple[str, ...] = ()
        self._prepare_check(parameters)

    def _prepare_check(self, parameters: list[inspect.Parameter]) -> None:
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        required_by_name = any(
            p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty for p in parameters
        )
        takes_any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._shadowed = {p.name for p in positional if takes_any_name and p.kind is inspect.Parameter.POSITIONAL_ONLY}
        is_open = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        self._least = sum(p.default is inspect.Parameter.empty for p in positional)
        self._most = -1 if required_by_name else sys.maxsize if is_open else len(positional)
        # For calls that name each parameter which they do not pass by position: the names left after n arguments.
        plain = all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)
        names = [p.name for p in parameters]
        self._names_after: list[AbstractSet[str]] = (
            [frozenset(names[n:]) for n in range(len(names) + 1)] if plain else []
        )

    def bind_check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `DefinitionError` (a `TypeError`) unless the function can be called with these arguments."""
        count = len(args)
        if not kwargs:
            if self._least <= count <= self._most:
                return
        elif count < len(self._names_after) and kwargs.keys() == self._names_after[count]:
            return
        try:
            # Some versions of Python let `bind` take a positional-only parameter by name where there are **kwargs.
            self.parameters.bind(*args, **{name: kwargs[name] for name in kwargs if name not in self._shadowed})
        except TypeError as error:
            shown = self.parameters.replace(return_annotation=inspect.Signature.empty)
            raise DefinitionError(f"{self.name}{shown} cannot be called like this: {error}") from None

    @functools.cached_property
    def annotations(self) -> Annotations:
        """The annotations of parameters and result, resolved."""
        scope = _Scope(self._function)
        positional: list[Any] = []
        keyword: dict[str, Any] = {}
        more_positional: Any = self.NONE
        more_keyword: Any = self.NONE
        for parameter in self.parameters.parameters.values():
            hint = scope.resolve(parameter.name, parameter.annotation)
            if parameter.kind in _POSITIONAL:
                positional.append(hint)
            if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
                keyword[parameter.name] = hint
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                more_positional = Any if typing.get_origin(hint) is typing.Unpack else hint
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                if typing.get_origin(hint) is typing.Unpack:  # **options: Unpack[SomeTypedDict]
                    keyword.update(_typed_dict_fields(typing.get_args(hint)[0]))
                else:
                    more_keyword = hint
        returns = scope.resolve("return", self.parameters.return_annotation)
        self.unresolved = tuple(scope.unresolved)
        return Annotations(tuple(positional), keyword, more_positional, more_keyword, returns)

    def detach(self) -> None:
        """Resolve the annotations now, and let go of the function, whose closure may hold all that a run has."""
        _ = self.annotations
        self._function = type(self)

    @property
    def return_annotation(self) -> Any:
        """The type of the result (of what awaiting gives, for ``async def``); `typing.Any` where none is declared."""
        return self.annotations.returns

    def annotation_at(self, index: int) -> Any:
        """Return the annotation of the argument at `index`, or `NONE` where so many cannot be passed."""
        positional = self.annotations.positional
        return positional[index] if index < len(positional) else self.annotations.more_positional

    def place(self, index: int) -> str | None:
        """Return how the argument at `index` is called in messages, by the name of the parameter that takes it."""
        for parameter in self.parameters.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                return f"{parameter.name}[{index}]"
            if index == 0 and parameter.kind in _POSITIONAL:
                return parameter.name
            index -= 1
        return None

    def default_of(self, name: str) -> Any:
        """Return the default value of a parameter, `NONE` where it has none, or where there is no such parameter."""
        parameter = self.parameters.parameters.get(name)
        return self.NONE if parameter is None else parameter.default

    def annotation_of(self, name: str) -> Any:
        """Return the annotation of the argument passed by `name`, or `NONE` where it cannot be passed."""
        return self.annotations.keyword.get(name, self.annotations.more_keyword)


def _inspect(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # annotations are evaluated late there, and here would be too early
        import annotationlib  # noqa: PLC0415 - exists from Python 3.14 on

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _typed_dict_fields(annotation: Any) -> dict[str, Any]:
    try:
        fields = typing.get_type_hints(annotation, include_extras=True)
    except Exception:  # noqa: BLE001 - unresolvable names, of whatever kind: untyped
        return dict.fromkeys(getattr(annotation, "__annotations__", {}), Any)
    return {name: _without_qualifier(hint) for name, hint in fields.items()}


def _without_qualifier(hint: Any) -> Any:
    qualifiers = (typing.Required, typing.NotRequired)
    return typing.get_args(hint)[0] if typing.get_origin(hint) in qualifiers else hint


class _Scope:
    """The names that a function's annotations can see: its module, its closure, its type parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        plain: Any = inspect.unwrap(function)
        while isinstance(plain, functools.partial):
            plain = plain.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not hasattr(plain, "__globals__") and not isinstance(plain, type):
            plain = getattr(plain, "__func__", None) or type(plain).__call__
        self._globals: dict[str, Any] = getattr(plain, "__globals__", {})
        self._locals: dict[str, Any] = {p.__name__: p for p in getattr(plain, "__type_params__", ())}
        code = getattr(plain, "__code__", None)
        cells = getattr(plain, "__closure__", None) or ()
        for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
            try:
                self._locals[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        self.unresolved: list[str] = []

    def resolve(self, name: str, annotation: Any) -> Any:
        """Return `annotation` with all names in it replaced by what they stand for; `Any` where that fails."""
        if annotation is inspect.Parameter.empty:
            return Any
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints = typing.get_type_hints(holder, self._globals, self._locals, include_extras=True)
        except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything; see the head of this file
            self.unresolved.append(name)
            return Any
        return Any if isinstance(hints[name], _PARAMETER_PACKS) else _thawed(hints[name])


def _thawed(hint: Any) -> Any:
    """Return an annotation that was resolved while freezegun has its own classes in the place of `datetime` and `date`.

    It is kept for as long as the function lives, and means the real ones.
    """
    frozen: Any = sys.modules.get("freezegun.api")
    if frozen is None:
        return hint
    real: dict[Any, Any] = {frozen.FakeDatetime: frozen.real_datetime, frozen.FakeDate: frozen.real_date}
    if isinstance(hint, type) and hint in real:
        return real[hint]
    args = typing.get_args(hint)
    thawed = tuple(_thawed(arg) for arg in args)
    if all(one is other for one, other in zip(args, thawed, strict=True)):
        return hint
    if isinstance(hint, types.UnionType):
        return typing.Union[thawed]  # noqa: UP007 - of as many as there are
    generic: Any = hint
    return (
        generic.copy_with(thawed) if hasattr(generic, "copy_with") else types.GenericAlias(generic.__origin__, thawed)
    )
