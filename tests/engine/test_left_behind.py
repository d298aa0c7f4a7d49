"""What the code of a run leaves behind, in whatever form, acts in no other run, no step and no thread, and is silent.

Runs that wait leave memory at once here. What nothing refers to is found by the collector, where a bystander forces it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

import stepwell
from stepwell import AsyncEngine, publish, receive, send, step, sync, workflow
from stepwell.testing import TestEngine

executed: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_is_collected_but_by_the_test() -> Iterator[None]:
    executed.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@step(name="undo")
async def undo(what: Any) -> Any:
    executed.append(what)
    return what


@step(name="undo plainly")
def undo_plainly(what: Any) -> Any:
    executed.append(what)
    return what


@workflow
async def stray() -> None: ...


# --- what clean-up tries ----------------------------------------------------------------------------------------------


async def calls_a_step() -> None:
    await undo("step")


async def calls_a_def_step() -> None:
    undo_plainly("def step")


async def calls_it_in_a_thread() -> None:
    await asyncio.to_thread(undo_plainly, "in a thread")


async def sleeps() -> None:
    await asyncio.sleep(1)


async def makes_a_task() -> None:
    await asyncio.create_task(undo("in a task"))


async def gathers() -> None:
    await asyncio.gather(undo("gathered"), undo("also gathered"))


async def has_a_timeout() -> None:
    async with asyncio.timeout(5):
        await undo("within a timeout")


async def talks_to_the_loop() -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(executed.append, "called soon")
    loop.call_later(1, executed.append, "called later")


async def publishes() -> None:
    await publish("key", "value")


async def sends() -> None:
    await send("bystander", "go", "from the grave")


async def receives() -> None:
    await receive("go")


async def starts_a_child() -> None:
    await stepwell.start(stray, id="stray")


async def asks_what_is_patched() -> None:
    executed.append(stepwell.patched("patch"))


async def asks_who_it_is() -> None:
    await undo(stepwell.current().run_id)


async def logs() -> None:
    stepwell.get_logger("flow").error("clean-up")


CLEAN_UPS = [
    calls_a_step,
    calls_a_def_step,
    calls_it_in_a_thread,
    sleeps,
    makes_a_task,
    gathers,
    has_a_timeout,
    talks_to_the_loop,
    publishes,
    sends,
    receives,
    starts_a_child,
    asks_what_is_patched,
    asks_who_it_is,
    logs,
]
CleanUp = Callable[[], Coroutine[Any, Any, None]]


async def guarded(clean_up: CleanUp) -> None:
    try:
        await receive("never")
    finally:
        await clean_up()


def guarded_plainly(clean_up: CleanUp) -> Generator[None, None, None]:
    try:
        yield
    finally:
        with suppress(StopIteration):
            clean_up().send(None)


async def guarded_source(clean_up: CleanUp) -> AsyncGenerator[int, None]:
    try:
        yield 1
        await receive("never")
    finally:
        await clean_up()


def in_a_cycle(*things: Any) -> None:
    """Have only the collector find these."""
    cycle: list[Any] = [*things]
    cycle.append(cycle)


# --- what is left -----------------------------------------------------------------------------------------------------


async def a_task(clean_up: CleanUp) -> None:
    task = asyncio.create_task(guarded(clean_up))
    in_a_cycle(task)
    await asyncio.Event().wait()


async def a_task_of_asyncio(clean_up: CleanUp) -> None:
    in_a_cycle(asyncio.Task(guarded(clean_up)))
    await receive("never")


async def a_coroutine_driven_by_hand(clean_up: CleanUp) -> None:
    coroutine = guarded(clean_up)
    coroutine.send(None)
    await receive("never")


async def a_coroutine_in_a_cycle(clean_up: CleanUp) -> None:
    coroutine = guarded(clean_up)
    coroutine.send(None)
    in_a_cycle(coroutine)
    await receive("never")


async def a_generator(clean_up: CleanUp) -> None:
    generator = guarded_plainly(clean_up)
    next(generator)
    await receive("never")


async def a_generator_in_a_cycle(clean_up: CleanUp) -> None:
    generator = guarded_plainly(clean_up)
    next(generator)
    in_a_cycle(generator)
    await receive("never")


async def an_async_generator(clean_up: CleanUp) -> None:
    source = guarded_source(clean_up)
    await anext(source)
    await receive("never")


async def an_async_generator_in_a_cycle(clean_up: CleanUp) -> None:
    source = guarded_source(clean_up)
    await anext(source)
    holder.append(source)
    in_a_cycle(source)
    await receive("never")


async def an_async_generator_that_waits(clean_up: CleanUp) -> None:
    async for _ in guarded_source(clean_up):
        pass


async def an_async_generator_that_waits_in_a_task(clean_up: CleanUp) -> None:
    source = guarded_source(clean_up)
    await anext(source)
    task = asyncio.ensure_future(anext(source))
    in_a_cycle(task, source)
    await receive("never")


async def coroutines_that_never_began(clean_up: CleanUp) -> None:
    ahead = [guarded(clean_up), undo("listed")]
    by_name = {"one": [guarded(clean_up)]}
    later = functools.partial(asyncio.gather, guarded(clean_up))
    enclosed = guarded(clean_up)

    async def inner() -> None:
        await receive("never")
        await enclosed

    await inner()
    await asyncio.gather(*ahead, *by_name["one"], later())


async def an_error_with_its_frames(clean_up: CleanUp) -> None:
    def fails() -> None:
        generator = guarded_plainly(clean_up)
        next(generator)
        raise LookupError

    try:
        fails()
    except LookupError as error:
        in_a_cycle(error)
    await receive("never")


holder: list[Any] = []
LEFT = [
    a_task,
    a_task_of_asyncio,
    a_coroutine_driven_by_hand,
    a_coroutine_in_a_cycle,
    a_generator,
    a_generator_in_a_cycle,
    an_async_generator,
    an_async_generator_in_a_cycle,
    an_async_generator_that_waits,
    an_async_generator_that_waits_in_a_task,
    coroutines_that_never_began,
    an_error_with_its_frames,
]
#: What code carries on itself, without a task: nobody knows of it. Its clean-up finds the event loop of whoever
#: executes when it is freed. What asks asyncio alone, and not Stepwell, gets what any code would get there.
BY_HAND = [
    a_coroutine_driven_by_hand,
    a_coroutine_in_a_cycle,
    a_generator,
    a_generator_in_a_cycle,
    an_error_with_its_frames,
]
OF_ASYNCIO = [calls_it_in_a_thread, sleeps, makes_a_task, gathers, has_a_timeout, talks_to_the_loop]


def clean_ups_of(left: Any) -> list[str]:
    return [each.__name__ for each in CLEAN_UPS if left not in BY_HAND or each not in OF_ASYNCIO]


LEFT_BY_NAME = {each.__name__: each for each in LEFT}
CLEAN_UP_BY_NAME = {each.__name__: each for each in CLEAN_UPS}


@workflow
async def leaves(left: str, clean_up: str) -> None:
    await LEFT_BY_NAME[left](CLEAN_UP_BY_NAME[clean_up])


def driven_by_hand(clean_up: CleanUp) -> None:
    generator = guarded_plainly(clean_up)
    next(generator)
    in_a_cycle(generator)


@workflow
def leaves_plainly(clean_up: str) -> None:
    driven_by_hand(CLEAN_UP_BY_NAME[clean_up])
    try:
        sync.receive("never")
    finally:
        undo_plainly("plainly")
        sync.sleep(1)


# --- who meets it -----------------------------------------------------------------------------------------------------


def collect() -> None:
    holder.clear()
    gc.collect()


@step(name="collects")
async def collects() -> None:
    collect()


@step(name="collects plainly")
def collects_plainly() -> None:
    collect()


async def in_its_code() -> None:
    collect()


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(collect)
    await asyncio.sleep(0)


async def in_an_async_step() -> None:
    await collects()


async def in_a_def_step() -> None:
    await asyncio.to_thread(collects_plainly)


MEETINGS = [in_its_code, in_a_callback, in_an_async_step, in_a_def_step]
MEETING_BY_NAME = {each.__name__: each for each in MEETINGS}


@workflow
async def bystander(meeting: str) -> str:
    await MEETING_BY_NAME[meeting]()
    return await receive("go", str)


@workflow
def plain_bystander() -> str:
    collect()
    return sync.receive("go", str)


def assert_undisturbed(engine: TestEngine, run: Any, *kinds: str) -> None:
    engine.advance(100)
    assert [line.kind for line in run.journal()] == [*kinds]
    run.send("go", "undisturbed")
    assert run.result(timeout=60) == "undisturbed"
    assert executed == []


@pytest.fixture
def quiet(
    engine: TestEngine, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[TestEngine]:
    """An engine whose runs leave memory when they wait, and about which nothing is said."""
    engine.reopen(max_waiting_in_memory=0)
    yield engine
    engine.close()
    gc.collect()
    assert "".join(capfd.readouterr()) == ""
    assert not [record for record in caplog.records if record.name == "flow" or record.levelname == "ERROR"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("meeting", MEETINGS)
@pytest.mark.parametrize("left", LEFT)
def test_it_acts_nowhere(quiet: TestEngine, left: Any, meeting: Any) -> None:
    runs = [quiet.start(leaves, left.__name__, clean_up) for clean_up in clean_ups_of(left)]
    quiet.idle()
    before = {run.id: run.journal() for run in runs}
    run = quiet.start(bystander, meeting.__name__, id="bystander")
    assert_undisturbed(quiet, run, *(["step"] if "step" in meeting.__name__ else []))
    assert {run.id: run.journal() for run in runs} == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("left", LEFT)
def test_it_acts_in_no_def_workflow_and_in_no_thread(quiet: TestEngine, left: Any) -> None:
    for clean_up in clean_ups_of(left):
        quiet.start(leaves, left.__name__, clean_up)
    for clean_up in clean_ups_of(a_generator_in_a_cycle):
        quiet.start(leaves_plainly, clean_up)
    quiet.idle()
    assert_undisturbed(quiet, quiet.start(plain_bystander, id="bystander"))
    for clean_up in clean_ups_of(left):
        quiet.start(leaves, left.__name__, clean_up)
    quiet.idle()
    thread = threading.Thread(target=collect)
    thread.start()
    thread.join()
    assert executed == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("left", LEFT)
def test_a_program_of_plain_asyncio_around_the_engine_is_not_disturbed(
    tmp_path: Any, left: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async def program() -> None:
        async with AsyncEngine(tmp_path / "runs.db", max_waiting_in_memory=0) as engine:
            for clean_up in clean_ups_of(left):
                await engine.start(leaves, left.__name__, clean_up)
            run = await engine.start(bystander, "in_an_async_step", id="bystander")
            await run.send("go", "undisturbed")
            assert await run.result(timeout=60) == "undisturbed"
            before = asyncio.all_tasks()
            collect()
            assert asyncio.all_tasks() == before

    asyncio.run(program())
    assert executed == []
    assert capfd.readouterr().err == ""
