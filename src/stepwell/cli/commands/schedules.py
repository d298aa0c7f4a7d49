"""``stepwell schedules``: the schedules of a file, and what can be done to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, cast

import click

from stepwell.api.asking.acts import user_at_host
from stepwell.api.reading.schedule_views import ScheduleInfo
from stepwell.cli.acting import client
from stepwell.cli.database import database_option
from stepwell.cli.group import COMMANDS, CommandRow, Commands, command
from stepwell.cli.options import (
    count,
    json_option,
    json_or_text,
    named,
    queue_names,
    schedule_names,
    since,
    span,
    workflow_names,
)
from stepwell.cli.printing import moment, print_json, print_table, when
from stepwell.cli.reading import reads
from stepwell.definitions.schedules import ScheduleOptions
from stepwell.model.calendar_spec import MISSING, REPEATED
from stepwell.model.durations import length_in_words
from stepwell.model.schedule import OVERLAPS, Overlap

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PLACE: Final = "schedules:"
#: In the order of the help.
SUBCOMMANDS: Final[dict[str, CommandRow]] = {
    "list": CommandRow("Look", "list the schedules of the file, with their next ticks", f"{_PLACE}list_schedules"),
    "show": CommandRow("Look", "show a schedule: what it does, its next ten ticks, its last ten", f"{_PLACE}show"),
    "create": CommandRow("Act", "make a schedule, or change it to be as the line says", f"{_PLACE}create"),
    "change": CommandRow("Act", "change what is given of a schedule, and leave the rest", f"{_PLACE}change"),
    "pause": CommandRow("Act", "let no tick start a run; runs under way go on", f"{_PLACE}pause"),
    "unpause": CommandRow("Act", "let a paused schedule go on with its next tick", f"{_PLACE}unpause"),
    "trigger": CommandRow("Act", "start a run now, beside the ticks, also while it is paused", f"{_PLACE}trigger"),
    "backfill": CommandRow("Act", "do the ticks of a range that is over, those without a run", f"{_PLACE}backfill"),
    "delete": CommandRow("Act", "delete a schedule; its runs stay, and go on", f"{_PLACE}delete"),
}

schedules = Commands(
    name="schedules",
    rows=SUBCOMMANDS,
    aliases={},
    default="list",
    help=f"{COMMANDS['schedules'].summary[0].upper()}{COMMANDS['schedules'].summary[1:]}.",
    epilog="\b\nExamples:\n  stepwell schedules\n  stepwell schedules show nightly\n"
    "  stepwell schedules create nightly shop.report --cron '0 3 * * *' --zone Europe/Paris\n"
    "  stepwell schedules pause nightly --note 'the shop is closed'",
)


def _schedule_argument(function: _Function) -> _Function:
    return click.argument("schedule", metavar="SCHEDULE", shell_complete=schedule_names)(function)


def _note_option(function: _Function) -> _Function:
    return click.option("--note", metavar="TEXT", help="Why; `stepwell schedules show` shows it.")(function)


def _when_options(function: _Function) -> _Function:
    """Give a command the options that say when a schedule ticks and what a tick does."""
    options = [
        click.option(
            "--cron", multiple=True, metavar="EXPR", help="Five fields, or six with seconds; may be repeated."
        ),
        click.option("--every", multiple=True, type=span, metavar="SPAN", help="15m, 6h, 1d; may be repeated."),
        click.option("--exclude", multiple=True, metavar="EXPR", help="No tick at times that match; may be repeated."),
        click.option("--zone", metavar="NAME", help="The time zone, such as Europe/Berlin."),
        click.option("--missing", type=click.Choice(MISSING), help="A time that the clock leaves out."),
        click.option("--repeated", type=click.Choice(REPEATED), help="A time that the clock shows twice."),
        click.option("--start", type=_moment, metavar="TIME", help="No tick before."),
        click.option("--end", type=_moment, metavar="TIME", help="No tick at or after."),
        click.option("--jitter", type=span, metavar="SPAN", help="Begin each run later, by up to so much."),
        click.option("--overlap", type=click.Choice(OVERLAPS), help="While an earlier run has not ended."),
        click.option("--catch-up", type=span, metavar="SPAN", help="Do ticks that are no further back after all."),
        click.option("--pause-on-failure/--no-pause-on-failure", default=None, help="Pause when a run fails."),
        click.option("--limit", type=count, metavar="N", help="End the schedule after N runs."),
        click.option("--deadline", type=span, metavar="SPAN", help="How long each run may take."),
        click.option("--queue", metavar="NAME", shell_complete=queue_names, help="The queue in which the runs wait."),
        click.option("--priority", type=int, metavar="N", help="In the queue: higher goes first."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _moment(text: str) -> datetime:
    """Read a time as ISO 8601 writes it; without a zone it is local."""
    found = since(text)
    if isinstance(found, timedelta):
        raise click.BadParameter(f"must be like 2026-11-27T16:00Z, not {text!r}")
    return found


def _options(given: dict[str, Any]) -> ScheduleOptions:
    """Return the options that were given, as an engine takes them."""
    return cast("ScheduleOptions", {name: value for name, value in given.items() if value not in (None, ())})


def _told(info: ScheduleInfo, *, as_json: bool) -> None:
    """Print a schedule."""
    if as_json:
        print_json(info)
        return
    state = "paused" if info.paused else "over" if info.is_over else "active"
    click.echo(f"{info.id}: {state}{'' if info.note is None else f' ({info.note})'}, of {info.workflow}")
    for name, value in (("cron", info.cron), ("exclude", info.exclude)):
        if value:
            click.echo(f"{name}: {', '.join(value)} ({info.zone})")
    if info.every:
        click.echo(f"every: {', '.join(_interval(each, phase) for each, phase in info.every)}")
    click.echo(f"overlap: {info.overlap}; started {info.started}, skipped {info.skipped}, missed {info.missed}")
    if info.buffered:
        click.echo(f"waiting ticks: {', '.join(map(moment, info.buffered))}")
    click.echo("next:")
    for tick in info.next:
        click.echo(f"  {moment(tick)}")
    if info.recent:
        click.echo("last:")
        for each in info.recent:
            kind = "" if each.kind == "tick" else f" ({each.kind})"
            click.echo(f"  {moment(each.tick)}  {each.outcome}{kind}  {each.run or ''}".rstrip())
    for act in info.acts:
        click.echo(f"{moment(act.at)}  {act.act} by {act.by}{'' if act.note is None else f': {act.note}'}")


def _interval(seconds: float, phase: float) -> str:
    return length_in_words(seconds) + (f", {length_in_words(phase)} after the full ones" if phase else "")


@command("list", "stepwell schedules list --json", rows=SUBCOMMANDS)
@database_option
@json_option
def list_schedules(db: str, as_json: bool) -> None:
    """List schedules."""
    with reads(db) as read:
        found = read.schedules()
    if as_json:
        print_json(found)
        return
    header = ("ID", "WORKFLOW", "STATE", "NEXT", "LAST", "STARTED", "NOTE")
    print_table(header, [_row(info) for info in found])


def _row(info: ScheduleInfo) -> tuple[str, ...]:
    last = info.recent[-1] if info.recent else None
    return (
        info.id,
        info.workflow,
        "paused" if info.paused else "over" if info.is_over else "active",
        when(info.next[0]) if info.next and not info.paused else "",
        "" if last is None else f"{last.outcome} {when(last.tick)}",
        str(info.started),
        info.note or "",
    )


@command("show", "stepwell schedules show nightly", rows=SUBCOMMANDS)
@_schedule_argument
@database_option
@json_option
def show(schedule: str, db: str, as_json: bool) -> None:
    """Show a schedule."""
    with reads(db) as read:
        _told(read.schedule(schedule), as_json=as_json)


@command(
    "create",
    "stepwell schedules create nightly shop.report '\"eu\"' --cron '30 2 * * *' --zone Europe/Berlin",
    rows=SUBCOMMANDS,
)
@_schedule_argument
@click.argument("workflow", metavar="WORKFLOW", shell_complete=workflow_names)
@click.argument("arguments", nargs=-1, type=json_or_text, metavar="[ARG]...")
@click.option("--kwarg", "kwargs", multiple=True, type=named, metavar="NAME=ARG", help="An argument by its name.")
@_when_options
@database_option
@json_option
def create(
    schedule: str,
    workflow: str,
    arguments: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    db: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a schedule."""
    options = _options({**given, "kwargs": dict(kwargs) or None})
    with client(db) as engine:
        made = engine.schedule(workflow, *arguments, id=schedule, by=user_at_host(), **options)
        _told(made.info(), as_json=as_json)


