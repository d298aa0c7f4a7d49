"""Which values come back equal whatever they hold, so that they need no comparison.

Known from the annotation, once: of types that JSON writes without loss, and of classes that are nothing but their
fields (no code of theirs executes when they are read). Left to be looked at is whether a value is of these types
exactly, and not of subclasses; `checker` makes the function that looks. It errs on the side of False: then values are
compared.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import pathlib
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from stepwell.comparison import slots_of
from stepwell.shapes import class_of, fields_of_class, is_pydantic_model, items_of, mapping_of

Check: TypeAlias = Callable[[Any], bool]

#: Immutable types that come back equal where they are expected, and what else of them is text in JSON.
_ATOMS: Final[frozenset[type]] = frozenset(
    {type(None), bool, int, float, str, bytes, uuid.UUID, dt.date, decimal.Decimal}
)
#: What JSON has itself: these come back equal where nothing is expected.
_JSON_ATOMS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str})
_KEYS: Final[frozenset[type]] = frozenset({str, int, uuid.UUID, dt.date})
_TEXT: Final[frozenset[type]] = frozenset({str})
_UNIONS: Final = (typing.Union, types.UnionType)


def atoms_of(annotation: Any) -> frozenset[type]:
    """Return the immutable types whose instances come back equal under this annotation."""
    if annotation is Any or annotation is object:
        return _JSON_ATOMS
    if annotation is None:
        return frozenset({type(None)})
    if isinstance(annotation, type) and annotation in _ATOMS:
        return frozenset({annotation})
    if typing.get_origin(annotation) in _UNIONS:
        members = [atoms_of(member) for member in typing.get_args(annotation)]
        if all(members):
            return frozenset[type]().union(*members)
    return frozenset()


def checker(annotation: Any) -> Check | None:
    """Return what tells whether a value comes back equal under this annotation; None where that is never known."""
    return _Maker().make(annotation)


def is_json_value(value: Any) -> bool:
    """Tell whether a value is what JSON itself has, and nothing else."""
    kind = class_of(value)
    if kind in _JSON_ATOMS:
        return True
    if kind is list:
        held: Any = items_of(value)
    elif kind is dict:
        if not _TEXT.issuperset(map(type, mapping_of(value))):
            return False
        held = mapping_of(value).values()
    else:
        return False
    return _JSON_ATOMS.issuperset(map(type, held)) or all(map(is_json_value, held))


class _Maker:
    """Makes checks; knows those under way, for classes that refer to themselves."""

    def __init__(self) -> None:
        self._of_class: dict[Any, list[Check | None]] = {}

    def make(self, annotation: Any) -> Check | None:
        if annotation is Any or annotation is object:
            return is_json_value
        atoms = atoms_of(annotation)
        if atoms:
            return lambda value: type(value) in atoms
        supertype = getattr(annotation, "__supertype__", None)  # of a NewType
        if supertype is not None:
            return self.make(supertype)
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            return self.make(args[0])
        if origin is Literal:
            kinds = frozenset(map(type, args))
            return None if not kinds <= {str, int, type(None)} else lambda value: type(value) in kinds
        if origin in _UNIONS:
            return self._union(args)
        if origin is not None:
            return self._container(origin, args)
        if not isinstance(annotation, type):
            return None
        return self._class(annotation)

    def _union(self, members: Sequence[Any]) -> Check | None:
        checks = self._all(members)
        if checks is None or sum(map(_reads_fields, members)) > 1:
            return None
        return lambda value: any(check(value) for check in checks)

    def _all(self, annotations: Iterable[Any]) -> list[Check] | None:
        """Return the checks of several annotations, None where one has none."""
        found: list[Check] = []
        for annotation in annotations:
            check = self.make(annotation)
            if check is None:
                return None
            found.append(check)
        return found

    def _container(self, origin: Any, args: Sequence[Any]) -> Check | None:
        if origin is dict:
            keys = atoms_of(args[0])
            values = self.make(args[1])
            if len(keys) != 1 or not keys <= _KEYS or values is None:
                return None
            return _dict(keys, values)
        if origin is tuple and not (len(args) == 2 and args[1] is ...):  # noqa: PLR2004 - tuple[int, ...]
            checks = self._all(args)
            return None if checks is None else _row(tuple, checks)
        return (
            _items(origin, atoms_of(args[0]), self.make(args[0])) if origin in (list, tuple, set, frozenset) else None
        )

    def _class(self, cls: type) -> Check | None:
        if cls in (list, dict):
            return lambda value: type(value) is cls and is_json_value(value)
        if cls is dt.datetime:
            return _is_plain_moment
        if cls is pathlib.Path or cls is pathlib.PurePosixPath:
            kind = class_of(cls())
            return lambda value: type(value) is kind
        if issubclass(cls, enum.Enum):
            kinds = {class_of(member.value) for member in cls}
            return (lambda value: class_of(value) is cls) if kinds in ({str}, {int}) else None
        known = self._of_class.get(cls)
        if known is not None:  # it is being made: ask it later
            return lambda value: known[0] is not None and known[0](value)
        place: list[Check | None] = [None]
        self._of_class[cls] = place
        place[0] = self._record(cls)
        return place[0]

    def _record(self, cls: Any) -> Check | None:
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except Exception:  # noqa: BLE001 - unresolvable names, of whatever kind
            return None
        if typing.is_typeddict(cls):
            return self._typed_dict(hints)
        if cls.__bases__ == (tuple,) and hasattr(cls, "_fields"):  # a named tuple
            checks = self._all(hints.get(name, Any) for name in cls._fields)
            return None if checks is None else _row(cls, checks)
        names = fields_of_class(cls)
        is_generic = bool(getattr(cls, "__parameters__", None))
        if is_generic or not names or not hints.keys() >= set(names) or not _is_its_fields(cls):
            return None
        checks = self._all(hints[name] for name in names)
        return None if checks is None else _fields(cls, list(zip(names, checks, strict=True)))

    def _typed_dict(self, hints: dict[str, Any]) -> Check | None:
        checks: dict[Any, Check] = {}
        for name, hint in hints.items():
            check = self.make(_without_qualifier(hint))
            if check is None:
                return None
            checks[name] = check

        def is_exact(value: Any) -> bool:
            if type(value) is not dict:
                return False
            return all(key in checks and checks[key](item) for key, item in mapping_of(value).items())

        return is_exact


def _items(cls: type, atoms: frozenset[type], check: Check | None) -> Check | None:
    if check is None:
        return None

    def is_exact(value: Any) -> bool:
        return class_of(value) is cls and (atoms.issuperset(map(type, value)) or all(map(check, value)))

    return is_exact


def _dict(keys: frozenset[type], values: Check) -> Check:
    def is_exact(value: Any) -> bool:
        if class_of(value) is not dict or not keys.issuperset(map(type, value)):
            return False
        return all(map(values, mapping_of(value).values()))

    return is_exact


def _row(cls: type, checks: list[Check]) -> Check:
    def is_exact(value: Any) -> bool:
        if class_of(value) is not cls or len(value) != len(checks):
            return False
        return all(check(item) for check, item in zip(checks, value, strict=True))

    return is_exact


def _fields(cls: Any, checks: list[tuple[str, Check]]) -> Check:
    has_dict = cls.__dictoffset__ != 0
    count = len(checks)

    def is_exact(value: Any) -> bool:
        # An instance may hold more than its fields, or less: one that was assigned or deleted later.
        if class_of(value) is not cls or (has_dict and len(value.__dict__) != count):
            return False
        try:
            for name, check in checks:
                if not check(getattr(value, name)):
                    return False
        except AttributeError:
            return False
        return True

    return is_exact


def _is_plain_moment(value: Any) -> bool:
    return type(value) is dt.datetime and not value.fold and (value.tzinfo is None or value.tzinfo is dt.UTC)


def _without_qualifier(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        return typing.get_args(hint)[0]
    return hint


def _reads_fields(annotation: Any) -> bool:
    """Tell whether values of this type are objects in JSON, which a union tells apart by their fields only."""
    cls = typing.get_origin(annotation) or annotation
    return isinstance(cls, type) and (bool(fields_of_class(cls)) or issubclass(cls, dict))


def _is_its_fields(cls: Any) -> bool:
    """Tell whether instances are nothing but their fields, which are written and read without any code of the class."""
    if slots_of(cls) or any(_is_computed(cls, name) for name in fields_of_class(cls)):
        return False
    if issubclass(cls, msgspec.Struct):
        config = cls.__struct_config__
        return not (config.omit_defaults or cls.__dictoffset__ or hasattr(cls, "__post_init__"))
    if is_pydantic_model(cls) or hasattr(cls, "__pydantic_validator__"):
        return False
    if any(base.__module__ == "builtins" and base is not object for base in cls.__mro__):
        return False
    if cls.__getattribute__ is not object.__getattribute__:
        return False
    settings = getattr(cls, "__dataclass_params__", None)
    if settings is not None:
        return (settings.frozen or cls.__setattr__ is object.__setattr__) and not hasattr(cls, "__post_init__")
    hooks = ("__attrs_pre_init__", "__attrs_post_init__")
    plain = all(field.converter is None and field.validator is None for field in cls.__attrs_attrs__)
    return plain and cls.__setattr__ is object.__setattr__ and not any(hasattr(cls, hook) for hook in hooks)


def _is_computed(cls: Any, name: str) -> bool:
    """Tell whether code is called where an attribute is read or set."""
    members: list[Any] = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    member: Any = members[0] if members else None
    return hasattr(class_of(member), "__set__") and not isinstance(member, types.MemberDescriptorType)
