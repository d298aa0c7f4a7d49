"""Whether a value came back equal, in type and in content.

`same` answers fast, for values of any size: it looks at whole columns (all first fields of a list of orders, then all
second ones), each with a few calls into C, and not at one item after another. `stepwell.values.differences` finds the
place and the words where two values differ.

What counts as equal is stricter than ``==``: 1, 1.0 and True differ, as do 0.0 and -0.0, ``Decimal("1.1")`` and
``Decimal("1.10")``, an object and one of a subclass with the same fields, times with another fold, offset or zone; and
fields that a class leaves out of its ``__eq__`` count as well. Three things are let through, as annotations promise no
more: an integer that comes back as the float of exactly its value, a fixed offset from UTC in place of any other time
zone that has this offset always, and a list in place of the `Rows` of a query.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import operator
import types
import uuid
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, compress
from typing import Any, Final

from stepwell.values.inspection import MISSING, class_of, fields_of_class, is_pydantic_model, mapping_of
from stepwell.values.own_tables import Rows

_Column = list[Any]
_Pairs = list[tuple[_Column, _Column]]

#: Types for which ``==`` sees every difference, once the types are the same.
_PLAIN: Final[frozenset[type]] = frozenset(
    {type(None), bool, int, str, bytes, bytearray, complex, uuid.UUID, dt.date, dt.timedelta}
)


def same(value: Any, other: Any) -> bool:
    """Tell whether `other`, which came back, is `value`."""
    open_pairs: _Pairs = [([value], [other])]
    while open_pairs:
        before, after = open_pairs.pop()
        kinds = list(map(type, before))
        if kinds != list(map(type, after)) and not _let_through(before, after):
            return False
        distinct = set(kinds)
        for kind in distinct:
            compare = _comparer(kind)
            if len(distinct) == 1:
                alike = compare(before, after, open_pairs)
            else:
                chosen = [each is kind for each in kinds]
                alike = compare(list(compress(before, chosen)), list(compress(after, chosen)), open_pairs)
            if not alike:
                return False
    return True


def _let_through(before: _Column, after: _Column) -> bool:
    """Tell whether types differ only in ways that are let through, and put the values of equal type in `before`."""
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if type(old) is type(new):
            continue
        if type(old) is int and type(new) is float and old == new:
            before[index] = new
        elif type(old) is Rows and type(new) is list:
            continue  # what a transaction read: nobody wants its columns back
        elif type(old).__module__ == "freezegun.api" and isinstance(old, type(new)):
            after[index] = old if old == new else MISSING  # the stand-ins of a frozen clock are what they stand for
        else:
            return False
    return True


@functools.lru_cache(maxsize=2048)
def _comparer(cls: Any) -> Callable[[_Column, _Column, _Pairs], bool]:
    """Return what compares two columns of values of this type, and adds what is inside them to the open pairs."""
    if cls in _PLAIN:
        return _equal
    exact = _EXACT.get(cls)
    if exact is not None:
        return exact
    if issubclass(cls, enum.Enum):
        return _identical
    for base, compare in _BY_BASE:
        if issubclass(cls, base):
            return functools.partial(_subclass, base, compare)
    if fields_of_class(cls) or is_pydantic_model(cls):
        return functools.partial(_objects, cls)
    if cls.__eq__ is not object.__eq__:
        return _equal_one_by_one
    return functools.partial(_objects, cls) if slots_of(cls) or cls.__dictoffset__ else _identical


def _equal(before: _Column, after: _Column, _open: _Pairs) -> bool:
    return before == after


def _identical(before: _Column, after: _Column, _open: _Pairs) -> bool:
    return all(map(operator.is_, before, after))


def _equal_one_by_one(before: _Column, after: _Column, _open: _Pairs) -> bool:
    with suppress(Exception):  # `__eq__` of user classes may raise anything
        return all(map(bool, map(operator.eq, before, after)))
    return False


def _floats(before: _Column, after: _Column, _open: _Pairs) -> bool:
    return array("d", before).tobytes() == array("d", after).tobytes()  # which tells -0.0 from 0.0


def _decimals(before: _Column, after: _Column, _open: _Pairs) -> bool:
    return list(map(str, before)) == list(map(str, after))


def _moments(before: _Column, after: _Column, _open: _Pairs) -> bool:
    return list(map(_moment, before)) == list(map(_moment, after))


def _moment(value: Any) -> tuple[Any, ...]:
    """Return what is to be the same in two datetimes, or two times of day."""
    zone = value.tzinfo
    bare = value.replace(tzinfo=None)
    if zone is None:
        return bare, value.fold
    offset = value.utcoffset()
    always = None
    with suppress(Exception):  # time zones are classes of others
        always = zone.utcoffset(None)
    return bare, value.fold, offset, None if always is not None and always == offset else zone


def _sequences(before: _Column, after: _Column, open_pairs: _Pairs) -> bool:
    if list(map(len, before)) != list(map(len, after)):
        return False
    open_pairs.append((list(chain.from_iterable(before)), list(chain.from_iterable(after))))
    return True


def _sets(before: _Column, after: _Column, open_pairs: _Pairs) -> bool:
    if before != after:
        return False
    olds = list(chain.from_iterable(before))
    open_pairs.append((olds, list(chain.from_iterable(map(in_order_of, before, after)))))
    return True


def in_order_of(keys: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Return the items of `others` in the order of the equal ones in `keys`."""
    by_key = {item: item for item in others}
    return [by_key[key] for key in keys]


