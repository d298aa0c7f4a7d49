"""Options that several commands have, and how what is written behind an option is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from stepwell.cli import database
from stepwell.model.attributes import AttributeValue

if TYPE_CHECKING:
    from stepwell.api.reading.read_service import ReadService

_Function = TypeVar("_Function", bound=Callable[..., Any])

_TIMES: Final = ("created", "started", "ended")
#: How many ids a shell is offered.
_OFFERED: Final = 50


def count(text: str | int) -> int:
    """Read a whole number of at least 1. Raises `click.BadParameter`, as all readers of a text here do."""
    if isinstance(text, int):
        return text
    if not text.strip().isdecimal() or int(text) < 1:
        raise click.BadParameter(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def names(text: str) -> list[str]:
    """Read names, with commas between."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise click.BadParameter(f"must name queues, with commas between, not {text!r}")
    return found


def seconds(text: str | float) -> float:
    """Read a finite number of seconds, 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise click.BadParameter(f"must be 0 or more seconds, not {text!r}")
    return found


#: The units of "so long ago", in seconds.
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def since(text: str) -> datetime | timedelta:
    """Read a time: so long ago (``90m``), or as ISO 8601 writes it; without a zone it is local."""
    try:
        if text[-1:] in _UNITS:
            return timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
        return moment(text)
    except (ValueError, OverflowError, click.BadParameter):
        raise click.BadParameter(f"must be like 90m, 24h, 7d, or 2026-11-27T16:00Z, not {text!r}") from None


def moment(text: str) -> datetime:
    """Read a time as ISO 8601 writes it; without a zone it is local."""
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"must be like 2026-11-27T16:00Z, not {text!r}") from None


def span(text: str | timedelta) -> timedelta:
    """Read how long: ``90m``, ``6h``, ``1d``."""
    found = text if isinstance(text, timedelta) else since(text) if text[-1:] in _UNITS else None
    if not isinstance(found, timedelta) or found <= timedelta(0):
        raise click.BadParameter(f"must be like 30m, 6h or 1d, not {text!r}")
    return found


def json_or_text(text: str) -> Any:
    """Read a value: JSON, or else the text as it stands. A number, ``true`` or ``null`` as a text stands in quotes."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def named(text: str) -> tuple[str, Any]:
    """Read ``name=value``."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"must be NAME=ARG, with the name of a parameter, not {text!r}")
    return name, json_or_text(value)


def attribute(text: str) -> tuple[str, AttributeValue]:
    """Read ``name=value`` of an attribute: JSON, or a moment with its zone, or else a text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"must be NAME=VALUE, not {text!r}")
    found = json_or_text(value)
    if found is value:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return name, value
        return name, moment if moment.tzinfo is not None else value
    if not isinstance(found, (str, int, float)):
        raise click.BadParameter(
            f"{name} must be a text, a number, true, false or a moment with its zone, not {value!r}"
        )
    return name, found


def tag_option(function: _Function) -> _Function:
    """Give a command the parameter `tags`."""
    return click.option(
        "--tag", "tags", multiple=True, metavar="TAG", help="A tag to find it by (may be given again)."
    )(function)


def note_option(function: _Function) -> _Function:
    """Give a command the parameter `note`."""
    return click.option("--note", metavar="TEXT", help="A note for people who look at the run.")(function)


def operation_result(text: str) -> tuple[int, Any]:
    """Read ``operation=value``."""
    number, equals, value = text.partition("=")
    if not equals or not number.isdecimal():
        raise click.BadParameter(f"must be OP=VALUE, with the number of an operation, not {text!r}")
    return int(number), json_or_text(value)


def run_argument(function: _Function) -> _Function:
    """Give a command the parameter `run`: a run's id, which shells complete."""
    return click.argument("run", metavar="RUN", shell_complete=ids)(function)


def run_or_many(function: _Function) -> _Function:
    """Give a command the parameter `run`: a run's id, or None where a filter says which ones."""
    return click.argument("run", metavar="[RUN]", required=False, shell_complete=ids)(function)


def json_option(function: _Function) -> _Function:
    """Give a command the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def yes_option(function: _Function) -> _Function:
    """Give a command the parameter `yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


def reason_option(help_text: str = "Why; `stepwell show` shows it.") -> Callable[[_Function], _Function]:
    """Return what gives a command the parameter `reason`."""
    return click.option("--reason", metavar="TEXT", help=help_text)


def filters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what a word of a filter could go on with, for a shell: fields and attributes, and the values of some."""
    del param
    from stepwell.api.asking.filters import FIELDS
    from stepwell.cli.reading import reads
    from stepwell.errors import StepwellError
    from stepwell.model.lifecycle import STATUSES

    field, colon, value = incomplete.partition(":")
    try:
        with reads(ctx.params.get("db") or database.found()) as read:
            if not colon:
                names = [f"{name}{'>' if name in _TIMES else ':'}" for name in FIELDS]
                names += [f"{name}=" for name in read.attribute_names()]
                return [CompletionItem(name) for name in names if name.startswith(incomplete)]
            known = {
                "status": lambda: STATUSES,
                "tag": lambda: read.tag_names(_OFFERED),
                "workflow": lambda: read.counts("", "workflow"),
                "queue": read.queue_names,
            }
            return [CompletionItem(f"{field}:{name}") for name in known.get(field, tuple)() if name.startswith(value)]
    except (StepwellError, click.UsageError):
        return []


def ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the ids of runs that begin so, for a shell; none where the file cannot be read."""
    del param
    from stepwell.cli.reading import reads
    from stepwell.errors import StepwellError

    try:
        db = ctx.params.get("db") or database.found()
        with reads(db) as read:
            infos = read.infos(id_prefix=incomplete or None, limit=_OFFERED)
    except (StepwellError, click.UsageError):
        return []
    return [CompletionItem(info.id, help=f"{info.status} {info.workflow}") for info in infos]


_Names = Callable[["ReadService"], Iterable[str]]
_Completing = Callable[[click.Context, click.Parameter, str], list[CompletionItem[Any]]]


def names_of(look: _Names) -> _Completing:
    """Return what completes a name for a shell, of those that `look` finds in the file, if it can be read."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        del param
        from stepwell.cli.reading import reads
        from stepwell.errors import StepwellError

        try:
            with reads(ctx.params.get("db") or database.found()) as read:
                found = [name for name in look(read) if name.startswith(incomplete)]
        except (StepwellError, click.UsageError):
            return []
        return [CompletionItem(name) for name in found[:_OFFERED]]

    return complete


#: What completes the name of a workflow, a queue or limit, a schedule, and what an open promise is answered by.
workflow_names: Final = names_of(lambda read: read.counts("", "workflow"))
queue_names: Final = names_of(lambda read: read.queue_names())
schedule_names: Final = names_of(lambda read: read.schedule_ids())
tokens: Final = names_of(lambda read: [each.token for each in read.promises(_OFFERED)])


def ids_and_queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return what `stepwell pause` may be about, for a shell: a queue, a limit or a run."""
    return [*queue_names(ctx, param, incomplete), *ids(ctx, param, incomplete)]
