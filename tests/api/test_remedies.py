"""Texts that tell somebody what to do name what has to be named, once, and nothing that would make it worse."""

from __future__ import annotations

import array
import collections
import logging
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell import Queue, Retry, RunFailed, StepFailed, receive, step, workflow
from stepwell.api.reading.reasons import remedy
from stepwell.errors import RunDeadlineExceeded, RunHalted, SerializationError
from stepwell.testing import TestEngine
from stepwell.values.codec import Codec
from stepwell.values.failure import failure_json, summary_from_json
from stepwell.worker.state.run_over import remedy_of

WHERE = "the result"
CODEC = Codec()


class Basket(dict[str, int]):
    pass


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (collections.deque([1]), "list"),
        (range(3), "list"),
        ({"a": 1}.keys(), "list"),
        ({"a": 1}.values(), "list"),
        ({"a": 1}.items(), "list"),
        (array.array("i", [1]), "list"),
        (collections.UserList([1]), "list"),
        (collections.UserDict(a=1), "dict"),
        (collections.ChainMap({"a": 1}), "dict"),
        (types.MappingProxyType({"a": 1}), "dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_collection_that_json_has_not_says_what_to_record(value: Any, remedy: str) -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.encode({"inner": value}, WHERE)
    assert str(caught.value).endswith(
        f"$.inner is a {name(value)}, which has no JSON form. Record `{remedy}(value)`"
    ) or ("an array.array" in str(caught.value) and f"Record `{remedy}(value)`" in str(caught.value))
    CODEC.encode({"inner": {"dict": dict, "list": list}[remedy](value)}, WHERE)


def name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: collections.defaultdict(list, a=[1]),
        lambda: collections.OrderedDict(a=1),
        lambda: collections.Counter("aab"),
        lambda: Basket(a=1),
        lambda: [{"inner": collections.OrderedDict(a=1)}],
    ],
    ids=["defaultdict", "OrderedDict", "Counter", "a class of one's own", "inside"],
)
def test_a_kind_of_dict_says_what_to_record(engine: TestEngine, make: Callable[[], Any]) -> None:
    @step
    def returns() -> Any:
        return make()

    @workflow
    async def asks() -> Any:
        return returns()

    run = engine.start(asks)
    engine.idle()
    reason = run.info().reason or ""
    assert "and comes back as a dict. Record `dict(value)`." in reason
    assert "Annotate" not in reason


def test_the_path_of_a_value_that_is_nested_too_deeply_says_where_that_begins() -> None:
    value: Any = []
    for _ in range(50_000):
        value = [value]
    with pytest.raises(SerializationError) as caught:
        CODEC.encode({"orders": [{"number": 1}, {"tree": value}]}, WHERE)
    assert "$.orders[1].tree[0][0]" in str(caught.value)
    assert "… is nested too deeply" in str(caught.value)
    assert len(str(caught.value)) < 300


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RunFailed, StepFailed])
@pytest.mark.parametrize(
    ("type_name", "text", "expected"),
    [
        ("shop.Declined", "no funds", "shop.Declined: no funds"),
        ("shop.Declined", "", "shop.Declined"),
        ("shop.Declined", "Declined: twice", "Declined: twice"),
        ("", "no funds", "no funds"),
    ],
)
def test_a_failure_whose_class_is_not_imported_names_it(kind: Any, type_name: str, text: str, expected: str) -> None:
    error = kind(text, type_name=type_name)
    assert str(error) == expected
    if type_name:  # and it is recorded again as what it was
        assert summary_from_json(failure_json(error)) == (type_name, text)
    assert str(RunDeadlineExceeded("too late")) == "too late"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the log says, as a handler writes it, tracebacks included."""
    return lambda: "\n".join(map(logging.Formatter().format, caplog.records))


def test_the_log_says_once_why_a_run_is_halted(engine: TestEngine, told: Callable[[], str]) -> None:
    @step
    def makes() -> Any:
        return object()

    @workflow(name="mistaken")
    async def mistaken(what: str) -> Any:
        if what == "name":
            return nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the mistake
        if what == "file":
            return open(what)  # noqa: ASYNC230 - as above
        return makes()

    for what in ("name", "file", "object"):
        engine.start(mistaken, what, id=f"halted by {what}")
    engine.idle()
    text = told()
    assert text.count("NameError: name 'nowhere' is not defined") == 2  # in the message, and below the traceback
    assert text.count("That is taken for a mistake in the code, so run 'halted by name'") == 1
    assert text.count("That is taken for a mistake in the code, so run 'halted by file'") == 1
    assert text.count("which has no JSON form") == 1
    assert text.count("in mistaken\n") >= 2  # where it is


@pytest.mark.parametrize(("what", "is_advised"), [("name", True), ("file", False), ("argument", False)])
def test_to_fail_is_no_advice_for_what_is_not_allowed_in_a_workflow(
    engine: TestEngine, what: str, is_advised: bool
) -> None:
    @step
    def takes(value: Any) -> None: ...

    @workflow(name="mistaken")
    async def mistaken() -> Any:
        if what == "name":
            return nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the mistake
        if what == "file":
            return open(what)  # noqa: ASYNC230 - as above
        return takes(object())

    run = engine.start(mistaken)
    engine.idle()
    reason = run.info().reason or ""
    assert "That is taken for a mistake in the code" in reason
    assert ("fail_on" in reason) == is_advised


def test_a_reason_says_once_what_to_do(engine: TestEngine) -> None:
    @workflow(name="mistaken")
    async def mistaken() -> Any:
        return nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the mistake

    run = engine.start(mistaken, id="run")
    engine.idle()
    reason = run.info().reason or ""
    assert reason.count("Mend the") == 1
    assert "`stepwell resume run` resumes it, `stepwell cancel run` gives it up." in reason


def halting_errors() -> Iterator[RunHalted]:
    """Yield one of each kind of error that halts a run."""
    kinds = [RunHalted]
    for kind in kinds:
        kinds += kind.__subclasses__()
    yield from (kind("what the code says") for kind in kinds if kind.__module__ == "stepwell.errors")


@pytest.mark.parametrize("error", list(halting_errors()), ids=lambda error: type(error).__name__)
def test_what_is_left_to_do_about_a_halted_run_is_said_by_its_error_not_by_its_words(error: RunHalted) -> None:
    """The name of the kind decides, whatever the text says: it may be the user's."""
    left = remedy_of(error)
    assert left == remedy_of(type(error)("resume the run, resume the run"))
    advice = remedy(left, "run", None)
    assert "`stepwell resume run`" in advice
    assert ("Mend the cause" in advice) == (type(error) is RunHalted)


