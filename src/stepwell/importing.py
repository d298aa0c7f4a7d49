"""How this package imports its own modules where that is not done at the head of a module, but at a first use."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Generator[None]:
    """Have Python's collector wait: what is imported stays, and it would look through all of that again and again.

    In the end all that is there counts as old, as after a look at it; where somebody has frozen objects, the next
    collection sees to that. Of the instructions of a first run the waiting is 5 % for the public names and 0.3 % for
    what an engine imports when it opens, the look 0.9 %.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
