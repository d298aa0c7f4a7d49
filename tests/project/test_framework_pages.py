"""The programs on the pages about frameworks, and about where users come from, do what the pages say."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from stepwell import Engine, RunConflict
from stepwell.testing import TestEngine

DOCS = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [textwrap.dedent(block) for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Return a function that writes a module into a folder of its own, where the file of runs is, and imports it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def module(name: str, text: str) -> ModuleType:
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("shop", "shop_fastapi", "shop_flask", "shop_chat"):
            del sys.modules[name]


def test_the_fastapi_program_places_approves_and_tells(site: Callable[[str, str], ModuleType]) -> None:
    shop = site("shop_fastapi", blocks("use-with-fastapi.md")[0])

    async def use() -> None:
        transport = httpx.ASGITransport(shop.app)
        async with (
            shop.app.router.lifespan_context(shop.app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        ):
            assert (await client.post("/orders/o1?cents=42")).json() == {"run": "o1"}
            assert (await client.post("/orders/o1?cents=42")).status_code == 202
            assert (await client.get("/orders/o2")).status_code == 404
            assert (await client.post("/orders/o2/approval")).status_code == 404
            assert (await client.post("/orders/o1/approval")).status_code == 202
            run = await shop.app.state.engine.get("o1")
            assert await run.result(60) == "receipt-o1-42"
            assert (await client.get("/orders/o1")).json()["status"] == "completed"
            assert (await client.post("/orders/o1/approval")).status_code == 409
            with pytest.raises(RunConflict):
                await shop.app.state.engine.start(shop.checkout, "o1", 43, id="o1")

    asyncio.run(use())


def test_the_chat_program_streams_an_answer_and_goes_on_where_a_browser_was(
    site: Callable[[str, str], ModuleType],
) -> None:
    chat = site("shop_chat", blocks("stream-to-a-browser.md")[0])

    async def use() -> None:
        transport = httpx.ASGITransport(chat.app)
        async with (
            chat.app.router.lifespan_context(chat.app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        ):
            path = (await client.post("/questions/q1?question=why")).json()["events"]
            answer = (await client.get(path)).text
            tokens = [json.loads(line[6:])["token"] for line in answer.splitlines() if line.startswith('data: {"t')]
            assert "".join(tokens) == await (await chat.app.state.engine.get("q1")).result() == "You asked: why "
            assert answer.endswith("event: end\ndata: {}\n\n")
            rest = (await client.get(path, headers={"last-event-id": "1"})).text
            assert rest.startswith('id: 2\ndata: {"token": "why ", "attempt": 1}\n\nevent: end')
            assert (await client.get("/questions/q2/events")).status_code == 404

    asyncio.run(use())


def test_the_flask_program_places_and_tells(site: Callable[[str, str], ModuleType]) -> None:
    shop = site("shop_flask", blocks("use-with-flask.md")[0])
    client = shop.app.test_client()
    answer = client.post("/orders/o1")
    assert (answer.status_code, answer.json) == (202, {"run": "o1"})
    assert shop.engine().get("o1").result(60) == "receipt-o1"
    assert client.get("/orders/o1").json["status"] == "completed"
    hooks: dict[str, Any] = {}
    exec(blocks("use-with-flask.md")[1].replace("from shop ", "from shop_flask "), hooks)
    hooks["post_worker_init"](None)
    hooks["worker_exit"](None, None)
    with pytest.raises(Exception, match="closed"):
        shop.engine().start(shop.checkout, "o2")


def test_the_django_modules_start_a_run_that_a_worker_does(
    site: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    site("shop.__init__", "")
    site("shop.settings", "SECRET_KEY = 'x'\nDATABASES = {}\nINSTALLED_APPS = []\n")
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    page = blocks("use-with-django.md")
    site("shop.worker", page[1])
    parts = re.split(r"^# (shop/\w+)\.py\n", page[0], flags=re.MULTILINE)
    modules = {
        name.rpartition("/")[2]: site(name.replace("/", "."), text)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    answer = modules["views"].place(None, 7)
    assert answer.status_code == 202
    modules["engine"].engine().close()
    with Engine("orders.db", workflows=[modules["flows"].invoicing]) as engine:
        assert engine.get("invoice-7").result(60) == "invoice 7"


@pytest.mark.usefixtures("site")
def test_the_cell_of_a_notebook_runs_on_the_loop_that_is_there() -> None:
    (cell,) = blocks("use-in-notebooks.md")
    names: dict[str, Any] = {"__name__": "notebook"}

    async def execute() -> None:
        for _ in range(2):  # a cell may be executed again
            code = compile(cell, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            done = eval(code, names)
            assert inspect.isawaitable(done)
            await done
            assert await (await names["engine"].get("crawl-1")).result(60) == 100
            await names["engine"].close()

    asyncio.run(execute())


@pytest.mark.parametrize(
    ("page", "flow", "arguments", "expected"),
    [
        ("come-from-celery.md", "welcome", ("ada@example.com",), None),
        ("come-from-dbos.md", "pipeline", ("four",), 4),
        ("keep-secrets.md", "pay", ("MAIN", 5), "charged 5 with a key of 3 characters"),
    ],
)
def test_the_program_of_a_page_runs(
    page: str,
    flow: str,
    arguments: tuple[Any, ...],
    expected: Any,
    engine: TestEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAYMENT_KEY_MAIN", "key")
    names: dict[str, Any] = {"engine": engine, "__name__": f"page_{flow}"}
    for block in blocks(page):
        exec(block, names)
    run = engine.start(names[flow], *arguments)
    engine.advance(60)
    assert run.result(60) == expected
    if "run" in names:
        assert names["run"].result(60) is None


def test_the_program_for_those_who_come_from_temporal_waits_and_is_approved(engine: TestEngine) -> None:
    names: dict[str, Any] = {"__name__": "page_temporal"}
    (block,) = blocks("come-from-temporal.md")
    exec(block, names)
    run = engine.start(names["booking"], "7a")
    engine.advance(3600)
    run.send("approve", value=True)
    assert run.result(60) == "reserved 7a"
