"""Which values come back equal whatever they hold, so that they need no comparison.

Known from the annotation, once: of types that JSON writes without loss, and of classes that are nothing but their
fields (no code of theirs executes when they are read). Left to be looked at is whether a value is of these types
exactly, and not of subclasses, and whether its floats are finite; `checker` makes what looks. It errs on the side of
False: then values are compared.

A few values are looked at one by one. Of many, whole columns are looked at (all first fields of a list of objects, then
all second ones), each with a few calls into C.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import math
import operator
import pathlib
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, Final, Literal, TypeAlias

import msgspec

from stepwell.values.comparison import slots_of
from stepwell.values.inspection import class_of, fields_of_class, is_pydantic_model, items_of, mapping_of

#: Values that are looked at together.
Column: TypeAlias = list[Any]

#: Immutable types that come back equal where they are expected, and what else of them is text in JSON.
_ATOMS: Final[frozenset[type]] = frozenset(
    {type(None), bool, int, float, str, bytes, uuid.UUID, dt.date, decimal.Decimal}
)
#: What JSON has itself: these come back equal where nothing is expected.
_JSON_ATOMS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str})
_FINITE_ATOMS: Final[frozenset[type]] = _JSON_ATOMS - {float}
_KEYS: Final[frozenset[type]] = frozenset({str, int, uuid.UUID, dt.date})
_TEXT: Final[frozenset[type]] = frozenset({str})
_UNIONS: Final = (typing.Union, types.UnionType)
_JSON_CONTAINERS: Final[frozenset[type]] = frozenset({list, dict})
_DICTS: Final[frozenset[type]] = frozenset({dict})
#: How deep values are nested at most that are exact: half of Python's recursion limit, so that what was written by code
#: that itself is called from deep below can be read anywhere.
_DEPTH: Final = 500

#: How deep each value is looked at by itself.
_SHALLOW: Final = 20

#: Up to how many values looking at each is faster than looking at all of them.
_FEW: Final = 8

#: How many values are looked at together at most, at the top of a value.
_PART: Final = 1000

_VALUES_OF: Final[Callable[[Any], Collection[Any]]] = vars(dict)["values"]
_DICT_OF: Final = operator.attrgetter("__dict__")


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


class Check(msgspec.Struct, frozen=True):
    """Tells whether values come back equal: of one value, and of many at once.

    What is exact can also be read (`is_readable`), so that nobody has to try; holds nothing but what JSON has itself
    (`is_plain`); holds no sets (`is_ordered`).
    """

    one: Callable[[Any], bool]
    many: Callable[[Column], bool]
    is_readable: bool = True
    is_plain: bool = False
    is_ordered: bool = True


def checker(annotation: Any) -> Check | None:
    """Return what tells whether a value comes back equal under this annotation; None where that is never known."""
    return _Maker().make(annotation)


def is_json_value(value: Any, depth: int = _SHALLOW) -> bool:
    """Tell whether a value is what JSON itself has and can express, and nothing else, and is not nested too deeply.

    `depth`: how deep it is looked at one by one.
    """
    kind = class_of(value)
    if kind is dict:
        if not _TEXT.issuperset(map(type, mapping_of(value))):
            return False
        held: Collection[Any] = mapping_of(value).values()
    elif kind is list:
        held = items_of(value)
    else:
        return kind in _JSON_ATOMS and (kind is not float or math.isfinite(value))
    if _FINITE_ATOMS.issuperset(map(type, held)):
        return True
    if len(held) > _FEW or not depth:
        return _by_parts(are_json_values, list(held))
    for item in held:  # noqa: SIM110 - a generator would take twice the time of a small value
        if type(item) not in _FINITE_ATOMS and not is_json_value(item, depth - 1):
            return False
    return True


def are_json_values(column: Column) -> bool:
    """Do as `is_json_value`, for many values: level by level."""
    for _ in range(_DEPTH):
        kinds = set(map(type, column))
        if float in kinds and not all(map(math.isfinite, _of_kind(column, kinds, float))):
            return False
        if _JSON_ATOMS.issuperset(kinds):
            return True
        if not (kinds - _JSON_ATOMS) <= _JSON_CONTAINERS:
            return False
        dicts = _of_kind(column, kinds, dict)
        if dicts and not _TEXT.issuperset(map(type, chain.from_iterable(dicts))):
            return False
        lists = _of_kind(column, kinds, list)
        column = [*chain.from_iterable(lists), *chain.from_iterable(map(_VALUES_OF, dicts))]
    return False


def _by_parts(many: Callable[[Column], bool], column: Column) -> bool:
    """Look at many values at once, but not at all of a long column.

    So calls into C are short, as are the waits of other threads, and what is looked at stays in the processor's cache.
    """
    if len(column) <= _PART:
        return many(column)
    return all(many(column[at : at + _PART]) for at in range(0, len(column), _PART))


def _of_kind(column: Column, kinds: set[type], kind: type) -> Column:
    """Return what is of a type in a column in which there are these types."""
    if kind not in kinds:
        return []
    return column if len(kinds) == 1 else [each for each in column if type(each) is kind]


class _Maker:
    """Makes checks; knows those under way, for classes that refer to themselves."""

    def __init__(self) -> None:
        self._of_class: dict[Any, list[Check | None]] = {}

    def make(self, annotation: Any) -> Check | None:
        if annotation is Any or annotation is object:
            return Check(is_json_value, are_json_values, is_plain=True)
        atoms = atoms_of(annotation)
        if atoms:
            return _of_types(atoms)
        supertype = getattr(annotation, "__supertype__", None)  # of a NewType
        if supertype is not None:
            return self.make(supertype)
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            inner = self.make(args[0])
            return None if inner is None else _to_be_read(inner)  # there may be limits
        if origin is Literal:
            kinds = frozenset(map(type, args))
            return _to_be_read(_of_types(kinds)) if kinds <= {str, int, type(None)} else None
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

        def one(value: Any) -> bool:
            return any(check.one(value) for check in checks)

        def many(column: Column) -> bool:
            # Mostly a column is all of one member, or of that and None.
            some = [each for each in column if each is not None]
            if (len(some) == len(column) or one(None)) and any(check.many(some) for check in checks):
                return True
            return _each(one, column)

        return _combined(one, many, checks)

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
            return _dict(keys, values) if len(keys) == 1 and keys <= _KEYS and values is not None else None
        if origin is tuple and not (len(args) == 2 and args[1] is ...):  # noqa: PLR2004 - tuple[int, ...]
            checks = self._all(args)
            return None if checks is None else _row(tuple, checks)
        check = self.make(args[0]) if origin in (list, tuple, set, frozenset) else None
        return None if check is None else _items(origin, check)

    def _class(self, cls: type) -> Check | None:
        if cls in (list, dict):
            return msgspec.structs.replace(_one(functools.partial(_is_json_of, cls)), is_plain=True)
        if cls is dt.datetime:
            return _one(_is_plain_moment)
        if cls is pathlib.Path or cls is pathlib.PurePosixPath:
            return _of_types(frozenset({class_of(cls())}))
        if issubclass(cls, enum.Enum):
            kinds = {class_of(member.value) for member in cls}
            return _to_be_read(_of_types(frozenset({cls}))) if kinds in ({str}, {int}) else None
        known = self._of_class.get(cls)
        if known is not None:  # it is being made: ask it later
            return msgspec.structs.replace(_to_be_read(_one(functools.partial(_is_known, known))), is_ordered=False)
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
            return self._typed_dict(cls, hints)
        if cls.__bases__ == (tuple,) and hasattr(cls, "_fields"):  # a named tuple
            checks = self._all(hints.get(name, Any) for name in cls._fields)
            return None if checks is None else _row(cls, checks)
        names = fields_of_class(cls)
        is_generic = bool(getattr(cls, "__parameters__", None))
        if is_generic or not names or not hints.keys() >= set(names) or not _is_its_fields(cls):
            return None
        checks = self._all(hints[name] for name in names)
        return None if checks is None else _fields(cls, dict(zip(names, checks, strict=True)))

    def _typed_dict(self, cls: Any, hints: dict[str, Any]) -> Check | None:
        found = self._all(map(_without_qualifier, hints.values()))
        if found is None:
            return None
        checks: dict[Any, Check] = dict(zip(hints, found, strict=True))
        required: frozenset[str] = cls.__required_keys__

        def one(value: Any) -> bool:
            if type(value) is not dict or not required <= mapping_of(value).keys():
                return False
            return all(key in checks and checks[key].one(item) for key, item in mapping_of(value).items())

        def many(column: Column) -> bool:
            return all(map(one, column))

        return msgspec.structs.replace(_combined(one, many, found), is_plain=False)


def _is_json_of(cls: type, value: Any) -> bool:
    return class_of(value) is cls and is_json_value(value)


def _is_known(known: list[Check | None], value: Any) -> bool:
    return known[0] is not None and known[0].one(value)


def _each(one: Callable[[Any], bool], column: Column) -> bool:
    return all(map(one, column))


def _one(one: Callable[[Any], bool]) -> Check:
    return Check(one, functools.partial(_each, one))


def _to_be_read(check: Check) -> Check:
    """Return a check of values that may be exact and yet be refused when they are read."""
    return msgspec.structs.replace(check, is_readable=False)


def _combined(one: Callable[[Any], bool], many: Callable[[Column], bool], parts: Sequence[Check]) -> Check:
    return Check(
        one,
        many,
        all(part.is_readable for part in parts),
        all(part.is_plain for part in parts),
        all(part.is_ordered for part in parts),
    )


def _of_types(kinds: frozenset[type]) -> Check:
    if float not in kinds:

        def one(value: Any) -> bool:
            return type(value) in kinds

        def many(column: Column) -> bool:
            return kinds.issuperset(map(type, column))

    else:

        def one(value: Any) -> bool:
            return type(value) in kinds and (type(value) is not float or math.isfinite(value))

        def many(column: Column) -> bool:
            types_here = set(map(type, column))
            return kinds >= types_here and all(map(math.isfinite, _of_kind(column, types_here, float)))

    return Check(one, many, is_plain=kinds <= _JSON_ATOMS)


def _items(cls: type, check: Check) -> Check:
    def one(value: Any) -> bool:
        if class_of(value) is not cls:
            return False
        return all(map(check.one, value)) if len(value) < _FEW else _by_parts(check.many, list(value))

    def many(column: Column) -> bool:
        return {cls}.issuperset(map(type, column)) and check.many(list(chain.from_iterable(column)))

    is_ordered = check.is_ordered and cls in (list, tuple)
    return Check(one, many, check.is_readable, check.is_plain and cls is list, is_ordered)


def _dict(keys: frozenset[type], values: Check) -> Check:
    def many(column: Column) -> bool:
        if not _DICTS.issuperset(map(type, column)) or not keys.issuperset(map(type, chain.from_iterable(column))):
            return False
        return values.many(list(chain.from_iterable(map(_VALUES_OF, column))))

    def one(value: Any) -> bool:
        if type(value) is not dict or not keys.issuperset(map(type, mapping_of(value))):
            return False
        held = mapping_of(value).values()
        return all(map(values.one, held)) if len(held) < _FEW else _by_parts(values.many, list(held))

    is_text = keys == _TEXT
    return Check(one, many, values.is_readable and is_text, values.is_plain and is_text, values.is_ordered)


def _row(cls: type, checks: list[Check]) -> Check:
    count = len(checks)

    def one(value: Any) -> bool:
        if class_of(value) is not cls or len(value) != count:
            return False
        return all(check.one(item) for check, item in zip(checks, value, strict=True))

    def many(column: Column) -> bool:
        if not {cls}.issuperset(map(type, column)) or not {count}.issuperset(map(len, column)):
            return False
        return all(check.many([row[index] for row in column]) for index, check in enumerate(checks))

    return msgspec.structs.replace(_combined(one, many, checks), is_plain=False)


def _fields(cls: Any, checks: dict[str, Check]) -> Check:
    has_dict = cls.__dictoffset__ != 0
    count = len(checks)
    each = [(name, check.one) for name, check in checks.items()]
    columns = [(operator.attrgetter(name), check.many) for name, check in checks.items()]

    def one(value: Any) -> bool:
        # An instance may hold more than its fields, or less: one that was assigned or deleted later.
        if class_of(value) is not cls or (has_dict and len(value.__dict__) != count):
            return False
        try:
            for name, is_exact in each:
                if not is_exact(getattr(value, name)):
                    return False
        except AttributeError:
            return False
        return True

    def many(column: Column) -> bool:
        if not {cls}.issuperset(map(type, column)):
            return False
        if has_dict and not {count}.issuperset(map(len, map(_DICT_OF, column))):
            return False
        try:
            return all(are_exact(list(map(get, column))) for get, are_exact in columns)
        except AttributeError:
            return False

    return msgspec.structs.replace(_combined(one, many, list(checks.values())), is_plain=False)


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
    fields = cls.__attrs_attrs__
    plain = all(field.converter is None and field.validator is None for field in fields)
    plain = plain and not any(field.name.startswith("_") for field in fields)  # those msgspec does not write
    return plain and cls.__setattr__ is object.__setattr__ and not any(hasattr(cls, hook) for hook in hooks)


def _is_computed(cls: Any, name: str) -> bool:
    """Tell whether code is called where an attribute is read or set."""
    members: list[Any] = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    member: Any = members[0] if members else None
    return hasattr(class_of(member), "__set__") and not isinstance(member, types.MemberDescriptorType)
