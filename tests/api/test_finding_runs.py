"""Whatever is asked, in whatever order, a listing finds what a look at each run finds, page after page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from stepwell import InvalidFilter, Queue, receive, step, workflow
from stepwell.store.sql import listing
from stepwell.testing import TestEngine

LINE: Final = Queue("finding.line", concurrency=1)
RUNS: Final = 60


@step(name="finding.fail")
async def fail() -> None:
    raise ValueError("no")


@workflow(name="finding.ends")
async def ends() -> None:
    pass


@workflow(name="finding.fails")
async def fails() -> None:
    await fail()


@workflow(name="finding.waits")
async def waits() -> None:
    await receive("go")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestEngine]:
    chance = random.Random(7)
    with TestEngine(tmp_path_factory.mktemp("finding") / "runs.db") as engine:
        for number in range(RUNS):
            flow = chance.choice([ends, fails, waits])
            given: dict[str, Any] = {"queue": LINE} if chance.random() < 0.2 else {}
            attributes: dict[str, Any] = {"size": chance.randrange(9), "customer": chance.choice("ab")}
            tags = [tag for tag in ("vip", "web") if chance.random() < 0.4]
            run = engine.start(flow, id=f"run-{number:02}", attributes=attributes, tags=tags, **given)
            engine.advance(timedelta(seconds=60))
            if chance.random() < 0.2:
                run.cancel()
            elif chance.random() < 0.2:
                run.pause() if run.status == "waiting" else None
        engine.idle()
        yield engine


STATES: Final = (
    "completed",
    "failed",
    "waiting",
    "pending",
    "paused",
    "cancelled",
    "failed,cancelled",
    "waiting,completed",
)
CONDITIONS: Final = [
    *(f"status:{state}" for state in STATES),
    *("workflow:finding.fails", "workflow:finding.waits", "queue:finding.line", "queue:none", "parent:none"),
    *("tag:vip", "tag:web", "size>5", "size<=2", "size=3", "customer=a", "id:run-1*", "id:run-10", "id:*"),
    *("created>-30m", "created<-30m", "started>-40m", "started<-20m", "ended>-30m", "ended<-30m"),
]
ORDERS: Final = [
    "",
    "order:-created",
    "order:created",
    "order:-started",
    "order:started",
    "order:-ended",
    "order:ended",
]


def expected(engine: TestEngine, conditions: list[str], order: str) -> list[str]:
    """Return the ids that each condition has by itself, by the facts."""
    sets = [{run.id for run in engine.list(condition, limit=1_000)} for condition in conditions]
    infos = [run.info() for run in engine.list(limit=1_000)]
    what = f"{order.partition(':')[2].removeprefix('-') or 'created'}_at"
    found = [info for info in infos if all(info.id in each for each in sets) and getattr(info, what) is not None]
    found.sort(key=lambda info: (getattr(info, what), info.id), reverse=not order or "-" in order)
    return [info.id for info in found]


@pytest.mark.parametrize("few", [0, 5, 1_000])
def test_pages_have_every_run_once_in_order_whether_conditions_are_rare_or_not(
    filled: TestEngine, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FEW", few)
    monkeypatch.setattr(listing, "_LATE_MICROSECONDS", 0)
    chance = random.Random(few)
    conditions_that_are = [each for each in CONDITIONS if each != "id:*"]
    for _ in range(40):
        conditions = chance.sample(conditions_that_are, chance.choice([0, 1, 1, 2, 3]))
        order = chance.choice(ORDERS)
        text = " ".join([*conditions, order])
        try:
            wanted = expected(filled, conditions, order)
            pages: list[str] = []
            while page := filled.list(text, limit=7, before=pages[-1] if pages else None):
                pages += [run.id for run in page]
        except InvalidFilter as error:
            assert "given twice" in str(error)  # noqa: PT017 - two states, say
            continue
        assert pages == wanted, text
        if not order:
            assert sum(filled.counts(text).values()) == len(wanted), text


def test_each_condition_means_what_it_says_of_each_run(filled: TestEngine) -> None:
    infos = [run.info() for run in filled.list(limit=1_000)]
    assert len(infos) == RUNS
    for state in STATES:
        wanted = [info.id for info in infos if info.status in state.split(",")]
        assert wanted or state in ("pending", "paused")
        assert [run.id for run in filled.list(f"status:{state}")] == wanted
    assert [run.id for run in filled.list("tag:vip size>5")] == [
        info.id
        for info in infos
        if "vip" in info.tags and isinstance(info.attributes["size"], int) and info.attributes["size"] > 5
    ]
    assert filled.counts() == {
        state: n for state in sorted({i.status for i in infos}) if (n := sum(i.status == state for i in infos))
    }
    assert sum(filled.counts(by="queue").values()) == sum(filled.counts(by="workflow").values()) == RUNS


def test_a_run_without_such_a_time_has_no_place_in_its_order(database: Path) -> None:
    with TestEngine(database, workflows=[]) as engine:
        engine.start(ends, id="pending")
        assert [run.id for run in engine.list("order:created")] == ["pending"]
        assert not engine.list("order:-started")
        assert not engine.list("order:ended")
