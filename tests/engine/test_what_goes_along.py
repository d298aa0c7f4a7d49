"""What a fork, and a rewound run, has of what the run had: the table of `docs/how-to/repair-a-run.md`, row by row."""

from __future__ import annotations

from typing import Any

import pytest

import stepwell
from stepwell import InvalidArgument, Queue, Run, publish, receive, set_attributes, step, stream, workflow
from stepwell.testing import TestEngine

LINE = Queue("along.line", partition_concurrency=2)
added: list[str] = []


@step(name="along.act")
async def act(what: str) -> str:
    return what


@step(name="along.add")
async def put(item: str) -> str:
    added.append(item)
    return item


@workflow(name="along.child")
async def child() -> str:
    return await receive("go", str)


@workflow(name="along.all")
async def everything(behind: str) -> None:
    """Do each kind of thing before the operation that is gone back to, and again behind it."""

    @stepwell.update
    async def add(item: str) -> str:
        return await put(item)

    for when in ("before", behind):
        await set_attributes({when: 1}, tags=[when], note=when)
        await publish(when, when)
        await stream("lines", str).write(when)
        await act.options(summary=when)(when)
        await stepwell.start(child)
        await receive("word", str)
    await stepwell.promise(bool)


@pytest.fixture
def run(engine: TestEngine) -> Run[Any]:
    """Return a run that has done all of it, and waits for its promise; a third message is there as well."""
    added.clear()
    options: dict[str, Any] = {"queue": LINE, "partition": "p", "priority": 3, "dedup": "once", "deadline": 3600}
    run = engine.start(everything, "behind", id="a", attributes={"given": 1}, tags=["given"], note="given", **options)
    engine.idle()
    for when, word in (("before", "one"), ("behind", "two")):
        run.update("add", when, key=when)
        run.send("word", word, key=word)
        engine.idle()
    run.send("word", "three", key="three")
    return run


def gone_back_to(run: Run[Any]) -> int:
    return max(entry.operation for entry in run.journal() if entry.kind == "described")


def seen(engine: TestEngine, run: Run[Any]) -> dict[str, Any]:
    info = run.info()
    of_run = "FROM {} AS its JOIN stepwell_runs AS run ON run.key = its.run WHERE run.id = ?"
    values = engine.query("SELECT its.key " + of_run.format("stepwell_values") + " ORDER BY its.key", (run.id,))
    messages = engine.query(
        "SELECT its.value " + of_run.format("stepwell_messages") + " AND taken_at IS NULL ORDER BY position", (run.id,)
    )
    return {
        "attributes": sorted(info.attributes),
        "tags": info.tags,
        "acts": [act.reason or act.act for act in run.acts()],
        "summaries": [entry.summary for entry in run.journal() if entry.summary],
        "values": [key for (key,) in values],
        "stream": list(run.stream("lines", str, follow=False)),
        "counted": list(run.stream("lines", str, follow=False, last_attempt=True)),
        "received": [entry.value for entry in run.journal() if entry.kind == "message"],
        "waiting": [value.strip('"') for (value,) in messages],
        "updates": [entry.value["args"][0] for entry in run.journal() if entry.kind == "update"],
        "promises": len([each for each in engine.promises() if each.run_id == run.id]),
        "children": {each.id: each.status == "cancelled" for each in engine.list() if each.info().parent == run.id},
        "place": (info.queue, info.partition, info.priority, info.dedup),
        "deadline": info.deadline_at,
    }


def test_what_a_fork_has(engine: TestEngine, run: Run[Any]) -> None:
    before = seen(engine, run)
    with pytest.raises(InvalidArgument, match="promise"):
        run.fork(max(entry.operation for entry in run.journal()) + 1, id="b")
    fork = run.fork(gone_back_to(run), id="b", args=["anew"], reason="what if")
    engine.idle()
    assert seen(engine, fork) == {
        "attributes": ["anew", "before", "behind", "given"],
        "tags": ["anew", "before", "behind", "given"],
        "acts": ["what if", "anew"],
        "summaries": ["before", "anew"],
        "values": ["anew", "before"],
        "stream": ["anew"],
        "counted": ["anew"],
        "received": ["one", "two"],
        "waiting": ["three"],
        "updates": ["before"],
        "promises": 1,
        "children": {"b/14": False},
        "place": ("along.line", "p", 3, None),
        "deadline": before["deadline"],
    }
    assert seen(engine, run) == before
    fork.send("word", "three", key="three")
    assert seen(engine, fork)["waiting"] == ["three"]
    fork.update("add", "before", key="before")
    assert added == ["before", "behind", "before"]


def test_what_a_rewound_run_has(engine: TestEngine, run: Run[Any]) -> None:
    before = seen(engine, run)
    run.rewind(gone_back_to(run), args=["anew"], reason="wrong")
    engine.idle()
    assert seen(engine, run) == {
        "attributes": ["anew", "before", "behind", "given"],
        "tags": ["anew", "before", "behind", "given"],
        "acts": ["given", "before", "behind", "wrong", "anew"],
        "summaries": ["before", "anew"],
        "values": ["anew", "before", "behind"],
        "stream": ["before", "behind", "anew"],
        "counted": ["before", "anew"],
        "received": ["one", "two"],
        "waiting": ["three"],
        "updates": ["before"],
        "promises": 1,
        "children": {"a/5": False, "a/14": True, "a/14~1": False},
        "place": ("along.line", "p", 3, "once"),
        "deadline": before["deadline"],
    }
    run.send("word", "three", key="three")
    assert seen(engine, run)["waiting"] == ["three"]
    for key in ("before", "behind"):
        assert run.update("add", "again", key=key) == key
    assert added == ["before", "behind"]


@workflow(name="along.adds")
async def adds() -> list[str]:
    got: list[str] = []

    @stepwell.update
    async def add(item: str) -> str:
        got.append(item + await receive("go", str))
        return got[-1]

    for name in ("a", "b"):
        await act(name)
        await receive(name)
    return got


def test_an_update_without_an_answer_goes_with_what_took_it_on(engine: TestEngine) -> None:
    run = engine.start(adds, id="a", updates=[("add", ["x"], "key")])
    run.send("a")
    engine.idle()
    taken = next(entry.operation for entry in run.journal() if entry.kind == "update")
    behind, before = run.fork(taken + 2, id="behind"), run.fork(1, id="before")
    run.rewind(1)
    for each, result in ((run, ["x!"]), (behind, ["x!"]), (before, [])):
        for name in ("a", "go", "b"):
            each.send(name, "!")
            engine.idle()
        assert each.result(60) == result
    assert run.update("add", "y", key="key") == "x!"


@workflow(name="along.parent")
async def parent() -> str:
    return await (await stepwell.start(child, id="kid", queue=LINE, partition="p", priority=3, dedup="kid")).result()


def test_a_run_that_has_ended_has_no_dedup_key_and_a_fork_no_parent(engine: TestEngine) -> None:
    engine.start(parent, id="parent")
    engine.idle()
    kid = engine.get("kid")
    kid.cancel()
    engine.idle()
    fork = kid.fork(1, id="b")
    kid.restart()
    engine.idle()
    assert (kid.info().parent, fork.info().parent) == ("parent", None)
    for each in (kid, fork):
        info = each.info()
        assert (info.queue, info.partition, info.priority, info.dedup) == ("along.line", "p", 3, None)
