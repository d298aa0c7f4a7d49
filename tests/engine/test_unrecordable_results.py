"""A step whose result cannot be recorded has acted: it is not called again by itself, but with other code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import (
    Engine,
    ResultNotSerializable,
    Retry,
    Step,
    StepInterrupted,
    Workflow,
    step,
    transaction,
    workflow,
)
from stepwell.definitions.code_identity import code_fingerprint
from stepwell.testing import TestEngine

calls: list[str] = []
mended = False


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    global mended  # noqa: PLW0603 - a switch in the world outside, which no code shows
    calls.clear()
    mended = False
    yield
    mended = False


def unfit() -> Any:
    """Return what has no JSON form, until the world outside has changed."""
    calls.append("called")
    return "fine" if mended else threading.Lock()


@step(name="async")
async def of_async() -> Any:
    return unfit()


@step(name="sync")
def of_sync() -> Any:
    return unfit()


@step(name="retried", retry=Retry(attempts=3, delay=0))
async def of_retried() -> Any:
    return unfit()


@step(name="large")
def of_large() -> str:
    calls.append("called")
    return "fine" if mended else "x" * 100_000


@step(name="misfit")
def of_misfit() -> int:
    calls.append("called")
    result: Any = 5 if mended else "five"
    return result  # type: ignore[no-any-return]


@transaction(name="transaction")
def of_transaction(_tx: Any) -> Any:
    return unfit()


KINDS: dict[str, Any] = {
    "async": of_async, "sync": of_sync, "retried": of_retried, "large": of_large, "misfit": of_misfit,
    "transaction": of_transaction,
}  # fmt: skip


@workflow
async def reports(kind: str) -> Any:
    result = KINDS[kind]()
    return str(result if isinstance(result, (str, int)) else await result)


@pytest.fixture
def engine(database: Path) -> Iterator[TestEngine]:
    with TestEngine(database, max_payload_bytes=50_000) as opened:
        yield opened


def halt(engine: TestEngine, kind: str) -> None:
    with pytest.raises(ResultNotSerializable, match="has acted, but its result is not recorded"):
        engine.start(reports, kind, id=kind).result(60)
    assert calls == ["called"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_not_called_again_when_the_file_is_opened(engine: TestEngine, kind: str) -> None:
    halt(engine, kind)
    reason = engine.get(kind).info().reason
    for _ in range(3):
        engine.reopen().idle()
    engine.crash()
    engine.reopen().idle()
    assert (engine.get(kind).status, engine.get(kind).info().reason) == ("halted", reason)
    assert calls == ["called"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_not_called_again_when_a_neighbour_dies(engine: TestEngine, kind: str) -> None:
    halt(engine, kind)
    engine_thread = engine._session.engine_thread
    engine_thread.post(engine_thread.worker.claims.retry_halted)  # as the engine does then
    engine.idle()
    assert (engine.get(kind).status, calls) == ("halted", ["called"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_called_once_more_when_the_run_is_resumed(engine: TestEngine, kind: str) -> None:
    global mended  # noqa: PLW0603 - as above
    halt(engine, kind)
    engine.get(kind).resume()
    engine.idle()
    assert (engine.get(kind).status, calls) == ("halted", ["called", "called"])
    engine.reopen().idle()
    assert calls == ["called", "called"]
    mended = True
    engine.get(kind).resume()
    assert engine.get(kind).result(60) in ("fine", "5")
    assert calls == ["called"] * 3


def test_a_worker_that_takes_up_a_resumed_run_later_calls_it_once_more(engine: TestEngine, database: Path) -> None:
    global mended  # noqa: PLW0603 - as above
    halt(engine, "sync")
    engine.close()
    with Engine(database, workflows=[]) as client:
        client.get("sync").resume()
        assert client.get("sync").status == "pending"
    mended = True
    engine.reopen().idle()
    assert engine.get("sync").result(60) == "fine"
    assert calls == ["called", "called"]


def test_other_steps_of_the_run_are_not_begun_while_it_stays_halted(engine: TestEngine) -> None:
    begun: list[str] = []

    @step(name="other", delivery="at-most-once")
    async def other() -> str:
        begun.append("other")
        return "other"

    @step(name="last")
    async def last() -> Any:
        return unfit()

    @workflow(name="two at once")
    async def two_at_once() -> Any:
        import asyncio

        return await asyncio.gather(last(), other())

    with pytest.raises(ResultNotSerializable):
        engine.start(two_at_once, id="two").result(60)
    before = [entry.kind for entry in engine.get("two").journal()]
    begun.clear()
    engine.reopen().idle()
    assert [entry.kind for entry in engine.get("two").journal()] == before
    assert begun == []


# --- at most once -----------------------------------------------------------------------------------------------------


def make_once(kind: str) -> Step[..., Any]:
    def plain() -> Any:
        return unfit()

    async def asynchronous() -> Any:
        return unfit()

    chosen: Any = plain if kind == "sync" else asynchronous
    retry = Retry(attempts=3, delay=0) if kind == "retried" else None
    return step(name=f"once, {kind}", delivery="at-most-once", retry=retry)(chosen)


ONCE = {kind: make_once(kind) for kind in ("sync", "async", "retried")}


@workflow
async def decides(kind: str) -> str:
    try:
        result = ONCE[kind]()
        return str(result if kind == "sync" else await result)
    except StepInterrupted as error:
        return str(error)


@pytest.mark.parametrize("kind", ONCE)
def test_one_of_at_most_once_is_called_once_and_its_workflow_is_told(engine: TestEngine, kind: str) -> None:
    text = engine.start(decides, kind, id=kind).result(60)
    assert f"'once, {kind}'" in text
    assert "Cannot record the result" in text
    assert "it is not repeated" in text
    engine.reopen().idle()
    assert engine.get(kind).result(60) == text
    assert calls == ["called"]


# --- results that break what looks at them ----------------------------------------------------------------------------


class Hostile:
    """What raises when it is looked at."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError("do not look")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_result_that_cannot_even_be_looked_at_halts_its_run_and_harms_nobody(engine: TestEngine, kind: str) -> None:
    async def asynchronous() -> Any:
        return Hostile()

    def plain() -> Any:
        return Hostile()

    hostile: Any = step(name="hostile")(plain if kind == "sync" else asynchronous)

    @workflow(name="meets it")
    async def meets_it() -> Any:
        result = hostile()
        return result if kind == "sync" else await result

    with pytest.raises(ResultNotSerializable, match="'hostile'"):
        engine.start(meets_it).result(60)
    assert engine.start(fine).result(60) == "fine"


