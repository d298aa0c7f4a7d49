"""A file with runs of every kind, served as `stepwell ui` serves it, and Debian's Chromium in front of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from stepwell import Engine, Form, Limit, PermanentError, Queue, Retry, promise, publish, receive, step, workflow
from stepwell.ui import app

# A slow machine is no fault of a page.
expect.set_options(timeout=60_000)

TOKEN = "the token of the browser's tests"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: What must never be executed, nor seen as anything but text.
HOSTILE = {
    "script": "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>",
    "attribute": '"><svg onload="window.harmed = 1"> javascript:window.harmed=1 {{ 7*7 }}',
    "right to left": "شكرا \u202egpj.exe",
    "long": "long " * 20_000,
    "number": 2**63 + 1,
    "control": "\x00\x1b[2J\x07",
}

MAILS = Queue("mails", concurrency=3)
GATEWAY = Limit("gateway", concurrency=2)


@step(name="charge_card", retry=Retry(attempts=3, delay=0.02), limit=GATEWAY)
async def charge(order: str, cents: int) -> dict[str, Any]:
    await asyncio.sleep(0.01 + (hash(order) % 5) / 100)
    if order.endswith("7") and order not in _FAILED:
        _FAILED.add(order)
        raise ConnectionError("the gateway did not answer within 30 s")
    return {"order": order, "cents": cents, "receipt": f"rcpt_{order}", "card": {"brand": "visa", "last4": "4242"}}


_FAILED: set[str] = set()


@step(name="reserve_stock")
def reserve(order: str) -> list[str]:
    return ["shelf 12", order]


@step(name="print_label")
def label(order: str) -> str:
    if order.endswith("3"):
        raise PermanentError("no such address: 12 Nowhere Lane")
    return f"label of {order}"


@step(name="send_mail")
async def mail(_to: str) -> None:
    await asyncio.sleep(0.02)


@workflow(name="shop.checkout")
async def checkout(order: str, cents: int = 4200) -> dict[str, Any]:
    receipt = await charge(order, cents)
    await asyncio.gather(
        asyncio.to_thread(reserve, order), mail(f"{order}@example.com"), charge(f"{order}-shipping", 490)
    )
    await publish("state", "packed")
    await asyncio.sleep(0.05)
    return {"receipt": receipt, "label": await asyncio.to_thread(label, order)}


@workflow(name="shop.approval")
async def approval(order: str) -> bool | None:
    await charge(order, 99_000)
    return await receive("approval", bool, timeout=timedelta(days=3))


@workflow(name="shop.refund")
async def refund(order: str) -> bool:
    form = Form(title=f"Refund {order}?", text="It arrived broken, says the customer.", evidence={"cents": 4200})
    return await promise(bool, form=form)


@workflow(name="shop.newsletter")
async def newsletter(to: str) -> None:
    await mail(to)
    await asyncio.sleep(3_600)


@workflow(name="shop.nightly")
async def nightly() -> int:
    await mail("ops@example.com")
    return 3


@workflow(name="hostile <b>name</b>")
async def hostile(payload: object) -> object:
    await publish("payload", payload)
    return payload


LONG = "x" * 255
LONG_QUEUE = Queue(LONG)


@step(name=LONG)
async def long_step() -> None: ...


@workflow(name=LONG)
async def long_names() -> None:
    await long_step()
    await publish("k" * 255, "v" * 3_000)


@workflow(name="shop.import")
async def many_operations(count: int) -> int:
    for number in range(count):
        await publish("row", number)
    return count


@dataclass
class Served:
    """A file that is served, and its engine."""

    engine: Engine
    address: str


@contextmanager
def served(engine: Engine) -> Iterator[Served]:
    """Serve an engine's file on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app(engine, token=TOKEN, title="orders.db"), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield Served(engine, f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()


def fill(engine: Engine, orders: int = 40, *, is_hostile: bool = True) -> None:
    """Have runs of every kind in a file."""
    runs = [engine.start(checkout, f"order-{1000 + n}", id=f"order-{1000 + n}") for n in range(orders)]
    for number in range(4):
        engine.start(approval, f"order-{number}", id=f"approval-{number}")
    for number in range(9):
        engine.start(newsletter, f"reader-{number}@example.com", id=f"mail-{number}", queue=MAILS)
    engine.start(refund, "order-1001", id="refund-1001")
    engine.schedule(nightly, id="nightly report", cron="30 2 * * *", zone="Europe/Berlin")
    engine.schedule(nightly, id="heartbeat", every=300).trigger()
    for name, payload in HOSTILE.items() if is_hostile else ():
        engine.start(hostile, payload, id=f"hostile {name} <i>").result(timeout=60)
    if is_hostile:
        about: dict[str, Any] = {"attributes": {"a" * 60: "v" * 200}, "tags": ["t" * 60]}
        engine.start(long_names, id=LONG, queue=LONG_QUEUE, **about).result(timeout=60)
        engine.queue(LONG).pause(reason="r" * 400)
        engine.schedule(nightly, id="y" * 200, cron="*/7 3-5 1,15 * MON-FRI", zone="America/Argentina/ComodRivadavia")
    for run in runs:
        with suppress(PermanentError):
            run.result(timeout=60)
    engine.get("approval-1").pause(reason="the customer called", by="ada")
    engine.queue("mails").pause(reason="the provider is down", by="bob")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Engine(tmp_path_factory.mktemp("browser") / "orders.db") as engine, served(engine) as found:
        fill(engine)
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Window:
    """A page that is logged in, and what went wrong in it."""

    def __init__(self, context: BrowserContext, site: Served) -> None:
        self.context, self.site, self.faults = context, site, list[str]()
        self.page: Page = context.new_page()
        self.page.on(
            "console", lambda said: self.faults.append(said.text) if said.type in {"error", "warning"} else None
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(f"{site.address}/login?token={TOKEN}&name=ada")
        self.page.wait_for_url(f"{site.address}/")
        self.page.wait_for_load_state()

    def open(self, path: str) -> Page:
        answer = self.page.goto(f"{self.site.address}{path}")
        assert answer is not None
        assert answer.status == 200
        return self.page


@contextmanager
def window(chromium: Browser, site: Served, **options: Any) -> Iterator[Window]:
    """Open a window of its own."""
    context = chromium.new_context(**{"viewport": {"width": 1360, "height": 860}, **options})
    context.set_default_timeout(60_000)
    try:
        yield Window(context, site)
    finally:
        context.close()


@pytest.fixture
def opened(chromium: Browser, site: Served) -> Iterator[Window]:
    with window(chromium, site) as found:
        yield found
        assert found.faults == []
