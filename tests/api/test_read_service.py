"""People's questions go through one service, and those of an `AsyncEngine` are never read on the caller's loop."""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

import stepwell
from stepwell import (
    AsyncEngine,
    AsyncQueueHandle,
    AsyncRun,
    Engine,
    PromiseNotFound,
    Queue,
    publish,
    query,
    receive,
    update,
    workflow,
)
from stepwell.api.reading.file_reads import file_reads
from stepwell.runtime import recent_times
from stepwell.store.sql.connection import Execute
from stepwell.store.sqlite.read_pool import ReadPool
from stepwell.store.sqlite.user_queries import UserQueries

PACKAGE = Path(stepwell.__file__).parent
ROOM = Queue("reads-room", concurrency=1)


@workflow
async def tells() -> str:
    @update
    def back(given: int) -> int:
        return given

    @query
    def word() -> str:
        return "a word"

    await publish("at", 1)
    return await receive("go", str)


@workflow
async def fails() -> None:
    raise LookupError("not there")


@dataclass
class Reads:
    """The threads on which the file was read for somebody."""

    threads: list[int] = field(default_factory=list)

    def happened_here(self) -> bool:
        return threading.get_ident() in self.threads


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()
    lend, take = ReadPool.lend, UserQueries._take

    @contextmanager
    def lent(self: ReadPool) -> Iterator[Execute]:
        found.threads.append(threading.get_ident())
        with lend(self) as execute:
            yield execute

    def taken(self: UserQueries) -> Any:
        found.threads.append(threading.get_ident())
        return take(self)

    monkeypatch.setattr(ReadPool, "lend", lent)
    monkeypatch.setattr(UserQueries, "_take", taken)
    return found


Call = Callable[[AsyncEngine, AsyncRun[Any], AsyncQueueHandle], Awaitable[Any]]


#: One call of each method, by class and name, in an order in which none of them spoils the run for the next.
async def streamed(run: AsyncRun[Any]) -> list[Any]:
    return [item async for item in run.stream("tokens", follow=False)]


CALLS: dict[tuple[type, str], Call] = {
    (AsyncEngine, "start"): lambda engine, _run, _queue: engine.start(tells, id="other", queue=ROOM),
    (AsyncEngine, "get"): lambda engine, run, _queue: engine.get(run.id),
    (AsyncEngine, "list"): lambda engine, run, _queue: engine.list(before=run.id),
    (AsyncEngine, "queues"): lambda engine, _run, _queue: engine.queues(),
    (AsyncEngine, "workers"): lambda engine, _run, _queue: engine.workers(),
    (AsyncEngine, "query"): lambda engine, _run, _queue: engine.query("SELECT 1"),
    (AsyncEngine, "retry_all"): lambda engine, _run, _queue: engine.retry_all(id_prefix="r", dry_run=True),
    (AsyncEngine, "purge"): lambda engine, _run, _queue: engine.purge(3600),
    (AsyncEngine, "start_many"): lambda engine, _run, _queue: engine.start_many(fails, [()], queue=ROOM, delay=60),
    (AsyncEngine, "send"): lambda engine, run, _queue: engine.send(run.id, "hint", 1),
    (AsyncQueueHandle, "info"): lambda _engine, _run, queue: queue.info(),
    (AsyncQueueHandle, "acts"): lambda _engine, _run, queue: queue.acts(),
    (AsyncQueueHandle, "pause"): lambda _engine, _run, queue: queue.pause(),
    (AsyncQueueHandle, "resume"): lambda _engine, _run, queue: queue.resume(),
    (AsyncQueueHandle, "unpause"): lambda _engine, _run, queue: queue.unpause(),
    (AsyncQueueHandle, "change"): lambda _engine, _run, queue: queue.change(concurrency=2),
    (AsyncQueueHandle, "cancel_waiting"): lambda _engine, _run, queue: queue.cancel_waiting(),
    (AsyncRun, "info"): lambda _engine, run, _queue: run.info(),
    (AsyncRun, "status"): lambda _engine, run, _queue: run.status,
    (AsyncRun, "journal"): lambda _engine, run, _queue: run.journal(),
    (AsyncRun, "acts"): lambda _engine, run, _queue: run.acts(),
    (AsyncRun, "value"): lambda _engine, run, _queue: run.value("at"),
    (AsyncRun, "resume"): lambda _engine, run, _queue: run.resume(),
    (AsyncRun, "update"): lambda _engine, run, _queue: run.update("back", 1),
    (AsyncRun, "query"): lambda _engine, run, _queue: run.query("word"),
    (AsyncRun, "send"): lambda _engine, run, _queue: run.send("go", "on"),
    (AsyncRun, "result"): lambda _engine, run, _queue: run.result(timeout=20),
    (AsyncRun, "cancel"): lambda _engine, run, _queue: run.cancel(),
    (AsyncRun, "pause"): lambda engine, _run, _queue: paused(engine),
    (AsyncRun, "unpause"): lambda engine, _run, _queue: not_paused(engine),
    (AsyncEngine, "run_until_idle"): lambda engine, _run, _queue: engine.run_until_idle(60),
    (AsyncEngine, "promises"): lambda engine, _run, _queue: engine.promises(),
    (AsyncEngine, "resolve"): lambda engine, _run, _queue: unknown(engine.resolve("nobody's", 1)),
    (AsyncEngine, "reject"): lambda engine, _run, _queue: unknown(engine.reject("nobody's", "no")),
    (AsyncEngine, "counts"): lambda engine, _run, _queue: engine.counts(by="queue"),
    (AsyncEngine, "bulk"): lambda engine, _run, _queue: engine.bulk("pause", "id:nobody"),
    (AsyncEngine, "check"): lambda engine, _run, _queue: engine.check(),
    (AsyncEngine, "bulks"): lambda engine, _run, _queue: engine.bulks(),
    (AsyncRun, "terminate"): lambda engine, _run, _queue: terminated(engine),
    (AsyncRun, "delete"): lambda engine, _run, _queue: terminated(engine, "deleted"),
    (AsyncRun, "reschedule"): lambda _engine, run, _queue: not_queued(run),
    (AsyncRun, "restart"): lambda _engine, run, _queue: run.restart(),
    (AsyncRun, "rewind"): lambda engine, _run, _queue: rewound(engine),
    (AsyncRun, "fork"): lambda engine, _run, _queue: rewound(engine, "fork"),
    (AsyncRun, "set_attributes"): lambda _engine, run, _queue: run.set_attributes({"a": 1}),
    (AsyncRun, "settle"): lambda _engine, run, _queue: not_settled(run),
    (AsyncRun, "stream"): lambda _engine, run, _queue: streamed(run),
    (AsyncRun, "truncate"): lambda _engine, run, _queue: run.truncate("tokens", before=1),
    (AsyncRun, "chapters"): lambda _engine, run, _queue: run.chapters(),
    (AsyncRun, "retry"): lambda engine, _run, _queue: failed_again(engine),
    (AsyncEngine, "take_over"): lambda engine, _run, _queue: refused(engine.take_over(999)),
}

