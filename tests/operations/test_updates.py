"""Updates: requests that the code of a run answers, once, as a part of the run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.support.waiting import until

import stepwell
from stepwell import (
    AsyncEngine,
    Engine,
    HandlerNotFound,
    InvalidArgument,
    Queue,
    Run,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunHalted,
    RunNotFound,
    SerializationError,
    StepwellError,
    UpdateRefused,
    continue_as_new,
    receive,
    step,
    sync,
    workflow,
)
from stepwell.runtime import engine_thread
from stepwell.store.sqlite.store import SqliteStore
from stepwell.store.store import Outcome, Unit
from stepwell.testing import TestEngine


@dataclass
class Line:
    item: str
    price: Decimal


class Full(Exception):
    pass


@step
async def price(item: str) -> Decimal:
    return Decimal(len(item)) / 4


@step
def price_blocking(item: str) -> Decimal:
    return Decimal(len(item)) / 4


@workflow
async def basket(most: int) -> list[str]:
    lines: list[Line] = []

    def has_room(item: str) -> None:
        if len(lines) >= most:
            raise Full(f"no room for {item}")

    @stepwell.update(validate=has_room)
    async def add(item: str) -> Line:
        lines.append(Line(item, await price(item)))
        return lines[-1]

    @stepwell.update(name="drop")
    def dropped(item: str, *, all: bool = False) -> int:
        gone = [one for one in lines if one.item == item][: None if all else 1]
        if not gone:
            raise Full(f"there is no {item}")
        for one in gone:
            lines.remove(one)
        return len(lines)

    @stepwell.update
    async def confirm() -> str:
        return await receive("confirmed", str)

    @stepwell.query
    def content() -> list[Line]:
        return lines

    await receive("close")
    return [one.item for one in lines]


@workflow
def blocking_basket(most: int) -> list[str]:
    lines: list[Line] = []

    def has_room(item: str) -> None:
        if len(lines) >= most:
            raise Full(f"no room for {item}")

    @sync.update(validate=has_room)
    def add(item: str) -> Line:
        lines.append(Line(item, price_blocking(item)))
        return lines[-1]

    @sync.query
    def content() -> list[Line]:
        return lines

    sync.receive("close")
    return [one.item for one in lines]


PEAR = Line("pear", Decimal(1))


@pytest.mark.parametrize("flow", [basket, blocking_basket])
@pytest.mark.parametrize("memory", [0, 1000], ids=["parked", "resident"])
def test_an_update_is_answered_and_refused_by_the_code_of_the_run(database: Path, flow: Any, memory: int) -> None:
    with TestEngine(database, max_waiting_in_memory=memory) as engine:
        run = engine.start(flow, 1)
        engine.idle()
        assert run.update("add", "pear", type=Line) == PEAR
        before = run.journal()
        with pytest.raises(UpdateRefused, match="refuses update 'add': Full: no room for fig"):
            run.update("add", "fig")
        assert run.journal() == before
        assert [entry.kind for entry in before] == ["update", "step", "answered"]
        assert run.query("content") == [PEAR]
        run.send("close")
        assert run.result() == ["pear"]


def test_what_a_handler_raises_is_raised_for_whoever_asked(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    run = engine.start(basket, 3)
    with pytest.raises(Full, match="there is no fig"):
        run.update("drop", "fig")
    (line,) = [record for record in caplog.records if "update 'drop' failed" in record.getMessage()]
    assert (line.levelname, line.exc_info is not None) == ("WARNING", True)
    assert run.journal()[-1].error == "tests.operations.test_updates.Full: there is no fig"
    run.update("add", "fig", type=Line)
    assert run.update("drop", "fig", kwargs={"all": True}) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("remove", "fig"), HandlerNotFound, "it has: add, confirm, drop"),
        (("add", 3), SerializationError, "expected `str`"),
        (("add",), StepwellError, "cannot be called like this"),
        (("add", "fig", "pear"), SerializationError, "does not take the argument"),
        (("add", object()), SerializationError, "object"),
        (("",), InvalidArgument, "name of an update"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run_has_anything_of_it(
    engine: TestEngine, arguments: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    run = engine.start(basket, 3, id="b")
    engine.idle()
    with pytest.raises(error, match=says):
        run.update(*arguments)
    assert run.journal() == []
    assert engine.query("SELECT count(*) FROM stepwell_message_view") == [(0,)]


def test_the_same_key_gives_the_same_answer_ever_after(database: Path) -> None:
    with TestEngine(database) as engine:
        run = engine.start(basket, 1, id="b")
        assert run.update("add", "pear", key="1", type=Line) == PEAR
        assert run.update("add", "pear", key="1", type=Line) == PEAR
        with pytest.raises(
            InvalidArgument, match="the key '1' is that of update 'add' of run 'b', so update 'drop' needs"
        ):
            run.update("drop", "pear", key="1")
        with pytest.raises(Full):
            run.update("drop", "fig", key="2")
        engine.crash()
    with TestEngine(database) as engine:
        again = engine.get("b")
        assert again.update("add", "pear", key="1", type=Line) == PEAR
        with pytest.raises(Full):
            again.update("drop", "fig", key="2")
        again.send("close")
        assert again.result() == ["pear"]
        assert again.update("add", "pear", key="1", type=Line) == PEAR
        with pytest.raises(RunEnded, match=r"has ended \(completed\); update 'add' cannot"):
            again.update("add", "pear", key="3")
        with pytest.raises(RunNotFound):
            Run(engine, "nobody", basket).update("add", "pear")


def test_an_update_under_way_goes_on_after_a_crash_and_whoever_asks_again_is_answered(database: Path) -> None:
    engine = TestEngine(database)
    run = engine.start(basket, 3, id="b")
    with pytest.raises(
        TimeoutError, match=r"has not answered update 'confirm' \(key='c' asks for the same\) after 0.01 s"
    ):
        run.update("confirm", key="c", timeout=0.01)
    engine.crash()
    engine = engine.reopen()
    run = engine.get("b")
    run.send("confirmed", "by ada")
    assert run.update("confirm", key="c") == "by ada"
    engine.close()


def asked(run: Run[Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    """Ask in a thread; return what waits for the answer, and returns the exception where it is one."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(run.update(*arguments, **options))
        except Exception as error:  # noqa: BLE001 - looked at by the test
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()

    def answer() -> Any:
        thread.join(60)
        return found[0]

    return answer


