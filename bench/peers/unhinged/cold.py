"""The small program of `bench/cold.py`, with unhinged. ``python bench/peers/unhinged/cold.py FILE``."""

# mypy: ignore-errors
# unhinged is installed only where it is measured: here it has no types to check.

import sys

from unhinged import Unhinged

app = Unhinged(sys.argv[1], queue_name="bench")
app.create_queue()


@app.register_task("first")
def first(number, ctx):
    """Call one step."""
    return ctx.step("double", lambda: 2 * number)


if __name__ == "__main__":
    started = app.spawn("first", 21)
    app.run_until_idle()
    result = app.fetch_task_result(started["task_id"]).result
    print('@bench {"result": ', result, "}", flush=True)
    app.close()
