"""A function that is called durably inside a run: what steps and workflows have in common.

Outside of a run it is the function, for whoever calls it and for whoever looks at it (signature, documentation, whether
it is async). As a method it binds itself like a function. It is never changed: other options and bound methods are
copies.
"""

from __future__ import annotations

import copy
import functools
import sys
from asyncio.events import _get_running_loop
from collections.abc import Callable, Coroutine, Mapping
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from stepwell.definitions import callables
from stepwell.definitions.collector import end_clean_up
from stepwell.definitions.step_info import call_outside
from stepwell.errors import DefinitionError, SerializationError
from stepwell.model.journal import Payload
from stepwell.model.names import check_name
from stepwell.values.codec import Codec
from stepwell.values.converter import Converter
from stepwell.values.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
# Of a method before it is bound; the class's own P and R would stand for the bound one.
Q = ParamSpec("Q")
U = TypeVar("U")


class Host(Protocol):
    """The run that the current code belongs to; `stepwell.replay.execution.Execution` is the one that exists."""

    run_id: str

    def location(self) -> str:
        """Return ``file:line in function`` of the code that is executing now."""
        ...

    def call(self, definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a durable call: a coroutine where the definition is async, else the result itself."""
        ...

    def call_async(self, definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that makes a durable call, whichever way the definition is declared."""
        ...


def current_host() -> Host | None:
    """Return the run whose code is executing on this thread, or None outside of workflow code.

    Workflow code is recognised by its event loop, which no other code ever runs on.
    """
    return getattr(_get_running_loop(), "host", None)


class _Shared:
    """What a definition has in common with its copies: those that are bound, and those with other options."""

    __slots__ = ("converter", "is_served", "of_its_class", "original", "signatures")

    def __init__(self, original: Any) -> None:
        self.original = original
        self.signatures: dict[bool, Signature] = {}
        self.converter: tuple[Codec, Converter] | None = None
        self.of_its_class: Any = None  # the copy that is bound to the class which declares it
        self.is_served = False  # whether an engine was given a bound copy to serve


class Definition(Generic[P, R]):
    """What workflows and steps have in common: a function that is called durably inside a run.

    `name` is what the file stores; `R` is what a call returns (a coroutine for an async function). `is_async` says
    which of both it is, `is_bound` whether it was taken from an instance or a class, which is not recorded.
    """

    # Not in __dict__, which has what the function has in its own, and which `functools.wraps` copies.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_binding",
        "_bound_to",
        "_is_in_a_class",
        "_shared",
        "coroutine_name",
        "function",
        "is_async",
        "is_bound",
        "is_of_a_module",
        "name",
        "signature",
    )

    kind: str = "definition"

    __name__: str
    __qualname__: str

    #: The parameters and the return type: every call asks for them.
    signature: Signature

    def __init__(self, function: Callable[P, R], name: str | None) -> None:
        if isinstance(function, Definition):
            raise DefinitionError(f"@{self.kind} on {function!r}: a function is decorated once")
        plain, self._binding = callables.without_binding(function)
        if isinstance(plain, Definition):
            raise DefinitionError(f"@{self.kind} on {plain!r}: a function is decorated once")
        callables.check(self.kind, plain, name)
        self.function: Callable[P, R] = plain
        self.name = check_name(name if name is not None else callables.stable_name(plain), f"the name of a {self.kind}")
        self.coroutine_name = f"{self.kind} {self.name}"  # what Python says where nobody awaits a call
        self.is_async = callables.is_coroutine_function(plain)
        self.is_bound = False
        self.is_of_a_module = False  # see `stepwell.definitions.namesakes`
        self._bound_to: object = None
        self._is_in_a_class = callables.is_in_a_class(plain)
        self._shared = _Shared(self)
        self.signature = self._signature()
        callables.dress(self, plain, self.name)

    def _signature(self) -> Signature:
        skip_first = self.is_bound or self.kind == "transaction"
        known = self._shared.signatures.get(skip_first)
        if known is None:
            known = self._shared.signatures[skip_first] = Signature(self.function, skip_first=skip_first)
        return known

    def attribute_of_functions(self, name: str) -> Any:
        """Return what a function has and tools ask for; raise `AttributeError` where this one does not have it."""
        if name == "__signature__" and self.is_bound:
            return self.signature.parameters
        if name == "__self__" and self.is_bound:
            return self._bound_to
        try:
            return callables.attribute(self.function, name, is_async=self.is_async)
        except AttributeError:
            raise AttributeError(f"{self!r} has no attribute {name!r}") from None

    def converter(self, codec: Codec) -> Converter:
        """Return what encodes and decodes the results, as the return annotation says."""
        known = self._shared.converter
        if known is None or known[0] is not codec:
            known = self._shared.converter = (codec, codec.converter(self.signature.return_annotation))
        return known[1]

    def encode_result(self, codec: Codec, result: object, where: object) -> Payload:
        """Return what is recorded of a result, which is certain to come back; raises `SerializationError`."""
        try:
            return self.converter(codec).record(result, where)
        except SerializationError:
            raise
        except Exception as error:
            raise _not_encodable(error, where) from error

    def read_back(self, codec: Codec, result: object, where: object) -> tuple[Payload, Any]:
        """Return what is recorded of a result, and what is delivered in place of it; raises `SerializationError`."""
        try:
            known = self._shared.converter  # `converter` once more, in line: each step passes here
            converter = known[1] if known is not None and known[0] is codec else self.converter(codec)
            return converter.roundtrip(result, where)
        except SerializationError:
            raise
        except Exception as error:
            raise _not_encodable(error, where) from error

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; inside a run, durably."""
        host = getattr(_get_running_loop(), "host", None)
        if host is None:
            end_clean_up()
            if self.is_async:
                self.signature.bind_check(args, kwargs)  # which the coroutine itself would do only when it is awaited
            call = functools.partial(self.invoke, args, kwargs)
            return call_outside(self.kind, self.name, call, is_async=self.is_async)
        if self._is_in_a_class and args and not self.is_bound:
            bound = self._bound_by(args[0])
            if bound is not None:
                return cast("R", host.call(bound, args[1:], kwargs))
        return cast("R", host.call(self, args, kwargs))

    def invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """Call the plain function, with the instance or class first where the definition is bound."""
        if self.is_bound:
            return cast("Callable[..., R]", self.function)(self._bound_to, *args, **kwargs)
        return cast("Callable[..., R]", self.function)(*args, **kwargs)

    # --- methods -------------------------------------------------------------------------------------------------

    def _copy(self) -> Self:
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin._binding, twin._bound_to, twin.is_bound = self._binding, self._bound_to, self.is_bound
        twin._is_in_a_class, twin._shared, twin.signature = self._is_in_a_class, self._shared, self.signature
        twin.is_of_a_module, twin.coroutine_name = self.is_of_a_module, self.coroutine_name
        twin.function, twin.name, twin.is_async = self.function, self.name, self.is_async
        return twin

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self: Definition[Concatenate[S, Q], U], instance: S, owner: type) -> Definition[Q, U]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind a definition that is declared inside a class to an instance, or a class method to its class."""
        target = instance
        if self._binding == "class":
            target = owner if owner is not None else type(instance)
        if target is None or self.is_bound or self._binding == "static":
            return self
        return self._bound(target)

    def unconfigured(self) -> Self:
        """Return this with the options of its declaration."""
        original = cast("Self", self._shared.original)
        return original._bound(self._bound_to) if self.is_bound else original

    def _bound(self, target: object) -> Self:
        if self.kind == "transaction":
            raise self.not_a_method()
        known = self._shared.of_its_class
        if known is not None and known._bound_to is target and self is self._shared.original:
            return cast("Self", known)
        twin = self._copy()
        twin._bound_to, twin.is_bound = target, True
        twin.signature = twin._signature()
        if isinstance(target, type) and self is self._shared.original and self._is_declared_in(target):
            self._shared.of_its_class = twin
        return twin

    def not_a_method(self) -> DefinitionError:
        """Make the error of a transaction that is a method."""
        return DefinitionError(
            f"@transaction {self.__qualname__} cannot be called on an instance or a class: its first parameter is the "
            "connection. Declare it outside of the class, or as a @staticmethod, and pass what it needs as arguments"
        )

    def _is_declared_in(self, owner: type) -> bool:
        """Tell whether a class has this as a class method of its own, not as one that it inherited."""
        found: Any = vars(owner).get(self.__name__)
        inner, binding = callables.without_binding(found)
        return (found is self and self._binding == "class") or (inner is self and binding == "class")

    def _bound_by(self, first: object) -> Self | None:
        """Return this bound to the first argument of a call, where that is the instance or class that it belongs to.

        So it is in ``Shop.mail(shop, …)``, for a property, and for a class method from Python 3.13 on, which does not
        ask what it wraps to bind itself.
        """
        owner: type = first if isinstance(first, type) else type(first)
        for base in owner.__mro__:
            found: Any = vars(base).get(self.__name__)
            inner = getattr(found, "__func__", None) if owner is first else getattr(found, "fget", None) or found
            if isinstance(inner, Definition) and inner._shared is self._shared:
                return self._bound(first)
        return None

    @property
    def is_of_its_class(self) -> bool:
        """Whether it is a class method of the class that declares it, which every process finds by its name."""
        own = self._shared.of_its_class
        return own is not None and own._bound_to is self._bound_to

    def resolved(self) -> Self:
        """Return what is executed under this name: a class method is bound to the class that declares it."""
        if self.is_bound or not self._is_in_a_class or self._binding == "static":
            return self
        if self._shared.of_its_class is None:
            owner: Any = sys.modules.get(self.__module__)
            for part in self.__qualname__.split(".")[:-1]:  # from <locals> of a function nothing can be got
                owner = getattr(owner, part, None)
            if isinstance(owner, type) and self._is_declared_in(owner):
                self._bound(owner)
        return cast("Self", self._shared.of_its_class or self)

    def is_bound_like(self, other: Definition[..., Any]) -> bool:
        """Tell whether both are bound to the same object."""
        return self.is_bound and self._bound_to is other._bound_to

    def note_served(self) -> None:
        """Note that an engine serves this bound copy, so that runs of it can be executed."""
        self._shared.is_served = True

    def check_can_be_started(self, *, is_served: bool | None = None) -> None:
        """Raise `DefinitionError` for what is bound to an object that no worker could know of.

        `is_served`: whether the engine serves a bound copy; None where only the process can be asked for any that does.
        """
        if not self.is_bound or self.is_of_its_class:
            return
        if is_served or (is_served is None and self._shared.is_served):
            return
        if isinstance(self._bound_to, type):
            raise DefinitionError(
                f"{self!r} is a class method, and {self._bound_to.__qualname__} only inherits it: a run records no "
                "class, so it would be executed for the class that declares it. Declare it in "
                f"{self._bound_to.__qualname__} as well"
            )
        raise DefinitionError(
            f"{self!r} is bound to an object, which is not recorded, so no worker could execute it. Make it a "
            "function, a @staticmethod or a @classmethod and pass what it needs, or serve the bound one: "
            "Engine(workflows=[…])"
        )

    # --- as other objects treat functions ------------------------------------------------------------------------

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle it by its name, as functions are; it must be importable."""
        return (getattr, (self._bound_to, self.__name__)) if self.is_bound else self.__qualname__

    def __copy__(self) -> Self:
        """Return the same object: it is never changed."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the same object; of a bound method, that of the copied instance."""
        if not self.is_bound or isinstance(self._bound_to, type):
            return self
        twin = self._copy()
        twin._bound_to = copy.deepcopy(self._bound_to, memo)
        return twin

    def __repr__(self) -> str:
        """Name the kind and the stable name."""
        return f"<{self.kind} {self.name!r}>"


