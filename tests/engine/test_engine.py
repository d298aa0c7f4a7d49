"""The engines as their callers see them: starting, finding, waiting, closing."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    AsyncEngine,
    Engine,
    EngineClosed,
    FileInUse,
    FileNotUsable,
    InvalidArgument,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    SerializationError,
    StepwellError,
    publish,
    receive,
    step,
    sync,
    workflow,
)
from stepwell.errors import FORK_ADVICE
from stepwell.testing import TestEngine


@dataclass
class Order:
    id: str
    amount: int


class Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


@step
async def double(number: int) -> int:
    return 2 * number


@workflow
async def doubles(number: int) -> int:
    return await double(number)


@workflow
async def echoes(order: Order, factor: int = 1) -> Order:
    return Order(order.id, order.amount * factor)


@workflow
async def refuses() -> None:
    raise Refused(7)


@workflow
async def waits(name: str = "word") -> Any:
    return await receive(name)


@workflow
def plain(number: int) -> int:
    sync.sleep(0)
    return number


# --- starting ---------------------------------------------------------------------------------------------------------


def test_the_same_id_is_the_same_run(engine: TestEngine) -> None:
    first = engine.start(doubles, 4, id="run")
    second = engine.start(doubles, 4, id="run")
    assert first.result(60) == second.result(60) == 8
    third = engine.start(doubles, 4, id="run")
    assert third.result(60) == 8
    assert len(engine.list()) == 1


def test_many_threads_that_start_the_same_id_make_one_run(engine: TestEngine) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: engine.start(doubles, 4, id="run"), range(40)))
    assert {run.result(60) for run in runs} == {8}
    assert len(engine.list()) == 1
    assert len(runs[0].journal()) == 1


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_the_same_id_with_another_workflow_or_input_is_a_conflict(engine: TestEngine, ended: bool) -> None:
    run = engine.start(waits, "word", id="run")
    if ended:
        run.send("word", 1)
        run.result(60)
    with pytest.raises(RunConflict, match=r"'run'.*other input"):
        engine.start(waits, "other", id="run")
    with pytest.raises(RunConflict, match=r"'run'.*another workflow"):
        engine.start(doubles, 1, id="run")
    if not ended:
        run.send("word", 1)
    assert run.result(60) == 1


def test_arguments_by_position_and_by_name_are_different_input_but_both_arrive(engine: TestEngine) -> None:
    by_position = engine.start(echoes, Order("a", 2), 3)
    by_name = engine.start(echoes, kwargs={"order": Order("a", 2), "factor": 3})  # type: ignore[call-arg, arg-type]
    assert by_position.result(60) == by_name.result(60) == Order("a", 6)


def test_generated_ids_sort_by_time(engine: TestEngine) -> None:
    ids: list[str] = []
    for seconds in (0, 0, 0, 0.001, 1, 0, 3600, 0, 86_400):
        engine.clock.advance(seconds)
        ids += [engine.start(waits).id for _ in range(3)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    # The time itself is in them, to the millisecond.
    assert int(ids[-1][:12], 16) == engine.clock.now() // 1000


@pytest.mark.parametrize("run_id", ["", "x" * 256, "a\nb", "\ud800", 5, b"id"])
def test_an_id_that_is_no_id_is_refused_before_anything_is_written(engine: TestEngine, run_id: Any) -> None:
    with pytest.raises(InvalidArgument, match="id of a run"):
        engine.start(doubles, 1, id=run_id)
    assert engine.list() == []


def test_what_is_no_workflow_cannot_be_started(engine: TestEngine) -> None:
    async def function() -> None: ...

    wrong: Any
    for wrong in (function, 5, None):
        with pytest.raises(InvalidArgument, match="@workflow"):
            engine.start(wrong)


def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(engine: TestEngine) -> None:
    for arguments in ((), (1, 2)):
        with pytest.raises(TypeError, match="doubles"):
            engine.start(doubles, *arguments)
    with pytest.raises(SerializationError, match="doubles"):
        engine.start(doubles, object())  # type: ignore[arg-type]
    assert engine.list() == []


def test_a_started_run_survives_a_crash_right_after_start(engine: TestEngine) -> None:
    run = engine.start(doubles, 21)
    engine.crash()
    engine.reopen()
    assert run.result(60) == 42


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_result_is_typed_by_the_workflow_even_in_another_engine(engine: TestEngine) -> None:
    run = engine.start(echoes, Order("a", 2), id="run")
    assert run.result(60) == Order("a", 2)
    engine.reopen()
    assert engine.get("run").result() == Order("a", 2)


def test_the_workflows_own_exception_is_raised(engine: TestEngine) -> None:
    run = engine.start(refuses)
    with pytest.raises(Refused, match="refused with 7") as caught:
        run.result(60)
    assert caught.value.code == 7
    assert run.info().error == f"{Refused.__module__}.Refused: refused with 7"


def test_an_exception_whose_class_is_gone_is_raised_as_run_failed(engine: TestEngine) -> None:
    @workflow
    async def hidden() -> None:
        class Gone(Exception):
            pass

        raise Gone("the details")

    with pytest.raises(RunFailed, match="the details") as caught:
        engine.start(hidden).result(60)
    assert caught.value.type_name.endswith("Gone")
    assert "raise Gone" in caught.value.traceback_text


def test_a_result_can_be_waited_for_again_after_a_timeout(engine: TestEngine) -> None:
    run = engine.start(waits, id="slow")
    for timeout in (0, 0.01, timedelta(milliseconds=10)):
        with pytest.raises(TimeoutError, match="'slow'"):
            run.result(timeout)
    run.send("word", 5)
    assert run.result(timedelta(seconds=10)) == 5


def test_a_run_that_failed_with_a_timeout_error_raises_that_one(engine: TestEngine) -> None:
    @workflow
    async def fails() -> None:
        raise TimeoutError("of the run")

    with pytest.raises(TimeoutError, match="of the run"):
        engine.start(fails).result(60)


def test_many_threads_wait_for_one_run(engine: TestEngine) -> None:
    run = engine.start(waits)
    with ThreadPoolExecutor(10) as pool:
        found = [pool.submit(run.result, 10) for _ in range(10)]
        run.send("word", 5)
        assert [each.result() for each in found] == [5] * 10


def test_a_published_value_is_read_waited_for_and_refused_when_it_can_never_come(engine: TestEngine) -> None:
    @workflow
    async def publishes() -> None:
        await receive("go on")
        await publish("price", {"amount": 5})

    run = engine.start(publishes)
    with pytest.raises(TimeoutError, match="price"):
        run.value("price", 0.01)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(run.value, "price", 10)
        run.send("go on")
        assert found.result() == {"amount": 5}
    run.result(60)
    assert run.value("price") == {"amount": 5}
    with pytest.raises(StepwellError, match="other"):
        run.value("other", 60)


# --- finding ----------------------------------------------------------------------------------------------------------


def test_get_returns_a_handle_or_says_what_is_missing(engine: TestEngine) -> None:
    engine.start(doubles, 3, id="run").result(60)
    run = engine.get("run")
    assert run.id == "run"
    assert run.workflow == doubles.name
    assert run.result() == 6
    assert repr(run) == "<Run 'run'>"
    with pytest.raises(RunNotFound, match="ghost"):
        engine.get("ghost")


def test_list_filters_by_status_workflow_and_prefix_newest_first(engine: TestEngine) -> None:
    for number in range(3):
        engine.start(doubles, number, id=f"double-{number}").result(60)
        engine.start(waits, id=f"wait-{number}")
    with pytest.raises(Refused):
        engine.start(refuses, id="refused").result(60)
    engine.idle()

    def ids(**filters: Any) -> list[str]:
        return [run.id for run in engine.list(**filters)]

    assert ids() == ["refused", "wait-2", "double-2", "wait-1", "double-1", "wait-0", "double-0"]
    assert ids(status="waiting") == ["wait-2", "wait-1", "wait-0"]
    assert ids(status=["completed", "failed"]) == ["refused", "double-2", "double-1", "double-0"]
    assert ids(workflow=waits) == ids(workflow=waits.name) == ["wait-2", "wait-1", "wait-0"]
    assert ids(id_prefix="double-") == ["double-2", "double-1", "double-0"]
    assert ids(id_prefix="double-", status="waiting") == []
    assert ids(id_prefix="%") == []
    assert ids(limit=2) == ["refused", "wait-2"]
    assert ids(limit=2, before="wait-2") == ["double-2", "wait-1"]
    assert ids(workflow=waits, limit=2, before="wait-2") == ["wait-1", "wait-0"]


def test_pages_of_a_list_hold_every_run_once(engine: TestEngine) -> None:
    expected = [engine.start(waits, id=f"run-{number}").id for number in range(25)]
    found: list[str] = []
    page = engine.list(limit=7)
    while page:
        found += [run.id for run in page]
        page = engine.list(limit=7, before=found[-1])
    assert found == expected[::-1]


@pytest.mark.parametrize(
    "filters", [{"status": "asleep"}, {"status": ["waiting", "asleep"]}, {"limit": 0}, {"limit": 1.5}]
)
def test_a_filter_that_means_nothing_is_refused(engine: TestEngine, filters: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        engine.list(**filters)


def test_info_tells_the_story_of_a_run(engine: TestEngine) -> None:
    @workflow
    async def naps() -> int:
        await asyncio.sleep(60)
        return 1

    created_at = engine.clock.time
    run = engine.start(naps, id="napper", deadline=600)
    engine.idle()
    info = run.info()
    assert (info.id, info.workflow, info.status) == ("napper", naps.name, "waiting")
    assert info.created_at == info.started_at == created_at
    assert info.wake_at == created_at + timedelta(seconds=60)
    assert info.deadline_at == created_at + timedelta(seconds=600)
    assert info.ended_at is None
    engine.advance(60)
    info = run.info()
    assert info.status == "completed"
    assert info.ended_at == created_at + timedelta(seconds=60)
    assert info.wake_at is None
    assert info.error is None


def test_the_journal_is_typed(engine: TestEngine) -> None:
    run = engine.start(doubles, 4)
    run.result(60)
    (entry,) = run.journal()
    assert (entry.kind, entry.name, entry.operation, entry.value) == ("step", double.name, 1, 8)
    assert (entry.attempt, entry.error) == (1, None)
    assert entry.at == entry.started_at == engine.clock.time


def test_a_long_journal_is_read_whole(engine: TestEngine) -> None:
    @workflow
    async def counts() -> int:
        return sum([await double(number) for number in range(1200)])

    run = engine.start(counts)
    run.result(60)
    assert [entry.operation for entry in run.journal()] == list(range(1, 1201))


# --- serving ----------------------------------------------------------------------------------------------------------


def test_only_the_listed_workflows_are_served(engine: TestEngine) -> None:
    engine.reopen(workflows=[doubles])
    run, other = engine.start(doubles, 1), engine.start(waits)
    assert run.result(60) == 2
    engine.idle()
    info = other.info()
    assert info.status == "pending"
    assert info.reason is not None
    assert waits.name in info.reason


def test_a_run_of_an_unknown_workflow_waits_visibly_and_goes_on_when_it_is_served(engine: TestEngine) -> None:
    run = engine.start(waits, "word", id="run")
    engine.idle()
    engine.reopen(workflows=[doubles])
    run.send("word", 5)
    engine.idle()
    info = run.info()
    assert info.status in ("waiting", "pending")
    with pytest.raises(TimeoutError):
        run.result(0.01)
    engine.reopen(workflows=[waits])
    assert run.result(60) == 5


def test_a_workflow_that_is_defined_later_is_served_without_a_restart(engine: TestEngine) -> None:
    @workflow(name="defined later")
    async def first() -> int:
        return 1

    assert engine.start(first).result(60) == 1


def test_only_workflows_can_be_served(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="@workflow"):
        Engine(tmp_path / "a.db", workflows=[double])  # type: ignore[list-item]
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "none"},
        {"max_payload_bytes": 0},
        {"max_waiting_in_memory": -1},
        {"max_running": 0},
        {"step_threads": 0},
        {"step_threads": True},
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_file_is_made(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        Engine(tmp_path / "a.db", **options)
    assert list(tmp_path.iterdir()) == []


def test_runs_beyond_the_limit_of_running_ones_are_pending_and_get_their_turn(database: Path) -> None:
    release = threading.Event()

    @step
    def hold(number: int) -> int:
        release.wait(60)
        return number

    @workflow
    async def holds(number: int) -> int:
        return hold(number)

    with Engine(database, max_running=2) as engine:
        runs = [engine.start(holds, number) for number in range(10)]
        assert len(engine.list(status="pending")) == 8
        release.set()
        assert [run.result(60) for run in runs] == list(range(10))


def test_runs_that_others_started_are_taken_up_to_the_limit_of_running_ones(database: Path) -> None:
    begun, release = threading.Event(), threading.Event()

    @step
    def hold(number: int) -> int:
        begun.set()
        release.wait(60)
        return number

    @workflow
    async def holds(number: int) -> int:
        return hold(number)

    with Engine(database, workflows=[]) as client:
        ids = [client.start(holds, number).id for number in range(10)]
    with Engine(database, workflows=[holds], max_running=2) as engine:
        assert begun.wait(60)
        assert len(engine.list(status="running")) == 2
        release.set()
        assert [engine.get(run_id).result(60) for run_id in ids] == list(range(10))


def test_sync_steps_execute_at_most_so_many_at_once(database: Path) -> None:
    inside, most = 0, 0
    lock = threading.Lock()
    full = threading.Barrier(3)

    @step
    def count() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        full.wait(60)
        with lock:
            inside -= 1

    @workflow
    async def counts() -> None:
        await asyncio.gather(*(asyncio.to_thread(count) for _ in range(9)))

    with Engine(database, step_threads=3) as engine:
        engine.start(counts).result(60)
    assert most == 3


# --- several engines, other processes ---------------------------------------------------------------------------------


def test_engines_on_different_files_know_nothing_of_each_other(tmp_path: Path) -> None:
    with Engine(tmp_path / "a.db") as left, Engine(tmp_path / "b.db") as right:
        one, other = left.start(doubles, 1, id="run"), right.start(doubles, 2, id="run")
        assert (one.result(60), other.result(60)) == (2, 4)
        left.start(waits, id="only left")
        with pytest.raises(RunNotFound):
            right.get("only left")


def test_a_second_engine_on_the_same_file_is_refused_and_the_first_goes_on(engine: TestEngine, database: Path) -> None:
    for path in (database, str(database), database.parent / ".." / database.parent.name / database.name):
        with pytest.raises(FileInUse, match=str(os.getpid())):
            Engine(path)
    assert engine.start(doubles, 1).result(60) == 2


def run_program(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_client_in_a_second_process_starts_runs_and_gets_their_results(engine: TestEngine, database: Path) -> None:
    engine.start(doubles, 1)  # the file knows the workflow's name, the client has its code
    program = """
        import sys, stepwell

        @stepwell.workflow(name="tests.doubles.remote")
        async def doubles(number: int) -> int: ...

        with stepwell.Engine(sys.argv[1], workflows=[]) as client:
            print(client.start(doubles, 21).result(60))
            print([worker.takes_work for worker in client.workers()])
    """

    @workflow(name="tests.doubles.remote")
    async def remote(number: int) -> int:
        return number * 2

    assert remote.name == "tests.doubles.remote"
    assert run_program(program, database).split("\n")[:2] == ["42", "[True, False]"]


def use_in_child(engine: Engine, database: Path, results: Any) -> None:
    for use in (
        lambda: engine.start(doubles, 1),
        lambda: engine.send("run", "word", 1),
        lambda: engine.get("run"),
        engine.list,
        lambda: engine.transaction().__enter__(),
        lambda: Engine(database),
    ):
        try:
            use()
        except (EngineClosed, FileNotUsable) as error:
            results.put(str(error))
        except BaseException as error:  # noqa: BLE001 - the parent shall see it
            results.put(repr(error))
    engine.close()
    results.put("closed")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_told_the_same_whatever_it_tries_and_does_the_parent_no_harm(database: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with Engine(database) as engine:
        run = engine.start(waits, id="run")
        child = context.Process(target=use_in_child, args=(engine, database, results))
        child.start()
        found = [results.get() for _ in range(7)]
        child.join(60)
        assert child.exitcode == 0
        run.send("word", 5)
        assert run.result(60) == 5
    assert found[-1] == "closed"
    assert all(FORK_ADVICE in message for message in found[:-1]), found


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_closed_engine_refuses_everything_clearly(database: Path) -> None:
    engine = Engine(database)
    run = engine.start(waits, id="run")
    engine.close()
    engine.close()
    for use in (
        lambda: engine.start(doubles, 1),
        lambda: engine.send("run", "word", 1),
        lambda: engine.get("run"),
        engine.list,
        lambda: engine.transaction().__enter__(),
        lambda: run.result(1),
        run.cancel,
        run.info,
        run.journal,
        lambda: run.value("a", 1),
    ):
        with pytest.raises(EngineClosed, match="closed"):
            use()


def test_whoever_waits_is_told_when_the_engine_closes(database: Path) -> None:
    engine = Engine(database)
    run = engine.start(waits)
    with ThreadPoolExecutor(2) as pool:
        result, value = pool.submit(run.result), pool.submit(run.value, "a")
        with pytest.raises(TimeoutError):
            run.result(0.05)
        engine.close()
        for waiting in (result, value):
            with pytest.raises(EngineClosed):
                waiting.result(60)


def let_turns_pass(engine: Engine) -> None:
    """Let the engine do what it does by itself next: more than it takes to end what nothing holds up."""
    loop = engine._session.engine_thread.own_loop.loop
    for _ in range(10):
        passed = threading.Event()
        loop.call_soon_threadsafe(passed.set)
        assert passed.wait(60)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_closing_waits_for_steps_under_way_records_them_and_begins_no_others(database: Path, kind: str) -> None:
    began, release = threading.Event(), threading.Event()
    executed: list[str] = []

    @step
    def hold() -> str:
        executed.append("hold")
        began.set()
        release.wait(60)
        return "held"

    @step
    async def hold_async() -> str:
        executed.append("hold")
        began.set()
        await asyncio.to_thread(release.wait, 60)
        return "held"

    @step
    def follow() -> None:
        executed.append("follow")

    @workflow
    async def holds() -> str:
        found = hold() if kind == "def" else await hold_async()
        follow()
        return found

    engine = Engine(database)
    engine.start(holds, id="run")
    assert began.wait(60)
    closing = threading.Thread(target=engine.close)
    closing.start()
    turn_loop = engine._session.engine_thread.turn_loop
    while not turn_loop.closing:
        let_turns_pass(engine)
    let_turns_pass(engine)
    assert closing.is_alive()
    assert turn_loop.failure is None
    release.set()
    closing.join(60)
    assert not closing.is_alive()
    assert executed == ["hold"]
    with Engine(database) as engine:
        assert engine.get("run").result(60) == "held"
    assert executed == ["hold", "follow"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_closing_does_not_wait_longer_than_its_limit_and_the_step_is_executed_again(database: Path, kind: str) -> None:
    began, release = threading.Event(), threading.Event()
    executed = []

    @step
    def hold() -> str:
        executed.append(1)
        began.set()
        if len(executed) == 1:
            release.wait(60)
        return "held"

    @step
    async def hold_async() -> str:
        executed.append(1)
        began.set()
        if len(executed) == 1:
            await asyncio.Event().wait()
        return "held"

    @workflow
    async def holds() -> str:
        return hold() if kind == "def" else await hold_async()

    engine = Engine(database)
    engine.start(holds, id="run")
    assert began.wait(60)
    engine.close(timeout=0.05)
    with Engine(database) as engine:
        assert engine.get("run").result(60) == "held"
    release.set()
    assert len(executed) == 2


def test_a_closed_file_is_one_file_and_can_be_moved(tmp_path: Path) -> None:
    with Engine(tmp_path / "a.db") as engine:
        engine.start(doubles, 4, id="run").result(60)
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "a.db-lock"}
    (tmp_path / "a.db").rename(tmp_path / "b.db")
    with Engine(tmp_path / "b.db") as engine:
        assert engine.get("run").result() == 8


def test_an_exception_in_the_with_block_closes_the_engine(database: Path) -> None:
    with pytest.raises(ZeroDivisionError), Engine(database) as engine:
        raise ZeroDivisionError
    with pytest.raises(EngineClosed):
        engine.list()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5"])
def test_an_absurd_time_limit_of_close_is_refused(engine: TestEngine, timeout: Any) -> None:
    with pytest.raises(InvalidArgument, match="timeout"):
        engine.close(timeout)
    assert engine.start(doubles, 1).result(60) == 2


# --- AsyncEngine ------------------------------------------------------------------------------------------------------


def test_the_async_engine_does_what_the_engine_does(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(doubles, 4, id="run")
            assert await run.result(60) == 8
            assert await (await engine.start(plain, 3)).result(60) == 3
            with pytest.raises(Refused):
                await (await engine.start(refuses)).result(60)
            with pytest.raises(RunConflict):
                await engine.start(doubles, 5, id="run")
            waiting = await engine.start(waits, id="waiting", messages=[("other", 1)])
            with pytest.raises(TimeoutError):
                await waiting.result(0.01)
            await engine.send("waiting", "word", 5, key="k")
            assert await waiting.result(timedelta(seconds=10)) == 5
            assert (await waiting.info()).status == "completed"
            assert [entry.kind for entry in await waiting.journal()] == ["message"]
            assert [found.id for found in await engine.list(workflow=waits)] == ["waiting"]
            cancelled = await engine.start(waits)
            await cancelled.cancel("enough")
            with pytest.raises(RunCancelled, match="enough"):
                await cancelled.result(60)
            with pytest.raises(RunNotFound):
                await engine.get("ghost")

    asyncio.run(main())


def test_async_steps_of_an_async_engine_execute_on_the_callers_loop(database: Path) -> None:
    async def main() -> None:
        loops = []
        local = asyncio.Event()

        @step
        async def look() -> str:
            loops.append(asyncio.get_running_loop())
            await local.wait()
            return threading.current_thread().name

        @workflow
        async def looks() -> str:
            return await look()

        async with AsyncEngine(database) as engine:
            run = await engine.start(looks)
            waiting = asyncio.create_task(run.result(60))
            await asyncio.sleep(0)
            local.set()
            assert await waiting == threading.current_thread().name
            assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


def test_an_async_engine_belongs_to_one_loop(database: Path) -> None:
    engine = AsyncEngine(database)
    asyncio.run(engine.list())

    async def use() -> None:
        with pytest.raises(EngineClosed, match="another event loop"):
            await engine.start(doubles, 1)
        await engine.close()

    asyncio.run(use())


def test_a_waiting_task_can_be_cancelled_and_the_run_goes_on(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:
            run = await engine.start(waits)
            task = asyncio.create_task(run.result())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await run.result()
            await run.send("word", 5)
            assert await run.result(60) == 5

    asyncio.run(main())


def test_a_thousand_tasks_wait_for_a_thousand_runs(database: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(database) as engine:

            async def one(number: int) -> int:
                run = await engine.start(doubles, number)
                return await run.result(60)

            assert await asyncio.gather(*map(one, range(1000))) == [2 * number for number in range(1000)]

    asyncio.run(main())


def test_a_closed_async_engine_refuses_everything(database: Path) -> None:
    async def main() -> None:
        engine = AsyncEngine(database)
        run = await engine.start(waits)
        await engine.close()
        await engine.close()
        for use in (engine.start(doubles, 1), engine.list(), run.result(1), run.cancel(), run.info()):
            with pytest.raises(EngineClosed, match="closed"):
                await use

    asyncio.run(main())


def test_the_engine_works_inside_a_running_loop_as_in_a_notebook(database: Path) -> None:
    async def cell() -> int:
        with Engine(database) as engine:
            return engine.start(doubles, 4).result(60)

    assert asyncio.run(cell()) == 8


def test_a_program_that_forgets_to_close_ends_and_loses_nothing(tmp_path: Path) -> None:
    program = """
        import sys, threading, stepwell

        @stepwell.step
        def hang() -> None:
            threading.Event().wait()

        @stepwell.workflow(name="hangs")
        async def hangs() -> None:
            hang()

        engine = stepwell.Engine(sys.argv[1])
        engine.start(hangs, id="run")
        print("started")
    """
    assert run_program(program, tmp_path / "a.db") == "started\n"
    with Engine(tmp_path / "a.db", workflows=[]) as engine:
        assert engine.get("run").info().workflow == "hangs"
