"""One test as the body of a workflow: how it is run, and how its end is judged."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pytest
from _pytest.outcomes import OutcomeException

from stepwell import workflow
from stepwell.errors import InvalidArgument, WorkflowIOError
from stepwell.testing import TestEngine

#: How a body is run. ``live``: in memory from beginning to end. ``evicted``: it leaves memory at each wait, and is read
#: from its journal again. ``crashed``: the process dies at each operation, and another one goes on.
Mode = Literal["live", "evicted", "crashed"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

#: What becomes of a test. ``refused``: it uses what workflow code may not use, and was told so by a clear error.
Status = Literal["passed", "refused", "skipped", "failed"]

#: How many virtual seconds a test may sleep: one that has not ended by then waits for ever.
_PATIENCE_SECONDS: Final = 100_000.0
#: How many real seconds the engine may be busy at a stretch.
_IDLE_SECONDS: Final = 20.0
#: How often a process may die in one trial.
_MAX_CRASHES: Final = 200
#: Errors by which the engine refuses something.
_REFUSALS: Final = (WorkflowIOError, InvalidArgument)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a test in one mode, and why. `journal` is what was recorded, the same in all modes."""

    status: Status
    reason: str = ""
    journal: str = ""


Body = Callable[[], Awaitable[object]]


def run_trial(body: Body, mode: Mode) -> Verdict:
    """Run a test as the body of a workflow."""
    ends: list[BaseException | None] = []

    @workflow(name="body")
    async def durable_body() -> None:
        try:
            await body()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - pytest's outcomes are of this kind
            ends.append(error)
        else:
            ends.append(None)

    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        options: dict[str, Any] = {"workflows": [durable_body], "durability": "normal"}
        if mode == "evicted":
            options["max_waiting_in_memory"] = 0
        with TestEngine(Path(folder) / "trial.db", **options) as engine:
            run = engine.start(durable_body, id="trial")
            try:
                if mode == "crashed":
                    _die_at_each_wait(engine)
                else:
                    engine.advance(_PATIENCE_SECONDS, timeout=_IDLE_SECONDS)
            except TimeoutError:
                return Verdict("failed", "its code never waits")
            info = run.info()
            journal = repr([(line.operation, line.kind, line.name) for line in run.journal()])
    if info.status == "completed":
        return replace(_judge(ends[-1]), journal=journal)
    if info.status == "waiting":
        return Verdict("failed", "it waits for ever")
    return Verdict("failed", f"the run is {info.status}: {_first_line(info.reason or info.error or 'no reason')}")


def _die_at_each_wait(engine: TestEngine) -> None:
    for _ in range(_MAX_CRASHES):
        due = engine._idle(_IDLE_SECONDS)
        if engine.get("trial").status not in {"running", "waiting"}:
            return
        engine.crash()
        engine.reopen()
        if due is None:
            break
        engine.advance(max(0, due - engine.clock.now()) / 1e6, timeout=_IDLE_SECONDS)
    engine.advance(_PATIENCE_SECONDS, timeout=_IDLE_SECONDS)


def _judge(end: BaseException | None) -> Verdict:
    if end is None:
        return Verdict("passed")
    if isinstance(end, pytest.skip.Exception) or type(end).__name__ == "SkipTest":
        return Verdict("skipped", _first_line(end))
    for error in _related(end):
        if isinstance(error, _REFUSALS):
            return Verdict("refused", _first_line(error))
    kind = "" if isinstance(end, OutcomeException) else f"{type(end).__name__}: "
    return Verdict("failed", kind + _first_line(end))


def _related(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, those that it came from, and the members of groups among them."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def _first_line(what: object) -> str:
    lines = str(what).strip().splitlines()
    return lines[0] if lines else ""
