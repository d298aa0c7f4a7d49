"""``stepwell mcp``: a server for coding agents, on standard input and output."""

from __future__ import annotations

import click

from stepwell.cli.acting import refuse
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import USAGE
from stepwell.cli.group import command
from stepwell.cli.reading import reads


@command("mcp", "stepwell mcp --db orders.db", "stepwell mcp --db orders.db --allow-acts")
@database_option
@click.option(
    "--allow-acts", is_flag=True, help="Let it cancel, retry, resume, pause and unpause runs, and send messages."
)
def mcp(db: str, allow_acts: bool) -> int:
    """Serve agents."""
    with reads(db):
        pass
    try:
        from stepwell.cli.mcp_server import server
    except ImportError as error:
        if not (error.name or "").startswith("mcp"):
            raise
        refuse("stepwell mcp: the SDK of the protocol is not installed: pip install 'stepwell[mcp]'")
        return USAGE
    server(db, allow_acts=allow_acts).run("stdio")
    return 0
