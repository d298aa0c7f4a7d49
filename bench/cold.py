"""A whole small program: how long from the start of its process to its first result? ``python bench/cold.py FILE``."""

import sys

from stepwell import Engine, step, workflow


@step
async def double(number: int) -> int:
    """Do what a first program does."""
    return 2 * number


@workflow
async def first(number: int) -> int:
    """Call one step."""
    return await double(number)


if __name__ == "__main__":
    with Engine(sys.argv[1]) as engine:
        result = engine.start(first, 21).result()
        print('@bench {"result": ', result, "}", flush=True)
