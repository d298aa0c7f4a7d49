"""The part of a store's contract that is stated as properties over random batches; needs hypothesis.

See `stepwell.testing.contract` for how to run it against a store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import StepwellError
from stepwell.lifecycle import STATUSES, Status
from stepwell.store.base import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    MessageSent,
    MessageTaken,
    Outcome,
    RunCreated,
    RunFinished,
    RunMoved,
    RunWoken,
    Unit,
    ValuePublished,
    WatchAdded,
)
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker, step

_RUNS: Final = 4
_MESSAGES: Final = 3

#: Makes a change, given the keys of the runs there are and the positions of the messages sent to them.
_Make = Callable[[list[int], list[list[int]]], Change]

_statuses: Final[st.SearchStrategy[Status]] = st.sampled_from(STATUSES)


@st.composite
def _changes(draw: st.DrawFn) -> _Make:
    """Draw a change of any type, legal or not."""
    run, other = draw(st.integers(0, _RUNS - 1)), draw(st.integers(0, _RUNS - 1))
    number, at = draw(st.integers(0, _MESSAGES - 1)), draw(st.integers(NOW, NOW + 50))
    wake_at = draw(st.none() | st.integers(NOW, NOW + 50))
    status, key = draw(_statuses), draw(st.sampled_from([None, "k1", "new"]))
    error = "{}" if status == "failed" else None
    makers: list[_Make] = [
        lambda keys, _: step(keys[run], number + 1),
        lambda keys, _: step(keys[run] + 1000, 1),
        lambda _, __: RunCreated(f"new{number}", "w", None, number, status, at),
        lambda keys, _: RunMoved(keys[run], status, at, wake_at=wake_at, reason="why"),
        lambda keys, _: RunFinished(keys[run], status, at, error=error),
        lambda keys, _: RunWoken(keys[run], at),
        lambda _, __: CancelRequested(f"run{run}", at, "why"),
        lambda keys, _: ChildrenCancelled(keys[run], at, "why"),
        lambda _, __: MessageSent(f"run{run}", "m", "1", at, key),
        lambda keys, sent: MessageTaken(keys[run], sent[other][number], at),
        lambda keys, sent: MessageTaken(keys[run], sent[run][number], at),
        lambda keys, _: ValuePublished(keys[run], "k", f"{number}", at),
        lambda keys, _: WatchAdded(keys[run], keys[other]),
    ]
    return draw(st.sampled_from(makers))


class StoreProperties(StoreFixtures):
    """What holds for any batch of units."""

    @settings(max_examples=60)
    @given(
        units=st.lists(st.lists(_changes(), min_size=1, max_size=3), max_size=12), bodies=st.sets(st.integers(0, 11))
    )
    def test_units_have_the_same_outcome_and_effect_together_and_one_by_one(
        self, units: list[list[_Make]], bodies: set[int]
    ) -> None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            together = self._apply(Path(one), units, bodies, one_by_one=False)
            assert self._apply(Path(other), units, set(), one_by_one=True) == together

    def _apply(self, place: Path, units: list[list[_Make]], bodies: set[int], *, one_by_one: bool) -> Any:
        """Apply units to four runs, the last three of which are children of the first; return all that can be seen."""
        worker = Worker(self.open_store(place))
        keys = [worker.create("run0")]
        keys += [worker.create(f"run{n}", parent=keys[0], parent_op=n, attached=n > 1) for n in range(1, _RUNS)]
        sent = [
            [worker.apply(MessageSent(f"run{r}", "m", "1", NOW, f"k{n}" if n else None))[0].position for n in range(3)]
            for r in range(_RUNS)
        ]
        made = [
            _with_body([make(keys, sent) for make in unit]) if index in bodies else Unit([m(keys, sent) for m in unit])
            for index, unit in enumerate(units)
        ]
        batches = [[unit] for unit in made] if one_by_one else [made]
        outcomes = [outcome for batch in batches for outcome in worker.commit(*batch)]
        seen = _all_that_can_be_seen(worker, keys)
        worker.store.close(worker.claim, NOW)
        return [_kind(outcome) for outcome in outcomes], seen


def _with_body(changes: list[Change]) -> Unit:
    return Unit([], lambda _lent: changes)


def _kind(outcome: Outcome) -> Any:
    """Return what two stores must agree on about an outcome; keys and positions may differ."""
    return type(outcome) if isinstance(outcome, StepwellError) else [type(result) for result in outcome]


def _all_that_can_be_seen(worker: Worker, keys: list[int]) -> Any:
    read = worker.read
    new = [record for n in range(3) if (record := read.run_by_id(f"new{n}")) is not None]
    names = {key: f"run{n}" for n, key in enumerate(keys)} | {record.key: record.id for record in new}
    runs: list[Any] = []
    for snapshot in read.load(list(names)):
        parent = names.get(snapshot.record.parent or 0)
        runs.append(
            (
                parent,
                msgspec.structs.replace(snapshot.record, key=0, parent=None),
                [msgspec.structs.replace(entry, run=0, position=0) for entry in snapshot.entries],
                [msgspec.structs.replace(message, position=0) for message in snapshot.messages],
                read.values(snapshot.record.key),
            )
        )
    found = [[names[key] for key in found] for found in (read.running(), read.halted(), read.due(NOW + 100, 100))]
    return runs, found, read.next_wake(), read.counts(), read.last_at()
