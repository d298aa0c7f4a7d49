"""Nothing leaves the engine before the commit that justifies it; a commit that fails justifies nothing."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, StorageFull, StoreUnavailable, publish, receive, step, workflow
from stepwell.model.journal import Entry
from stepwell.model.run import Claim
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Outcome, Unit

DEADLINE_SECONDS = 60

executed: list[str] = []


@step
async def first() -> str:
    executed.append("first")
    return "recorded"


@step
async def second(given: str) -> str:
    executed.append(f"second({given})")
    return given


@step
def second_in_a_thread(given: str) -> str:
    executed.append(f"second({given})")
    return given


@workflow
async def child(given: str) -> str:
    return await second(given)


@workflow
async def two_steps() -> str:
    return await second(await first())


@workflow
async def then_a_thread() -> str:
    given = await first()
    return await asyncio.to_thread(second_in_a_thread, given)


@workflow
async def then_a_child() -> str:
    return await child(await first())


@workflow
async def then_its_end() -> str:
    return await first()


@workflow
async def then_a_value() -> str:
    given = await first()
    await publish("said", given)
    await receive("go")
    return given


class Disk:
    """Refuses the commits that hold the result of a step, for as long as it is told to."""

    def __init__(self) -> None:
        self.error: StoreUnavailable | None = None
        self.refused: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def check(self, units: Sequence[Unit]) -> None:
        results = [change for unit in units for change in unit.changes if isinstance(change, Entry)]
        error = self.error  # read once: the test takes it away meanwhile
        if error is not None and any(entry.kind == "step" for entry in results):
            self.refused.put(True)
            raise error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    executed.clear()
    disk = Disk()
    real = SqliteStore.commit

    def commit(store: SqliteStore, units: Sequence[Unit], claim: Claim) -> list[Outcome]:
        disk.check(units)
        return real(store, units, claim)

    monkeypatch.setattr(SqliteStore, "commit", commit)
    monkeypatch.setattr("stepwell.runtime.engine_thread._STORE_RETRY_SECONDS", 0.001)
    return disk  # type: ignore[return-value]


ERRORS: dict[str, Callable[[], StoreUnavailable]] = {
    "full": lambda: StorageFull("the disk is full"),
    "locked": lambda: StoreUnavailable("somebody else writes"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("flow", [two_steps, then_a_thread, then_a_child, then_its_end, then_a_value])
def test_nothing_follows_from_a_result_that_could_not_be_recorded(
    database: Path, disk: Disk, error: str, flow: Any
) -> None:
    heard: list[Any] = []
    with Engine(database) as engine:
        disk.error = ERRORS[error]()
        run = engine.start(flow, id="run")
        values = threading.Thread(target=lambda: heard.append(run.value("said", DEADLINE_SECONDS)))
        ends = threading.Thread(target=lambda: heard.append(run.result(DEADLINE_SECONDS)))
        for listener in (values, ends) if flow is then_a_value else (ends,):
            listener.start()
        for _ in range(5):  # it is tried again and again
            assert disk.refused.get(timeout=DEADLINE_SECONDS)
        assert executed == ["first"]
        assert heard == []
        assert [entry.kind for entry in run.journal() if entry.kind == "step"] == []
        assert len(engine.list()) == 1
        disk.error = None
        if flow is then_a_value:
            values.join(DEADLINE_SECONDS)
            run.send("go")
        ends.join(DEADLINE_SECONDS)
    assert heard[-1] == "recorded"
    assert executed == (["first"] if flow in (then_its_end, then_a_value) else ["first", "second(recorded)"])


def test_a_result_that_was_never_recorded_is_made_again_by_the_next_engine(database: Path, disk: Disk) -> None:
    engine = Engine(database)
    disk.error = StorageFull("the disk is full")
    engine.start(two_steps, id="run")
    assert disk.refused.get(timeout=DEADLINE_SECONDS)
    engine.close(timeout=0)
    assert executed == ["first"]
    disk.error = None
    with Engine(database) as second_engine:
        assert second_engine.get("run").result(DEADLINE_SECONDS) == "recorded"
    assert executed == ["first", "first", "second(recorded)"]


@pytest.mark.parametrize("what", ["start", "send", "cancel"])
def test_no_caller_is_told_of_what_could_not_be_recorded(
    database: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real = SqliteStore.commit
    with Engine(database) as engine:
        run = engine.start(then_a_value, id="run")
        assert run.value("said", DEADLINE_SECONDS) == "recorded"
        full = threading.Event()

        def commit(store: SqliteStore, units: Sequence[Unit], claim: Claim) -> list[Outcome]:
            if full.is_set():
                raise StorageFull("the disk is full")
            return real(store, units, claim)

        monkeypatch.setattr(SqliteStore, "commit", commit)
        full.set()
        asked: dict[str, Callable[[], object]] = {
            "start": lambda: engine.start(child, "x", id="other"),
            "send": lambda: run.send("go"),
            "cancel": run.cancel,
        }
        with pytest.raises(StorageFull, match="the disk is full"):
            asked[what]()
        assert [found.id for found in engine.list()] == ["run"]
        full.clear()