def _not_encodable(error: Exception, where: object) -> SerializationError:
    """Make the refusal from an error of the annotation, or of a class of the user's that is asked for its parts."""
    text = str(error) if isinstance(error, DefinitionError) else f"{type(error).__name__}: {error}"
    return SerializationError(f"Cannot record {where}: {text}", where=str(where))


class _OfFunctions:
    """An attribute of functions that instances have, and the class has not.

    Not by `__getattr__`: a class that has one pays for it at every attribute, a tenth of a step's time in Python 3.11.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Definition[..., Any] | None, owner: type) -> Any:
        if instance is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        return instance.attribute_of_functions(self._name)


for _name in (*callables.ASKED_FOR, "__self__", "__signature__"):
    setattr(Definition, _name, _OfFunctions(_name))


def as_definition(function: object) -> object:
    """Return the definition inside a bound method, as class methods are from Python 3.13 on; else what was given."""
    inner: Any = getattr(function, "__func__", None)
    if isinstance(function, MethodType) and isinstance(inner, Definition):
        return cast("Definition[..., Any]", inner)._bound(function.__self__)
    return function


def unwrapped(
    function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[object, tuple[Any, ...], dict[str, Any]]:
    """Return what is called in the end, a definition where there is one, and with what: partials are taken apart."""
    named = dict(kwargs)
    called: Any = function
    while isinstance(called, functools.partial):
        args, named, called = (*called.args, *args), {**called.keywords, **named}, called.func
    return as_definition(called), args, named
