"""The order in which continuations run: the one of `stepwell.worker.arriving.outcomes`, which much depends on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepwell.errors import RunNotFound
from stepwell.runtime.serving.requests import WaitForRun
from stepwell.runtime.turn import TurnLoop
from stepwell.store.changes import Created, MessageSent, RunCreated
from stepwell.store.claims import RunsClaimed
from stepwell.store.sqlite.store import SqliteStore
from stepwell.values.codec import Codec
from stepwell.worker.state.failure_log import Line
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.runs import Capacity
from stepwell.worker.state.unit_of_work import UnitOfWork

NOW = 1_700_000_000_000_000


class Driver:
    """Notes what the turn loop lets out."""

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def wake(self) -> None:
        """Nothing waits."""

    def time(self) -> int:
        return NOW

    def run_steps(self, attempts: list[Any]) -> None:
        self._happened += [f"{attempt.name} starts" for attempt in attempts]

    def drop_steps(self, attempts: list[Any]) -> None:
        self._happened += [f"{attempt.name} is dropped" for attempt in attempts]

    def store_unavailable(self) -> None:
        raise NotImplementedError

    def failed(self) -> None:
        raise AssertionError


@pytest.fixture
def happened() -> list[str]:
    return []


@pytest.fixture
def turn_loop(database: Path, happened: list[str]) -> Iterator[TurnLoop]:
    store = SqliteStore.open(database)
    turn_loop = TurnLoop(
        store, Codec(), {}, limits=Capacity(10, 10, 5), chance=lambda: 0.5, driver=Driver(happened), takes_work=False
    )
    store.writers.acquire()
    turn_loop.open(NOW)
    store.writers.release()
    yield turn_loop
    store.writers.acquire()
    store.close(turn_loop.claim, NOW)
    store.writers.release()


def new_run(name: str) -> RunCreated:
    return RunCreated(name, "of nobody here", None, 0, "pending", NOW)


def noting(happened: list[str], what: str) -> Callable[..., None]:
    def note(*arguments: Any) -> None:
        values = [type(one).__name__ if isinstance(one, (Created, Exception)) else one for one in arguments]
        happened.append(" ".join([what, *(str(value) for value in values if value is not None)]))

    return note


def attempt(name: str) -> Any:
    return SimpleNamespace(name=name, wanted=True)


def logged(happened: list[str]) -> logging.Handler:
    handler = logging.Handler()
    handler.emit = lambda record: happened.append(f"log: {record.getMessage()}")  # type: ignore[method-assign]
    return handler


def test_what_a_commit_leads_to_comes_in_one_order(turn_loop: TurnLoop, happened: list[str]) -> None:
    first = turn_loop.worker.batch.lone_work()
    first.then(new_run("ends"), lambda _: None)
    turn_loop.turn(NOW)
    turn_loop.waiters.run(WaitForRun("ends"), noting(happened, "who waits for its end is told"))
    over = RunOver(1, "ends", "halted", None, None, None)

    work = turn_loop.worker.batch.lone_work()
    work.steps = [attempt("the step")]
    work.extra.drops.append(attempt("the given up step"))
    work.extra.over.append(over)
    work.afterwards(noting(happened, "after it"), noting(happened, "NOT refused"))
    work.answer(noting(happened, "a caller is answered"), 7)
    work.extra.decided = noting(happened, "decided")
    work.decide = lambda _facts: [RunsClaimed([], NOW)]
    work.then(new_run("a"), noting(happened, "the first change is made:"))
    work.then(new_run("b"), noting(happened, "the second change is made:"))
    work.if_refused(noting(happened, "NOT refused"))
    work.extra.lines.append(Line(1, logging.ERROR, "a line", (), None, {}))

    other = turn_loop.worker.batch.lone_work()
    other.told(new_run("c"), noting(happened, "a journal has it:"))
    other.afterwards(noting(happened, "after the other work"))

    handler = logged(happened)
    logging.getLogger("stepwell").addHandler(handler)
    try:
        turn_loop.turn(NOW)
    finally:
        logging.getLogger("stepwell").removeHandler(handler)
    assert happened == [
        "a journal has it: Created",  # of all works of the commit
        "log: a line",
        "the first change is made: Created",
        "the second change is made: Created",
        "decided [[]]",
        "a caller is answered 7",
        "after it",
        f"who waits for its end is told {over}",
        "the given up step is dropped",
        "after the other work",  # each work by itself, as they came
        "the step starts",  # when all of the turn is committed
    ]


def test_what_a_refusal_leads_to_comes_in_one_order(turn_loop: TurnLoop, happened: list[str]) -> None:
    work = turn_loop.worker.batch.lone_work()
    work.answer(noting(happened, "a caller is told"), 7)
    work.then(
        MessageSent("nobody", "a", None, NOW), noting(happened, "NOT made"), noting(happened, "the first is refused")
    )
    work.afterwards(noting(happened, "NOT after"), noting(happened, "the second is refused"))
    beside = turn_loop.worker.batch.lone_work()
    beside.then(new_run("b"), noting(happened, "what commits beside it:"))
    turn_loop.turn(NOW)
    name = RunNotFound.__name__
    assert happened == [
        f"the first is refused {name}",
        f"the second is refused {name}",
        f"a caller is told {name}",
        "what commits beside it: Created",
    ]


def test_each_change_has_its_own_result_also_in_a_work_that_took_over_another(turn_loop: TurnLoop) -> None:
    results: dict[str, Created] = {}
    turn_loop.worker.batch.lone_work().changes.append(new_run("there before"))
    turn_loop.turn(NOW)

    other = UnitOfWork([])
    other.then(new_run("there before"), lambda result: results.__setitem__("there before", result))
    other.then(new_run("taken over"), lambda result: results.__setitem__("taken over", result))
    work = turn_loop.worker.batch.lone_work()
    work.then(new_run("first"), lambda result: results.__setitem__("first", result))
    work.changes.append(new_run("nobody asks about"))
    work.absorb(other)
    work.then(new_run("last"), lambda result: results.__setitem__("last", result))
    turn_loop.turn(NOW)
    records = turn_loop.store.reads.facts([result.key for result in results.values()])
    assert [record.id for record in records] == list(results)
    assert [name for name, result in results.items() if result.existing is not None] == ["there before"]
    assert list(results) == ["first", "there before", "taken over", "last"]


def test_one_change_that_a_unit_has_twice_has_two_results(turn_loop: TurnLoop) -> None:
    results: list[Created] = []
    work, change = turn_loop.worker.batch.lone_work(), new_run("a")
    work.then(change, results.append)
    work.then(change, results.append)
    turn_loop.turn(NOW)
    assert [result.existing and result.existing.id for result in results] == [None, "a"]