#: `transaction` lends the writer's connection to the code of the caller's loop; these read nothing. A backup is made in
#: a thread, by connections of its own.


NO_QUESTIONS = {
    (AsyncEngine, "transaction"),
    (AsyncEngine, "schedule"),
    (AsyncEngine, "schedules"),
    (AsyncEngine, "get_schedule"),
    (AsyncEngine, "declare_schedules"),
    (AsyncEngine, "archive"),
    (AsyncEngine, "backup"),
    (AsyncEngine, "close"),
    (AsyncEngine, "queue"),
    (AsyncRun, "workflow"),
}


async def failed_again(engine: AsyncEngine) -> None:
    run = await engine.start(fails, id="failed")
    with pytest.raises(LookupError):
        await run.result()
    await run.retry()


async def paused(engine: AsyncEngine) -> None:
    await (await engine.start(tells, id="paused")).pause()


async def not_paused(engine: AsyncEngine) -> None:
    with pytest.raises(stepwell.RunNotPaused):
        await (await engine.start(tells, id="not paused")).unpause()


async def not_queued(run: AsyncRun[Any]) -> None:
    with pytest.raises((stepwell.RunNotQueued, stepwell.RunEnded)):
        await run.reschedule(5)


async def not_settled(run: AsyncRun[Any]) -> None:
    with pytest.raises(stepwell.StepwellError):
        await run.settle(99, result=1)


async def rewound(engine: AsyncEngine, how: str = "rewind") -> None:
    run = await engine.start(tells, id=f"to {how}", messages=[("hint", 1), ("go", "on")])
    await run.result(timeout=20)
    await getattr(run, how)(1)


async def terminated(engine: AsyncEngine, run_id: str = "terminated") -> None:
    run = await engine.start(tells, id=run_id)
    if run_id == "terminated":
        await run.terminate()
    else:
        await run.cancel()
        with pytest.raises(stepwell.RunCancelled):
            await run.result()
        await run.delete()


async def unknown(answer: Awaitable[None]) -> None:
    with pytest.raises(PromiseNotFound):
        await answer


async def refused(call: Awaitable[Any]) -> None:
    with pytest.raises(stepwell.InvalidArgument):
        await call


def test_each_method_of_an_async_engine_and_its_handles_is_tried_here() -> None:
    public = {
        (owner, name)
        for owner in (AsyncEngine, AsyncRun, AsyncQueueHandle)
        for name in dir(owner)
        if not name.startswith("_")
    }
    assert public == CALLS.keys() | NO_QUESTIONS


