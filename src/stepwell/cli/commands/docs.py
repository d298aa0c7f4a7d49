"""``stepwell docs``: the documentation, from the package itself."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from stepwell.cli.documents import found, page, topics
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command
from stepwell.cli.printing import on_terminal, print_table

#: How many lines of a page are shown that have what was looked for.
_SHOWN = 3


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    del ctx, param
    return [CompletionItem(name, help=title) for name, title in topics().items() if name.startswith(incomplete)]


@command("docs", "stepwell docs", "stepwell docs find-runs", "stepwell docs --search 'exactly once'")
@click.argument("topic", required=False, metavar="[TOPIC]", shell_complete=_names)
@click.option("--search", metavar="TEXT", help="List the pages that contain TEXT.")
def docs(topic: str | None, search: str | None) -> int:
    """Show a page."""
    if search is not None:
        hits = found(search)
        for name, lines in hits.items():
            click.echo(click.style(name, bold=True) if on_terminal() else name)
            for line in lines[:_SHOWN]:
                click.echo(f"  {line}")
        return 0 if hits else FAILED
    if topic is None:
        print_table(("TOPIC", "TITLE"), list(topics().items()))
        return 0
    text = page(topic)
    if on_terminal():
        from rich.console import Console
        from rich.markdown import Markdown

        console = Console()
        with console.pager(styles=True):
            console.print(Markdown(text))
    else:
        click.echo(text)
    return 0
