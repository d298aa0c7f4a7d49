"""How this package imports its own modules where that is not done at the head of a module, but at a first use."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Generator[None]:
    """Have Python's collector wait: what is imported stays, and it would look through all of that again and again.

    Of the instructions of a first run that is 5 % for the public names and 0.3 % for what an engine imports when it
    opens. Afterwards it is as it was.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