def test_an_async_engine_never_reads_on_the_loop_of_its_caller_where_the_disk_is_slow(
    tmp_path: Path, seen: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_times, "SLOW_ALLOWED", -1)

    async def main() -> None:
        async with AsyncEngine(tmp_path / "w.db", workflows=[tells, fails]) as engine:
            engine._session._look_ups.are_short = False
            run = await engine.start(tells, id="run")
            await engine.start(tells, id="queued", queue=ROOM)
            queue = engine.queue(ROOM)
            for (owner, name), call in CALLS.items():
                await call(engine, run, queue)
                assert not seen.happened_here(), f"{owner.__name__}.{name} read the file on the caller's loop"
        assert not seen.happened_here()

    asyncio.run(main())
    assert seen.threads


def test_an_async_engine_reads_nothing_to_find_a_run_in_memory(tmp_path: Path, seen: Reads) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "w.db", workflows=[tells]) as engine:
            run = await engine.start(tells, id="run")
            seen.threads.clear()
            found = await engine.get("run")
            assert (found.id, found.workflow) == ("run", run.workflow)
            assert not seen.threads

    asyncio.run(main())


def test_an_async_engine_looks_up_a_run_on_the_loop_until_that_takes_long(
    tmp_path: Path, seen: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "w.db", workflows=[fails]) as engine:
            run = await engine.start(fails, id="over")
            with pytest.raises(LookupError):
                await run.result()
            seen.threads.clear()
            for _ in range(recent_times.SLOW_ALLOWED + 1):
                assert (await engine.get("over")).workflow == run.workflow
                assert seen.happened_here()
            seen.threads.clear()
            assert (await engine.get("over")).workflow == run.workflow
            with pytest.raises(LookupError):
                await run.result()
            assert not seen.happened_here()
            assert len(seen.threads) == 2

    monkeypatch.setattr(recent_times, "SLOW_SECONDS", 0.0)
    asyncio.run(main())


def test_a_run_that_does_not_exist_is_not_found_by_an_async_engine(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "w.db", workflows=[tells]) as engine:
            with pytest.raises(stepwell.RunNotFound, match="has no run 'none'"):
                await engine.get("none")
            with pytest.raises(stepwell.InvalidArgument):
                await engine.get("")

    asyncio.run(main())


def test_whoever_waits_in_the_executor_of_the_loop_holds_up_no_question(tmp_path: Path) -> None:
    async def main() -> None:
        go = threading.Event()
        async with AsyncEngine(tmp_path / "w.db", workflows=[tells]) as engine:
            run = await engine.start(tells, id="run")
            loop = asyncio.get_running_loop()
            waiting = [loop.run_in_executor(None, go.wait) for _ in range(64)]  # more than it has threads
            try:
                assert (await asyncio.wait_for(run.info(), 20)).id == "run"
            finally:
                go.set()
                await asyncio.gather(*waiting)

    asyncio.run(main())


def test_the_recorder_of_these_tests_notices_a_read(tmp_path: Path, seen: Reads) -> None:
    with Engine(tmp_path / "w.db", workflows=[tells]) as engine:
        engine.start(tells, id="run").info()
        assert seen.happened_here()
        seen.threads.clear()
        engine.query("SELECT 1")
        assert seen.happened_here()


#: The modules beside the engine that know the store's read side.
READERS = {
    "api/check.py",
    "api/doctor.py",
    "api/face.py",
    "api/reading/file_reads.py",
    "api/reading/overview.py",
    "api/reading/querying.py",
    "api/reading/read_service.py",
    "api/reading/talk_reads.py",
    "api/reading/why.py",
}
#: What these show of the store is no answer to a question: they open it, and make filters for requests.
READ_SIDE = ("inspector", "Inspector", "list_runs", "look_into")


@pytest.mark.parametrize(
    "path",
    [path for folder in ("api", "cli", "ui") for path in sorted((PACKAGE / folder).rglob("*.py"))],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_only_the_read_service_reads_the_store_for_people(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = sorted(names & set(READ_SIDE))
    name = path.relative_to(PACKAGE).as_posix()
    if name in READERS:
        assert found, f"{name} reads nothing any more; take it out of READERS"
    elif name == "api/session.py":
        assert found == ["inspector"]  # hands it to its `ReadService`
    else:
        assert not found, f"{name} reads the store itself; ask through ReadService"


def test_an_engine_and_a_file_looked_into_give_the_same_answers(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    with Engine(path, workflows=[tells, fails]) as engine:
        run = engine.start(tells, id="run")
        run.value("at")
        with pytest.raises(LookupError):
            engine.start(fails, id="failed").result()
        engine.start(tells, id="queued", queue=ROOM)
        engine.queue(ROOM).pause(reason="stock-taking")
        with file_reads(path, "runs", "queues") as reads:
            theirs = engine._session.reads
            for each in ("run", "failed"):
                mine, other = reads.details(each), theirs.details(each)
                assert mine == other
                assert reads.info(each) == engine.get(each).info()
                assert mine.info == replace(reads.info(each), input=UNSET, result=UNSET)
            assert [info.id for info in reads.infos()] == [run.id for run in engine.list()]
            assert reads.acts_of_queue("reads-room") == engine.queue(ROOM).acts()
            assert [info.name for info in reads.queues()] == ["reads-room"]
