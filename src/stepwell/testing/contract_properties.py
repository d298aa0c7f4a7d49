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
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.model.run import RunRecord
from stepwell.store.changes import (
    CancelRequested,
    Change,
    ChildrenCancelled,
    MessageSent,
    MessageTaken,
    RunCreated,
    RunFinished,
    RunMoved,
    ValuePublished,
    WatchAdded,
)
from stepwell.store.claims import NotesTaken, RunsClaimed, RunsReleased, RunWoken, WorkTaken
from stepwell.store.membership import SUSPECT_CRASHES
from stepwell.store.store import Outcome, Unit
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
        lambda keys, _: RunsClaimed([keys[other], keys[run]], at),
        lambda _, __: WorkTaken(["shop.checkout", "w"], at, number),
        lambda keys, _: RunsReleased([keys[run], keys[other]]),
        lambda keys, _: NotesTaken([keys[run]]),
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
        """Apply units to four runs, the last three of which are children of the first; return all that can be seen.

        The fourth one belongs to another worker, and the third one to nobody.
        """
        worker = Worker(self.open_store(place))
        other = Worker(worker.store)
        keys = [worker.create("run0")]
        for n, owner in enumerate((worker, worker, other), 1):
            keys.append(owner.create(f"run{n}", "waiting", parent=keys[0], parent_op=n, attached=n > 1))
        worker.apply(RunsReleased([keys[2]]))
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


class _Fate(msgspec.Struct, frozen=True):
    """What happens to one run before work is looked for."""

    status: Status
    workflow: str
    wake_at: int | None
    crashes: int
    steps: int
    owned: bool


_fates: Final = st.builds(
    _Fate,
    status=st.sampled_from(["running", "waiting", "waiting", "pending", "halted", "completed"]),
    workflow=st.sampled_from("abc"),
    wake_at=st.none() | st.integers(NOW, NOW + 6),
    crashes=st.integers(0, SUSPECT_CRASHES + 1),
    steps=st.integers(0, 1),
    owned=st.booleans(),
)


class WorkProperties(StoreFixtures):
    """What is taken is what the contract says, whatever the runs went through; and the read side foretells it."""

    @settings(max_examples=80)
    @given(
        fates=st.lists(_fates, max_size=8),
        wanted=st.lists(st.sampled_from("abx"), max_size=3),
        at=st.integers(NOW, NOW + 6),
        limit=st.integers(0, 5),
    )
    def test_exactly_the_work_there_is_can_be_taken(
        self, fates: list[_Fate], wanted: list[str], at: int, limit: int
    ) -> None:
        with tempfile.TemporaryDirectory() as place:
            worker = Worker(self.open_store(Path(place)))
            keys = [self._undergo(worker, f"run{n}", fate) for n, fate in enumerate(fates)]
            progressed = {key for key, fate in zip(keys, fates, strict=True) if fate.steps}
            for _ in range(len(fates) + 1):  # until there is none
                records = [worker.record(key) for key in keys]
                expected = _work(records, progressed, wanted, at)
                assert worker.reads.has_work(wanted, at) is bool(expected)
                assert worker.apply(WorkTaken(wanted, at, limit)) == [expected[:limit]]
                later = [record.wake_at for record in records if _is_parked(record) and record.workflow in wanted]
                next_wake = min((wake_at for wake_at in later if wake_at is not None and wake_at > at), default=None)
                assert worker.reads.next_wake(wanted, at) == next_wake
            worker.store.close(worker.claim, NOW)

    def _undergo(self, worker: Worker, run_id: str, fate: _Fate) -> int:
        key = worker.create(run_id, "pending", workflow=fate.workflow)
        for _ in range(fate.crashes):
            victim = Worker(worker.store)
            victim.apply(RunsClaimed([key], NOW), RunMoved(key, "running", NOW))
            self.kill(victim)
            worker.reap(NOW)
        worker.apply(RunsClaimed([key], NOW), *(step(key, op + 1) for op in range(fate.steps)))
        if fate.status == "completed":
            worker.apply(RunFinished(key, "completed", NOW))
            return key
        worker.apply(
            RunMoved(key, fate.status, NOW, wake_at=fate.wake_at if fate.status == "waiting" else None, reason="why")
        )
        if not fate.owned:
            worker.apply(RunsReleased([key]))
        return key


def _is_parked(record: RunRecord) -> bool:
    return record.status == "waiting" and record.owner is None


def _work(records: list[RunRecord], progressed: set[int], workflows: list[str], at: int) -> list[int]:
    """Return the keys of all work there is, in the order in which it is taken."""
    due = sorted(
        (record.wake_at, record.key, record)
        for record in records
        if _is_parked(record) and record.wake_at is not None and record.wake_at <= at
    )
    candidates = [record for _, _, record in due] + [record for record in records if record.status == "pending"]
    one_more = not any(
        record.status == "running" and record.crashes >= SUSPECT_CRASHES and record.key not in progressed
        for record in records
    )
    found: list[int] = []
    for record in candidates:
        if record.workflow not in workflows:
            continue
        if record.crashes >= SUSPECT_CRASHES:
            if not one_more:
                continue
            one_more = False
        found.append(record.key)
    return found


def _with_body(changes: list[Change]) -> Unit:
    return Unit([], lambda _lent: changes)


def _kind(outcome: Outcome) -> Any:
    """Return what two stores must agree on about an outcome; keys and positions may differ."""
    return type(outcome) if isinstance(outcome, StepwellError) else [type(result) for result in outcome]


def _all_that_can_be_seen(worker: Worker, keys: list[int]) -> Any:
    read, reads = worker.read, worker.reads
    new = [record for n in range(3) if (record := read.run_by_id(f"new{n}")) is not None]
    names = {key: f"run{n}" for n, key in enumerate(keys)} | {record.key: record.id for record in new}
    runs: list[Any] = []
    for snapshot in reads.load(list(names)):
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
    workflows = ["shop.checkout", "w"]
    lists = [reads.halted(workflows, 5), reads.stranded([], NOW + 100, 100)]
    lists += [reads.news(epoch) for epoch in (worker.epoch, worker.epoch + 1)]
    found = [sorted(names[key] for key in keys) for keys in lists]
    noticed = reads.has_work(workflows, NOW + 25), reads.next_wake(workflows, NOW)
    return runs, found, noticed, read.counts(), worker.store.membership.last_at()
