"""Promises: a value that somebody outside gives, with a token, exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest

import stepwell
from stepwell import (
    AsyncEngine,
    Engine,
    Form,
    InvalidArgument,
    PromiseEnded,
    PromiseInfo,
    PromiseNotFound,
    PromiseRejected,
    PromiseTimedOut,
    RunEnded,
    SerializationError,
    StepwellError,
    WaitInfo,
    step,
    sync,
    workflow,
)
from stepwell.testing import TestEngine


@dataclass
class Verdict:
    granted: bool
    limit: Decimal | None = None


handed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    handed.clear()


@step(name="promises.hand")
async def hand(token: str) -> None:
    handed.append(token)


@workflow(name="promises.ask")
async def ask(kind: str = "bool", timeout: float | None = None, default: str | None = None) -> Any:
    options: dict[str, Any] = {} if default is None else {"default": default}
    promise = stepwell.promise(TYPES[kind], timeout=timeout, form=Form(title="Go on?"), **options)
    await hand(promise.token)
    value = await promise
    return value if isinstance(value, (int, str)) else repr(value)


TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "verdict": Verdict,
    "list": list[int],
    "word": Literal["yes", "no"],
    "decimal": Decimal,
    "float": float,
    "any": Any,
    "map": dict[int, str],
    "moments": tuple[date | None, ...],
}


@workflow(name="promises.ask in sync")
def ask_in_sync(timeout: float | None = None) -> int:
    promise = sync.promise(int, timeout=timeout, default=-1)
    sync.call(hand, promise.token)
    return promise.result() + promise.result()


@pytest.fixture(params=[0, 1000], ids=["parked", "resident"])
def memory(request: pytest.FixtureRequest, database: Path) -> Iterator[TestEngine]:
    """Yield an engine that keeps waiting runs in memory, or does not."""
    with TestEngine(database, max_waiting_in_memory=request.param) as engine:
        yield engine


def asked(engine: TestEngine, *args: Any, id: str = "run") -> str:
    """Start a run that asks, and return its token."""
    engine.start(ask, *args, id=id)
    engine.idle()
    return handed[-1]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_recorded_is_refused_in_one_sentence(memory: TestEngine) -> None:
    token = asked(memory, "any")
    with pytest.raises(SerializationError, match=r"the promise, operation 1 of run 'run': \$ is NaN"):
        memory.resolve(token, float("nan"))


def test_an_answer_is_what_the_run_goes_on_with(memory: TestEngine) -> None:
    token = asked(memory)
    memory.resolve(token, True, by="ada", reason="checked")
    assert memory.get("run").result(5) is True
    assert [(act.act, act.by, act.reason) for act in memory.get("run").acts()] == [("resolve", "ada", "checked")]
    assert [entry.kind for entry in memory.get("run").journal()] == ["promised", "step", "promise_kept"]


@pytest.mark.parametrize("error", [ValueError("too dear"), "too dear"])
def test_a_rejection_is_raised_in_the_run(memory: TestEngine, error: Exception | str) -> None:
    memory.reject(asked(memory), error)
    with pytest.raises(PromiseRejected if isinstance(error, str) else ValueError, match="too dear"):
        memory.get("run").result(5)
    assert memory.get("run").status == "failed"


def test_a_plain_workflow_waits_for_an_answer_as_often_as_it_likes(memory: TestEngine) -> None:
    run = memory.start(ask_in_sync)
    memory.idle()
    memory.resolve(handed[0], 4)
    assert run.result(5) == 8


def test_the_token_is_long_and_the_same_in_every_replay(memory: TestEngine) -> None:
    token = asked(memory)
    assert len(token) == 43
    assert asked(memory, id="other") != token
    memory.crash()
    memory.reopen().idle()
    assert handed.count(token) == 1
    memory.resolve(token, False)
    assert memory.get("run").result(5) is False


def test_an_answer_that_came_while_nobody_carried_the_run_on_is_there_for_the_next_one(database: Path) -> None:
    with TestEngine(database) as engine:
        token = asked(engine)
    with Engine(database, workflows=[]) as client:
        client.resolve(token, True)
        assert client.promises() == []
    with TestEngine(database) as engine:
        assert engine.get("run").result(5) is True


def test_the_first_of_two_answers_stands_and_the_same_again_is_harmless(memory: TestEngine) -> None:
    token = asked(memory)
    memory.resolve(token, True)
    memory.resolve(token, True)
    with pytest.raises(PromiseEnded, match="resolved already"):
        memory.resolve(token, False)
    with pytest.raises(PromiseEnded, match="resolved already"):
        memory.reject(token, "no")
    assert memory.get("run").result(5) is True
    memory.resolve(token, True)
    assert len(memory.get("run").acts()) == 1


def test_the_same_rejection_again_is_harmless(memory: TestEngine) -> None:
    token = asked(memory)
    for _ in range(2):
        memory.reject(token, ValueError("no"))
    with pytest.raises(PromiseEnded, match="rejected already"):
        memory.reject(token, ValueError("never"))


def test_of_many_who_answer_at_once_one_does(database: Path) -> None:
    with Engine(database) as engine:
        run = engine.start(ask, "int")
        while not engine.promises():
            pass
        token, done = engine.promises()[0].token, list[int]()

        def answer(value: int) -> None:
            try:
                engine.resolve(token, value)
                done.append(value)
            except PromiseEnded:
                pass

        threads = [threading.Thread(target=answer, args=[value]) for value in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [run.result(10)]


def test_a_transaction_answers_if_it_commits(memory: TestEngine) -> None:
    token = asked(memory)
    with pytest.raises(ZeroDivisionError), memory.transaction() as tx:  # noqa: PT012 - the block is what is tested
        tx.resolve(token, True)
        raise ZeroDivisionError
    assert [promise.token for promise in memory.promises()] == [token]
    with memory.transaction() as tx:
        tx.resolve(token, False)
        with pytest.raises(PromiseEnded):
            tx.resolve(token, True)
    assert memory.get("run").result(5) is False


def test_an_async_engine_answers_in_and_out_of_a_transaction(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with AsyncEngine(tmp_path / "w.db") as engine:
            runs = [await engine.start(ask, "int", id=f"run-{number}") for number in range(3)]
            while len(found := await engine.promises()) < 3:  # noqa: ASYNC110 - seen in the file only
                await asyncio.sleep(0)
            await engine.resolve(found[0].token, 1)
            async with engine.transaction() as tx:
                await tx.resolve(found[1].token, 2)
            await engine.reject(found[2].token, ValueError("three"))
            return await asyncio.gather(*(run.result(5) for run in runs), return_exceptions=True)

    one, two, three = asyncio.run(main())
    assert (one, two, repr(three)) == (1, 2, "ValueError('three')")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "value", "fault"),
    [
        ("bool", "yes", "must be boolean"),
        ("bool", 1, "must be boolean"),
        ("int", True, "must be integer"),
        ("int", None, "must be integer"),
        ("list", [1, "2"], r"\$\[1\]: must be integer"),
        ("word", "perhaps", "must be one of"),
        ("verdict", {"limit": "3"}, "'granted' is missing"),
        ("verdict", {"granted": True, "limit": "x"}, "limit"),
        ("decimal", "x", "decimal"),
        ("any", Decimal("1.5"), "without a type"),
        ("map", {"one": "a"}, "int"),
        ("moments", ["2026-13-01"], "date"),
    ],
)
def test_an_answer_of_another_type_is_refused_before_anything_is_recorded(
    engine: TestEngine, type: str, value: object, fault: str
) -> None:
    token = asked(engine, type)
    with pytest.raises(InvalidArgument, match=fault):
        engine.resolve(token, value)
    assert [promise.token for promise in engine.promises()] == [token]


@pytest.mark.parametrize(
    ("type", "value", "read"),
    [
        ("verdict", Verdict(granted=True, limit=Decimal("1.5")), Verdict(granted=True, limit=Decimal("1.5"))),
        ("verdict", {"granted": True, "limit": "1.5"}, Verdict(granted=True, limit=Decimal("1.5"))),
        ("decimal", "1.5", Decimal("1.5")),
        ("list", [2**70], [2**70]),
        ("float", 1e17, 1e17),
        ("any", {"a": None}, {"a": None}),
        ("any", None, None),
        ("map", {1: "a"}, {1: "a"}),
        ("moments", ["2026-11-28", None], (date(2026, 11, 28), None)),
    ],
)
def test_an_answer_comes_as_its_type(engine: TestEngine, type: str, value: object, read: object) -> None:
    engine.resolve(asked(engine, type), value)
    assert engine.get("run").result(5) == repr(read)


def test_a_value_that_cannot_be_written_is_refused(engine: TestEngine) -> None:
    token = asked(engine, "any")
    with pytest.raises(SerializationError):
        engine.resolve(token, object())


def test_a_token_that_nobody_made_is_unknown(engine: TestEngine) -> None:
    with pytest.raises(PromiseNotFound, match=r"promises\(\)"):
        engine.resolve("x" * 43, True)
    with pytest.raises(InvalidArgument, match="must be text"):
        engine.resolve(None, True)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="exception"):
        engine.reject(asked(engine), None)  # type: ignore[arg-type]


def test_a_run_that_has_ended_takes_no_answer(memory: TestEngine) -> None:
    token = asked(memory)
    memory.get("run").cancel()
    memory.idle()
    assert memory.promises() == []
    with pytest.raises(RunEnded, match="cancelled"):
        memory.resolve(token, True)
    memory.get("run").delete()
    with pytest.raises(PromiseNotFound):
        memory.resolve(token, True)


def test_only_workflow_code_promises() -> None:
    with pytest.raises(StepwellError, match="outside of a workflow"):
        _ = stepwell.promise(bool)


@workflow(name="promises.bad form")
async def bad_form(choices: Any) -> object:
    return await stepwell.promise(int, form=Form(choices=choices))


@pytest.mark.parametrize("choices", ["one", ["one"]])
def test_choices_that_do_not_fit_are_refused_where_they_stand(engine: TestEngine, choices: Any) -> None:
    with pytest.raises((InvalidArgument, SerializationError)):
        engine.start(bad_form, choices).result(5)
    assert engine.promises() == []


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_a_promise_that_nobody_answers_times_out_and_takes_no_answer_any_more(memory: TestEngine) -> None:
    token = asked(memory, "bool", 60)
    memory.advance(59)
    assert memory.get("run").status == "waiting"
    memory.advance(1)
    with pytest.raises(PromiseTimedOut, match="'Go on\\?'"):
        memory.get("run").result(5)
    assert memory.get("run").status == "failed"
    with pytest.raises(RunEnded):
        memory.resolve(token, True)


def test_a_promise_with_a_default_goes_on_with_that(memory: TestEngine) -> None:
    memory.start(ask, "bool", 60, "nobody", id="run")
    memory.idle()
    memory.advance(60)
    assert memory.get("run").result(5) == "nobody"


def test_an_answer_that_was_recorded_in_time_is_not_lost_to_the_deadline(database: Path) -> None:
    with TestEngine(database) as engine:
        token, clock = asked(engine, "bool", 60), engine.clock
    with TestEngine(database, workflows=[], clock=clock) as client:
        client.advance(59)
        client.resolve(token, True)
        client.advance(10)
    with TestEngine(database, clock=clock) as engine:
        assert engine.get("run").result(5) is True


def test_an_answer_after_the_deadline_is_refused_though_nobody_carried_the_run_on(database: Path) -> None:
    with TestEngine(database) as engine:
        token, clock = asked(engine, "bool", 60), engine.clock
    with TestEngine(database, workflows=[], clock=clock) as client:
        client.advance(60)
        with pytest.raises(PromiseEnded, match="timed out"):
            client.resolve(token, True)
    with TestEngine(database, clock=clock) as engine, pytest.raises(PromiseTimedOut):
        engine.get("run").result(5)


@workflow(name="promises.remind")
async def remind() -> int:
    promise, reminders = stepwell.promise(int), 0
    await hand(promise.token)
    while True:
        try:
            async with asyncio.timeout(3600):
                return await promise + reminders
        except TimeoutError:
            reminders += 1


def test_a_promise_can_be_awaited_again_after_a_timeout_of_the_codes_own(memory: TestEngine) -> None:
    run = memory.start(remind)
    memory.idle()
    memory.advance(timedelta(hours=3))
    memory.resolve(handed[0], 10)
    assert run.result(5) == 13


@workflow(name="promises.race")
async def race(number: int) -> list[Any]:
    promises = [stepwell.promise(int, timeout=60, default=-1) for _ in range(number)]
    for promise in promises:
        await hand(promise.token)
    return await asyncio.gather(*promises)


def test_promises_are_answered_in_any_order(memory: TestEngine) -> None:
    run = memory.start(race, 4)
    memory.idle()
    for number in (2, 0, 3):
        memory.resolve(handed[number], number)
    memory.advance(60)
    assert run.result(5) == [0, -1, 2, 3]


# --- what else happens to a run ---------------------------------------------------------------------------------------


def test_a_paused_run_takes_an_answer_and_is_told_when_it_goes_on(memory: TestEngine) -> None:
    token, run = asked(memory), memory.get("run")
    run.pause()
    memory.idle()
    memory.resolve(token, True)
    memory.idle()
    assert run.status == "paused"
    run.unpause()
    assert run.result(5) is True


def test_a_run_that_is_rewound_to_its_promise_makes_another_one(memory: TestEngine) -> None:
    old, run = asked(memory), memory.get("run")
    run.rewind(1)
    memory.idle()
    with pytest.raises(PromiseEnded, match="goes on without"):
        memory.resolve(old, True)
    (promise,) = memory.promises()
    assert promise.token != old
    memory.resolve(promise.token, False)
    assert run.result(5) is False


def test_a_rewind_behind_the_promise_keeps_it(memory: TestEngine) -> None:
    token, run = asked(memory), memory.get("run")
    run.rewind(2)
    memory.idle()
    assert handed == [token, token]
    memory.resolve(token, False)
    assert run.result(5) is False


def test_a_fork_makes_a_promise_of_its_own_or_has_the_answer(memory: TestEngine) -> None:
    token, run = asked(memory), memory.get("run")
    with pytest.raises(InvalidArgument, match="fork it at operation 1 or before"):
        run.fork(2, id="behind")
    own = run.fork(1, id="before")
    memory.idle()
    memory.resolve(handed[-1], False)
    memory.resolve(token, True)
    assert (run.result(5), own.result(5)) == (True, False)
    assert run.fork(2, id="answered").result(5) is True


def test_an_answer_can_be_replaced_by_a_rewind(memory: TestEngine) -> None:
    memory.resolve(asked(memory), True)
    run = memory.get("run")
    assert run.result(5) is True
    run.rewind(2, results={1: False})
    assert run.result(5) is False


@pytest.mark.parametrize("how", ["rejected", "timed out"])
def test_a_retry_of_a_run_that_failed_for_its_promise_asks_again(memory: TestEngine, how: str) -> None:
    token, run = asked(memory, "bool", 60), memory.get("run")
    if how == "rejected":
        memory.reject(token, "no")
    else:
        memory.advance(60)
    with pytest.raises((PromiseRejected, PromiseTimedOut)):
        run.result(5)
    run.retry()
    memory.idle()
    memory.advance(59)
    assert [promise.token for promise in memory.promises()] == [token]
    memory.resolve(token, True)
    assert run.result(5) is True


broken = [True]


@step(name="promises.fail")
async def fail() -> None:
    if broken:
        raise ValueError("broken")


@workflow(name="promises.answered beside a failure")
async def answered_beside_a_failure() -> int:
    promise = stepwell.promise(int)
    await hand(promise.token)
    await asyncio.sleep(60)
    await fail()
    return await promise


@pytest.mark.parametrize("answered_by", ["before the failure", "between failure and retry", "after the retry"])
def test_a_retry_keeps_the_answer(memory: TestEngine, answered_by: str) -> None:
    broken[:] = [True]
    run = memory.start(answered_beside_a_failure)
    memory.idle()
    if answered_by.startswith("before"):
        memory.resolve(handed[0], 3)
    memory.advance(60)
    with pytest.raises(ValueError, match="broken"):
        run.result(5)
    if answered_by.startswith("between"):
        with pytest.raises(RunEnded):
            memory.resolve(handed[0], 3)
    broken.clear()
    run.retry()
    memory.idle()
    if not answered_by.startswith("before"):
        memory.resolve(handed[0], 3)
    assert run.result(5) == 3


@workflow(name="promises.on as new")
async def on_as_new(round: int = 0) -> int:
    promise = stepwell.promise(int)
    await hand(promise.token)
    if round == 0:
        await asyncio.sleep(60)
        stepwell.continue_as_new(1)
    return await promise


def test_a_run_that_goes_on_as_new_leaves_its_promises_behind(memory: TestEngine) -> None:
    run = memory.start(on_as_new)
    memory.idle()
    memory.advance(60)
    old, new = handed
    assert [promise.token for promise in memory.promises()] == [new]
    with pytest.raises(PromiseEnded, match="goes on without"):
        memory.resolve(old, 1)
    memory.resolve(new, 2)
    assert run.result(5) == 2


# --- forms ------------------------------------------------------------------------------------------------------------


@workflow(name="promises.form")
async def form() -> str:
    return await stepwell.promise(
        str,
        timeout=timedelta(days=1),
        default="hold",
        form=Form(title="Refund?", text="Order 42", choices=["refund", "hold"], evidence={"amount": 12.5}),
    )


def test_an_open_promise_says_all_that_a_person_has_to_know(engine: TestEngine) -> None:
    engine.start(ask, "int", id="older")
    engine.start(form, id="run")
    engine.idle()
    older, promise = engine.promises()
    assert older.run_id == "older"
    assert promise == PromiseInfo(
        token=promise.token,
        run_id="run",
        workflow="promises.form",
        operation=1,
        title="Refund?",
        text="Order 42",
        choices=["refund", "hold"],
        evidence={"amount": 12.5},
        type="str",
        schema={"type": "string"},
        created_at=promise.created_at,
        deadline_at=promise.created_at + timedelta(days=1),
        on_timeout="default",
        default="hold",
    )
    with pytest.raises(InvalidArgument, match='must be one of "refund", "hold"'):
        engine.resolve(promise.token, "keep")
    engine.resolve(promise.token, "refund")
    assert engine.get("run").result(5) == "refund"


def test_a_run_says_which_promise_it_waits_for(engine: TestEngine) -> None:
    asked(engine, "bool", 60)
    info = engine.get("run").info()
    assert [(wait.kind, wait.operation, wait.name) for wait in info.waiting_on] == [("promise", 1, "Go on?")]
    assert isinstance(info.waiting_on[0], WaitInfo)
    assert info.waiting_on[0].until is not None
    assert info.reason is not None
    assert info.reason.startswith("it waits for the answer to promise 'Go on?' (operation 1; `stepwell promises`")


def test_a_token_does_not_show_where_a_promise_is_printed() -> None:
    async def main() -> str:
        return repr(stepwell.Promise("secret", asyncio.get_running_loop().create_future(), None))

    assert asyncio.run(main()) == "<Promise open>"
