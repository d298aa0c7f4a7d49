"""Whether a child process is importing the script of its parent: what must not be done meanwhile.

It stands beside `child_main` because each engine asks, and only children need the rest of that module.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from stepwell.errors import StepwellError

#: Code is being executed that no `if __name__ == "__main__":` guards.
_is_importing = False


@contextmanager
def importing() -> Generator[None, None, None]:
    """Note that the parent's script is being imported here, inside the block."""
    global _is_importing  # noqa: PLW0603 - it belongs to the process
    _is_importing = True
    try:
        yield
    finally:
        _is_importing = False


def check_may_open() -> None:
    """Raise where an engine is being opened by a script only because a child process imports that script."""
    if _is_importing:
        raise StepwellError(
            "a child process imports this script to find a step, and importing it opens an engine. Put what the script "
            "does below `if __name__ == '__main__':`"
        )