@workflow
async def obeys() -> str:
    over = asyncio.Event()

    def look(word: str) -> None:
        assert 0 <= stepwell.random() < 1, word  # which is not one of the numbers of the run's code
        if word == "cancelled":
            raise asyncio.CancelledError
        if word == "exit":
            raise SystemExit(2)

    @stepwell.update(validate=look)
    def end(word: str) -> str:
        if word == "raised":
            raise SystemExit(3)
        over.set()
        return word

    await over.wait()
    await price(str(stepwell.uuid4()))
    await receive("fail")
    raise Full("over")


@pytest.mark.parametrize(("word", "error"), [("cancelled", UpdateRefused), ("exit", UpdateRefused), ("raised", None)])
def test_what_python_ends_with_ends_an_update_alone(engine: TestEngine, word: str, error: Any) -> None:
    run = engine.start(obeys)
    with pytest.raises(error or stepwell.UpdateFailed, match=r"CancelledError|SystemExit"):
        run.update("end", word)
    assert run.update("end", "x") == "x"


def test_a_validator_takes_no_random_numbers_from_the_code(database: Path) -> None:
    with TestEngine(database, max_waiting_in_memory=0) as engine:
        run = engine.start(obeys)
        assert run.update("end", "x") == "x"
        engine.idle()
        run.send("fail")
        with pytest.raises(Full, match="over"):  # and no DeterminismError
            run.result()


@workflow
async def ends_with_its_update() -> None:
    over = asyncio.Event()

    @stepwell.update
    def end() -> str:
        over.set()
        return "done"

    await over.wait()
    raise Full("over")


def test_an_update_that_was_carried_out_is_answered_though_the_run_fails_at_once(engine: TestEngine) -> None:
    run = engine.start(ends_with_its_update, id="f")
    assert run.update("end", key="e") == "done"
    assert run.update("end", key="e") == "done"
    with pytest.raises(Full):
        run.result()


def until_taken_on(engine: TestEngine, run: Run[Any], name: str = "wait") -> None:
    while not any(entry.kind == "update" and entry.name == name for entry in run.journal()):
        engine.idle()


@pytest.mark.parametrize("how", ["cancel", "terminate", "fail"])
def test_where_the_run_ends_first_whoever_waits_is_told(engine: TestEngine, how: str) -> None:
    run = engine.start(fragile, id="f")
    answer = asked(run, "wait", key="w")
    until_taken_on(engine, run)
    if how == "fail":
        run.send("fail", "fail")
    else:
        getattr(run, how)()
    assert isinstance(answer(), (RunCancelled, RunEnded))
    with pytest.raises((RunCancelled, RunEnded)):
        run.update("wait", key="w")