_keys: Final = operator.methodcaller("keys")
_values: Final = operator.methodcaller("values")


def _dicts(before: _Column, after: _Column, open_pairs: _Pairs) -> bool:
    if list(map(len, before)) != list(map(len, after)):
        return False
    old_keys = list(chain.from_iterable(before))
    new_keys = list(chain.from_iterable(after))
    if old_keys == new_keys:
        new_values = list(chain.from_iterable(map(_values, after)))
    else:  # in another order, or not the same
        if not all(map(operator.eq, map(_keys, before), map(_keys, after))):
            return False
        new_keys = list(chain.from_iterable(map(in_order_of, before, after)))
        new_values = [new[key] for old, new in zip(before, after, strict=True) for key in old]
    open_pairs.append((old_keys, new_keys))
    open_pairs.append((list(chain.from_iterable(map(_values, before))), new_values))
    return True


_EXACT: Final[dict[type, Callable[[_Column, _Column, _Pairs], bool]]] = {
    float: _floats,
    decimal.Decimal: _decimals,
    dt.datetime: _moments,
    dt.time: _moments,
    list: _sequences,
    Rows: _sequences,
    tuple: _sequences,
    dict: _dicts,
    set: _sets,
    frozenset: _sets,
}
_BY_BASE: Final[list[tuple[type, Callable[[_Column, _Column, _Pairs], bool]]]] = [
    *_EXACT.items(),
    *((cls, _equal) for cls in (str, bytes, int)),
]


def _subclass(
    base: type,
    compare: Callable[[_Column, _Column, _Pairs], bool],
    before: _Column,
    after: _Column,
    open_pairs: _Pairs,
) -> bool:
    """Compare values of a subclass of a builtin type: as that type, and by what they hold besides."""
    if base in (str, bytes, int):
        before, after = list(map(base, before)), list(map(base, after))
    return compare(before, after, open_pairs) and _objects(class_of(before[0]), before, after, open_pairs)


# --- objects ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2048)
def slots_of(cls: Any) -> tuple[str, ...]:
    """Return the names of what instances hold outside of ``__dict__`` and besides their fields."""
    fields = set(fields_of_class(cls))
    # pydantic notes there which fields were given to the constructor; its own `==` does not look at it either.
    fields.add("__pydantic_fields_set__")
    found: dict[str, None] = {}
    for base in cls.__mro__:
        for name, member in mapping_of(vars(base)).items():
            if isinstance(member, types.MemberDescriptorType) and name not in fields:
                found[name] = None
    return tuple(found)


@functools.lru_cache(maxsize=2048)
def _computed(cls: type) -> frozenset[str]:
    """Return the names of cached properties, whose values are made anew when they are asked for."""
    members = chain.from_iterable(vars(base).items() for base in cls.__mro__)
    return frozenset(name for name, member in members if isinstance(member, functools.cached_property))


def _objects(cls: type, before: _Column, after: _Column, open_pairs: _Pairs) -> bool:
    """Compare objects by all that they hold, whatever their ``__eq__`` says."""
    fields = fields_of_class(cls)
    for name in (*fields, *slots_of(cls)):
        olds = [getattr(each, name, MISSING) for each in before]
        open_pairs.append((olds, [getattr(each, name, MISSING) for each in after]))
    if cls.__dictoffset__:
        known = _known(cls)
        if not all(known.issuperset(each.__dict__) for each in chain(before, after)):
            olds = [more_of(each.__dict__, cls) for each in before]
            open_pairs.append((olds, [more_of(each.__dict__, cls) for each in after]))
    return True


@functools.lru_cache(maxsize=2048)
def _known(cls: type) -> frozenset[str]:
    return frozenset(fields_of_class(cls)) | _computed(cls)


def more_of(attributes: dict[str, Any], cls: type) -> dict[str, Any]:
    """Return those of an object's attributes that are no fields of its class, and no values of cached properties."""
    known = _known(cls)
    return {name: value for name, value in attributes.items() if name not in known}
