"""``stepwell promises``, ``resolve`` and ``reject``: what runs ask people for, and the answers."""

from __future__ import annotations

from typing import Any

import click

from stepwell.api.reading.promise_views import PromiseInfo
from stepwell.cli.acting import carried_out, client, said
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import json_option, json_or_text, reason_option, tokens
from stepwell.cli.printing import print_facts, print_json, when
from stepwell.cli.reading import reads


@command("promises", "stepwell promises", "stepwell promises --json | jq -r '.[].token'")
@database_option
@json_option
def promises(db: str, as_json: bool) -> None:
    """List open promises."""
    with reads(db) as read:
        found = read.promises()
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no run waits for an answer")
    for number, promise in enumerate(found):
        if number:
            click.echo()
        print_facts(_facts(promise))


def _facts(promise: PromiseInfo) -> dict[str, Any]:
    outcome = "PromiseTimedOut is raised in the run"
    if promise.on_timeout == "default":
        outcome = f"the run goes on with {promise.default!r}"
    facts = {
        "promise": promise.title or f"a value of type {promise.type}",
        "text": promise.text,
        "run": f"{promise.run_id} ({promise.workflow}), operation {promise.operation}",
        "type": promise.type,
        "choices": promise.choices,
        "evidence": promise.evidence,
        "made": when(promise.created_at),
        "until": None if promise.deadline_at is None else f"{when(promise.deadline_at)}; then {outcome}",
        "token": promise.token,
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [])}


@command("resolve", "stepwell resolve TOKEN true", 'stepwell resolve TOKEN \'{"granted": true}\' --reason "as agreed"')
@click.argument("token", metavar="TOKEN", shell_complete=tokens)
@click.argument("value", type=json_or_text, metavar="[VALUE]", default=None, required=False)
@database_option
@reason_option()
def resolve(token: str, value: Any, db: str, reason: str | None) -> None:
    """Answer a promise with a value."""
    with client(db) as engine:
        engine.resolve(token, value, **said(reason))
        _tell(engine, token, db)


@command("reject", 'stepwell reject TOKEN "not within the budget"')
@click.argument("token", metavar="TOKEN", shell_complete=tokens)
@click.argument("error", metavar="ERROR")
@database_option
@reason_option()
def reject(token: str, error: str, db: str, reason: str | None) -> None:
    """Answer a promise with an error."""
    with client(db) as engine:
        engine.reject(token, error, **said(reason))
        _tell(engine, token, db)


def _tell(engine: Any, token: str, db: str) -> None:
    read = engine._session.reads
    record = read.record(read.promise(token).run_id)
    click.echo(f"run {record.id!r}: the answer is recorded; {carried_out(engine, record, db)}")