BROKEN: list[int] = []


@workflow
async def fragile() -> None:
    @stepwell.update
    async def wait() -> str:
        return await receive("word", str)

    @stepwell.update
    async def slow(item: str) -> Decimal:
        await asyncio.sleep(5)
        return await price(item)

    @stepwell.update
    async def goes_on() -> None:
        continue_as_new()

    @stepwell.update
    async def unfit() -> object:
        return object()

    word = await receive("fail", str)
    if word == "mistake" and BROKEN:
        _ = "mistake".index("none")
    if word == "mistake":
        await receive("mended")
    elif word == "new":
        continue_as_new()
    elif word == "fail":
        raise ValueError("meant so")


def test_a_run_that_returns_or_goes_on_as_new_first_lets_its_updates_end(engine: TestEngine) -> None:
    run = engine.start(fragile, id="f")
    for word, chapter in (("new", 2), ("end", 2)):
        answer = asked(run, "slow", "pear", type=Decimal)
        until_taken_on(engine, run, "slow")
        run.send("fail", word)
        engine.idle()
        late = asked(run, "goes_on")
        engine.advance(6)
        assert answer() == Decimal(1)
        if word == "new":  # it was taken on by the next chapter
            assert "continue_as_new() in its handler" in str(late())
        else:
            assert isinstance(late(), RunEnded)
        assert run.info().chapter == chapter
    assert run.status == "completed"


def test_a_mistake_in_the_code_halts_the_run_and_updates_wait_until_it_is_mended(
    engine: TestEngine,
) -> None:
    BROKEN.append(1)
    run = engine.start(fragile, id="f")
    answer = asked(run, "wait")
    until_taken_on(engine, run)
    run.send("fail", "mistake")
    with pytest.raises(RunHalted):
        run.result()
    run.send("word", "at last")
    late = asked(run, "unfit")
    BROKEN.clear()
    run.resume()
    assert answer() == "at last"
    assert isinstance(late(), SerializationError)
    run.send("mended")
    assert run.result() is None


def test_an_answer_that_cannot_be_recorded_fails_the_update_alone(engine: TestEngine) -> None:
    run = engine.start(fragile, id="f")
    with pytest.raises(SerializationError, match="the answer of run 'f' to update 'unfit'"):
        run.update("unfit")
    assert run.status == "waiting"


def test_a_retried_run_answers_the_updates_that_it_had_not_answered(engine: TestEngine) -> None:
    run = engine.start(stubborn, id="s")
    answer = asked(run, "wait", key="w")
    until_taken_on(engine, run)
    run.send("go")
    with pytest.raises(ValueError, match="not yet"):
        run.result()
    assert isinstance(answer(), (RunCancelled, RunEnded))
    ALLOWED.append(1)
    run.retry()
    run.send("word", "again")
    assert run.result() is None


ALLOWED: list[int] = []


@step(retry=stepwell.Retry(attempts=1))
async def allowed() -> None:
    if not ALLOWED:
        raise ValueError("not yet")


@workflow
async def stubborn() -> None:
    @stepwell.update
    async def wait() -> str:
        return await receive("word", str)

    await receive("go")
    await allowed()


@workflow
async def judged() -> list[str]:
    seen: list[str] = []
    event = asyncio.Event()

    def calls(item: str) -> None:
        match item:
            case "step":
                price_blocking(item)
            case "async step":
                price(item).send(None)
            case "swallowed":
                try:
                    price_blocking(item)
                except StepwellError:
                    return
            case "sleep":
                sync.sleep(1)
            case "file":
                Path(__file__).read_text(encoding="utf-8")
            case "task":
                event.set_later = asyncio.ensure_future(asyncio.sleep(0))  # type: ignore[attr-defined]
            case _:
                return

    @stepwell.update(validate=calls)
    def see(item: str) -> None:
        seen.append(item)

    await receive("close")
    event.set()
    return seen


@pytest.mark.parametrize("what", ["step", "async step", "swallowed", "sleep", "file", "task"])
def test_a_validator_that_does_more_than_look_refuses(engine: TestEngine, what: str) -> None:
    run = engine.start(judged)
    with pytest.raises(UpdateRefused, match="refuses update 'see'"):
        run.update("see", what)
    run.update("see", "nothing")
    assert [entry.kind for entry in run.journal()] == ["update", "answered"]
    run.send("close")
    assert run.result() == ["nothing"]