@step
def is_fine() -> str:
    return "fine"


@workflow
async def fine() -> str:
    return is_fine()


# --- when code is another one -----------------------------------------------------------------------------------------


def programs(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "program", "step": step, "Any": Any}
    exec(text, names)
    return names


BASE = """
LIMIT = 5
class Item:
    size: int
    def weigh(self): return self.size * 2
def helper(n): return n + LIMIT
def unrelated(): return 1
@step(name="made")
def made(n: int = 3) -> "Item":
    "What it is for."
    inner = lambda: helper(n)
    return Item().weigh(), inner()
"""


def number(text: str) -> int:
    return code_fingerprint(programs(text)["made"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Item().weigh(), inner()", "inner(), Item().weigh()"),
        ("n + LIMIT", "n - LIMIT"),
        ("size * 2", "size * 3"),
        ("size: int", "size: str"),
        ('-> "Item"', "-> str"),
        ("lambda: helper(n)", "lambda: helper(n + 1)"),
        ("class Item:", "class Item(dict):"),
    ],
)
def test_code_is_another_one_when_what_it_uses_of_the_program_was_changed(old: str, new: str) -> None:
    assert old in BASE
    assert number(BASE) != number(BASE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def unrelated(): return 1", "def unrelated(): return 2"),
        ("LIMIT = 5", "\n\n# a remark\nLIMIT = 5"),
        ('@step(name="made")', '@step(name="made", timeout=5)'),
        ("LIMIT = 5", "LIMIT = 6"),
        ("n: int = 3", "n: int = 4"),
    ],
)
def test_code_is_the_same_when_something_else_was_changed(old: str, new: str) -> None:
    assert number(BASE) == number(BASE.replace(old, new))


def test_a_script_has_the_same_code_as_the_module_that_importing_it_makes() -> None:
    as_script: dict[str, Any] = {"__name__": "__main__", "step": step}
    exec(BASE, as_script)
    assert code_fingerprint(as_script["made"]) == number(BASE)


def test_code_that_refers_to_itself_and_to_all_kinds_of_things_has_a_number() -> None:
    text = """
import functools, math, os
class Node:
    links = []
    @classmethod
    def make(cls): return cls()
    @staticmethod
    def other(): return Node
    @property
    def me(self): return Node.make()
Node.links.append(Node)
def again(n): return made(n - 1) if n else partial()
partial = functools.partial(again, 0)
@step(name="made")
def made(n: int = 0, *rest: "Unknown", key: dict[str, Node] | None = None) -> list[Node]:
    {1, 2, 3}; n in {"a", "b"}
    return [Node.make().me, math.pi, os.path, again(n)]
"""
    assert number(text) == number(text)
    assert number(text) != number(text.replace('"b"', '"c"'))
    assert number(text) != number(text.replace("return cls()", "return None"))


def make(result: Callable[[], Any]) -> Workflow[..., Any]:
    @step(name="given")
    async def given() -> Any:
        calls.append("called")
        return result()

    @workflow(name="gives")
    async def gives() -> Any:
        return await given()

    return gives


def test_mended_code_goes_on_by_itself_and_each_code_that_fails_is_called_once(database: Path) -> None:
    first, second = make(threading.Lock), make(threading.Event)
    with TestEngine(database, workflows=[first]) as engine:
        run = engine.start(first, id="a")
        engine.idle()
        for codes in ([second], [first], [second], [first]):
            engine.reopen(workflows=codes).idle()
            assert run.info().status == "halted"
        assert calls == ["called", "called"]
        engine.reopen(workflows=[make(lambda: 5)]).idle()
        assert engine.get("a").result(60) == 5
