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


def blocks_of(document: str) -> list[str]:
    text = (EXAMPLES.parent / document).read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


def first_program(document: str) -> str:
    """Return the first Python program of a document, with its waits shortened."""
    return blocks_of(document)[0].replace("asyncio.sleep(10)", "asyncio.sleep(0.05)")


def run_twice(program: str, directory: Path) -> list[str]:
    (directory / "program.py").write_text(program)
    outputs = []
    for _ in range(2):
        command = [sys.executable, "program.py"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    return outputs


def test_the_program_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    assert run_twice(first_program("README.md"), tmp_path) == ["order-42 paid 42.00\n"] * 2


def test_the_program_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    first, second = run_twice(first_program("docs/tutorial/first-workflow.md"), tmp_path)
    assert first.splitlines() == ["charging book", "waiting", "shipping book", "parcel of book, paid 42.00"]
    assert second.splitlines() == ["parcel of book, paid 42.00"]


def test_the_program_of_the_tutorial_does_what_it_says_when_it_is_changed_as_it_says(tmp_path: Path) -> None:
    program, question, answer = blocks_of("docs/tutorial/first-workflow.md")
    lines = program.replace("import Engine, step", "import Engine, receive, step").splitlines(keepends=True)
    changed = "".join(lines[:-2]).replace("    await asyncio.sleep(10)\n", question) + answer
    first, second = run_twice(changed, tmp_path)
    assert first.splitlines() == ["charging pen", "waiting", "shipping pen", "parcel of pen, paid 42.00"]
    assert second.splitlines() == ["parcel of pen, paid 42.00"]
