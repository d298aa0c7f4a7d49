"""That an engine is in one `with` block at a time: the end of an inner one would close it under the outer one."""

from __future__ import annotations

import threading
from typing import Final

from stepwell.errors import EngineInUse
from stepwell.replay.source_location import executing_at


class OneBlock:
    """Whether an engine is in a `with` block now, and where that begins; from any thread."""

    def __init__(self, path: object) -> None:
        self._path: Final = path
        self._taken: Final = threading.Lock()
        self._at = ""

    def enter(self) -> None:
        """Note that a block begins; raise `EngineInUse` where another one has not ended."""
        if not self._taken.acquire(blocking=False):
            raise EngineInUse(
                f"{self._path}: this engine is in a with block already, which begins at {self._at}. A second one would "
                "close it under the first: use the engine as it is, or open one of its own for each block"
            )
        self._at = executing_at()

    def leave(self) -> None:
        """Note that the block has ended."""
        if self._taken.locked():
            self._taken.release()
