"""Options that are typed once are shown by each signature that takes them, and others are refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import AsyncEngine, AsyncQueueHandle, AsyncRun, Engine, QueueHandle, Run, workflow


@workflow(name="unknown_options.nothing")
async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (lambda engine, **given: engine.list(**given), "status, workflow, id_prefix, limit, before"),
        (lambda engine, **given: engine.get("r").stream("s", **given), "start, last_attempt, follow, timeout"),
        (lambda engine, **given: engine.queue("q").change(**given), "concurrency, per_worker, partition_concurrency"),
    ],
    ids=["list", "stream", "change"],
)
def test_an_unknown_option_is_refused_by_name_with_those_that_there_are(
    database: Path, call: Callable[..., Any], options: str
) -> None:
    with Engine(database) as engine:
        engine.start(nothing, id="r", queue="q").result(60)
        with pytest.raises(TypeError, match=f"'colour'; it has {options}"):
            call(engine, colour="red")
        assert engine.queue("q").info().concurrency is None


@pytest.mark.parametrize(
    ("methods", "names"),
    [
        ((Engine.list, AsyncEngine.list), ["status", "workflow", "id_prefix", "limit", "before"]),
        ((Run.stream, AsyncRun.stream), ["start", "last_attempt", "follow", "timeout"]),
        ((QueueHandle.change, AsyncQueueHandle.change), ["concurrency", "per_worker", "partition_concurrency"]),
    ],
    ids=["list", "stream", "change"],
)
def test_both_kinds_of_engines_show_the_same_options(methods: tuple[Any, Any], names: list[str]) -> None:
    shown = [
        [each.name for each in inspect.signature(method).parameters.values() if each.kind is each.KEYWORD_ONLY]
        for method in methods
    ]
    assert shown[0] == shown[1]
    assert shown[0][: len(names)] == names