@command("change", "stepwell schedules change nightly --cron '0 4 * * *' --overlap buffer_one", rows=SUBCOMMANDS)
@_schedule_argument
@_when_options
@database_option
@json_option
def change(schedule: str, db: str, as_json: bool, **given: Any) -> None:
    """Change a schedule."""
    with client(db) as engine:
        _told(engine.get_schedule(schedule).change(by=user_at_host(), **_options(given)), as_json=as_json)


@command("pause", "stepwell schedules pause nightly --note 'the warehouse is being moved'", rows=SUBCOMMANDS)
@_schedule_argument
@_note_option
@database_option
def pause(schedule: str, note: str | None, db: str) -> None:
    """Pause a schedule."""
    with client(db) as engine:
        engine.get_schedule(schedule).pause(note=note, by=user_at_host())
        click.echo(f"schedule {schedule!r} is paused")


@command("unpause", "stepwell schedules unpause nightly", rows=SUBCOMMANDS)
@_schedule_argument
@_note_option
@database_option
@json_option
def unpause(schedule: str, note: str | None, db: str, as_json: bool) -> None:
    """Unpause a schedule."""
    with client(db) as engine:
        found = engine.get_schedule(schedule)
        found.unpause(note=note, by=user_at_host())
        _told(found.info(), as_json=as_json)


