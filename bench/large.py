"""What values of many megabytes cost, and what others see meanwhile: ``python -m bench.large [MEGABYTES …]``.

For each way in which a value gets into the file: the CPU time of one run that does it, in the whole process, less that
of the same run with a small value, as a multiple of `msgspec` and `zlib` there and back (encode, compress, decompress,
decode without the collector; measured just before, in the same process). Then, while it is done once more, the
longest time from asking to having the result of a run of one step that does nothing, and what another process saw of
the worker: its states, and how often.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from stepwell import Engine, Run, publish, receive, start, step, workflow

SIZES_MEGABYTES: Final = (1, 15, 50)
_MAX_PAYLOAD_BYTES: Final = 500_000_000
_ROUNDS: Final = 2


@dataclass
class Line:
    """A line of an order."""

    sku: str
    quantity: int
    price: float


@dataclass
class Order:
    """What values are made of: as typical data as any."""

    id: str
    paid: bool
    note: str | None
    lines: list[Line]


_ORDER_BYTES: Final = 257


def orders(megabytes: float) -> list[Order]:
    """Make orders of so many megabytes of JSON."""
    return [
        Order(f"order-{i}", i % 3 == 0, None if i % 2 else "x", [Line(f"sku-{i}-{k}", k, i / 7) for k in range(3)])
        for i in range(max(1, int(megabytes * 1e6 / _ORDER_BYTES)))
    ]


#: What the runs handle: made by whoever measures, so that making it does not count.
_values: dict[str, list[Order]] = {}


@step
async def load(name: str) -> list[Order]:
    """Return a value, on the loop."""
    return _values[name]


@step
def load_in_thread(name: str) -> list[Order]:
    """Return a value, in a thread."""
    return _values[name]


@step
def take(value: list[Order]) -> int:
    """Take a value."""
    return len(value)


@step
async def one() -> int:
    """Do nothing."""
    return 1


@workflow
async def nothing() -> int:
    """Call one step."""
    return await one()


@workflow
async def step_result(name: str) -> int:
    """Get a value from an async step."""
    return len(await load(name))


@workflow
async def thread_result(name: str) -> int:
    """Get a value from a `def` step."""
    return len(load_in_thread(name))


@workflow
async def step_argument(name: str) -> int:
    """Pass a value to a step."""
    return take(_values[name])


@workflow
async def result(name: str) -> list[Order]:
    """Return a value."""
    return _values[name]


@workflow
async def argument(value: list[Order]) -> int:
    """Take a value."""
    return len(value)


@workflow
async def child_input(name: str) -> int:
    """Pass a value to a child."""
    return await (await start(argument, _values[name])).result()


@workflow
async def message(name: str) -> int:  # noqa: ARG001 - all take one
    """Receive a value."""
    return len(await receive("value", list[Order]))


@workflow
async def published(name: str) -> int:
    """Publish a value."""
    await publish("value", _values[name])
    return 1


def _call(flow: Any) -> Callable[[Engine, str], Run[Any]]:
    return lambda engine, name: engine.start(flow, name)


def _started(engine: Engine, name: str) -> Run[Any]:
    return engine.start(argument, _values[name])


def _sent(engine: Engine, name: str) -> Run[Any]:
    run = engine.start(message, name)
    run.send("value", _values[name])
    return run


WAYS: Final[dict[str, Callable[[Engine, str], Run[Any]]]] = {
    "async step result": _call(step_result),
    "def step result": _call(thread_result),
    "step argument": _call(step_argument),
    "workflow argument": _started,
    "workflow result": _call(result),
    "child input": _call(child_input),
    "message": _sent,
    "published value": _call(published),
}


def _cpu(call: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(_ROUNDS):
        gc.collect()
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def _done(way: Callable[[Engine, str], Run[Any]], engine: Engine, name: str) -> None:
    """Go one way, and wait for the end of the run without reading its result."""
    run = way(engine, name)
    while run.info().status not in ("completed", "failed", "halted", "cancelled"):
        time.sleep(0.005)
    assert run.info().status == "completed", run.info().reason


def _yardstick(value: list[Order]) -> tuple[int, float]:
    """Return the size of the JSON, and the seconds that msgspec and zlib take there and back."""
    data = msgspec.json.encode(value)
    packed = zlib.compress(data, 1)
    read = msgspec.json.Decoder(list[Order]).decode
    gc.disable()
    seconds = sum(
        map(
            _cpu,
            (
                lambda: msgspec.json.encode(value),
                lambda: zlib.compress(data, 1),
                lambda: zlib.decompress(packed),
                lambda: read(data),
            ),
        )
    )
    gc.enable()
    return len(data), seconds


#: Another process, which asks the worker until its standard input ends, and prints what it saw.
_NEIGHBOUR: Final = """
import collections, sys, threading
from stepwell import Engine
with Engine(sys.argv[1], workflows=[]) as engine:
    own = max(worker.epoch for worker in engine.workers())
    seen = collections.Counter()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    while True:
        seen.update(worker.state for worker in engine.workers() if worker.epoch != own)
        if ended.wait(0.02):
            break
    print(dict(seen), flush=True)
"""


def _seen_meanwhile(engine: Engine, path: Path, call: Callable[[], None]) -> tuple[float, str]:
    """Return the longest time that a small run took meanwhile, in seconds, and what another process saw."""
    over = threading.Event()
    longest = 0.0

    def ping() -> None:
        nonlocal longest
        while not over.is_set():
            began = time.perf_counter()
            engine.start(nothing).result()
            longest = max(longest, time.perf_counter() - began)

    command = [sys.executable, "-c", _NEIGHBOUR, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as neighbour:
        assert neighbour.stdin is not None
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        pinging = threading.Thread(target=ping)
        pinging.start()
        try:
            call()
        finally:
            over.set()
            pinging.join()
            neighbour.stdin.close()
        return longest, neighbour.stdout.read().strip()


def _print(
    name: str,
    done: Callable[[str], None],
    yardstick: float,
    seen_meanwhile: Callable[[Callable[[], None]], tuple[float, str]],
) -> None:
    small = _cpu(partial(done, "small"))
    ratio = (_cpu(partial(done, "large")) - small) / yardstick
    longest, seen = seen_meanwhile(partial(done, "large"))
    print(f"  {name:18} {ratio:4.1f} x   others waited {longest:5.2f} s at most   {seen}", flush=True)


def main(sizes: list[float]) -> int:
    """Measure all ways for each size, and print a line for each."""
    with tempfile.TemporaryDirectory(prefix="stepwell-large-") as folder:
        path = Path(folder) / "large.db"
        with Engine(path, max_payload_bytes=_MAX_PAYLOAD_BYTES) as engine:
            _values["small"] = orders(0.001)
            for size in sizes:
                value = _values["large"] = orders(size)
                size_bytes, yardstick = _yardstick(value)
                print(f"{size_bytes / 1e6:.1f} MB of JSON: msgspec and zlib, there and back, {yardstick * 1e3:.0f} ms")
                for name, way in WAYS.items():
                    _print(name, partial(_done, way, engine), yardstick, partial(_seen_meanwhile, engine, path))
    return 0


if __name__ == "__main__":
    sys.exit(main([float(argument) for argument in sys.argv[1:]] or list(SIZES_MEGABYTES)))
