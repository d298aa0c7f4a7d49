"""What replay knows of the kinds of operations: how each stands in a journal, and how it is put into words.

A kind is declared once, in its own file of `stepwell.operations`. That package is above this one: the runtime hands the
table of all kinds down to the worker, and that to each execution.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from types import CodeType, FunctionType
from typing import Any, Final, TypeAlias

import msgspec

from stepwell.errors import RunFailed, StepFailed
from stepwell.model.chapters import CHAPTER
from stepwell.model.journal import EntryForm, EntryKind, OpKind
from stepwell.model.updates import UPDATE
from stepwell.model.waits import Wait
from stepwell.replay.operation import Operation

#: Makes the coroutine that calls a definition durably. Takes the run, the definition, its arguments by position and by
#: name.
Call: TypeAlias = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Coroutine[Any, Any, Any]]

_VALUE_ADVICE: Final = "The type has changed since the value was recorded; change it back."


class RecordedKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operation, as far as replay knows it.

    - `entries`: what the journal can hold of it.
    - `words`: how it is called where code and journal differ; its name where empty.
    - `shows_arguments`: whether the arguments of the code are shown there.
    - `advice`: what to do where the code cannot be given what was recorded.
    - `waits`: why a run waits for it, None for what is done with the commit that it is issued in.
    - `calls`: by the kind of a definition, what calls such a one in workflow code.
    - `raises`: beside those, the functions in which what the journal holds is raised.
    """

    name: OpKind
    entries: tuple[EntryForm, ...]
    words: str = ""
    shows_arguments: bool = False
    advice: str = _VALUE_ADVICE
    waits: Callable[[Operation], Wait] | None = None
    calls: dict[str, Call] = {}
    raises: tuple[FunctionType, ...] = ()


#: What stands in journals although no code issues it.
CANCELLATION: Final = RecordedKind(
    name="cancel", entries=(EntryForm("cancel", has_value=False),), words="a cancellation"
)
#: Somebody asked the run something: its code calls a handler, under the next number of an operation.
UPDATE_TAKEN: Final = RecordedKind(
    name=UPDATE,
    entries=(EntryForm(UPDATE),),
    words="update",
    advice="The parameters of the handler of the update have changed since it was asked for; change them back.",
)
#: The last entry of a chapter that is over; no code is told of it.
CHAPTER_END: Final = RecordedKind(
    name=CHAPTER, entries=(EntryForm(CHAPTER, has_value=False, is_delivered=False),), words="another chapter"
)


class Kinds:
    """All kinds, and what follows from their declarations."""

    __slots__ = ("_by_name", "_of_entry", "calls", "failures", "raising", "undelivered", "valueless", "with_failures")

    def __init__(self, kinds: Iterable[RecordedKind]) -> None:
        rows = (CANCELLATION, UPDATE_TAKEN, CHAPTER_END, *kinds)
        self._by_name: dict[OpKind, RecordedKind] = {row.name: row for row in rows}
        self._of_entry: dict[EntryKind, RecordedKind] = {form.kind: row for row in rows for form in row.entries}
        forms = [form for row in rows for form in row.entries]
        if len(self._by_name) != len(rows) or len(self._of_entry) != len(forms):
            raise ValueError(f"two kinds of operations, or of entries, have the same name: {sorted(self._of_entry)}")
        #: Entries whose `value` is a failure (see `stepwell.values.failure`), with the class of exception that stands
        #: for one whose own cannot be made.
        self.failures: dict[EntryKind, type[StepFailed | RunFailed]] = {
            form.kind: form.fails_as for form in forms if form.fails_as is not None
        }
        #: Entries whose `value` is a failure, whether the code is told of it or not.
        self.with_failures: frozenset[EntryKind] = frozenset(
            form.kind for form in forms if form.is_failure or form.fails_as is not None
        )
        #: Entries that are history only: replay checks them and delivers nothing.
        self.undelivered: frozenset[EntryKind] = frozenset(form.kind for form in forms if not form.is_delivered)
        #: Entries that have no `value`, but for `stepwell.model.journal.CUT_OFF`.
        self.valueless: frozenset[EntryKind] = frozenset(form.kind for form in forms if not form.has_value)
        #: By the kind of a definition: what calls it in workflow code.
        self.calls: dict[str, Call] = {kind: call for row in rows for kind, call in row.calls.items()}
        #: The code of these, in which what the journal holds is raised.
        self.raising: frozenset[CodeType] = frozenset(
            {call.__code__ for call in self.calls.values()} | {each.__code__ for row in rows for each in row.raises}
        )

    @property
    def entry_kinds(self) -> list[EntryKind]:
        """Every kind of entry that a journal can hold."""
        return sorted(self._of_entry)

    def of_entry(self, kind: EntryKind) -> RecordedKind:
        """Return the kind of the operation that an entry of this kind belongs to.

        Of one that only a newer release knows, what fits no operation that code could issue here.
        """
        return self._of_entry.get(kind) or RecordedKind(name=kind, entries=())

    def describe(self, kind: OpKind, name: str, fingerprint: int = 0) -> str:
        """Return an operation in words: its kind, its name, and the checksum of its arguments where it has some."""
        row = self._by_name.get(kind)
        text = kind if row is None else row.words or kind
        if name:
            text += f" {name!r}"
        return f"{text} (arguments {fingerprint:08x})" if fingerprint else text

    def waits(self, operation: Operation) -> Wait:
        """Say why a run waits for an operation."""
        waits = self._by_name[operation.kind].waits
        return Wait("more", operation.number, count=1) if waits is None else waits(operation)

    def advice(self, kind: EntryKind) -> str:
        """Say what to do where the code cannot be given what an entry of this kind holds."""
        return self.of_entry(kind).advice