@command("trigger", "stepwell schedules trigger nightly", rows=SUBCOMMANDS)
@_schedule_argument
@_note_option
@database_option
def trigger(schedule: str, note: str | None, db: str) -> None:
    """Run a schedule's workflow now, and print the run's id."""
    with client(db) as engine:
        click.echo(engine.get_schedule(schedule).trigger(note=note, by=user_at_host()).id)


@command("backfill", "stepwell schedules backfill nightly 2026-11-01T00:00Z 2026-11-08T00:00Z", rows=SUBCOMMANDS)
@_schedule_argument
@click.argument("start", type=_moment, metavar="START")
@click.argument("end", type=_moment, metavar="END")
@click.option(
    "--overlap", type=click.Choice(OVERLAPS), default="buffer_all", help="For these ticks (default: buffer_all)."
)
@_note_option
@database_option
def backfill(schedule: str, start: datetime, end: datetime, overlap: Overlap, note: str | None, db: str) -> None:
    """Do the ticks of a range."""
    with client(db) as engine:
        engine.get_schedule(schedule).backfill(start, end, overlap=overlap, note=note, by=user_at_host())
        click.echo(
            f"schedule {schedule!r}: the ticks from {moment(start)} until {moment(end)} are to be done; workers do it"
        )


@command("delete", "stepwell schedules delete nightly", rows=SUBCOMMANDS)
@_schedule_argument
@database_option
def delete(schedule: str, db: str) -> None:
    """Delete a schedule."""
    with client(db) as engine:
        engine.get_schedule(schedule).delete(by=user_at_host())
        click.echo(f"schedule {schedule!r} is deleted; its runs stay")