@workflow
async def judged_for_ever() -> None:
    def loops(is_endless: bool) -> None:
        while is_endless:
            pass

    @stepwell.update(validate=loops)
    def see(is_endless: bool) -> str:
        return f"seen {is_endless}"

    await receive("close")


@pytest.mark.parametrize("parked", [False, True], ids=["in memory", "parked"])
def test_a_validator_that_never_returns_is_ended_and_refuses(
    database: Path, monkeypatch: pytest.MonkeyPatch, parked: bool
) -> None:
    monkeypatch.setattr(engine_thread, "VALIDATOR_SECONDS", 0.5)
    with Engine(database, max_waiting_in_memory=0 if parked else 1000) as engine:
        run = engine.start(judged_for_ever)
        late = r"refuses update 'see': its validator had not come to an end after 0.5 s, at .* in loops"
        for _ in range(2):
            with pytest.raises(UpdateRefused, match=late):
                run.update("see", True, timeout=60)
        assert run.update("see", False, timeout=60) == "seen False"
        assert [entry.kind for entry in run.journal()] == ["update", "answered"]


def test_a_start_and_its_updates_are_one_commit(database: Path) -> None:
    with TestEngine(database) as engine:
        run = engine.start(basket, 3, id="b", updates=[("add", ["pear"], "1")])
        assert run.update("add", "pear", key="1", type=Line) == PEAR
        run.send("close")
        again = engine.start(basket, 3, id="b", updates=[("add", ["pear"], "1")])
        assert again.result() == ["pear"]
        for updates in ("add", [("add", "pear", "1")], [("add", ["pear"])], [("add", ["pear"], None)]):
            with pytest.raises(InvalidArgument, match="update"):
                engine.start(basket, 3, id="c", updates=updates)  # type: ignore[arg-type]
        with pytest.raises(RunNotFound):
            engine.get("c")
        with engine.transaction() as tx:
            tx.start(basket, 3, id="d", updates=[("add", ["fig"], "1")])
        assert engine.get("d").update("add", "fig", key="1", type=Line).item == "fig"


def written(changes: list[list[str]]) -> AbstractContextManager[object]:
    """Note what each commit of a store writes meanwhile."""
    commit = SqliteStore.commit

    def commits(store: SqliteStore, units: Sequence[Unit], claim: Any) -> list[Outcome]:
        changes.append([type(change).__name__ for unit in units for change in unit.changes])
        return commit(store, units, claim)

    return patch.object(SqliteStore, "commit", commits)


def test_an_update_of_a_run_in_memory_comes_and_is_answered_in_one_commit(database: Path) -> None:
    with TestEngine(database) as engine:
        run = engine.start(basket, 3, id="b")
        run.update("add", "pear", type=Line)
        changes: list[list[str]] = []
        with written(changes):
            assert run.update("drop", "pear", key="1") == 0
        assert changes == [["UpdateTakenOn", "Entry", "UpdateAnswered", "Entry"]]
        engine.crash()
    with TestEngine(database) as engine:
        assert engine.get("b").update("drop", "pear", key="1") == 0
        assert engine.get("b").query("content") == []


def test_an_update_of_a_parked_run_is_recorded_in_the_commit_that_claims_the_run(database: Path) -> None:
    with TestEngine(database, max_waiting_in_memory=0) as engine:
        run = engine.start(basket, 3, id="b")
        run.update("add", "pear", type=Line)
        engine.idle()
        changes: list[list[str]] = []
        with written(changes):
            assert run.update("drop", "pear") == 0
        assert changes[:2] == [
            ["MessageSent", "RunsClaimed"],
            ["MessageTaken", "Entry", "UpdateAnswered", "Entry", "RunMoved"],
        ]


def test_what_was_sent_before_an_update_reaches_the_code_before_it(database: Path) -> None:
    async def main() -> list[str]:
        async with AsyncEngine(database, workflows=[hears]) as engine:
            run = await engine.start(hears)
            await asyncio.gather(run.send("word", "sent"), run.update("say", "asked"))
            return await run.result()

    assert asyncio.run(main()) == ["sent", "asked"]


@workflow
async def hears() -> list[str]:
    words: list[str] = []

    @stepwell.update
    def say(word: str) -> None:
        words.append(word)

    words.append(await receive("word", str))
    await asyncio.sleep(0.02)
    return words


