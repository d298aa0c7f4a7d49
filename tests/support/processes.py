"""Other processes for tests: small scripts that say what they have done, and do what they are told."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Opens a database and evaluates what it is told, one expression a line; `database` is at hand, and `heard` of `watch`.
MEMBER = """
import queue, sys, traceback
from stepwell.store.sqlite.file import locking
from stepwell.store.sqlite.file.opening import open_database
database = open_database(sys.argv[1], migrations=sys.argv[2])
membership, writers = database.membership, database.writers
heard = queue.Queue()
print("open", flush=True)
for line in sys.stdin:
    try:
        result = eval(line)
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print(repr(result), flush=True)
"""


@contextmanager
def child(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], text: str = "") -> None:
    """Give the process a line."""
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


class Member:
    """Another process that has the database open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def begin(self, expression: str) -> None:
        """Have the process evaluate an expression; `end` returns what came of it."""
        tell(self.process, expression)

    def end(self) -> Any:
        """Return the value of the expression, which must be a literal, or its text."""
        text = line(self.process)
        assert text, "the other process has ended"
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in that process."""
        self.begin(expression)
        return self.end()

    def kill(self) -> None:
        """End the process, and wait until it has ended."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop the process, and wait until it has stopped."""
        os.kill(self.pid, 19)
        os.waitpid(self.pid, os.WUNTRACED)


@contextmanager
def member(path: object, migrations: object) -> Iterator[Member]:
    """Open a database in another process."""
    with child(MEMBER, path, migrations) as process:
        assert line(process) == "open"
        yield Member(process)
