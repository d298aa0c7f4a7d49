"""A program that uses every operation of a workflow, and can be told to kill itself around a COMMIT.

    python everything.py DATABASE LOG RESULT WAITING

opens DATABASE with at most WAITING waiting runs in memory, asks for the same runs and messages as every time, waits for
the end and writes what it found to RESULT. Each execution of a step appends a line ``run operation step attempt pid``
to LOG.

``KILL_AT=7:before`` in the environment: the process sends itself SIGKILL right before its seventh COMMIT, with all of
that transaction written; ``7:after``: right after it. The engine knows nothing of this: the store's writer is wrapped
from outside. ``python everything.py`` without arguments is a fork server: it reads one JSON list (a list of arguments,
and KILL_AT) a line and answers with the exit status of a child that did it, which saves the start of an interpreter for
each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import stepwell
from stepwell import (
    Engine,
    FailedRun,
    PermanentError,
    Retry,
    RunEnded,
    StepInterrupted,
    continue_as_new,
    current,
    patched,
    publish,
    receive,
    send,
    sleep_until,
    step,
    sync,
    transaction,
    workflow,
)

LOG = ""
TICK = 0.005


def note(what: str) -> None:
    """Append one line to the side log, in one write."""
    with open(LOG, "ab", buffering=0) as file:
        file.write(f"{what} {os.getpid()}\n".encode())


def acted() -> int:
    info = current()
    assert isinstance(info, stepwell.StepInfo)
    note(f"{info.run_id} {info.operation} {info.step} {info.attempt}")
    return info.attempt


@step(name="greet")
async def greet(name: str) -> str:
    acted()
    await asyncio.sleep(0)
    return f"hello {name}"


@step(name="shout")
def shout(text: str) -> str:
    acted()
    return text.upper()


@step(name="flaky", retry=Retry(attempts=4, delay=TICK, jitter=0))
async def flaky(text: str) -> str:
    attempt = acted()
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt}")
    return f"{text} at last"


@step(name="hopeless", retry=Retry(attempts=2, delay=TICK))
def hopeless() -> str:
    acted()
    raise LookupError("never")


@step(name="charge", delivery="at-most-once")
async def charge(amount: int) -> int:
    acted()
    return amount


@step(name="hang")
async def hang() -> None:
    acted()
    await asyncio.Event().wait()


@step(name="square")
async def square(number: int) -> int:
    acted()
    return number * number


@step(name="echo")
async def echo(value: Any) -> Any:
    acted()
    return value


@transaction(name="book")
def book(tx: Any, what: str, amount: int) -> int:
    tx.execute("INSERT INTO ledger (what, amount) VALUES (?, ?)", (what, amount))
    return int(tx.execute("SELECT count(*) FROM ledger WHERE what = ?", (what,))[0][0])


@workflow(name="double")
async def double(number: int) -> int:
    await asyncio.sleep(TICK)
    return await square(number) * 2


@workflow(name="plain")
def plain(word: str) -> str:
    sync.sleep(TICK)
    first = shout(word)
    second = sync.receive("suffix", str)
    sync.publish("seen", second)
    return first + second


@workflow(name="patient")
async def patient() -> str:
    try:
        return await receive("never", str)
    finally:
        await echo("cleaned up")


@step(name="undo")
def undo(_what: str) -> None:
    acted()


@step(name="undo-in-vain", retry=Retry(attempts=1))
async def undo_in_vain(what: str) -> None:
    acted()
    raise PermissionError(what)


@step(name="gone")
async def gone(what: str) -> None:
    acted()
    raise PermanentError(what)


@workflow(name="trip")
async def trip(ends: str) -> str:
    async with stepwell.saga() as saga:
        saga.undo(undo, await echo("flight"))
        saga.undo(undo_in_vain, await echo("insurance"))
        saga.undo(double, 7)
        if ends == "cancelled":
            await send("main", "is booked")
            await receive("never")
        await gone(await echo("no room"))
    return "booked"


@workflow(name="pen-friend")
async def pen_friend() -> list[str]:
    return [await receive("letter", str) for _ in range(2)]


@workflow(name="serial")
async def serial(chapter: int, heard: list[str]) -> list[Any]:
    """Hear of one part in each of three chapters, with a child that the first one starts and the last one waits for."""
    started = await stepwell.start(double, 7, id="serial-child")
    heard = [*heard, await echo(await receive("part", str))]
    await publish("parts", heard)
    if chapter < 3:
        continue_as_new(chapter + 1, heard)
    return [*heard, await started.result()]


@workflow(name="counter")
async def counter() -> int:
    total = 0
    closed = asyncio.Event()

    @stepwell.update
    async def add(number: int) -> int:
        nonlocal total
        if number < 0:
            raise ValueError("below zero")
        total += await square(number)
        return total

    @stepwell.update
    def close() -> int:
        closed.set()
        return total

    await closed.wait()
    return total


@workflow(name="asks")
async def asks() -> list[Any]:
    """Be answered, refused, and left without an answer."""
    yes, no = stepwell.promise(int), stepwell.promise(int)
    nobody = stepwell.promise(int, timeout=TICK, default=0)
    await publish("tokens", await echo([yes.token, no.token]))
    try:
        refused = str(await no)
    except ValueError as error:
        refused = str(error)
    await stepwell.set_attributes({"refused": refused})
    said = stepwell.stream("said", int)
    await said.write(await yes)
    await said.close()
    try:
        await said.write(0)
    except stepwell.StreamClosed:
        refused += " more"
    return [await yes, refused, await nobody]


@workflow(name="is told")
async def is_told(failed: FailedRun) -> str:
    return str(await echo(failed.message))


@workflow(name="fails", on_failure=is_told)
async def fails() -> None:
    raise ValueError(await echo("told once"))


async def two_steps(name: str, number: int) -> list[Any]:
    first = await echo(name)
    await asyncio.sleep(TICK * number / 2)
    return [first, await square(number)]


async def times(out: dict[str, Any]) -> None:
    await asyncio.sleep(TICK)
    await sleep_until(stepwell.now() + timedelta(seconds=TICK))
    try:
        async with asyncio.timeout(TICK):
            await receive("nobody sends this")
    except TimeoutError:
        out["timeout"] = True
    out["no message"] = await receive("nobody sends this", str, timeout=TICK, default="gave up")
    quick, slow = asyncio.create_task(square(9)), asyncio.create_task(asyncio.sleep(3600))
    done, left = await asyncio.wait({quick, slow}, return_when=asyncio.FIRST_COMPLETED)
    out["race"] = [task.result() for task in done]
    for task in left:
        task.cancel()
    out["first"] = [await one for one in asyncio.as_completed([echo("only")])]


async def tasks(out: dict[str, Any]) -> None:
    hanging = asyncio.create_task(hang())
    await asyncio.sleep(TICK)
    hanging.cancel()
    out["hanging"] = [type(end).__name__ for end in await asyncio.gather(hanging, return_exceptions=True)]
    out["nested"] = await asyncio.gather(
        two_steps("a", 3), asyncio.gather(two_steps("b", 2), two_steps("c", 1)), asyncio.to_thread(shout, "thread")
    )
    async with asyncio.TaskGroup() as group:
        members = [group.create_task(two_steps(name, index)) for index, name in enumerate("xyz")]
    out["group"] = [member.result() for member in members]
    out["map"] = await stepwell.map(square, range(5), limit=2)


async def relatives(out: dict[str, Any]) -> None:
    out["called"] = await double(3)
    attached = await stepwell.start(double, 4)
    lingering = await stepwell.start(patient, id="lingering")
    detached = await stepwell.start(double, 5, id="detached", detached=True)
    friend = await stepwell.start(plain, "well", id="friend")
    await friend.send("suffix", "done")
    out["friend"] = await friend.result()
    out["attached"] = await attached.result()
    for number in (1, 2):
        await send("pen-friend", "letter", f"letter {number}", key=f"letter {number}")
    dropped = await stepwell.start(patient, id="dropped")
    await dropped.cancel("not needed")
    try:
        await dropped.result()
    except stepwell.RunCancelled as error:
        out["dropped"] = str(error)
    out["started"] = [lingering.id, detached.id]
    out["seen"] = await stepwell.get_run(friend.id).status()
    try:
        await stepwell.get_run("nobody").status()
    except stepwell.RunNotFound as error:
        out["not seen"] = str(error)
    trips = [await stepwell.start(trip, ends, id=f"trip-{ends}") for ends in ("failed", "cancelled")]
    await receive("is booked")
    await trips[1].cancel("rain")
    out["trips"] = []
    for each in trips:
        try:
            await each.result()
        except stepwell.UndoFailed as group:
            out["trips"].append([str(error) for error in group.exceptions])


@workflow(name="everything")
async def everything(label: str) -> dict[str, Any]:
    out: dict[str, Any] = {"greet": await greet(label)}
    out["flaky"] = await flaky(label)
    try:
        hopeless()
    except LookupError as error:
        out["hopeless"] = str(error)
    try:
        out["charge"] = await charge(7)
    except StepInterrupted:
        out["charge"] = 7
    out["booked"] = book("main", 5)
    out["drawn"] = await echo([stepwell.random(), str(stepwell.uuid4()), stepwell.now().isoformat()]) != []
    await times(out)
    await publish("progress", "half")
    out["notes"] = [await receive("note", str) for _ in range(3)]
    await tasks(out)
    await relatives(out)
    if patched("a later idea"):
        out["patched"] = shout("patched")
    out["booked again"] = book("main", 6)
    await publish("progress", "done")
    return out


def kill_around_commit(at: str) -> None:
    """Wrap the one function that commits, so that this process dies around its n-th COMMIT."""
    from stepwell.store.sqlite.writer import Writer

    number, _, moment = at.partition(":")
    left = int(number)
    finish = Writer.finish

    def finish_or_die(self: Writer, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            self.applier.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        finish(self, *args, **kwargs)
        if left == 0 and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    Writer.finish = finish_or_die  # type: ignore[method-assign]


def ask(engine: Engine) -> dict[str, Any]:
    """Ask for everything, as if for the first time, wait for the end of it, and return what came of it."""
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE IF NOT EXISTS ledger (what TEXT, amount INTEGER)")
        if not tx.execute("SELECT 1 FROM ledger WHERE what = 'outbox'"):
            tx.execute("INSERT INTO ledger VALUES ('outbox', 1)")
            tx.start(plain, "outbox", id="outbox")
            tx.send("outbox", "suffix", "!")
    friend = engine.start(pen_friend, id="pen-friend")
    parts = engine.start(serial, 1, [], id="serial")
    run = engine.start(everything, "world", id="main")
    asking, failing = engine.start(asks, id="asks"), engine.start(fails, id="fails")
    for word in ("one", "two", "three"):
        try:
            engine.send("main", "note", word, key=word)
        except RunEnded:
            break
    for word in ("first", "second", "third"):
        try:
            parts.send("part", word, key=word)
        except RunEnded:
            break
    counting = engine.start(counter, id="counter", updates=[("add", [2], "two")])
    answers = [counting.update("add", 2, key="two"), counting.update("add", 3, key="three")]
    try:
        counting.update("add", -1, key="minus one")
    except ValueError as error:
        answers.append(str(error))
    answers += [counting.update("close", key="close"), counting.result(timeout=60)]
    found: dict[str, Any] = {"main": run.result(timeout=60), "friend": friend.result(timeout=60)}
    found["outbox"] = engine.get("outbox").result(timeout=60)
    found["detached"] = engine.get("detached").result(timeout=60)
    for run_id in ("lingering", "dropped"):
        try:
            engine.get(run_id).result(timeout=60)
        except stepwell.RunCancelled:
            found[run_id] = "cancelled"
    found["serial"] = [parts.result(timeout=60), parts.value("parts", timeout=60), parts.info().chapter]
    found["answers"] = answers
    tokens = asking.value("tokens", timeout=60)
    engine.resolve(tokens[0], 7)
    engine.reject(tokens[1], ValueError("never"))
    found["asked"] = asking.result(timeout=60)
    try:
        failing.result(timeout=60)
    except ValueError:
        found["told"] = [hook.result(timeout=60) for hook in engine.list(workflow=is_told)]
    found["progress"] = run.value("progress", timeout=60)
    with engine.transaction() as tx:
        found["ledger"] = tx.execute("SELECT what, amount FROM ledger ORDER BY what, amount")
    return found


def begin(acts: Callable[[Engine], dict[str, Any]]) -> None:
    """Be a program that does `acts`, once or for each line of the input; see the module."""
    if len(sys.argv) > 1:
        run_once(acts, sys.argv[1:], os.environ.get("KILL_AT", ""))
    else:
        serve(acts)


def run_once(acts: Callable[[Engine], dict[str, Any]], arguments: list[str], kill_at: str) -> None:
    global LOG
    if kill_at:
        kill_around_commit(kill_at)
    database, LOG, result, waiting = arguments
    # It is killed so often that it looks as if its runs were to blame.
    with Engine(database, max_waiting_in_memory=int(waiting), max_crashes=1_000_000) as engine:
        found = acts(engine)
    Path(result).write_text(json.dumps(found, sort_keys=True))


def serve(acts: Callable[[Engine], dict[str, Any]]) -> None:
    """Answer each line ``[arguments, kill_at]`` with the wait status of a child that ran it."""
    import stepwell.store.sqlite.store  # noqa: F401 - loaded once, for all children

    for line in sys.stdin:
        arguments, kill_at = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                run_once(acts, arguments, kill_at)
                status = 0
            except BaseException:  # noqa: BLE001 - told to the parent
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    begin(ask)
