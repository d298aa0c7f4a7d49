"""``stepwell ui``: the web UI of a file, served on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from stepwell.cli.acting import client
from stepwell.cli.database import database_option
from stepwell.cli.exit_codes import FAILED, USAGE
from stepwell.cli.group import command
from stepwell.cli.modules import ModuleProblem, load
from stepwell.cli.reading import reads

if TYPE_CHECKING:
    import uvicorn

    from stepwell.api.face import Shown

#: Variables of the environment that have tokens; on a command line, everybody on the machine could read one.
TOKEN_VARIABLE: Final = "STEPWELL_UI_TOKEN"  # noqa: S105 - the name of one
VIEWER_TOKEN_VARIABLE: Final = "STEPWELL_UI_VIEWER_TOKEN"  # noqa: S105 - as above


@command(
    "ui",
    "stepwell ui",
    "stepwell ui shop.flows --db orders.db",
    "stepwell ui --port 9000 --read-only --redact card_number --redact token",
    f"{TOKEN_VARIABLE}=$(cat token) stepwell ui --host 0.0.0.0 --allow-host ops.example.com",
)
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@database_option
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8420, show_default=True, help="0: any that is free.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="A name under which it is served (may be given again)."
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"A file that has the token to log in with; else the variable {TOKEN_VARIABLE}, or one that is made now.",
)
@click.option("--read-only", is_flag=True, help="Nobody can act, only look.")
@click.option(
    "--redact", multiple=True, metavar="FIELD", help="Do not show the values of this field (may be given again)."
)
@click.option("--root-path", default="", metavar="PATH", help="Where a proxy has it, if that is not the root.")
def ui(
    modules: tuple[str, ...],
    db: str,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    token_file: Path | None,
    read_only: bool,
    redact: tuple[str, ...],
    root_path: str,
) -> int:
    """Serve the web UI; with modules, runs of their workflows can be looked at step by step."""
    try:
        import uvicorn

        from stepwell.ui import app
        from stepwell.ui.guard import LOOPBACK, is_loopback
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"The web UI needs {error.name}, which is not installed: pip install 'stepwell[ui]'"
        ) from error
    try:
        load(modules)
    except ModuleProblem as problem:
        click.echo(f"{problem.traceback_text}stepwell ui: {problem}", err=True)
        return USAGE
    token = token_file.read_text(encoding="utf-8").strip() if token_file else os.environ.get(TOKEN_VARIABLE) or None
    viewer_token = os.environ.get(VIEWER_TOKEN_VARIABLE) or None
    if not is_loopback(host) and token is None and viewer_token is None:
        raise click.UsageError(
            f"{host} can be reached by others, so say with which token they log in: {TOKEN_VARIABLE}, or --token-file"
        )
    with ExitStack() as opened:
        shown: Shown = db
        with reads(db):  # which says what is wrong with the file, before anything is served
            pass
        if not read_only:
            shown = opened.enter_context(client(db))
        names = [*LOOPBACK, *([] if host in {"0.0.0.0", "::"} else [host]), *allow_host]  # noqa: S104 - compared only
        made = app(shown, token=token, viewer_token=viewer_token, hosts=names, redact=redact, read_only=read_only)
        root_path = root_path.rstrip("/")
        server = uvicorn.Server(uvicorn.Config(made, host=host, port=port, log_level="warning", root_path=root_path))
        made_token = made.state.token if token is None and viewer_token is None else None
        asyncio.run(_serve(server, made_token, root_path))
        return 0 if server.started else FAILED


async def _serve(server: uvicorn.Server, token: str | None, root_path: str) -> None:
    serving = asyncio.create_task(server.serve())
    while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn tells it so only
        await asyncio.sleep(0.005)
    if server.started:
        _announce(server, token, root_path)
    await serving


def _announce(server: uvicorn.Server, token: str | None, root_path: str) -> None:
    """Say where to look, once it is served; with a token that was made now, by a link that logs in."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}{root_path}/"
    print(f"{where}login?token={token}" if token else where)
    print("Ctrl-C ends it.", file=sys.stderr)
    sys.stdout.flush()
