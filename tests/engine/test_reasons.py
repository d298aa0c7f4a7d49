"""Every run that does not run says why: in `info()`, `runs`, `show`, `queues`, from any process, without its code."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Desk
from tests.support.programs.flows import file_appears, hears, sum_up
from tests.support.waiting import until

from stepwell import Batch, Engine, Limit, Queue, Rate, Retry, receive, start, step, workflow
from stepwell.api.reading.reasons import nobody
from stepwell.cli import main
from stepwell.model.run import Member
from stepwell.testing import TestEngine

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"

gate = threading.Event()


@pytest.fixture(autouse=True)
def _open_gate() -> Iterator[None]:
    gate.clear()
    yield
    gate.set()


@step(name="noop")
def noop() -> None: ...


@step(name="down", retry=Retry(attempts=5, delay=60, jitter=0))
def down() -> None:
    raise ConnectionError("the api is down\nsince noon")


@step(name="held", limit=Limit("api", concurrency=1))
def held() -> None:
    gate.wait()


@step(name="rated", limit=Limit("slow permits", rate=Rate(1, per=3600)))
def rated() -> None: ...


@step(name="times_out", limit=Limit("lent", concurrency=1), timeout=5)
def times_out() -> None:
    gate.wait()


@workflow(name="sleeps")
async def sleeps() -> None:
    await asyncio.sleep(600)


@workflow(name="asks")
async def asks() -> None:
    await receive("approval", bool)


@workflow(name="asks_for_a_while")
async def asks_for_a_while() -> None:
    await receive("approval", bool, timeout=600)


@workflow(name="retries")
async def retries() -> None:
    down()


@workflow(name="calls_asks")
async def calls_asks() -> None:
    await (await start(asks, id="child")).result()


@workflow(name="odd")
async def odd() -> Any:
    noop()
    return object()


@workflow(name="calls_odd")
async def calls_odd() -> None:
    await odd()


@workflow(name="waits_for_event")
async def waits_for_event() -> None:
    await asyncio.Event().wait()  # nobody sets it


@workflow(name="limited")
async def limited() -> None:
    await asyncio.to_thread(held)


@workflow(name="limited_by_rate")
async def limited_by_rate() -> None:
    await asyncio.to_thread(rated)


@workflow(name="limited_and_late")
async def limited_and_late() -> None:
    await asyncio.to_thread(times_out)


@workflow(name="much")
async def much() -> None:
    await asyncio.gather(*(asyncio.sleep(600) for _ in range(100)))


@workflow(name="collects")
async def collects(numbers: list[int]) -> None: ...


def reason(engine: TestEngine | Engine, run_id: str) -> str:
    found = engine.get(run_id).info().reason
    assert found is not None, run_id
    return found


def listed(database: object, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """Return the runs as another process would see them, by id."""
    capsys.readouterr()
    assert main(["runs", "--json", "--db", str(database)]) == 0
    return {run["id"]: run for run in json.loads(capsys.readouterr().out)}


# --- what code waits for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "expected", "kinds"),
    [
        (sleeps, f"it waits for a timer until {TIME}", ["timer"]),
        (asks, "it waits for message 'approval'", ["message"]),
        (asks_for_a_while, f"it waits for message 'approval', a timer until {TIME}", ["message", "timer"]),
        (
            retries,
            f"it waits for attempt 2 of step 'down' at {TIME}, because the one before failed with ConnectionError: .*",
            ["retry"],
        ),
        (calls_asks, r"it waits for run 'child', which is waiting \(it waits for message 'approval'\)", ["run"]),
        (
            waits_for_event,
            (
                r"it waits for something that nothing can bring about, Event.wait\(\) "
                r"\(.*test_reasons.py:\d+ in waits_for_event\): .*"
            ),
            ["nothing"],
        ),
        (
            much,
            f"it waits for (a timer until {TIME}, ){{6}}94 more",
            ["more", "timer", "timer", "timer", "timer", "timer", "timer"],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("parked", [False, True], ids=["in memory", "in no memory"])
def test_a_waiting_run_says_what_its_code_waits_for(
    database: Path, capsys: pytest.CaptureFixture[str], flow: Any, expected: str, kinds: list[str], parked: bool
) -> None:
    with TestEngine(database, max_waiting_in_memory=0 if parked else 1_000) as engine:
        run = engine.start(flow, id="a")
        engine.idle()
        info = run.info()
        assert info.status == "waiting"
        assert re.fullmatch(expected, info.reason or "")
        assert sorted(wait.kind for wait in info.waiting_on) == kinds
        engine.reopen(workflows=[])
        assert engine.get("a").info().waiting_on == info.waiting_on
    assert sorted(wait["kind"] for wait in listed(database, capsys)["a"]["waiting_on"]) == kinds


def test_what_it_says_changes_with_what_it_waits_for_though_its_state_does_not(engine: TestEngine) -> None:
    @workflow(name="asks_twice")
    async def asks_twice() -> None:
        await receive("first")
        await receive("second")
        await asyncio.sleep(60)
        await asyncio.sleep(60)

    run = engine.start(asks_twice, id="a")
    engine.idle()
    assert reason(engine, "a") == "it waits for message 'first'"
    run.send("first")
    engine.idle()
    assert reason(engine, "a") == "it waits for message 'second'"
    run.send("second")
    engine.idle()
    until = reason(engine, "a")
    engine.advance(60)
    assert "a timer until" in until
    assert reason(engine, "a") != until


def test_unread_messages_of_other_names_are_named(engine: TestEngine) -> None:
    run = engine.start(asks, id="a")
    run.send("aproval", True)
    engine.idle()
    assert reason(engine, "a") == "it waits for message 'approval' (unread are others, called 'aproval')"


def test_a_halted_child_is_named_with_its_reason(engine: TestEngine) -> None:
    engine.start(calls_odd, id="a")
    engine.idle()
    assert re.fullmatch("its child, run 'a/.+', is halted: ResultNotSerializable: .*", reason(engine, "a"))


def test_a_halted_run_that_is_no_child_is_named_as_well(engine: TestEngine) -> None:
    @workflow(name="awaits_another")
    async def awaits_another() -> None:
        await (await start(odd, id="shared")).result()

    engine.start(odd, id="shared")
    engine.idle()
    engine.start(awaits_another, id="a")
    engine.idle()
    assert reason(engine, "a").startswith("run 'shared', whose end it waits for, is halted: ResultNotSerializable: ")


def test_a_cancellation_that_is_on_its_way_and_a_deadline_are_told(engine: TestEngine) -> None:
    @workflow(name="cleans_up")
    async def cleans_up() -> None:
        try:
            await receive("never")
        finally:
            await asyncio.sleep(600)

    run = engine.start(cleans_up, id="a", deadline=3600)
    engine.idle()
    assert re.fullmatch(f"it waits for message 'never'; it fails at {TIME}, its deadline, .*", reason(engine, "a"))
    run.cancel("enough")
    engine.idle()
    pattern = rf"it was asked to cancel at {TIME} \(enough\); it waits for a timer until {TIME}; it fails at .*"
    assert re.fullmatch(pattern, reason(engine, "a"))


# --- limits -----------------------------------------------------------------------------------------------------------


def test_who_waits_for_a_permit_says_who_has_it(engine: TestEngine) -> None:
    first = engine.start(limited, id="first")
    second = engine.start(limited, id="second")
    until(lambda: second.status == "waiting")
    assert (first.status, first.info().reason) == ("running", None)
    assert reason(engine, "second") == (
        "it waits for a permit of limit 'api' for step 'held': limit 'api' is full: 1 of 1 permits are in use, by run "
        "'first'"
    )
    assert "by run 'first'" in (engine.queue("api").info().reason or "")
    engine.queue("api").pause()
    assert "limit 'api' is paused; `stepwell unpause api`" in reason(engine, "second")


def test_a_limit_says_which_permits_are_used_by_what_nobody_waits_for(engine: TestEngine) -> None:
    engine.start(limited_and_late, id="first")
    engine.idle()
    engine.advance(6)
    assert engine.get("first").status == "failed"
    engine.start(limited_and_late, id="second")
    engine.idle()
    assert "1 permit of them by attempts that go on although nobody waits for them any more (of run 'first')" in reason(
        engine, "second"
    )


def test_a_rate_of_a_limit_says_when_it_opens(engine: TestEngine) -> None:
    engine.start(limited_by_rate, id="first").result(timeout=60)
    engine.start(limited_by_rate, id="second")
    engine.idle()
    assert re.fullmatch(
        "it waits for a permit of limit 'slow permits' for step 'rated': as many have begun as the rate of limit "
        rf"'slow permits' allows \(1 in 3600 s\); the next may begin at {TIME}",
        reason(engine, "second"),
    )


# --- queues -----------------------------------------------------------------------------------------------------------


def in_queue(engine: TestEngine, queue: Queue, number: int, **options: Any) -> str:
    """Start runs that wait in a queue; return the reason of the last."""
    for index in range(number):
        engine.start(asks, id=f"{queue.name}-{index}", queue=queue, **options)
    engine.idle()
    return reason(engine, f"{queue.name}-{number - 1}")


@pytest.mark.parametrize(
    ("queue", "number", "options", "expected"),
    [
        (
            Queue("full", concurrency=2),
            3,
            {},
            r"queue 'full' is full: 2 of 2 runs are under way \(run 'full-0', 'full-1'\)",
        ),
        (
            Queue("parts", partition_concurrency=1),
            2,
            {"partition": "p"},
            r"partition 'p' of queue 'parts' is full: 1 of 1 runs are under way \(run 'parts-0'\)",
        ),
        (
            Queue("part", partition_concurrency=1),
            2,
            {},
            r"the part without a partition of queue 'part' is full: 1 of 1 runs are under way \(run 'part-0'\)",
        ),
        (
            Queue("rated", rate=Rate(1, per=60)),
            2,
            {},
            rf"as many have begun as the rate of queue 'rated' allows \(1 in 60 s\); the next may begin at {TIME}",
        ),
        (
            Queue("shares", per_worker=1),
            2,
            {},
            r"each worker that could take it has 1 run of queue 'shares' already \(per_worker\)",
        ),
        (Queue("late"), 1, {"delay": 60}, f"it is delayed until {TIME} in queue 'late'"),
        (
            Queue("calm", debounce=60),
            1,
            {"dedup": "k"},
            rf"it waits in queue 'calm' until {TIME} for another start with its dedup key \(debounce\)",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Queue) else "",
)
def test_a_run_in_a_queue_says_which_rule_of_it_holds_it_up(
    engine: TestEngine, queue: Queue, number: int, options: dict[str, Any], expected: str
) -> None:
    assert re.fullmatch(expected, in_queue(engine, queue, number, **options))


def test_a_batch_says_how_much_it_has_collected(engine: TestEngine) -> None:
    rows = Queue("rows", batch=Batch(size=10, within=60))
    run, _, _ = (engine.start(collects, [number], queue=rows) for number in range(3))
    engine.idle()
    assert re.fullmatch(
        f"it collects the inputs of further starts in queue 'rows' until {TIME}, and has 3", run.info().reason or ""
    )


def test_a_paused_queue_says_so_and_how_to_open_it(engine: TestEngine) -> None:
    queue = Queue("jobs")
    engine.start(asks, queue=queue).cancel()
    engine.queue(queue).pause()
    assert in_queue(engine, queue, 1) == "queue 'jobs' is paused; `stepwell unpause jobs` opens it"
    engine.start(asks, id="late", queue=queue, delay=60)
    assert re.fullmatch(
        f"it is delayed until {TIME} in queue 'jobs'; queue 'jobs' is paused; .*", reason(engine, "late")
    )


def test_a_queue_whose_partitions_are_full_says_so(engine: TestEngine) -> None:
    queue = Queue("tenants", partition_concurrency=2)
    for tenant in "ab":
        for _ in range(3):
            engine.start(asks, queue=queue, partition=tenant)
    engine.idle()
    info = engine.queue(queue).info()
    assert info.reason == "each partition in which something waits is full (2 runs under way in each)"
    assert (info.waiting, info.running, info.halted) == (2, 4, 0)


def test_a_queue_that_moves_has_no_reason(engine: TestEngine) -> None:
    queue = Queue("moves", concurrency=2)
    engine.start(asks, queue=queue)
    engine.idle()
    assert engine.queue(queue).info().reason is None


def test_halted_runs_that_hold_places_are_named_by_the_queue_and_by_who_waits(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = Queue("jobs", concurrency=2)
    with TestEngine(database) as engine:
        for number in range(2):
            engine.start(odd, id=f"odd-{number}", queue=queue)
        engine.start(asks, id="waits", queue=queue)
        engine.idle()
        expected = (
            "queue 'jobs' is full: 2 of 2 runs are under way, 2 of them halted (run 'odd-0', 'odd-1'), which keep "
            "their places until resumed or cancelled: `stepwell resume RUN`, `stepwell cancel RUN`"
        )
        assert reason(engine, "waits") == expected
        info = engine.queue(queue).info()
        assert (info.reason, info.halted) == (expected, 2)
        assert "Until then it keeps its place in queue 'jobs'." in reason(engine, "odd-0")
        engine.get("odd-0").cancel()
        engine.idle()
        assert reason(engine, "waits") == "it waits for message 'approval'"
        assert "1 halted run keeps its place" in (engine.queue(queue).info().reason or "")
    capsys.readouterr()
    assert main(["queues", "--db", str(database)]) == 0
    assert "\njobs: 1 halted run keeps its place until resumed or cancelled (run 'odd-1')" in capsys.readouterr().out
    assert main(["queues", "--json", "--db", str(database)]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["halted"] == 1


def test_a_halted_run_in_a_partition_is_named_there_only(engine: TestEngine) -> None:
    queue = Queue("tenants", partition_concurrency=1)
    for tenant, flow in (("a", odd), ("a", asks), ("b", asks), ("b", asks)):
        engine.start(flow, id=f"{tenant}-{len(engine.list())}", queue=queue, partition=tenant)
        engine.idle()
    assert "1 of them halted (run 'a-0'), which keeps its place" in reason(engine, "a-1")
    assert "halted" not in reason(engine, "b-3")


# --- halted -----------------------------------------------------------------------------------------------------------


def halted_by_result() -> Any:
    return odd


def halted_by_step() -> Any:
    @step(name="nonsense")
    def nonsense() -> object:
        return object()

    @workflow(name="calls_nonsense")
    async def calls_nonsense() -> None:
        nonsense()

    return calls_nonsense


def halted_by_mistake() -> Any:
    @workflow(name="mistaken")
    async def mistaken() -> None:
        undefined()  # type: ignore[name-defined] # noqa: F821 - the mistake

    return mistaken


@pytest.mark.parametrize("make", [halted_by_result, halted_by_step, halted_by_mistake])
def test_a_halted_run_names_the_line_and_what_to_do(
    database: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Any]
) -> None:
    with TestEngine(database) as engine:
        engine.start(make(), id="a")
        engine.idle()
        text = reason(engine, "a")
        assert re.search(r"test_reasons\.py:\d+", text)
        assert "`stepwell resume a`" in text
        assert "`stepwell cancel a`" in text
    assert "\n" not in listed(database, capsys)["a"]["reason"].partition("\n")[0]


def test_code_that_does_not_fit_what_was_recorded_names_the_line(engine: TestEngine) -> None:
    @workflow(name="changes")
    async def before(number: int) -> None:
        await receive(f"go {number}")

    engine.start(before, 1, id="input", messages=[])
    engine.start(before, 1, id="order")
    engine.idle()

    @workflow(name="changes")
    async def after(number: int, other: int) -> None:
        await asyncio.sleep(number + other)

    engine.reopen(workflows=[after])
    engine.get("input").resume()
    engine.idle()
    text = reason(engine, "input")
    assert "no longer fit what the run was started with" in text
    assert re.search(r"after \(.*test_reasons\.py:\d+\)", text)


# --- workers ----------------------------------------------------------------------------------------------------------


def test_runs_whose_workflow_nobody_has_say_so_whatever_they_waited_for(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestEngine(database) as engine:
        engine.start(sleeps, id="timer")
        engine.start(asks, id="message")
        engine.start(asks, id="queued", queue=Queue("one", concurrency=1), delay=60)
        engine.idle()
        engine.reopen(workflows=[sum_up])
        engine.send("message", "approval", True)
        engine.start(asks, id="new")
        engine.advance(3600)
        for run_id, flow in (("timer", "sleeps"), ("message", "asks"), ("queued", "asks"), ("new", "asks")):
            assert f"no worker that runs now has the workflow '{flow}'" in reason(engine, run_id)
        assert reason(engine, "timer").startswith("what it waited for has come; it has been due since ")
    for run_id in ("timer", "message", "queued", "new"):
        assert "no worker has the file open" in listed(database, capsys)[run_id]["reason"]


def test_a_run_whose_queue_nobody_serves_says_so(database: Path) -> None:
    with TestEngine(database, queues=["other"]) as engine:
        run = engine.start(asks, queue=Queue("jobs"))
        engine.idle()
        assert run.info().reason == (
            "no worker that runs now takes runs from queue 'jobs'; those with the workflow serve other queues"
        )


def test_a_workflow_that_is_defined_after_the_engine_was_opened_counts_as_served(database: Path) -> None:
    with TestEngine(database) as engine:

        @workflow(name="defined_late")
        async def defined_late() -> None:
            await receive("go")

        with Engine(database.with_name("elsewhere.db"), workflows=[]):
            pass
        run = engine.start(defined_late)
        engine.idle()
        assert run.status == "waiting"
        code = (
            "import sys; from stepwell import Engine, workflow\n"
            "@workflow(name='defined_late')\nasync def defined_late(): ...\n"
            "with Engine(sys.argv[1], workflows=[]) as engine: engine.start(defined_late, id='from outside')"
        )
        subprocess.run([sys.executable, "-c", code, str(database)], check=True)
        engine.idle()
        (member,) = engine._session.store.membership.members()
        assert "defined_late" in (member.workflows or ())


def member(epoch: int = 1, **facts: Any) -> Member:
    given: dict[str, Any] = {"state": "active", "takes_work": True, "workflows": frozenset({"w"}), "queues": None}
    return Member(epoch=epoch, pid=10 + epoch, host="here", started_at=0, runs=0, **{**given, **facts})


@pytest.mark.parametrize(
    ("members", "queue", "expected"),
    [
        ([member()], None, None),
        ([member(workflows=None)], "q", None),
        ([], None, "no worker has the file open"),
        ([member(takes_work=False)], None, "no worker has the file open"),
        ([member(state="dead")], None, "no worker has the file open"),
        ([member(workflows=frozenset())], None, "no worker that runs now has the workflow 'w'"),
        ([member(queues=frozenset({"other"}))], None, None),
        ([member(queues=frozenset({"other"}))], "q", "no worker that runs now takes runs from queue 'q'"),
        ([member(state="stopped")], None, "worker 1 (process 11 on here) could take it, and is stopped"),
        ([member(state="stopped"), member(2)], None, None),
        ([member(state="stopped"), member(2, workflows=frozenset())], None, "worker 1 (process 11 on here) could"),
    ],
)
def test_why_nobody_takes_a_run_up(members: list[Member], queue: str | None, expected: str | None) -> None:
    found = nobody(members, ["w"], queue)
    assert (found is None) == (expected is None)
    assert found is None or found.startswith(expected or "")


def test_a_run_of_a_dead_or_stopped_worker_says_so_in_another_process(desk: Desk) -> None:
    desk.start_runs(("busy", file_appears, "signal"), ("listens", hears))
    worker = desk.worker()
    worker.expect("waiting for signal")
    worker.expect("listening in")
    worker.signal(signal.SIGSTOP)
    try:
        until(lambda: all("is stopped" in (run["reason"] or "") for run in desk.read("runs")))
        assert all("`stepwell takeover " in run["reason"] for run in desk.read("runs"))
    finally:
        worker.signal(signal.SIGCONT)
    worker.kill()
    shown = {run["id"]: run for run in desk.read("runs")}
    assert (shown["busy"]["status"], shown["listens"]["status"]) == ("running", "waiting")
    for run_id in ("busy", "listens"):
        assert re.fullmatch(
            r"worker \d+ \(process \d+ on .*\), which carried it on, has died; no worker has the file open: start .*",
            shown[run_id]["reason"],
        )
    assert [wait["kind"] for wait in shown["listens"]["waiting_on"]] == ["message"]
    # A client that looks takes the dead one's runs from it, and leaves them.
    with Engine(desk.database, workflows=[]) as engine:
        assert re.match("its worker ended while it was under way; it has been due since", reason(engine, "busy"))
        assert reason(engine, "listens") == "it waits for message 'word'"
