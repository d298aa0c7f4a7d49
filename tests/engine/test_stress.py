"""Many threads at once: everything that was accepted ends, nothing is lost, nothing happens twice."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, EngineClosed, RunCancelled, RunEnded, publish, receive, step, transaction, workflow

THREADS = 50
EACH = 4
DEADLINE_SECONDS = 120

executed: Counter[str] = Counter()
_lock = threading.Lock()


@step
def act(name: str) -> str:
    with _lock:
        executed[name] += 1
    return name


@step
async def act_async(name: str) -> str:
    return act.function(name)


@transaction
def book(tx: Any, name: str) -> int:
    tx.execute("INSERT INTO ledger (name) VALUES (?)", (name,))
    return 1


@workflow
async def collects(name: str, letters: int) -> list[Any]:
    got = [await receive("letter", str) for _ in range(letters)]
    await publish("letters", len(got))
    book(name)
    return [act(name), await act_async(f"{name} async"), sorted(got)]


@workflow
async def waits_for_ever(name: str) -> None:
    try:
        await receive("never")
    finally:
        await act_async(f"{name} cleaned up")


def at_once(work: Callable[[int], None], count: int = THREADS) -> None:
    """Call `work` in `count` threads that begin together; raise the first error of any."""
    barrier, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        barrier.wait(DEADLINE_SECONDS)
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.fixture(params=[0, 1000], ids=["nothing kept in memory", "all kept in memory"])
def engine(request: pytest.FixtureRequest, database: Path) -> Any:
    executed.clear()
    with Engine(database, max_waiting_in_memory=request.param) as engine:
        with engine.transaction() as tx:
            tx.execute("CREATE TABLE ledger (name TEXT)")
        yield engine


def ledger(engine: Engine) -> Counter[str]:
    with engine.transaction() as tx:
        return Counter(name for (name,) in tx.execute("SELECT name FROM ledger"))


def test_starts_messages_and_cancellations_from_many_threads_all_take_effect_once(engine: Engine) -> None:
    names = [f"{thread}-{number}" for thread in range(THREADS) for number in range(EACH)]

    def work(thread: int) -> None:
        chance = random.Random(thread)
        for number in range(EACH):
            name = f"{thread}-{number}"
            run = engine.start(collects, name, 2, id=name, messages=[("letter", "with the start")])
            doomed = engine.start(waits_for_ever, name, id=f"doomed {name}")
            other = chance.choice(names)
            # The same letter from whoever thinks of it: the key makes it one.
            for target in (name, other):
                try:
                    engine.send(target, "letter", f"to {target}", key="the letter")
                except (RunEnded, LookupError):
                    assert target == other
            doomed.cancel(f"by {thread}")
            assert run.result(timeout=DEADLINE_SECONDS)[0] == name

    at_once(work)
    for name in names:
        expected = [name, f"{name} async", sorted(["with the start", f"to {name}"])]
        assert engine.get(name).result(timeout=DEADLINE_SECONDS) == expected
        with pytest.raises(RunCancelled, match=f"by {name.split('-')[0]}"):
            engine.get(f"doomed {name}").result(timeout=DEADLINE_SECONDS)
    assert {name: executed[name] for name in names} == dict.fromkeys(names, 1)
    assert ledger(engine) == Counter(names)
    assert len(engine.list(limit=10_000)) == 2 * len(names)
    assert set(executed.values()) == {1}


def test_many_threads_that_start_the_same_run_get_the_same_run(engine: Engine) -> None:
    handles: list[Any] = []

    def work(thread: int) -> None:
        run = engine.start(collects, "one", THREADS, id="one")
        run.send("letter", f"{thread:02d}")
        handles.append(run.result(timeout=DEADLINE_SECONDS))

    at_once(work)
    assert handles == [["one", "one async", [f"{thread:02d}" for thread in range(THREADS)]]] * THREADS
    assert executed == {"one": 1, "one async": 1}
    assert len(engine.list()) == 1


def test_letters_from_transactions_and_from_plain_sends_arrive_once_each(engine: Engine) -> None:
    run = engine.start(collects, "one", THREADS * EACH, id="one")

    def work(thread: int) -> None:
        for number in range(EACH):
            letter = f"{thread:02d}-{number}"
            if thread % 2:
                run.send("letter", letter)
            else:
                with engine.transaction() as tx:
                    tx.send("one", "letter", letter)

    at_once(work)
    letters = [f"{thread:02d}-{number}" for thread in range(THREADS) for number in range(EACH)]
    assert run.result(timeout=DEADLINE_SECONDS) == ["one", "one async", letters]


def test_transactions_beside_runs_commit_whole_or_not_at_all(engine: Engine) -> None:
    def work(thread: int) -> None:
        for number in range(EACH):
            name = f"{thread}-{number}"
            try:
                with engine.transaction() as tx:
                    tx.execute("INSERT INTO ledger (name) VALUES (?)", (f"outer {name}",))
                    tx.start(collects, name, 2, id=name, messages=[("letter", "inside")])
                    tx.send(name, "letter", "inside too")
                    if number % 2:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            engine.start(collects, f"beside {name}", 0)

    at_once(work)
    kept = [f"{thread}-{number}" for thread in range(THREADS) for number in range(0, EACH, 2)]
    for name in kept:
        letters = ["inside", "inside too"]
        assert engine.get(name).result(timeout=DEADLINE_SECONDS) == [name, f"{name} async", letters]
    runs = engine.list(limit=10_000)
    for run in runs:
        run.result(timeout=DEADLINE_SECONDS)
    assert len(runs) == len(kept) + THREADS * EACH
    outer = Counter({name: count for name, count in ledger(engine).items() if name.startswith("outer")})
    assert outer == Counter(f"outer {name}" for name in kept)
    assert set(ledger(engine).values()) == {1}


def test_closing_under_fire_answers_everyone_and_the_next_engine_finishes_the_work(database: Path) -> None:
    executed.clear()
    engine = Engine(database)
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE ledger (name TEXT)")
    accepted: list[str] = []

    def work(thread: int) -> None:
        if thread == 0:
            engine.close()
            return
        for number in range(EACH):
            name = f"{thread}-{number}"
            try:
                engine.start(collects, name, 1, id=name, messages=[("letter", "x")])
            except EngineClosed:
                return
            accepted.append(name)

    at_once(work)
    with Engine(database) as again:
        assert {run.id for run in again.list(limit=10_000)} >= set(accepted)
        for name in accepted:
            assert again.get(name).result(timeout=DEADLINE_SECONDS) == [name, f"{name} async", ["x"]]
        for run in again.list(limit=10_000):
            run.result(timeout=DEADLINE_SECONDS)
        assert set(ledger(again).values()) <= {1}
