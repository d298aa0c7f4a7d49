"""Other processes in words: what a message says of one, so that whoever reads it can find it.

What `/proc` tells is about the processes of this container only; of others there is what they have noted themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MAX_COMMAND_LENGTH: Final = 100


def command_of(pid: int) -> str | None:
    """Return the command line of a process as one would type it, shortened; None where it cannot be known."""
    import shlex

    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return None
    return shortened(shlex.join(words)) or None


def shortened(command: str) -> str:
    """Return the beginning of a command, in one line."""
    line = " ".join(command.split())
    return line if len(line) <= _MAX_COMMAND_LENGTH else line[: _MAX_COMMAND_LENGTH - 1] + "…"


def is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped by a signal or a debugger; False where that cannot be known (Linux only)."""
    try:
        # pid (name) state …; the name may hold anything, brackets too.
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in {b"T", b"t"}


def describe_process(pid: int) -> str:
    """Return "process 7 (its command, stopped by a signal)", as far as that is known."""
    if pid <= 0:
        return "a process of another container"
    known = [command_of(pid), "stopped by a signal" if is_stopped(pid) else None]
    more = ", ".join(word for word in known if word)
    return f"process {pid} ({more})" if more else f"process {pid}"
