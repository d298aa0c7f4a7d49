"""The small program of `bench/cold.py`, with DBOS. ``python bench/peers/dbos/cold.py FILE``."""

# mypy: ignore-errors
# DBOS is installed only where it is measured: here it has no types to check.

import sys

from dbos import DBOS


@DBOS.step()
async def double(number: int) -> int:
    """Do what a first program does."""
    return 2 * number


@DBOS.workflow()
async def first(number: int) -> int:
    """Call one step."""
    return await double(number)


if __name__ == "__main__":
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{sys.argv[1]}",
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    result = DBOS.start_workflow(first, 21).get_result()
    print('@bench {"result": ', result, "}", flush=True)
    DBOS.destroy()
