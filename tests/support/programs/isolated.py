"""Steps that execute in child processes, for `test_process_steps.py`; a child imports this module by its name.

As a script, ``python isolated.py DATABASE NAME ARGUMENT``, it starts a run that calls the step NAME and prints what
became of it as JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell import Engine, PermanentError, Retry, Step, StepInfo, current, step, workflow


@dataclass
class Order:
    id: str
    lines: list[int]


class Declined(Exception):
    def __init__(self, reason: str, *, code: int = 0) -> None:
        super().__init__(f"{reason} ({code})")
        self.reason = reason
        self.code = code


def info() -> StepInfo:
    found = current()
    assert isinstance(found, StepInfo)
    return found


def tell(path: str) -> None:
    """Write this process's id to a file, all at once."""
    temporary = Path(f"{path}.{os.getpid()}")
    temporary.write_text(str(os.getpid()))
    temporary.rename(path)


@step(isolate="process")
def pid() -> int:
    return os.getpid()


@step(isolate="process")
async def pid_async() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@step(isolate="process")
def add_line(order: Order, line: int, *, twice: bool = False) -> Order:
    order.lines.append(line)
    if twice:
        order.lines.append(line)
    return order


@step(isolate="process", retry=Retry(attempts=2, delay=0))
def who_am_i() -> dict[str, Any]:
    found = info()
    if found.attempt == 1:
        raise OSError("the first attempt fails")
    return {
        "run": found.run_id,
        "step": found.step,
        "attempt": found.attempt,
        "operation": found.operation,
        "cancelled": found.cancelled,
    }


@step(isolate="process", retry=Retry(attempts=5, delay=0))
def decline(code: int) -> None:
    if code == 0:
        raise PermanentError("never")
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise Declined("no funds", code=code) from error


@step(isolate="process")
def anything(what: object) -> object:
    return what


@step
def not_isolated() -> int:
    return os.getpid()


@step(isolate="process")
def raise_what_only_the_child_has() -> None:
    import plistlib

    raise plistlib.InvalidFileException


@step(isolate="process")
def not_plain() -> Any:
    return object()


@step(isolate="process")
def inherited() -> list[list[int]]:
    """Return device and inode of every descriptor."""
    found: list[list[int]] = []
    for name in os.listdir("/dev/fd"):
        try:
            facts = os.fstat(int(name))
        except OSError:
            continue
        found.append([facts.st_dev, facts.st_ino])
    return found


@step(isolate="process")
def oom_score() -> int | None:
    path = Path("/proc/self/oom_score_adj")
    return int(path.read_text()) if path.exists() else None


@step(isolate="process")
def write_into_the_pipe() -> None:
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.write(int(name), b"\xff\0\0\0\0")
        except OSError:
            continue
    spin("")


# --- ends --------------------------------------------------------------------------------------------------------


@step(isolate="process", retry=Retry(attempts=2, delay=0))
def kill_myself_once() -> int:
    if info().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def note_call(told: str) -> int:
    """Write down which attempt executes; return how many calls there were before it."""
    path = Path(told)
    before: list[str] = path.read_text().split() if path.exists() else []
    path.write_text(" ".join([*before, str(info().attempt)]))
    return len(before)


@step(isolate="process")
def kill_at_first_call(told: str) -> str:
    if note_call(told) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@step(isolate="process")
async def kill_at_first_call_async(told: str) -> str:
    if note_call(told) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@step(isolate="process")
def exit_with(code: int) -> None:
    os._exit(code)


@step(isolate="process")
def crash_in_native_code() -> None:
    ctypes.string_at(0)


@step(isolate="process")
def told_from_outside() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    spin("")


@step(isolate="process")
def spin(told: str) -> None:
    if told:
        tell(told)
    while True:
        pass


@step(isolate="process")
def spin_in_native_code(told: str) -> None:
    tell(told)
    _ = 7 ** (10**9)  # holds the interpreter's lock, and sees no signal, for minutes


@step(isolate="process")
def ignore_being_told(told: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(told)
    while True:
        time.sleep(60)


@step(isolate="process")
def wait_holding_the_lock(told: str) -> None:
    tell(told)
    while True:
        ctypes.PyDLL(None).pause()


@step(isolate="process")
def with_a_grandchild(told: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, time; os.rename({told + '.new'!r}, {told!r}); time.sleep(60)"]
    )
    Path(told + ".new").write_text(str(process.pid))
    process.wait()


def note_cleaning(told: str) -> None:
    Path(told + ".clean").write_text(str(info().cancelled))


@step(isolate="process")
def clean_up(told: str) -> None:
    try:
        spin(told)
    finally:
        note_cleaning(told)


@step(isolate="process")
async def clean_up_async(told: str) -> None:
    try:
        tell(told)
        await asyncio.sleep(60)
    finally:
        note_cleaning(told)


@step(isolate="process")
def fail_when_told(told: str) -> None:
    try:
        spin(told)
    except SystemExit:
        raise OSError("what it worked with has ended as well") from None


@step(isolate="process")
def handlers_of_a_program() -> list[str]:
    """Return what a program that a step starts does with Ctrl-C and when its terminal closes."""
    program = "import signal; print(signal.getsignal(signal.SIGINT)); print(signal.getsignal(signal.SIGHUP))"
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()


@step(isolate="process")
def answer_all_the_same(told: str) -> str:
    try:
        spin(told)
    except SystemExit:
        return "done after all"
    return "never"


@step(isolate="process")
def wait_for(path: str, told: str) -> int:
    tell(told)
    while not Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


# --- where steps are found ---------------------------------------------------------------------------------------


class Shop:
    @staticmethod
    @step(isolate="process")
    def in_a_class(number: int) -> int:
        return number + 1

    @step(isolate="process")
    def method(self, number: int) -> int:
        return number


def _plain(number: int) -> int:
    return number * 2


under_another_name = step(isolate="process", name="doubled")(_plain)


# --- as a script -------------------------------------------------------------------------------------------------


@workflow
def calls(name: str, argument: Any) -> Any:
    found: Step[..., Any] = globals()[name]
    try:
        return found(*argument)
    except Declined as error:
        return [type(error).__module__, error.reason, error.code]


if __name__ == "__main__":
    with Engine(sys.argv[1]) as engine:
        found = engine.start(calls, sys.argv[2], json.loads(sys.argv[3])).result(60)
    sys.stdout.write(json.dumps(found))
