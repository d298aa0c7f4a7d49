"""The Python on the pages is executed literally, with nothing at hand but names that are the reader's own.

What Stepwell has must be imported on the page. A block that awaits stands in a workflow.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import io
import json
import logging
import re
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType
from types import SimpleNamespace as Namespace
from typing import Any

import msgspec
import pytest
from tests.support.waiting import until

import stepwell
from stepwell import Engine, Limit, PermanentError, Queue, StepInterrupted, WorkflowIOError, receive, step, workflow
from stepwell.testing import TestEngine

ROOT = Path(__file__).parents[2]
#: Pages whose blocks other tests execute: test_examples.py, test_testing.py, test_framework_pages.py.
ELSEWHERE = [
    "README.md",
    "docs/how-to/come-from-celery.md",
    "docs/how-to/come-from-dbos.md",
    "docs/how-to/come-from-temporal.md",
    "docs/how-to/keep-secrets.md",
    "docs/how-to/stream-to-a-browser.md",
    "docs/how-to/test-workflows.md",
    "docs/how-to/use-in-notebooks.md",
    "docs/how-to/use-with-django.md",
    "docs/how-to/use-with-fastapi.md",
    "docs/how-to/use-with-flask.md",
    "docs/tutorial/first-workflow.md",
]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [dedent(block) for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


PAGES = [
    page
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if blocks(page := path.relative_to(ROOT).as_posix())
]


class Reader:
    """Executes the blocks of a page one after another, in one module."""

    def __init__(self, page: str, engine: TestEngine, **own: Any) -> None:
        self.path = page
        self.blocks = blocks(page)
        self.engine = engine
        self.happened: list[Any] = []
        self._module = ModuleType(f"documented_{Path(page).stem.replace('-', '_')}")
        self.names: dict[str, Any] = self._module.__dict__
        self.names.update(own, engine=engine)
        self.executed: set[int] = set()

    def execute(self, number: int) -> None:
        """Execute a block."""
        self.executed.add(number)
        exec(compile(self.blocks[number], self._module.__name__, "exec"), self.names)

    def execute_in_a_workflow(self, number: int, run_id: str | None = None) -> Any:
        """Start a workflow whose code is a block, and which returns the variables that the block leaves."""
        self.executed.add(number)
        body = indent(self.blocks[number], "    ")
        exec(f"async def block():\n{body}\n    return sorted(locals())", self.names)
        return self.engine.start(workflow(name=f"block_{number}")(self.names["block"]), id=run_id)

    def noting(self, name: str, result: Any = None) -> Any:
        """Return an async step that takes anything and notes it."""

        async def note(*values: Any) -> Any:
            self.happened.append((name, *values))
            return result

        note.__name__ = note.__qualname__ = name
        return step(name=f"noting.{name}")(note)


@workflow(name="waits for a word")
async def waits() -> Any:
    return await receive("approval")


@workflow(name="takes one thing")
async def takes(_thing: Any) -> str:
    return "done"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    return iter([None])


# --- the pages --------------------------------------------------------------------------------------------------------


def cancel_a_run(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/cancel-a-run.md", engine, asyncio=asyncio, reservation="seat 7")
    engine.start(waits, id="order-42")
    page.execute(0)
    assert engine.get("order-42").info().reason == "customer changed her mind"
    page.names["release"] = page.noting("release")
    run = page.execute_in_a_workflow(1)
    engine.idle()
    run.cancel()
    engine.idle()
    assert (run.status, page.happened) == ("cancelled", [("release", "seat 7")])
    engine.reopen(max_waiting_in_memory=0)
    parked = page.execute_in_a_workflow(2, "order-44")
    engine.idle()
    assert len(page.happened) == 1
    engine.advance(timedelta(days=1))
    assert (parked.result(60) is not None, page.happened[1:]) == (True, [("release", "seat 7")])
    closed: list[int] = []

    async def rows() -> AsyncGenerator[int, None]:
        try:
            for row in range(20):
                yield row
        finally:
            closed.append(row)

    page.names["rows"] = rows
    page.execute_in_a_workflow(3).result(60)
    assert closed == [11]
    page.execute(4)
    assert [(act.act, act.by) for act in engine.get("order-42").acts()][1:] == [("retry", "mia")]
    return page


@dataclass
class Item:
    item: str
    limit: int = 500


def change_code(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/change-code.md", engine, order="order-42")
    page.names["check_fraud"] = page.noting("check_fraud")
    page.execute_in_a_workflow(0).result(60)
    assert page.happened == [("check_fraud", "order-42")]

    @workflow(name="guarded")
    async def guarded() -> bool:
        return stepwell.patched("check-fraud-first")

    with Engine("orders.db", workflows=[guarded]):
        pass
    page.names["stepwell"] = Namespace(check=lambda path: stepwell.check(path, workflows=[guarded]))
    page.execute(1)
    page.names["stepwell"] = stepwell
    noted = {"check": page.noting("check"), "charge": page.noting("charge", "paid")}
    page.names.update(workflow=workflow, Order=Item, **noted)
    page.execute(2)
    assert engine.start(page.names["fulfil"], Item("book")).result(60) == "paid"
    assert [name for name, *_ in page.happened][-2:] == ["check", "charge"]

    @step(name="charge")
    async def charge(order: Item) -> str:
        raise OSError(f"no route for {order.item}")

    page.names.update(prices={"book": 10, "car": 10_000}, charge=charge)
    page.execute(3)
    outcomes = {item: engine.start(page.names["checkout"], Item(item)) for item in ("boat", "car", "book")}
    engine.idle()
    assert {item: run.status for item, run in outcomes.items()} == {"boat": "halted", "car": "failed", "book": "failed"}
    return page


def undo_work(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/undo-work.md", engine)
    for number in range(len(page.blocks)):
        page.execute(number)
    booked = page.names["booked"]
    with pytest.raises(PermanentError, match="no car"):
        engine.start(page.names["travel"], ["flight", "hotel", "car"]).result(60)
    assert booked == []
    with pytest.raises(PermanentError, match="on fire"):
        engine.start(page.names["travel_and_pay"], ["flight"]).result(60)
    assert booked == ["flight", "paid"]
    said = "no car on that day; the balloon ride cannot be cancelled"
    assert engine.start(page.names["careless"]).result(60) == said
    assert f"Its result is `{said}`" in (ROOT / page.path).read_text(encoding="utf-8")
    assert engine.start(page.names["careful"], "train").result(60) == booked[-1]
    return page


def fan_out(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/fan-out.md", engine, package="pip")

    @step(name="list_files")
    async def list_files(root: str) -> list[str]:
        return [f"{root}/{name}" for name in ("a", "bb")]

    @step(name="index_file")
    async def index_file(path: str) -> int:
        return len(path)

    page.names.update(list_files=list_files, index_file=index_file, index_package=takes)
    page.execute(0)
    assert engine.start(page.names["index_tree"], "x").result(60) == 7
    page.execute(1)
    assert engine.start(page.names["index_most"], "x").result(60) == []
    assert engine.start(page.names["ask_three"], ["a", "b", "c"]).result(60) == [1, 1, 1]
    page.execute_in_a_workflow(2, "indexing").result(60)
    assert {run.id for run in engine.list(workflow=takes)} == {"index-pip", "indexing/3"}
    return page


def keep_and_purge(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/keep-and-purge.md", engine)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        page.execute(0)
        page.execute(1)
        page.execute(2)
        assert Path("orders-old.db").exists()
    assert page.names["deleted"] == 0
    assert page.names["moved"].runs == 0
    return page


def back_up(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/back-up.md", engine)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        page.execute(0)
        assert sorted(path.name for path in Path().glob("orders-*")) == ["orders-today.db.gz"]
    return page


def run_on_a_schedule(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/run-on-a-schedule.md", engine)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in range(5):
            page.execute(block)
    return page


def limit_steps(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/limit-steps.md", engine, Customer=str)
    page.execute(0)
    assert isinstance(page.names["api"], Limit)
    assert page.names["look_up"].step_options.limit is page.names["api"]
    return page


def retry_a_step(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/retry-a-step.md", engine, Order=str, Receipt=str)
    page.execute(0)
    page.execute(1)
    assert page.names["charge"].step_options.deadline_seconds == 600
    assert page.names["print_cheque"].step_options.delivery == "at-most-once"
    return page


def retry_a_run(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/retry-a-run.md", engine)
    down = [True]

    @step(name="reach")
    async def reach() -> str:
        if down:
            raise OSError("no route")
        return "reached"

    @workflow(name="shop.flows.checkout")
    async def checkout() -> str:
        return await reach()

    for run in ("order-42", "order-43"):
        engine.start(checkout, id=run)
    engine.idle()
    down.clear()
    page.execute(0)
    assert engine.get("order-42").result(60) == "reached"
    page.execute(1)
    assert engine.get("order-43").result(60) == "reached"
    return page


def live_long(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/live-long.md", engine)
    page.execute(0)  # on a file of its own
    page.execute(1)
    run = engine.start(page.names["subscription"], "eve", id="subscription-eve")
    engine.advance(70 * 24 * 3600)
    assert (run.info().chapter, run.value("month")) == (3, 3)
    run.send("change", "end")
    assert run.result(60) == "eve ended in month 3"
    return page


def ask_a_run(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/ask-a-run.md", engine)
    page.execute(0)
    run = engine.start(page.names["basket"], "eve", id="basket-7")
    run.send("add", "fig")
    run.send("add", "pear")
    engine.advance(0)
    page.execute(1)
    assert (page.names["cents"], run.query("total", 20)) == (35, 20)
    page.execute(2)
    engine.start(page.names["order"], 1, id="order-7")
    page.execute(3)
    assert page.names["total"] == 15
    with pytest.raises(stepwell.UpdateRefused, match="no room for pear"):
        engine.get("order-7").update("add", "pear")
    page.execute(4)
    late = engine.start(page.names["supervise"], "order-7")
    engine.advance(3601)
    assert late.result(60) == "none, cancelled"
    return page


def all_of(page: str) -> Callable[[TestEngine], Reader]:
    """Return what executes all blocks of a page, which need nothing around them."""

    def read(engine: TestEngine) -> Reader:
        reader = Reader(page, engine)
        for number in range(len(reader.blocks)):
            reader.execute(number)
        return reader

    return read


def run_workers(engine: TestEngine) -> Reader:
    thresholds = gc.get_threshold()
    try:
        return all_of("docs/how-to/run-workers.md")(engine)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def repair_a_run(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/repair-a-run.md", engine)
    done: list[str] = []

    @step(name="pack")
    async def pack(what: str) -> str:
        done.append(what)
        return what

    @workflow(name="shop.flows.order")
    async def order(name: str, *, express: bool = False) -> list[str]:
        return [await pack(name), await pack("size"), await pack("fast" if express else "slow")]

    engine.start(order, "order-42", id="order-42").result(60)
    page.names["print"] = lambda *_: None

    def settled(run: Any) -> Any:
        return run.result(60)

    *statements, last = page.blocks[0].splitlines()
    assert statements[0].startswith("run = ")
    for line in page.blocks[0].split("\n\n")[1].splitlines():
        exec("run = engine.get('order-42')\n" + line, page.names)
        settled(engine.get("order-42"))
    exec(page.blocks[0].split("\n\n")[0], page.names)
    page.executed.add(0)
    assert last.startswith("run.restart(")
    assert engine.get("order-42").result(60) == ["order-42", "size", "fast"]
    assert [chapter.beginning for chapter in engine.get("order-42").chapters()] == [
        *("started", "rewound", "rewound", "rewound", "rewound", "restarted", "restarted"),
    ]
    engine.get("order-42").delete()
    engine.start(order, "order-42", id="order-42", kwargs={"express": True}).result(60)
    page.execute(1)
    assert engine.get("order-42-south").result(60) == ["order-42", "south", "fast"]
    transfer(engine)
    page.execute(2)
    assert engine.get("transfer-7").result(60) == "LX-7731"
    return page


def transfer(engine: TestEngine) -> None:
    """Leave a run behind whose step of at-most-once was cut off."""
    begun, hangs = threading.Event(), threading.Event()

    @step(name="pay the bank", delivery="at-most-once")
    def pay() -> str:
        begun.set()
        hangs.wait(60)
        return "?"

    @workflow(name="shop.flows.transfer")
    async def transfers() -> str:
        return pay()

    run = engine.start(transfers, id="transfer-7")
    assert begun.wait(60)
    engine.crash()
    engine.reopen()
    hangs.set()
    with pytest.raises(StepInterrupted):
        run.result(60)


def run_cpu_bound_steps(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/run-cpu-bound-steps.md", engine, Page=str, Image=bytes)
    page.execute(0)
    assert page.names["render"].step_options.isolate == "process"
    return page


class Document(msgspec.Struct):
    id: str


@workflow(name="takes a document")
async def takes_document(_document: Document) -> str:
    return "done"


def use_queues(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/use-queues.md", engine, send_mail=takes, report=takes, insert_rows=takes)
    page.names["reindex"] = takes_document
    page.execute(0)
    assert page.names["run"].id
    page.names.update(engine=engine, tenant="tenant-7", document=Document("page-1"), row=1)
    engine.start(takes, "a@example.org", queue=page.names["mails"]).result(60)
    for number in range(1, len(page.blocks)):
        page.execute(number)
    assert all(isinstance(page.names[name], Queue) for name in ("mails", "jobs", "index", "rows"))
    engine.advance(60)
    assert [run.status for run in engine.list()] == ["completed"] * 6
    info = page.names["line"].info()
    assert (info.concurrency, info.rate, info.paused) == (2, None, False)
    return page


def use_transactions(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/use-transactions.md", engine, checkout=takes)
    with engine.transaction() as tx:
        tx.execute("CREATE TABLE bookings (order_id, cents); CREATE TABLE orders (id, email)")
    page.execute(0)
    book = page.names["book"]

    @workflow(name="books")
    async def books() -> None:
        book("order-42", 4200)

    engine.start(books).result(60)
    page.execute(1)
    assert engine.get("order-42").result(60) == "done"
    page.names |= {"remind": takes, "mails": Queue("documented.mails"), "engine": engine}
    page.execute(2)
    assert len(page.names["runs"]) == 1000
    assert page.names["runs"][999].result(60) == "done"
    page.execute(3)
    assert engine.get("reminder-999").result(60) == "done"
    page.execute(4)
    assert page.names["big"] == [("order-42", "ada@example.com")]
    assert page.names["count"] == 1
    with engine.transaction() as tx:
        assert tx.execute("SELECT * FROM bookings") == [("order-42", 4200)]
        assert tx.execute("SELECT * FROM orders") == [("order-42", "ada@example.com")]
    return page


def poll_until_it_is_done(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/poll-until-it-is-done.md", engine)
    page.execute(0)
    assert engine.start(page.names["convert"], "job-7").result(30) == "done"
    return page


def say_how_far_a_step_is(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/say-how-far-a-step-is.md", engine)
    page.execute(0)
    path = Path("rows.csv")
    path.write_text("a,1\nb,2\n", encoding="utf-8")
    run = engine.start(page.names["import_file"], str(path))
    assert run.result(30) == 2
    (said,) = engine._session.reads.details(run.id).progress
    assert said.words == "2 of 2 (100 %): row b"
    page.execute(1)
    return page


def stream_out_of_a_run(engine: TestEngine) -> Reader:
    async def model(_question: str) -> AsyncGenerator[str, None]:
        for token in ("be", "cause"):
            yield token

    page = Reader("docs/how-to/stream-out-of-a-run.md", engine, model=model)
    page.execute(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        page.execute(1)
        page.execute(2)
    assert printed.getvalue() == "because0 1 be\n1 1 cause\n['be', 'cause']\n"
    page.execute(3)
    page.execute(4)

    @workflow(name="streams.measured")
    async def measured() -> None:
        await page.names["measure"]()

    run = engine.start(measured)
    assert list(run.stream("readings", float)) == [20.5]
    return page


def wait_for_messages(engine: TestEngine) -> Reader:
    page = Reader("docs/how-to/wait-for-messages.md", engine)
    page.execute_in_a_workflow(0, "order-42")
    page.execute(1)
    late = page.execute_in_a_workflow(0, "order-43")
    assert "approved" in engine.get("order-42").result(60)
    engine.advance(timedelta(days=3))
    assert late.status == "completed"
    return page


def several_processes(engine: TestEngine) -> Reader:
    page = Reader("docs/explanation/several-processes.md", engine)
    page.execute(0)
    assert page.names["worker"].state == "active"
    return page


def the_log(engine: TestEngine) -> Reader:
    page = Reader("docs/reference/log.md", engine)
    page.execute(0)
    handler, said = page.names["handler"], io.StringIO()
    handler.setStream(said)
    try:

        @workflow(name="fails")
        async def fails() -> None:
            raise ValueError("no luck")

        with pytest.raises(ValueError, match="no luck"):
            engine.start(fails, id="order-42").result(60)
        until(said.getvalue)  # the log follows the commit, which a reader may see before
    finally:
        logging.getLogger("stepwell").removeHandler(handler)
    (line,) = map(json.loads, said.getvalue().splitlines())
    assert (line["level"], line["run"], line["workflow"]) == ("ERROR", "order-42", "fails")
    return page


class StatusError(Exception):
    """Refers to a response, as the exceptions of HTTP clients do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.response = Namespace(status_code=404, text="not here")


