"""The small program of `bench/cold.py`, with kairo-sdk. ``python bench/peers/kairo_sdk/cold.py FILE``."""

# mypy: ignore-errors
# kairo-sdk is installed only where it is measured: here it has no types to check.

import asyncio
import os
import sys

from kairo_sdk import EmbeddedBackend, Kairo, SQLiteStore


async def main() -> None:
    """Do what a first program does."""
    kairo = Kairo(backend=await EmbeddedBackend.open(SQLiteStore(sys.argv[1])))

    @kairo.action("double", effect="unprotected")
    async def double(number, ctx):
        return 2 * number

    @kairo.workflow("first")
    async def first(ctx, number):
        return await ctx.call("double", number)

    await kairo.start()
    result = await kairo.run("first", 21, id=f"run-{os.getpid()}")
    print('@bench {"result": ', result, "}", flush=True)
    await kairo.close()


if __name__ == "__main__":
    asyncio.run(main())
