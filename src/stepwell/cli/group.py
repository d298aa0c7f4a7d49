"""Which commands there are, by name, and what is said when a name or an option is none.

Nothing of a command is imported before it is asked for, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, NamedTuple, NoReturn

import click

from stepwell import __version__
from stepwell.cli.exit_codes import FAILED, USAGE


class CommandRow(NamedTuple):
    """A command: the section of the help it stands in, what it does, and where it is (``module:name``)."""

    section: str
    summary: str
    place: str


#: The variable of the environment by which a shell asks what a line could go on with.
COMPLETE_VARIABLE: Final = "_STEPWELL_COMPLETE"

#: In the order of the help.
COMMANDS: Final[dict[str, CommandRow]] = {
    "worker": CommandRow("Serve", "execute the workflows of some modules until told to stop", "worker:worker"),
    "run": CommandRow("Serve", "execute what is due, then end, and say when something is due next", "run:run"),
    "list": CommandRow("Look", "list runs, newest first", "list_runs:list_runs"),
    "show": CommandRow("Look", "show a run: why it waits, its operations, its journal, its result", "show:show"),
    "stream": CommandRow("Look", "print what a run writes to a stream, or which streams it has", "stream:stream"),
    "query": CommandRow("Look", "send a query to a run, which the code of the given modules answers", "query:query"),
    "queues": CommandRow("Look", "list the queues and limits of the file, and how full they are", "queues:queues"),
    "schedules": CommandRow(
        "Look", "list, show, make, change, pause, trigger, backfill and delete schedules", "schedules:schedules"
    ),
    "workers": CommandRow("Look", "list the workers that have the file open, and their state", "workers:workers"),
    "ui": CommandRow("Look", "serve the file to a browser: look at its runs, and act on them", "ui:ui"),
    "start": CommandRow("Act", "record the start of a run, which a worker then executes", "start:start"),
    "send": CommandRow("Act", "send a message to a run", "send:send"),
    "describe": CommandRow("Act", "set attributes and tags of a run, leave a note", "describe:describe"),
    "promises": CommandRow("Look", "list the open promises of all runs, the oldest first", "promises:promises"),
    "resolve": CommandRow("Act", "answer a promise that a run waits for with a value", "promises:resolve"),
    "reject": CommandRow("Act", "answer a promise with an error", "promises:reject"),
    "update": CommandRow("Act", "send an update to a run, and print the answer", "update:update"),
    "cancel": CommandRow("Act", "ask a run to stop; its `finally` blocks are executed by a worker", "cancel:cancel"),
    "resume": CommandRow(
        "Act", "let a halted run be tried again, with the code that the workers have now", "resume:resume"
    ),
    "retry": CommandRow(
        "Act", "bring failed and cancelled runs back: they go on from the step that failed", "retry:retry"
    ),
    "rewind": CommandRow("Act", "let a run go on from an earlier operation of its journal", "rewind:rewind"),
    "settle": CommandRow("Act", "set the outcome of a step of which nobody knows how it ended", "settle:settle"),
    "fork": CommandRow(
        "Act", "start another run that begins with the journal of a run up to an operation", "rewind:fork"
    ),
    "restart": CommandRow("Act", "let a run begin again, with other arguments if some are given", "rewind:restart"),
    "pause": CommandRow("Act", "pause a run between its steps, or pause a queue or limit", "pause:pause"),
    "unpause": CommandRow("Act", "let a paused run go on, or a paused queue start runs again", "pause:unpause"),
    "terminate": CommandRow(
        "Act", "end a run at once, without executing its code: nothing is cleaned up", "bulk:terminate"
    ),
    "reschedule": CommandRow("Act", "let a run that waits in a queue begin earlier or later", "reschedule:reschedule"),
    "delete": CommandRow(
        "Act", "delete a run that has ended or not begun, with everything that the file has of it", "bulk:delete"
    ),
    "bulk": CommandRow("Act", "pause, cancel, retry, terminate or delete all runs that a filter matches", "bulk:bulk"),
    "takeover": CommandRow(
        "Act", "take the runs of a stalled worker, and let others continue them", "takeover:takeover"
    ),
    "docs": CommandRow("Look", "show a page of the documentation, which ships with the package", "docs:docs"),
    "doctor": CommandRow("Look", "examine the file: what is wrong, or will be soon, and what to do", "doctor:doctor"),
    "check": CommandRow(
        "Keep", "replay the runs in flight with the code as it is now, and say which would not go on", "check:check"
    ),
    "backup": CommandRow("Keep", "copy the file while workers use it, and verify the copy", "backup:backup"),
    "verify": CommandRow("Keep", "check a file or a backup, and say what is wrong with it", "verify:verify"),
    "restore": CommandRow(
        "Keep", "put a backup in the place of the file, and pause what was under way", "restore:restore"
    ),
    "archive": CommandRow("Keep", "move runs that have ended into another file", "archive:archive"),
    "prune": CommandRow("Keep", "delete runs that ended long ago", "prune:prune"),
    "demo": CommandRow("Set up", "run a workflow, kill its worker half-way, and see how it goes on", "demo:demo"),
    "bench": CommandRow("Set up", "measure the commits of this disk, and the steps of the engine on it", "bench:bench"),
    "mcp": CommandRow("Set up", "serve the file to coding agents, by the Model Context Protocol", "mcp:mcp"),
    "completion": CommandRow(
        "Set up", "print a script with which a shell completes commands, options and ids", "completion:completion"
    ),
}

#: Names of before, which scripts may have.
ALIASES: Final = {"runs": "list"}


class Commands(click.Group):
    """A group whose commands are the rows of a table, and whose errors say what happened and what to do.

    Errors of the engine are one line each: exit code 2 where what was asked for makes no sense, else 1.
    """

    def __init__(
        self,
        *arguments: Any,
        rows: dict[str, CommandRow],
        aliases: dict[str, str],
        default: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._rows: Final = rows
        self._aliases: Final = aliases
        #: The command that is meant by a line that names none: it is empty, or begins with an option.
        self._default: Final = default
        self.no_args_is_help = default is None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the line apart; one that names no command is one of the default."""
        # A shell that completes asks for the names of the commands as well.
        is_asked = self._default is not None and not ctx.resilient_parsing
        if is_asked and (not args or args[0].startswith("-")) and "--help" not in args[:1]:
            args = [str(self._default), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        del ctx
        return list(self._rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or by one that it had."""
        del ctx
        row = self._rows.get(self._aliases.get(cmd_name, cmd_name))
        if row is None:
            return None
        module, _, name = row.place.partition(":")
        found = getattr(import_module(f"stepwell.cli.commands.{module}"), name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for. Raises `click.UsageError`, with the name that may be meant."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is not None:
            return command.name, command, args[1:]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, [*self._rows, *self._aliases], 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise click.UsageError(
            f"There is no command {name!r}.{meant} `{ctx.command_path} --help` lists the commands.", ctx
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands below the headings of their sections."""
        del ctx
        for section in dict.fromkeys(row.section for row in self._rows.values()):
            with formatter.section(section):
                formatter.write_dl([(name, row.summary) for name, row in self._rows.items() if row.section == section])

    def invoke(self, ctx: click.Context) -> Any:
        """Carry out the command; what the engine refuses is said in one line, and decides the exit code."""
        try:
            return super().invoke(ctx)
        except Exception as error:  # noqa: BLE001 - what is not the engine's goes on
            refused(ctx, error)


def refused(ctx: click.Context, error: Exception) -> NoReturn:
    """Say why the engine refused a command, and end it. An error that is not the engine's goes on."""
    from stepwell.cli.printing import say
    from stepwell.errors import InvalidArgument, StepwellError

    if not isinstance(error, StepwellError):
        raise error
    say(f"{ctx.command_path} {ctx.invoked_subcommand}: {error}", err=True)
    ctx.exit(USAGE if isinstance(error, InvalidArgument) else FAILED)


def command(name: str, *examples: str, rows: dict[str, CommandRow] = COMMANDS) -> Callable[[Any], click.Command]:
    """Make a function a command; its help is the sentence of its row, and lines that could be entered."""
    summary = rows[name].summary
    shown = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)]) if examples else None
    return click.command(name, help=f"{summary[0].upper()}{summary[1:]}.", epilog=shown)


@click.command(
    cls=Commands,
    context_settings={"max_content_width": 110},
    rows=COMMANDS,
    aliases=ALIASES,
    help="Durable workflows whose whole state is one SQLite file.",
    epilog="`stepwell COMMAND --help` tells about one command. The file is that of --db, of STEPWELL_DB, of "
    "[tool.stepwell] in pyproject.toml, or the only one in the folder.",
)
@click.version_option(__version__, message="stepwell %(version)s")
def stepwell() -> None:
    """Be the command that holds the others."""
