"""Old and new code beside each other on one file, as while a new version is deployed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.processes import child, line, tell
from tests.support.waiting import until

from stepwell import Engine, patched, receive, step, workflow
from stepwell.definitions import definition as stepwell_definition

#: A worker of the old version: it knows nothing of the patch, and ends when it is told to.
OLD_WORKER = """
import os, sys
from stepwell import Engine, receive, step, workflow

@step(name="notes")
def notes(text: str) -> str:
    return text

@workflow(name="deployed")
async def deployed() -> str:
    notes("old")
    return str(await receive("go"))

with Engine(sys.argv[1]):
    print("open", flush=True)
    if sys.stdin.readline().strip() == "die":
        os._exit(1)
"""


@step(name="notes")
def notes(text: str) -> str:
    return text


@pytest.mark.parametrize("end", ["leave", "die"])
def test_a_run_that_old_code_halted_goes_on_in_the_new_worker_when_the_old_one_has_ended(
    database: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    @workflow(name="deployed")
    async def deployed() -> str:
        if patched("also checks"):
            notes("checked")
        notes("new")
        return str(await receive("go"))

    with Engine(database, workflows=[deployed]) as engine:
        run = engine.start(deployed, id="run")
        until(lambda: len(run.journal()) >= 3)
    # So that the old worker has the run, this one does not know the workflow yet.
    monkeypatch.delitem(stepwell_definition._registry, "deployed")
    with child(OLD_WORKER, database) as old:
        assert line(old) == "open"
        # By a client: a worker without the workflow would leave the run pending, maybe after it was halted.
        with Engine(database, workflows=[]) as client:
            client.send("run", "go", "went")
            until(lambda: client.get("run").status == "halted")
        with Engine(database) as engine:
            workflow(name="deployed")(deployed.function)
            assert engine.get("run").status == "halted"
            tell(old, end)
            until(lambda: engine.get("run").status != "halted")
            assert engine.get("run").result(timeout=60) == "went"