def test_an_update_whose_key_another_process_uses_just_now_is_carried_out_once(database: Path) -> None:
    with TestEngine(database) as engine:
        run = engine.start(basket, 3, id="b")
        assert run.update("add", "pear", key="1", type=Line) == PEAR
        reads = engine._session.store.reads
        known = reads.update

        def not_yet(key: int, of: str) -> Any:
            looked.append(of)
            return None if len(looked) == 1 else known(key, of)

        looked: list[str] = []
        with patch.object(reads, "update", not_yet):
            assert run.update("add", "pear", key="1", type=Line) == PEAR
        assert len(looked) > 1
        assert run.query("content") == [PEAR]
        assert run.update("drop", "pear") == 0
        assert [entry.kind for entry in run.journal()] == ["update", "step", "answered", "update", "answered"]


def test_an_update_of_a_paused_run_waits_until_it_goes_on(engine: TestEngine) -> None:
    run = engine.start(basket, 3, id="b")
    engine.idle()
    run.pause()
    answer = asked(run, "add", "pear", key="1", type=Line)
    with pytest.raises(TimeoutError):
        run.update("add", "pear", key="1", timeout=0.01)
    run.unpause()
    assert answer() == PEAR
    assert run.query("content") == [PEAR]


def test_an_update_of_a_run_that_waits_for_its_turn_is_answered_once_it_has_begun(engine: TestEngine) -> None:
    run = engine.start(basket, 3, queue="updates-later", delay=10)
    answer = asked(run, "drop", "fig")
    engine.advance(11)
    assert isinstance(answer(), Full)


def test_async_callers_ask_at_once_and_each_is_answered(database: Path) -> None:
    async def main() -> tuple[list[int], list[str]]:
        async with AsyncEngine(database, workflows=[basket]) as engine:
            run = await engine.start(basket, 30)
            await asyncio.gather(*(run.update("add", f"item {number}", type=Line) for number in range(20)))
            left = await asyncio.gather(*(run.update("drop", f"item {number}") for number in range(10)))
            await run.send("close")
            return sorted(left), await run.result()

    left, items = asyncio.run(main())
    assert left == list(range(10, 20))
    assert len(items) == 10


def test_a_failure_of_a_class_that_is_not_here_is_an_update_failed() -> None:
    error = stepwell.UpdateFailed("no", type_name="shop.Full")
    assert (str(error), isinstance(error, RunFailed)) == ("shop.Full: no", False)


def test_an_async_validator_is_refused_where_it_is_registered(engine: TestEngine) -> None:
    run = engine.start(misjudged)
    with pytest.raises((RunHalted, InvalidArgument), match="validate= takes a plain function"):
        run.result()


@workflow
async def misjudged() -> None:
    async def look() -> None: ...

    stepwell.update(validate=look)(lambda: 1)


# --- another start takes the id ---------------------------------------------------------------------------------------

LINE = Queue("updates.line", concurrency=1)


@workflow(name="updates.deaf")
async def deaf(number: int) -> int:
    @stepwell.update
    async def ask() -> str:
        return await receive("never", str)

    await receive("close")
    return number


def test_who_asked_a_run_that_another_start_replaces_is_told_so(database: Path) -> None:
    with Engine(database, workflows=[deaf]) as engine, ThreadPoolExecutor() as pool:
        engine.queue(LINE).pause()
        run = engine.start(deaf, 1, id="it", queue=LINE)
        answer = pool.submit(run.update, "ask", timeout=30)
        until(lambda: engine.query("SELECT 1 FROM stepwell_messages"))
        engine.start(deaf, 2, id="it", on_conflict="replace", queue=LINE)
        with pytest.raises(RunEnded, match="a new run is in the place of the run 'it'"):
            answer.result(60)


def test_who_asked_from_another_program_is_told_so_too(database: Path) -> None:
    with Engine(database, workflows=[deaf]) as engine:
        engine.start(deaf, 1, id="it")
        command = [sys.executable, "-m", "stepwell", "update", "it", "ask", "--db", str(database), "--wait", "30"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
            until(lambda: engine.query("SELECT 1 FROM stepwell_journal WHERE kind = 'update'"))
            engine.start(deaf, 2, id="it", on_conflict="replace")
            _, said = other.communicate(timeout=60)
        assert "a new run is in the place of the run 'it'" in said
