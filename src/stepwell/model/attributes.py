"""Attributes, tags and notes: what people and programs say of a run, to find it again.

A value is kept as what SQLite compares: a number as it is, a bool as 0 or 1, a time as whole microseconds since the
Unix epoch, UTC, by the wall clock. The kind beside it says which of these a number is; int and float are of one kind,
for they are compared with each other. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from stepwell.errors import InvalidArgument
from stepwell.model.clock import datetime_of, microseconds_of
from stepwell.model.names import check_text
from stepwell.shown import shown

#: What an attribute may be.
AttributeValue: TypeAlias = str | int | float | bool | datetime
AttributeKind: TypeAlias = Literal["str", "number", "bool", "datetime"]

#: The longest name of an attribute and the longest tag, in characters.
MAX_NAME: Final = 64
#: The longest text that an attribute has, in characters: it is for finding, not for keeping.
MAX_VALUE: Final = 500
#: The longest note, in characters.
MAX_NOTE: Final = 2_000
#: How many attributes, and how many tags, one call gives at most.
MAX_AT_ONCE: Final = 64
#: What can be written in a filter without quotes, and is no number.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_TAG: Final = re.compile(r'[^\s",:=<>]+')
#: What filters call the run's own facts, now or some day: `customer="acme"` must stay clear.
RESERVED: Final = frozenset(
    (
        *(
            "attempts",
            "attribute",
            "by",
            "child",
            "chapter",
            "created",
            "deadline",
            "dedup",
            "duration",
            "ended",
            "error",
        ),
        *(
            "id",
            "input",
            "key",
            "name",
            "none",
            "note",
            "order",
            "owner",
            "parent",
            "partition",
            "priority",
            "progress",
        ),
        *(
            "promise",
            "queue",
            "reason",
            "result",
            "root",
            "schedule",
            "started",
            "status",
            "tag",
            "tags",
            "took",
            "type",
        ),
        *("updated", "value", "version", "wait", "waiting", "wake", "worker", "workflow"),
    )
)


class Attribute(msgspec.Struct, frozen=True, gc=False):
    """One attribute as it is kept."""

    name: str
    kind: AttributeKind
    value: str | int | float


class Description(msgspec.Struct, frozen=True, gc=False):
    """What is said of a run: attributes that are set, or removed; tags that are added, or removed; a note."""

    attributes: tuple[Attribute, ...] = ()
    removed: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    untagged: tuple[str, ...] = ()
    note: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return self == Description()

    @property
    def without_note(self) -> Description:
        """The same without its note."""
        return Description(self.attributes, self.removed, self.tags, self.untagged)

    @property
    def summary(self) -> str:
        """What it is about, in a few words."""
        words = [each.name for each in self.attributes] + [f"-{name}" for name in self.removed]
        words += [f"tag {tag}" for tag in self.tags] + [f"-tag {tag}" for tag in self.untagged]
        words += [] if self.note is None else ["note"]
        shown = ", ".join(words)
        return shown if len(shown) <= _SUMMARY else shown[:_SUMMARY] + "…"


_SUMMARY: Final = 200


def described(
    attributes: Mapping[str, AttributeValue | None] | None = None,
    tags: Iterable[str] = (),
    remove_tags: Iterable[str] = (),
    note: str | None = None,
) -> Description:
    """Return what is said of a run, checked; an attribute of None is removed. Raises `InvalidArgument`."""
    given: Mapping[str, AttributeValue | None] = {} if attributes is None else attributes
    if not isinstance(given, Mapping):
        raise InvalidArgument(
            f'attributes must be a mapping of names to values, {{"customer": "acme"}}, not {shown(given)}'
        )
    if len(given) > MAX_AT_ONCE:
        raise InvalidArgument(f"a run is given at most {MAX_AT_ONCE} attributes at once, not {len(given)}")
    kept = [attribute_of(name, value) for name, value in given.items() if value is not None]
    removed = [check_attribute_name(name) for name, value in given.items() if value is None]
    added, untagged = _tags(tags, "tags"), _tags(remove_tags, "remove_tags")
    both = sorted(set(added) & set(untagged))
    if both:
        raise InvalidArgument(f"the tag {both[0]!r} is to be added and to be removed; say one of them")
    if check_text(note, "note") is not None and not 0 < len(note or "") <= MAX_NOTE:
        raise InvalidArgument(f"a note has 1 to {MAX_NOTE} characters, not {len(note or '')}")
    return Description(tuple(kept), tuple(removed), added, untagged, note)


def attribute_of(name: str, value: AttributeValue) -> Attribute:
    """Return one attribute, checked; raises `InvalidArgument`."""
    check_attribute_name(name)
    return Attribute(name, *_kept(name, value))


def _kept(name: str, value: Any) -> tuple[AttributeKind, str | int | float]:
    # By the class itself: an enum, a subclass, a number of numpy would come back as something else.
    given = value.__class__
    match given:
        case _ if given is bool:
            return "bool", int(value)
        case _ if given is int:
            if not -(2**63) <= value < 2**63:
                raise InvalidArgument(f"attribute {name!r} must be an integer of at most 64 bits, not {shown(value)}")
            return "number", value
        case _ if given is float:
            if not math.isfinite(value):
                raise InvalidArgument(f"attribute {name!r} must be a finite number, not {shown(value)}")
            return "number", value
        case _ if given is str:
            if len(check_text(value, f"attribute {name!r}") or "") > MAX_VALUE:
                raise InvalidArgument(
                    f"attribute {name!r} has {len(value)} characters, and may have {MAX_VALUE}: an attribute is what "
                    "a run is found by; what it says belongs in a published value, or in a note"
                )
            if "\0" in value:
                raise InvalidArgument(f"attribute {name!r} has a NUL character, where SQLite's tools would cut it off")
            return "str", value
        case _ if given is datetime:
            if value.tzinfo is None:
                raise InvalidArgument(f"attribute {name!r} needs a time zone: {value!r}")
            return "datetime", microseconds_of(value)
        case _:
            raise InvalidArgument(
                f"attribute {name!r} must be a str, an int, a float, a bool or an aware datetime, not "
                f"{type(value).__name__} {shown(value)}"
            )


def value_of(attribute: Attribute) -> AttributeValue:
    """Return the value as it was given."""
    match attribute.kind:
        case "bool":
            return bool(attribute.value)
        case "datetime":
            return datetime_of(int(attribute.value))
        case _:
            return attribute.value


def check_attribute_name(name: object) -> str:
    """Return the name of an attribute; raises `InvalidArgument`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise InvalidArgument(
            f"the name of an attribute is a letter, then letters, digits, '_', '-' or '.', at most {MAX_NAME} in all, "
            f"not {shown(name)}"
        )
    if name in RESERVED:
        raise InvalidArgument(f"an attribute cannot be called {name!r}, which filters call a fact about the run itself")
    return name


def check_tag(tag: object, what: str = "a tag") -> str:
    """Return a tag; raises `InvalidArgument`."""
    if not isinstance(tag, str) or not _TAG.fullmatch(tag) or not tag.isprintable() or len(tag) > MAX_NAME:
        raise InvalidArgument(
            f"{what} is a word of at most {MAX_NAME} characters without blanks, quotes, commas, ':', '=', '<' and '>', "
            f"not {shown(tag)}"
        )
    return tag


def _tags(tags: Iterable[str], what: str) -> tuple[str, ...]:
    if isinstance(tags, (str, bytes, Mapping)) or not isinstance(tags, Iterable):
        raise InvalidArgument(f"{what} must be a list of words, not {shown(tags)}")
    # In an order of their own: that of a set is another one in each process, and a replay compares them.
    found = tuple(sorted({check_tag(tag, f"each of {what}") for tag in tags}))
    if len(found) > MAX_AT_ONCE:
        raise InvalidArgument(f"a run is given at most {MAX_AT_ONCE} tags at once, not {len(found)}")
    return found
