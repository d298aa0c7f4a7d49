"""``stepwell completion``: what a shell has to read to complete commands, options and ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from stepwell.cli.bash import register
from stepwell.cli.group import COMPLETE_VARIABLE, command, stepwell


@command(
    "completion",
    'eval "$(stepwell completion bash)"',
    "stepwell completion fish > ~/.config/fish/completions/stepwell.fish",
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script for a shell."""
    register()
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(stepwell, {}, "stepwell", COMPLETE_VARIABLE).source())