def values(engine: TestEngine) -> Reader:
    said: list[str] = []

    @step(name="fetch")
    async def fetch(path: str) -> str:
        raise StatusError(path)

    page = Reader("docs/reference/values.md", engine, fetch=fetch, StatusError=StatusError, print=said.append)
    page.execute_in_a_workflow(0).result(60)
    assert said == ["not there"]
    return page


def write_workflow_code(engine: TestEngine) -> Reader:
    @step(name="weigh")
    def weigh(what: str) -> Any:
        return what

    copied: list[str] = []

    @step(name="copy")
    async def copy(name: str) -> None:
        copied.append(name)

    page = Reader("docs/how-to/write-workflow-code.md", engine, weigh=weigh, copy=copy)
    assert {"pair", "several"} <= set(page.execute_in_a_workflow(0).result(60))
    page.execute(1)
    weighs_all = workflow(name="weighs all")(page.names["weigh_all"])
    assert engine.start(weighs_all, ["a", "b"]).result(60) == {"a": "a", "b": "b"}
    page.execute(2)

    @workflow(name="waits for the first")
    async def waits_for_the_first() -> int:
        tasks = {asyncio.create_task(asyncio.sleep(0, number)) for number in range(1)}
        return int(await page.names["first_of"](tasks))

    assert engine.start(waits_for_the_first).result(60) == 0
    page.execute(3)
    assert engine.start(page.names["monthly"], "acme").result(60) == "acme pays 4200"
    page.execute(4)
    engine.start(page.names["copy_all"], ["a", "b", "c", "d"]).result(60)
    assert sorted(copied) == ["a", "b", "c", "d"]
    page.names["shared"] = workflow(name="shared")(page.names["GATE"].acquire)
    with pytest.raises(WorkflowIOError, match="outside of the run"):
        engine.start(page.names["shared"]).result(60)
    page.execute(5)
    assert page.names["run"].result(60) == 10
    return page


