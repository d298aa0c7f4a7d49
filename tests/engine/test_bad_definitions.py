"""Durations, definitions, files and options that cannot be used get a clear error, and leave no trace."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.rows import written

import stepwell
from stepwell import (
    DefinitionError,
    Engine,
    FileInUse,
    FileNotUsable,
    InvalidArgument,
    Retry,
    SchemaTooNew,
    receive,
    step,
    sync,
    transaction,
    workflow,
)
from stepwell.model.retry import next_delay
from stepwell.testing import TestEngine


@workflow
async def echo(*values: Any, **named: Any) -> Any:
    return [list(values), named]


@workflow
async def waits(name: str = "go") -> Any:
    return await receive(name)


@step
async def accepts(_value: Any) -> str:
    return "accepted"


# --- durations --------------------------------------------------------------------------------------------------------

BAD_DURATIONS = [
    -1,
    -0.001,
    math.nan,
    math.inf,
    -math.inf,
    1e12,
    10**400,
    timedelta(days=-1),
    timedelta.max,
    "5",
    True,
    [],
    1j,
]


@pytest.mark.parametrize("duration", BAD_DURATIONS, ids=lambda duration: repr(duration)[:20])
def test_an_absurd_duration_is_refused_everywhere(engine: TestEngine, duration: Any) -> None:
    run = engine.start(waits, id="good")
    engine.idle()
    rows = written(engine)
    calls: list[Callable[[], Any]] = [
        lambda: engine.start(waits, deadline=duration),
        lambda: run.result(timeout=duration),
        lambda: run.value("key", timeout=duration),
        lambda: engine.close(timeout=duration),
        lambda: step(timeout=duration),
        lambda: step(deadline=duration),
        lambda: accepts.options(timeout=duration),
        lambda: Retry(delay=duration),
        lambda: Retry(max_delay=duration),
        lambda: stepwell.RetryLater(delay=duration),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument):
            call()
    assert written(engine) == rows
    run.send("go", "still open")
    assert run.result(timeout=60) == "still open"


@pytest.mark.parametrize("duration", BAD_DURATIONS, ids=lambda duration: repr(duration)[:20])
def test_an_absurd_duration_in_workflow_code_is_refused_there(engine: TestEngine, duration: Any) -> None:
    @workflow
    def careless() -> int:
        refused = 0
        for call in (lambda: sync.sleep(duration), lambda: sync.receive("go", timeout=duration)):
            try:
                call()
            except InvalidArgument:
                refused += 1
        return refused

    run = engine.start(careless)
    assert run.result(timeout=60) == 2
    assert run.journal() == []


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0}, {"attempts": 1.5}, {"attempts": "3"}, {"attempts": True}, {"backoff": 0.5},
        {"backoff": math.nan}, {"backoff": "2"}, {"jitter": 2}, {"jitter": None}, {"on": 5}, {"on": (ValueError, "x")},
        {"on": int}, {"when": 5},
    ],
    ids=repr,
)  # fmt: skip
def test_a_retry_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="Retry"):
        Retry(**options)


def test_delays_of_retries_may_be_timedeltas() -> None:
    policy = Retry(attempts=9, delay=timedelta(milliseconds=500), max_delay=timedelta(seconds=3), jitter=0)
    assert [next_delay(policy, attempt, OSError(), 0) for attempt in (1, 2, 3, 4, 8)] == [0.5, 1, 2, 3, 3]
    own = stepwell.RetryLater(delay=timedelta(minutes=1))
    assert next_delay(policy, 1, own, 0) == 60


def test_a_delay_that_grows_beyond_all_numbers_is_the_longest_one() -> None:
    policy = Retry(attempts=10**9, delay=1, backoff=1e300, jitter=0)
    assert [next_delay(policy, attempt, OSError(), 0) for attempt in (2, 3, 10**8)] == [300, 300, 300]


@pytest.mark.parametrize("when", [datetime(2030, 1, 1), "tomorrow", 5, datetime.max.replace(tzinfo=UTC)])  # noqa: DTZ001
def test_a_moment_that_is_none_is_refused(engine: TestEngine, when: Any) -> None:
    @workflow
    def careless() -> str:
        try:
            sync.sleep_until(when)
        except InvalidArgument as error:
            return str(error)
        return "slept"

    assert engine.start(careless).result(timeout=60) != "slept"
    if not isinstance(when, datetime) or when.tzinfo is None:
        with pytest.raises(InvalidArgument):
            engine.start(waits, deadline=cast("Any", when if isinstance(when, (datetime, str)) else -5))


class Opaque:
    """JSON cannot express it, and its constructor says nothing."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


# --- definitions ------------------------------------------------------------------------------------------------------


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class One:
    def __call__(self) -> int:
        return 1


NO_FUNCTIONS: dict[str, Any] = {
    "generator": generator,
    "async generator": async_generator,
    "partial of a generator": functools.partial(generator),
    "class": Opaque,
    "built-in class": int,
    "number": 5,
    "text": "text",
    "lambda": lambda: None,
    "partial": functools.partial(print, "x"),
    "instance": One(),
}


