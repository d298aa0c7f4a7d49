"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_checkout(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "checkout.py"), *arguments],
        env=os.environ | {"CHECKOUT_DAY_SECONDS": "0.05"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_checkout_ships_what_is_approved_and_refunds_what_is_not(tmp_path: Path) -> None:
    lines = run_checkout(str(tmp_path / "orders.db"))
    assert lines[-2:] == ["order-42: parcel-of-order-42", "order-43: refused"]
    steps = sorted(line.strip() for line in lines[:-2])
    assert steps == [
        "audit    order-42",
        "charge   order-42: 42.00",
        "charge   order-43: 9.00",
        "notify   ada@example.com",
        "refund   order-43: 9.00",
        "ship     order-42",
    ]


def test_the_checkout_run_twice_executes_no_step_twice(tmp_path: Path) -> None:
    first = run_checkout(str(tmp_path / "orders.db"))
    second = run_checkout(str(tmp_path / "orders.db"))
    assert second == first[-2:]


def test_the_checkout_runs_without_arguments() -> None:
    assert run_checkout()[-1] == "order-43: refused"