def why_does_a_run_wait(engine: TestEngine) -> Reader:
    @workflow(name="approves")
    async def approves() -> None:
        await receive("approval", bool, timeout=timedelta(days=3))

    engine.start(approves, id="order-42")
    engine.idle()
    page = Reader("docs/how-to/why-does-a-run-wait.md", engine)
    page.execute(0)
    info = page.names["info"]
    assert info.status == "waiting"
    assert re.fullmatch(r"it waits for message 'approval', a timer until [-0-9]+ [:.0-9]+Z", info.reason)
    assert {wait.kind for wait in info.waiting_on} == {"message", "timer"}
    return page


READ: dict[str, Callable[[TestEngine], Reader]] = {
    "docs/explanation/several-processes.md": several_processes,
    "docs/how-to/act-on-many-runs.md": all_of("docs/how-to/act-on-many-runs.md"),
    "docs/how-to/ask-a-run.md": ask_a_run,
    "docs/how-to/ask-a-person.md": all_of("docs/how-to/ask-a-person.md"),
    "docs/how-to/back-up.md": back_up,
    "docs/how-to/be-told-of-failures.md": all_of("docs/how-to/be-told-of-failures.md"),
    "docs/how-to/call-steps-in-place.md": all_of("docs/how-to/call-steps-in-place.md"),
    "docs/how-to/cancel-a-run.md": cancel_a_run,
    "docs/how-to/change-code.md": change_code,
    "docs/how-to/fan-out.md": fan_out,
    "docs/how-to/find-runs.md": all_of("docs/how-to/find-runs.md"),
    "docs/how-to/keep-and-purge.md": keep_and_purge,
    "docs/how-to/limit-steps.md": limit_steps,
    "docs/how-to/live-long.md": live_long,
    "docs/how-to/look-in-a-browser.md": all_of("docs/how-to/look-in-a-browser.md"),
    "docs/how-to/pause-a-run.md": all_of("docs/how-to/pause-a-run.md"),
    "docs/how-to/repair-a-run.md": repair_a_run,
    "docs/how-to/retry-a-run.md": retry_a_run,
    "docs/how-to/retry-a-step.md": retry_a_step,
    "docs/how-to/run-cpu-bound-steps.md": run_cpu_bound_steps,
    "docs/how-to/run-on-a-schedule.md": run_on_a_schedule,
    "docs/how-to/poll-until-it-is-done.md": poll_until_it_is_done,
    "docs/how-to/say-how-far-a-step-is.md": say_how_far_a_step_is,
    "docs/how-to/stream-out-of-a-run.md": stream_out_of_a_run,
    "docs/how-to/start-runs.md": all_of("docs/how-to/start-runs.md"),
    "docs/how-to/undo-work.md": undo_work,
    "docs/how-to/use-queues.md": use_queues,
    "docs/how-to/use-transactions.md": use_transactions,
    "docs/how-to/wait-for-messages.md": wait_for_messages,
    "docs/how-to/why-does-a-run-wait.md": why_does_a_run_wait,
    "docs/how-to/write-workflow-code.md": write_workflow_code,
    "docs/how-to/run-from-cron.md": all_of("docs/how-to/run-from-cron.md"),
    "docs/how-to/run-workers.md": run_workers,
    "docs/reference/filters.md": all_of("docs/reference/filters.md"),
    "docs/reference/log.md": the_log,
    "docs/reference/values.md": values,
}


def test_the_python_of_every_page_is_executed_by_some_test() -> None:
    assert sorted(PAGES) == sorted([*READ, *ELSEWHERE])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_python(page: str) -> None:
    for block in blocks(page):
        compile(f"async def block():\n{indent(block, '    ')}", page, "exec", ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("page", READ)
def test_the_blocks_of_a_page_do_what_it_says(page: str, engine: TestEngine) -> None:
    reader = READ[page](engine)
    assert reader.executed == set(range(len(reader.blocks)))
