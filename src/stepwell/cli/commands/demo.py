"""``stepwell demo``: a workflow whose worker is killed on the way, and what becomes of it; half a minute at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import click

from stepwell.api.engine import Engine
from stepwell.cli.demo_flow import LEDGER, STEPS
from stepwell.cli.exit_codes import FAILED
from stepwell.cli.group import command

#: How long it may take until a step has been executed, or the run has ended, in seconds.
_PATIENCE: Final = 60
#: Behind which step the worker is killed.
_KILLED_AT: Final = 4


@command("demo", "stepwell demo", "stepwell demo --keep demo.db")
@click.option("--keep", type=click.Path(path_type=Path), metavar="FILE", help="Keep the file, under this name.")
def demo(keep: Path | None) -> int:
    """Show what it is for."""
    with tempfile.TemporaryDirectory(prefix="stepwell-demo-") as folder:
        place = Path(folder)
        ledger = place / "executed"
        if keep is not None and keep.exists():
            raise click.BadParameter(f"{keep} exists already", param_hint="--keep")
        database = keep or place / "demo.db"
        environment = {**os.environ, LEDGER: str(ledger)}
        with Engine(database, workflows=[]) as engine:
            run = engine.start("demo", id="demo")
        _say(f"Run 'demo' is started: {STEPS} steps, one after another; what it does stands in one file.")
        first = _worker(database, environment)
        try:
            _wait(ledger, _KILLED_AT)
            _say(f"The worker has executed {_KILLED_AT} steps. Now it is killed: kill -9 {first.pid}", "bold yellow")
            first.kill()
        finally:
            first.wait()
        _say("Nothing is lost, and nothing has to be told: another worker is started.")
        second = _worker(database, environment)
        try:
            with Engine(database, workflows=[]) as engine:
                result = engine.get(run.id).result(timeout=_PATIENCE)
        finally:
            second.send_signal(signal.SIGTERM)
            second.wait()
        executed = Counter(ledger.read_text(encoding="utf-8").split())
        again = [number for number, times in executed.items() if times > 1]
        _say(
            f"The run has completed with {result}. {len(executed)} of {STEPS} steps were executed, " + _again(again),
            "green",
        )
        _show(str(database))
        return 0 if len(executed) == STEPS and len(again) <= 1 else FAILED


def _again(again: list[str]) -> str:
    if not again:
        return "each of them once."
    return (
        f"each of them once but number {again[0]}: it was under way when the worker was killed, so it was begun again."
    )


def _say(text: str, style: str = "") -> None:
    from rich.console import Console

    Console(highlight=False).print(f"▸ {text}", style=style)


def _worker(database: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    line = [
        sys.executable,
        "-m",
        "stepwell",
        "worker",
        "stepwell.cli.demo_flow",
        "--db",
        str(database),
        "--log-level",
        "error",
    ]
    return subprocess.Popen(  # noqa: S603 - this interpreter and this package
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait(ledger: Path, lines: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ledger.exists() or len(ledger.read_text(encoding="utf-8").split()) <= lines:
        if time.monotonic() > deadline:
            raise click.ClickException("no worker came; `stepwell worker stepwell.cli.demo_flow` says why")
        time.sleep(0.05)


def _show(database: str) -> None:
    from stepwell.cli.reading import reads
    from stepwell.cli.run_tree import draw, print_tree

    with reads(database) as read:
        print_tree(draw(read, "demo", database))