def test_a_run_whose_input_does_not_fit_says_once_what_to_do(tmp_path: Path) -> None:
    @workflow(name="narrowed")
    async def before(_text: str) -> str:
        return await receive("never", str)

    with TestEngine(tmp_path / "w.db", workflows=[before]) as engine:
        engine.start(before, "text", id="run")

    @workflow(name="narrowed")
    async def after(text: int) -> int:
        return text

    with TestEngine(tmp_path / "w.db", workflows=[after]) as engine:
        engine.send("run", "never", "come")
        engine.idle()
        reason = engine.get("run").info().reason or ""
        assert "then resume the run" in reason
        assert "Mend the cause" not in reason


def test_an_attempt_that_is_the_last_because_of_the_deadline_names_that(
    engine: TestEngine, told: Callable[[], str]
) -> None:
    @step(retry=Retry(attempts=5, delay=20, jitter=0), deadline=30)
    def down() -> None:
        raise ConnectionError("down")

    @workflow
    async def calls() -> None:
        down()

    run = engine.start(calls)
    engine.advance(60)
    with pytest.raises(ConnectionError):
        run.result(timeout=60)
    assert told().count("the next one follows in 20 s") == 1
    assert told().count("would begin after the step's deadline, 30 s after its first attempt") == 1
    assert "no other follows, so" not in told()


# --- queues -----------------------------------------------------------------------------------------------------------

gate = threading.Event()


@step
def held() -> None:
    gate.wait()


@workflow
async def holds() -> None:
    held()


@workflow
async def listens() -> None:
    await receive("never")


@pytest.mark.parametrize("flow", [holds, listens])
@pytest.mark.parametrize("partition", [None, "p"])
def test_a_full_queue_names_who_has_its_places(engine: TestEngine, flow: Any, partition: str | None) -> None:
    gate.clear()
    bounds: Any = {"concurrency": 4} if partition is None else {"partition_concurrency": 4}
    queue = Queue("jobs", **bounds)
    try:
        for number in range(5):
            engine.start(flow, id=f"job-{number}", queue=queue, partition=partition)
        while [engine.get(f"job-{number}").status for number in range(5)].count("pending") > 1:
            pass
        expected = "is full: 4 of 4 runs are under way (run 'job-0', 'job-1', 'job-2' and 1 more)"
        assert expected in (engine.get("job-4").info().reason or "")
        if partition is None:
            assert expected in (engine.queue("jobs").info().reason or "")
        if flow is listens:
            engine.reopen(max_waiting_in_memory=0)  # nor does it matter whether they are in memory
            engine.idle()
            assert not engine.in_memory
            assert expected in (engine.get("job-4").info().reason or "")
    finally:
        gate.set()
