"""The command ``stepwell``: looks into a file, leaves requests in it, and serves it.

`group` finds a command, and answers what was written wrongly; each command is a file of its own in `commands`, imported
when it was asked for. Every command finds its file as `database` says.

Exit codes: 0 done; 1 the file, the disk or the run is not as the command needs it; 2 the command line is wrong, or a
module of workflows cannot be imported; 128 + n ended by signal n at once, as shells count.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence

import click

from stepwell.cli.group import COMPLETE_VARIABLE, stepwell


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command line (by default the process's own) and return the exit code."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _carry_out(line)
        sys.stdout.flush()  # here, where it can be seen that nobody reads
    except click.ClickException as error:
        _complain(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _complain(error: click.ClickException) -> None:
    """Say what click refuses, broken between words: it leaves that to the terminal, which breaks within them."""
    from stepwell.cli.printing import say

    said = io.StringIO()
    error.show(said)
    say(said.getvalue().rstrip("\n"), err=True)


def _carry_out(line: list[str]) -> int:
    """Find the command and call it; raises what it raises.

    Not by `click.Command.main`, which ends a process whose reader has gone with exit code 1.
    """
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction is not None:  # a shell asks, by the script that `stepwell completion` printed
        from click.shell_completion import shell_complete

        from stepwell.cli.bash import register

        register()
        return shell_complete(stepwell, {}, "stepwell", COMPLETE_VARIABLE, instruction)
    try:
        with stepwell.make_context("stepwell", line, obj=line) as context:
            code = stepwell.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0
