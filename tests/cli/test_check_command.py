"""`stepwell check`: a pipeline learns by the exit code whether the runs in flight go on."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.commands import Desk

BEFORE = """
from stepwell import receive, step, workflow

@step
async def charge(order: str) -> str:
    return order

@workflow
async def checkout(order: str) -> str:
    await charge(order)
    await receive("go")
    return order
"""
AFTER = BEFORE.replace("    await charge(order)\n", '    await receive("approval")\n    await charge(order)\n')
SETUP = """
import shop, sys
from stepwell.testing import TestEngine
with TestEngine("orders.db", workflows=[shop.checkout]) as engine:
    for number in range(12):
        engine.start(shop.checkout, "o", id=f"run-{number}")
    engine.idle()
"""


def test_the_exit_code_says_whether_all_go_on(desk: Desk) -> None:
    (desk.folder / "shop.py").write_text(BEFORE)
    (desk.folder / "other.py").write_text("from stepwell import workflow\n@workflow\nasync def nothing(): ...\n")
    (desk.folder / "setup.py").write_text(SETUP)
    (desk.folder / "after.py").write_text(AFTER.replace("@workflow\n", '@workflow(name="shop.checkout")\n'))
    subprocess.run([sys.executable, "setup.py"], cwd=desk.folder, check=True)
    fits = desk.run("check", "shop")
    assert (fits.returncode, fits.stderr) == (0, "")
    assert "12 of 12 runs in flight go on" in fits.stdout
    diverges = desk.run("check", "after")
    assert diverges.returncode == 1
    assert "0 of 12 runs in flight go on" in diverges.stdout
    assert diverges.stdout.count(": diverges") == 10
    assert "and 2 more of shop.checkout (diverges); --all shows them" in diverges.stdout
    assert "receive 'approval'" in diverges.stdout
    assert "after.py:" in diverges.stdout
    listed = desk.run("check", "after", "--json")
    assert listed.returncode == 1
    found = json.loads(listed.stdout)
    assert (found["runs"], found["goes_on"], len(found["problems"])) == (12, 0, 12)
    missing = desk.run("check", "other")
    assert missing.returncode == 1
    assert "no workflow 'shop.checkout' is defined here" in missing.stdout
    assert desk.run("check", "other", "--missing-ok").returncode == 0
    whole = desk.run("verify", "--module", "shop")
    assert (whole.returncode, "; 12 journals of runs that go on replayed" in whole.stdout) == (0, True)
    unfit = desk.run("verify", "--module", "after")
    assert (unfit.returncode, unfit.stdout.count("does not replay: ")) == (1, 12)
    assert unfit.stdout.startswith("orders.db is whole, but does not fit this code:\n")
    unknown = desk.run("check", "nowhere")
    assert unknown.returncode == 2
