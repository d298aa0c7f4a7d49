"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


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


def results(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("order-")]


def test_the_checkout_ships_what_is_approved_and_refunds_what_is_not(tmp_path: Path) -> None:
    lines = run_checkout(str(tmp_path / "orders.db"))
    assert results(lines) == ["order-42: parcel-of-order-42", "order-43: refused"]
    assert sorted(line.strip() for line in lines if line.startswith("  ")) == [
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
    assert second == results(first)


def test_the_checkout_runs_without_arguments() -> None:
    assert run_checkout()[-1] == "order-43: refused"


def test_the_trips_are_booked_whole_or_undone_in_reverse(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "trip.py"), str(tmp_path / "trips.db")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    results = [
        "rome: 2 tickets",
        "alps: undone, no wind",
        "oslo: undone, run 'oslo' was cancelled: the traveller is ill",
    ]
    assert [line for line in first.splitlines() if line[0] != " "] == second.splitlines() == results
    happened = {
        trip: [text.removeprefix(f"  {trip}: ") for text in first.splitlines() if text.startswith(f"  {trip}:")]
        for trip in ("rome", "alps", "oslo")
    }
    assert happened == {
        "rome": ["booked flight", "booked hotel", "tickets sent"],
        "alps": ["booked train", "booked hut", "cancelled hut", "cancelled train"],
        "oslo": ["booked ferry", "booked cabin", "cancelled cabin", "cancelled ferry"],
    }


def blocks_of(document: str) -> list[str]:
    text = (EXAMPLES.parent / document).read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


def first_program(document: str) -> str:
    """Return the first Python program of a document, with its waits shortened."""
    return blocks_of(document)[0].replace("asyncio.sleep(10)", "asyncio.sleep(0.05)")


def run_twice(program: str, directory: Path) -> list[str]:
    (directory / "program.py").write_text(program)
    return [output_of("program.py", directory) for _ in range(2)]


def output_of(program: str, directory: Path) -> str:
    done = subprocess.run([sys.executable, program], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_program_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    assert run_twice(first_program("README.md"), tmp_path) == ["order-42 paid 42.00\n"] * 2


def test_the_program_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    first, second = run_twice(first_program("docs/tutorial/first-workflow.md"), tmp_path)
    assert first.splitlines() == ["charging book", "waiting", "shipping book", "parcel of book, paid 42.00"]
    assert second.splitlines() == ["parcel of book, paid 42.00"]


def test_the_programs_of_the_tutorial_do_what_it_says_when_they_are_changed_as_it_says(tmp_path: Path) -> None:
    program, question, last_lines, approval = blocks_of("docs/tutorial/first-workflow.md")
    lines = program.replace("import Engine, step", "import Engine, receive, step").splitlines(keepends=True)
    assert lines.pop(0) == "import asyncio\n"
    changed = "".join(lines[:-2]).replace("    await asyncio.sleep(10)\n", question) + last_lines
    (tmp_path / "order.py").write_text(changed)
    (tmp_path / "approve.py").write_text(approval)
    command = [sys.executable, "-u", "order.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as order:
        assert order.stdout is not None
        assert [order.stdout.readline() for _ in range(2)] == ["charging pen\n", "waiting\n"]
        for _ in range(2):  # the second message is dropped
            assert output_of("approve.py", tmp_path) == "approved\n"
        assert order.stdout.read().splitlines() == ["shipping pen", "parcel of pen, paid 42.00"]
    assert order.returncode == 0
    assert output_of("approve.py", tmp_path) == "approved\n"
    assert output_of("order.py", tmp_path) == "parcel of pen, paid 42.00\n"


def test_the_agent_asks_before_it_refunds_and_thinks_nothing_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "agent.py"), str(tmp_path / "agent.db")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    tokens = 'call look_up "order-42" call refund "order-42" Order-42: order-42 is refunded.'
    assert first == second == f"Order-42: order-42 is refunded.\n{tokens}\n"


def test_the_subscription_bills_each_month_once_and_says_so_again(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "subscription.py"), str(tmp_path / "subscriptions.db")]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    said = [
        "ada has left",
        "the plan was large",
        "each month was billed once: True",
        "the report says what is so: True",
    ]
    assert first == second == "\n".join([*said, ""])
