"""What shows runs to people and agents: the tree of one, what comes as it comes, counts, pages of the documentation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver.exceptions import ToolError

from stepwell import Retry, receive, start, step, workflow
from stepwell.cli import main
from stepwell.cli.demo_flow import LEDGER, STEPS, demo
from stepwell.cli.mcp_server import server
from stepwell.testing import TestEngine


@step(name="looking.flaky", retry=Retry(attempts=2, delay=60))
async def flaky() -> str:
    raise LookupError("nothing there\nat all")


@workflow(name="looking.child")
async def child() -> str:
    return "grown"


@workflow(name="looking.parent")
async def parent() -> None:
    await (await start(child, id="order-child")).result()
    try:
        await flaky()
    except LookupError:
        await receive("go")


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("looking") / "orders.db"
    with TestEngine(path) as engine:
        engine.start(parent, id="order-parent", attributes={"customer": "acme"}, tags=["vip"])
        engine.idle()
        engine.advance(120)
        engine.start(child, id="other", note="by phone")
        engine.idle()
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *line: str, code: int = 0) -> str:
    assert main(list(line)) == code
    out = capsys.readouterr()
    return out.out if not code else out.out + out.err


def test_a_run_is_a_tree_with_attempts_children_and_why_it_waits(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, "show", "order-parent", "--tree", "--db", orders)
    lines = [" ".join(line.replace("│", " ").split()) for line in shown.splitlines()]
    assert any("waiting" in line for line in lines[:1])
    assert any("waits for the message 'go'" in line or "message 'go'" in line for line in lines)
    assert any("customer=acme #vip" in line for line in lines)
    assert any(line.startswith("├── ✓ 1 child order-child looking.child completed") for line in lines)
    assert any("looking.flaky" in line and "attempt 2 LookupError: nothing there" in line for line in lines)
    assert any("✗ attempt 1" in line for line in lines)
    assert any("◌" in line and "message go" in line for line in lines)


@workflow(name="looking.crowd")
async def crowd(count: int) -> None:
    for number in range(count):
        await start(child, id=f"member-{number}")
    await start(waiting_child, id="member-waiting")
    await receive("end")  # what a run leaves behind that ends is cancelled


@workflow(name="looking.waiting_child")
async def waiting_child() -> None:
    await receive("go")


def test_of_many_children_those_that_are_well_are_a_line_each(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestEngine(database) as engine:
        engine.start(crowd, 5, id="crowd")
        engine.idle()
    lines = said(capsys, "show", "crowd", "--tree", "--db", str(database)).splitlines()
    assert sum("✓" in line and "child member-" in line and "completed" in line for line in lines) == 5
    assert any("◌" in line and "child member-waiting" in line for line in lines)
    assert any(line.startswith("│") and "message go" in line for line in lines)


@workflow(name="looking.brackets")
async def brackets(text: str) -> str:
    return text


@pytest.mark.parametrize("text", ["[/end]", "[red]hot[/red]", "[1]"])
def test_payloads_stand_in_the_tree_as_they_are_and_are_no_markup(
    database: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestEngine(database) as engine:
        engine.start(brackets, text, id=text)
        engine.idle()
    tree = said(capsys, "show", text, "--tree", "--db", str(database))
    shown = [" ".join(line.split()) for line in tree.splitlines()]
    assert f'input {{"args":["{text}"]}}' in shown
    assert f"result {text}" in shown


def test_a_beginning_that_no_other_id_has_is_enough(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, "show", "oth", "--json", "--db", orders))["id"] == "other"
    assert "those that begin so: 'order-" in said(capsys, "show", "order-", "--db", orders, code=1)
    assert "has no run 'x'" in said(capsys, "show", "x", "--db", orders, code=1)
    assert "run 'other' is completed" in said(capsys, "show", "ot", "--follow", "--db", orders)


def test_runs_are_counted_and_paged(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ["list", "--counts", "--by", "workflow", "--json", "--db", orders]
    assert json.loads(said(capsys, *counts)) == {"looking.child": 2, "looking.parent": 1}
    assert "completed  2" in said(capsys, "list", "--counts", "--db", orders)
    page = json.loads(said(capsys, "list", "--limit", "1", "--before", "other", "--json", "--db", orders))
    assert [info["id"] for info in page] == ["order-child"]
    assert "takes a filter" in said(capsys, "list", "--counts", "--roots", "--db", orders, code=2)


def test_old_runs_are_counted_before_they_are_deleted(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TestEngine(database) as engine:
        engine.start(child, id="a")
        engine.idle()
    assert "1 run ended" in said(capsys, "prune", "--older-than", "1s", "--dry-run", "--db", str(database))
    assert "1 run deleted" in said(capsys, "prune", "--older-than", "1s", "--yes", "--db", str(database))
    assert "0 runs" in said(capsys, "prune", "--older-than", "1s", "--yes", "--db", str(database))


def test_the_documentation_is_in_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert "find-runs" in said(capsys, "docs")
    assert said(capsys, "docs", "filters").startswith("# Filters of runs")
    assert "find-runs" in said(capsys, "docs", "--search", "SET_ATTRIBUTES")
    assert "Did you mean 'find-runs'?" in said(capsys, "docs", "find-run", code=2)
    assert said(capsys, "docs", "--search", "no such words at all", code=1) == ""


def test_the_disk_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = json.loads(said(capsys, "bench", "--seconds", "0.01", "--folder", str(tmp_path), "--json"))
    assert len(figures) == 3
    assert all(figure["per_second"] > 0 for figure in figures)
    assert not list(tmp_path.iterdir())


def test_what_the_demo_runs_fails_once_and_completes(engine: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Path(str(engine._path)).with_suffix(".executed")
    monkeypatch.setenv(LEDGER, str(ledger))
    run = engine.start(demo, id="demo")
    engine.idle()
    engine.advance(1)
    assert run.result(timeout=60) == STEPS
    assert ledger.read_text().split() == [str(number) for number in range(1, STEPS + 1)]


def test_agents_look_and_act_only_where_that_is_allowed(database: Path) -> None:
    with TestEngine(database) as engine:
        engine.start(parent, id="order-1")
        engine.idle()
    looks, acts = server(str(database), allow_acts=False), server(str(database), allow_acts=True)

    async def main() -> None:
        names = {tool.name for tool in await looks.list_tools()}
        assert names == {"find_runs", "count_runs", "show_run", "why", "doctor", "schema", "docs"}
        more = {tool.name for tool in await acts.list_tools()} - names
        assert more == {"cancel_run", "retry_run", "resume_run", "pause_run", "unpause_run", "send_message"}

        async def called(name: str, **given: Any) -> str:
            return str(await acts.call_tool(name, given))

        assert "order-1" in await called("find_runs", filter="workflow:looking.parent")
        assert "is waiting" in await called("why", run="order-1")
        assert "CREATE TABLE stepwell_tags" in await called("schema")
        assert "Filters of runs" in await called("docs", topic="filters")
        assert "order-1" in await called("show_run", run="order-1")
        assert "recorded" in await called("pause_run", run="order-1", reason="asked to")
        assert "an agent of" in await called("show_run", run="order-1")

    asyncio.run(main())


@pytest.mark.parametrize(
    "line",
    [
        ["list"],
        ["list", "--counts"],
        ["show", "other"],
        ["queues"],
        ["workers"],
        ["schedules"],
        ["promises"],
        ["verify"],
        ["doctor", "--json"],
    ],
)
def test_a_copy_that_nobody_may_write_to_is_looked_into_and_nothing_is_made_beside_it(
    orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    copy = tmp_path / "copy.db"
    assert main(["backup", str(copy), "--db", orders]) == 0
    copy.chmod(0o444)
    assert main([*line, "--db", str(copy)]) in {0, 1}
    assert "cannot be opened" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copy.db"]
    assert main(["send", "order-parent", "go", "--db", str(copy)]) == 1
    assert "is read-only, or not readable, for this user" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("show_run", {"run": "nobody"}, "has no run 'nobody'"),
        ("find_runs", {"filter": "status:faild"}, "is 'failed' meant"),
    ],
)
def test_an_agent_is_told_why_it_is_refused(orders: str, tool: str, given: dict[str, str], expected: str) -> None:
    with pytest.raises(ToolError, match=expected):
        asyncio.run(server(orders, allow_acts=False).call_tool(tool, given))
