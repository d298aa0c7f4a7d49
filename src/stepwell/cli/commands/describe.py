"""``stepwell describe``: attributes, tags and notes of a run."""

from __future__ import annotations

import click

from stepwell.api.asking.acts import user_at_host
from stepwell.cli.acting import client
from stepwell.cli.database import database_option
from stepwell.cli.group import command
from stepwell.cli.options import attribute, note_option, run_argument, tag_option
from stepwell.cli.reading import record_of
from stepwell.model.attributes import AttributeValue


@command(
    "describe",
    "stepwell describe order-42 customer=acme amount=42 due=2026-12-24T09:00Z --tag vip",
    "stepwell describe order-42 --remove customer --remove-tag vip",
    "stepwell describe order-42 --note 'the carrier has lost it'",
)
@run_argument
@click.argument("attributes", nargs=-1, type=attribute, metavar="[NAME=VALUE]...")
@database_option
@click.option("--remove", multiple=True, metavar="NAME", help="Remove this attribute (may be given again).")
@tag_option
@click.option("--remove-tag", "remove_tags", multiple=True, metavar="TAG", help="Remove this tag (may be given again).")
@note_option
def describe(
    run: str,
    attributes: tuple[tuple[str, AttributeValue], ...],
    db: str,
    remove: tuple[str, ...],
    tags: tuple[str, ...],
    remove_tags: tuple[str, ...],
    note: str | None,
) -> None:
    """Describe a run."""
    record = record_of(db, run)
    changed: dict[str, AttributeValue | None] = {**dict(attributes), **dict.fromkeys(remove)}
    with client(db) as engine:
        handle = engine.get(record.id)
        handle.set_attributes(changed, tags=tags, remove_tags=remove_tags, note=note, by=user_at_host())
        info = handle.info()
    said = [f"{name}={value}" for name, value in info.attributes.items()] + [f"tag:{tag}" for tag in info.tags]
    click.echo(f"run {record.id!r}: {' '.join(said) or 'no attributes, no tags'}")