@pytest.mark.parametrize("declare", [workflow, step, transaction])
@pytest.mark.parametrize("case", NO_FUNCTIONS)
def test_what_cannot_be_a_workflow_or_a_step_is_refused_at_the_declaration(declare: Any, case: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        declare(NO_FUNCTIONS[case])
    assert declare.__name__ in str(refused.value)


@pytest.mark.parametrize("declare", [workflow, step])
@pytest.mark.parametrize(
    "function", [lambda: 1, functools.partial(len, "x"), One()], ids=["lambda", "partial", "instance"]
)
def test_a_callable_without_a_name_of_its_own_is_fine_with_one(declare: Any, function: Any) -> None:
    assert declare(name=f"named {id(function)}")(function)() == 1


def plain_function() -> None: ...


@pytest.mark.parametrize(
    "wrong", [plain_function, waits.function, 5, None, Opaque], ids=lambda wrong: type(wrong).__name__
)
def test_only_workflows_can_be_started(engine: TestEngine, wrong: Any) -> None:
    @workflow
    async def careless() -> str:
        try:
            await stepwell.start(wrong)
        except InvalidArgument as error:
            return str(error)
        return "started"

    with pytest.raises(InvalidArgument, match="@workflow"):
        engine.start(wrong)
    if wrong is not None and not isinstance(wrong, str):
        with pytest.raises(InvalidArgument, match="@workflow"):
            engine.list(workflow=wrong)
    with pytest.raises(InvalidArgument, match="@workflow"):
        engine.reopen(workflows=[wrong])
    engine.reopen(workflows=None)
    assert "@workflow" in engine.start(careless).result(timeout=60)


@workflow
async def takes(first: int, second: str = "x", *, third: bool = False) -> list[Any]:
    return [first, second, third]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, "x", True), {}), ((1,), {"fourth": 1}), ((1,), {"first": 2}), ((1, 2, 3, 4), {}), ((1,), {5: 1})],
)
def test_arguments_that_do_not_fit_are_refused_at_the_start(engine: TestEngine, args: Any, kwargs: Any) -> None:
    with pytest.raises(DefinitionError, match="takes"):
        engine.start(cast("Any", takes), *args, kwargs=kwargs)
    with engine.transaction() as tx, pytest.raises(DefinitionError, match="takes"):
        tx.start(cast("Any", takes), *args, kwargs=kwargs)
    assert written(engine) == 0
    assert engine.start(takes, 1, kwargs={"third": True}).result(timeout=60) == [1, "x", True]


def test_many_arguments_are_fine(engine: TestEngine) -> None:
    values = list(range(20_000))
    assert engine.start(echo, *values).result(timeout=60) == [values, {}]


# --- files ------------------------------------------------------------------------------------------------------------


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE customers (x); INSERT INTO customers VALUES (1)")


def newer(path: Path) -> None:
    Engine(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def corrupt(path: Path) -> None:
    Engine(path).close()
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 2000] = b"\xee" * 2000
    path.write_bytes(content)


def truncated(path: Path) -> None:
    Engine(path).close()
    path.write_bytes(path.read_bytes()[:5000])


UNUSABLE: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "text": (lambda path: path.write_text("orders\n" * 2000), FileNotUsable),
    "another program's database": (foreign, FileNotUsable),
    "a newer schema": (newer, SchemaTooNew),
    "corrupt": (corrupt, FileNotUsable),
    "truncated": (truncated, FileNotUsable),
    "a folder": (lambda path: path.mkdir(), FileNotUsable),
    "a pipe": (os.mkfifo, FileNotUsable),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_file_that_cannot_be_used_is_refused_by_its_name_and_left_alone(tmp_path: Path, case: str) -> None:
    make, error = UNUSABLE[case]
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder / "orders.db")
    for leftover in folder.glob("orders.db-*"):
        leftover.unlink()
    before = digest(folder)
    threads = threading.active_count()
    for _ in range(2):
        with pytest.raises(error, match=r"orders\.db"):
            Engine(folder / "orders.db")
    assert digest(folder) == before
    assert threading.active_count() <= threads


def test_a_missing_folder_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotUsable, match="missing"):
        Engine(tmp_path / "missing" / "orders.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [None, 5, "", "a\0b", [], "postgresql://user:secret@host/db"])
def test_a_path_that_is_none_is_refused_without_telling_its_secrets(path: Any) -> None:
    with pytest.raises((FileNotUsable, InvalidArgument)) as refused:
        Engine(path)
    assert "secret" not in str(refused.value)


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.store.sqlite.file import mounts, opening

    found = mounts.Mount(1, 0, str(tmp_path), "nfs4", "server:/export")
    monkeypatch.setattr(mounts, "find_mount", lambda *_: found)
    if hasattr(opening, "find_mount"):
        monkeypatch.setattr(opening, "find_mount", lambda *_: found)
    with pytest.raises(FileNotUsable, match="nfs4"):
        Engine(tmp_path / "orders.db")
    assert list(tmp_path.iterdir()) == []


def test_a_second_engine_on_the_file_is_refused_and_disturbs_nothing(database: Path) -> None:
    with Engine(database) as engine:
        run = engine.start(waits, id="order")
        with pytest.raises(FileInUse, match=str(os.getpid())):
            Engine(database)
        run.send("go", 1)
        assert run.result(timeout=60) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "off"}, {"durability": None}, {"max_payload_bytes": 0}, {"max_payload_bytes": "1"},
        {"max_running": 0}, {"max_waiting_in_memory": -1}, {"step_threads": 0}, {"step_threads": 1.5},
        {"max_running": True}, {"workflows": 5},
    ],
    ids=repr,
)  # fmt: skip
def test_unusable_options_are_refused_before_a_file_is_made(database: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        Engine(database, **options)
    assert not database.exists()


@pytest.mark.parametrize(
    "options", [{"status": "done"}, {"status": ["running", 5]}, {"limit": 0}, {"limit": "5"}], ids=repr
)
def test_unusable_filters_are_refused(engine: TestEngine, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        engine.list(**options)
