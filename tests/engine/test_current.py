"""`current` knows what is executing, in runs and where steps and workflows are called as plain functions."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

import stepwell
from stepwell import RunContext, StepInfo, StepwellError, current, step, transaction, workflow
from stepwell.testing import TestEngine


@step
def key() -> str:
    return current().idempotency_key


@step
async def key_later() -> str:
    before = current().idempotency_key
    await asyncio.sleep(0)
    assert current().idempotency_key == before
    return before


@transaction
def key_in_transaction(_connection: object) -> str:
    return current().idempotency_key


class Shop:
    @step
    def key(self) -> str:
        return current().idempotency_key


PLAINLY: dict[str, Any] = {
    "def": key,
    "async": lambda: asyncio.run(key_later()),
    "transaction": lambda: key_in_transaction(object()),  # type: ignore[call-arg]  # outside, the plain function
    "method": lambda: Shop().key(),
    "configured": key.options(timeout=5),
    "isolated": key.options(isolate="process"),
}


@pytest.mark.parametrize("kind", PLAINLY)
def test_a_step_that_asks_can_be_called_outside_of_any_run(kind: str) -> None:
    keys = {PLAINLY[kind]() for _ in range(3)}
    assert len(keys) == 3  # an outside service would take the same key for a repetition
    assert all(found.startswith("outside-") for found in keys)


def test_such_a_step_finds_all_that_it_would_find_in_a_run() -> None:
    @step(name="curious")
    def curious() -> list[Any]:
        info = current()
        assert isinstance(info, StepInfo)
        info.check_cancelled()
        return [info.step, info.attempt, info.operation, info.cancelled, info.started_at.tzinfo is not None]

    assert curious() == ["curious", 1, 1, False, True]


def test_a_step_inside_a_step_is_still_the_outer_one() -> None:
    @step(name="outer")
    async def outer() -> list[str]:
        mine = current().idempotency_key
        return [mine, key(), await key_later(), *await asyncio.gather(key_later(), key_later())]

    assert len(set(asyncio.run(outer()))) == 1


def test_a_workflow_that_asks_can_be_called_outside_of_any_run_and_its_steps_are_steps() -> None:
    @workflow(name="plain")
    async def plain() -> list[str]:
        context = current()
        assert isinstance(context, RunContext)
        found = [context.run_id, context.workflow, str(context.replaying), key(), await key_later()]
        assert current() == context
        return found

    run_id, name, replaying, *keys = asyncio.run(plain())
    assert run_id.startswith("outside-")
    assert (name, replaying) == ("plain", "False")
    assert len({run_id, *(found.partition(":")[0] for found in keys)}) == 3


def test_nothing_is_left_behind_by_a_call_that_ends_or_fails_or_is_abandoned() -> None:
    @step
    def fails() -> None:
        raise ConnectionError(current().step)

    @step
    async def waits() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        with pytest.raises(ConnectionError):
            fails()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waits(), 0.001)
        waits().close()
        with pytest.raises(StepwellError, match="outside"):
            current()

    asyncio.run(main())


def test_an_async_step_called_outside_is_a_coroutine_that_is_called_what_the_step_is() -> None:
    coroutine: Any = key_later()
    assert asyncio.iscoroutine(cast("object", coroutine))
    assert coroutine.__qualname__.endswith("key_later")
    with pytest.raises(TypeError, match="key_later"):
        _ = key_later(1)  # type: ignore[call-arg]
    coroutine.close()


@pytest.mark.parametrize("name", ["idempotency_key", "attempt", "step", "cancelled", "check_cancelled"])
def test_what_only_a_step_has_is_refused_in_workflow_code_by_name(engine: TestEngine, name: str) -> None:
    @workflow
    async def asks() -> str:
        context: Any = current()
        assert context.run_id == "run-7"
        with pytest.raises(AttributeError) as refused:
            getattr(context, name)() if name == "check_cancelled" else getattr(context, name)
        return str(refused.value)

    text = engine.start(asks, id="run-7").result(60)
    assert "run-7" in text
    assert "in workflow code" in text
    assert "as it has in a step" in text


def test_what_only_a_workflow_has_is_refused_in_a_step(engine: TestEngine) -> None:
    @step
    def asks() -> str:
        context = current()
        for name in ("workflow", "replaying"):
            with pytest.raises(AttributeError, match="as it has in workflow code"):
                getattr(context, name)
        with pytest.raises(AttributeError) as refused:
            _ = context.nonsense  # type: ignore[attr-defined]
        return str(refused.value)

    @workflow
    async def calls() -> str:
        return asks()

    assert engine.start(calls).result(60).endswith("it has no 'nonsense'")


def test_current_is_one_class_with_both() -> None:
    assert issubclass(StepInfo, stepwell.Current)
    assert issubclass(RunContext, stepwell.Current)
