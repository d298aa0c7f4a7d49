"""A worker whose runs are asked from other processes: `asked.py FILE` serves until its standard input ends.

It says "serves", and has one run of a workflow that no other process knows.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from stepwell import Engine, query, receive, step, update, workflow


@step(name="asked.price")
async def price(item: str, gate: str) -> str:
    """Say that it has begun, and wait until the file `gate` is there; without one, not at all."""
    if gate:
        Path(f"{gate}.begun").touch()  # noqa: ASYNC240 - that is quick
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - the test makes it, from another process
        await asyncio.sleep(0.005)
    return item


@workflow(name="asked.basket")
async def basket(gate: str) -> list[str]:
    """Take items, the first by itself, until told to close."""
    items: list[str] = []

    @query
    def content() -> list[str]:
        return items

    @update
    async def add(item: str, gate: str = "") -> int:
        items.append(await price(item, gate))
        return len(items)

    items.append(await price("first", gate))
    await receive("close")
    return items


def main(path: str) -> None:
    """Serve; whatever waits leaves memory at once."""

    @workflow(name="asked.elsewhere")
    async def elsewhere() -> None:
        @query
        def content() -> str:
            return "never told"

        @update
        def add(item: str) -> str:
            return item

        await receive("close")

    with Engine(path, max_waiting_in_memory=0) as engine:
        engine.start(elsewhere, id="elsewhere")
        sys.stdout.write("serves\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
