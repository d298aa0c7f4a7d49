"""The web UI in a real browser: every page, live, by keyboard, on a phone, under attack. Run by `make browser`."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser.conftest import HOSTILE, LONG, Served, Window, approval, many_operations, refund, served, window
from playwright.sync_api import Browser, expect

from stepwell import Engine

PAGES = {
    "overview": "/",
    "runs": "/runs",
    "run": "/run?id=order-1007",
    "failed run": "/run?id=order-1003&op=7",
    "waiting run": "/run?id=approval-0",
    "long names": f"/run?id={LONG}&op=1",
    "step by step, long names": f"/run/moment?id={LONG}",
    "compared, long names": f"/run/compare?id={LONG}&other=order-1003",
    "schedule, long names": f"/schedule?id={'y' * 200}",
    "step by step": "/run/moment?id=order-1007&told=2",
    "compared": "/run/compare?id=order-1007&other=order-1003",
    "waiting": "/waiting",
    "journal": "/run/journal?id=order-1007&form=full",
    "queues": "/queues",
    "schedules": "/schedules",
    "schedule": "/schedule?id=heartbeat",
    "workers": "/workers",
    "bulk": "/bulk?act=retry&filter=workflow:shop.checkout",
    "database": "/database",
    "query": "/database/query",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_whole_and_accessible(chromium: Browser, site: Served, look: str) -> None:
    with window(chromium, site, **LOOKS[look]) as opened:
        found = {}
        for name, path in PAGES.items():
            page = opened.open(path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
            if (look == "phone" and name not in {"overview", "run"}) or "long names" in name:
                continue  # its colours and words are those of the others
            # What one colour scheme has of words and roles, the other has as well.
            options = {"runOnly": ["color-contrast"]} if look == "dark" else None
            violations = Axe().run(page, options=options).response["violations"]
            serious = [each for each in violations if each["impact"] in {"serious", "critical"}]
            found[name] = [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in serious]
        assert {name: each for name, each in found.items() if each} == {}
        assert opened.faults == []


@pytest.mark.parametrize("typed", ["", "qu", "order-10", "nothing is called this"])
def test_the_palette_is_accessible_and_says_what_is_chosen(opened: Window, typed: str) -> None:
    page = opened.open("/run?id=order-1003")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.keyboard.press("Control+k")
    page.keyboard.type(typed)
    box = page.get_by_role("dialog").get_by_role("combobox")
    if typed.startswith("nothing"):
        expect(page.get_by_role("status").filter(has_text="Nothing has that name")).to_be_visible()
        assert box.get_attribute("aria-activedescendant") is None
    else:
        offered = page.get_by_role("dialog").get_by_role("option")
        expect(offered.first).to_be_visible()
        page.keyboard.press("ArrowDown")
        chosen = page.locator('dialog [aria-selected="true"]')
        expect(box).to_have_attribute("aria-activedescendant", chosen.get_attribute("id") or "")
    assert [each["id"] for each in Axe().run(page).response["violations"] if each["impact"] != "minor"] == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_login_is_needed_and_the_login_page_is_accessible(chromium: Browser, site: Served) -> None:
    page = chromium.new_context().new_page()
    page.goto(f"{site.address}/run?id=order-1007")
    assert "order-1007" not in page.locator("body").inner_text()
    assert [each["id"] for each in Axe().run(page).response["violations"] if each["impact"] == "serious"] == []
    page.get_by_label("Token").fill("a wrong token, quite long")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    page.context.close()


def test_the_list_is_live_and_nothing_of_it_flickers(opened: Window) -> None:
    page = opened.open("/runs?filter=workflow:shop.approval")
    first = page.locator("tbody tr").first
    kept = first.get_attribute("data-key")
    page.evaluate("document.querySelector('tbody tr').marked = true")
    opened.site.engine.start(approval, "new", id="approval-new")
    expect(page.locator('tr[data-key="approval-new"]')).to_be_visible()
    assert page.evaluate(f"document.querySelector('tr[data-key=\"{kept}\"]').marked")  # the same row, not another one
    expect(page.locator('tr[data-key="approval-new"] .status')).to_have_text("waiting")
    opened.site.engine.get("approval-new").cancel()
    expect(page.locator('tr[data-key="approval-new"] .status')).to_have_text("cancelled")


def test_what_is_open_and_typed_stays_while_the_page_changes(opened: Window) -> None:
    run = opened.site.engine.start(approval, "typing", id="approval-typing")
    page = opened.open("/run?id=approval-typing")
    page.locator("summary", has_text="Send another").click()
    page.get_by_label("Message").fill("approval")
    page.get_by_label("Value, as JSON").fill("true")
    run.pause(reason="meanwhile")
    expect(page.locator(".state .status")).to_have_text("paused")
    expect(page.get_by_label("Value, as JSON")).to_have_value("true")
    run.unpause()
    expect(page.locator(".state .status")).to_have_text("waiting")
    page.locator("details[open] button").click()
    expect(page.locator(".state .status")).to_have_text("completed")


@pytest.mark.parametrize("act", ["pause", "terminate", "cancel"])
def test_an_act_is_done_by_a_form_with_a_reason(opened: Window, act: str) -> None:
    opened.site.engine.start(approval, act, id=f"acted on by {act}")
    page = opened.open(f"/run?id=acted%20on%20by%20{act}")
    page.locator(f'[data-id="act-{act}"] summary').click()
    page.locator("details[open]").get_by_label("Why").fill("because of a test")
    page.locator("details[open] button").click()
    expect(page.locator(".history")).to_contain_text("because of a test")
    expect(page.locator(".history")).to_contain_text("by ada (web)")


def test_a_message_is_sent_by_the_form_of_its_type(opened: Window) -> None:
    run = opened.site.engine.start(approval, "typed", id="approval-typed")
    page = opened.open("/run?id=approval-typed")
    page.locator("summary", has_text="Send approval").click()
    page.get_by_label("Value", exact=False).first.select_option("false")
    page.locator("details[open] button").click()
    expect(page.locator(".state .status")).to_have_text("completed")
    assert run.result() is False


def test_a_run_goes_on_from_an_operation_with_another_result(opened: Window) -> None:
    page = opened.open("/run?id=order-1020&op=1")
    expect(page.locator(".details")).to_contain_text("receipt = await charge(order, cents)")
    page.locator("summary", has_text="Fork from here").click()
    page.get_by_label("Id of the new run").fill("forked")
    assert not page.locator("details[open] textarea").is_visible()
    page.get_by_label("The operation").and_(page.locator("details[open] select")).select_option("result")
    page.locator("details[open] textarea").fill('{"receipt": "by hand"}')
    page.locator("details[open]").get_by_label("Why").fill("the card was charged by hand")
    page.locator("details[open] button").click()
    expect(page.locator("h1")).to_have_text("forked")
    expect(page.locator(".state .status")).to_have_text("completed")
    expect(page.locator(".details")).to_contain_text("by hand")


def test_a_promise_is_answered_on_the_page_that_its_run_leads_to(opened: Window) -> None:
    run = opened.site.engine.start(refund, "order-7", id="refund-7")
    page = opened.open("/run?id=refund-7")
    page.get_by_role("link", name="Answer it").click()
    page.get_by_label("Answer").select_option("true")
    page.get_by_label("Why").fill("seen in a test")
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_role("status").first).to_contain_text("The answer is recorded")
    assert run.result(timeout=60) is True


def test_a_run_is_gone_through_step_by_step(opened: Window) -> None:
    page = opened.open("/run/moment?id=order-1007")
    page.get_by_role("link", name="Forwards").click()
    expect(page.get_by_role("navigation", name="Steps")).to_contain_text("told 1 of")
    page.get_by_role("link", name="End").click()
    expect(page.locator("main")).to_contain_text("it had ended")


def test_many_runs_are_acted_on(opened: Window) -> None:
    for number in range(3):
        opened.site.engine.start(approval, str(number), id=f"bulk-{number}")
    page = opened.open("/bulk")
    page.get_by_label("Do").select_option("terminate")
    page.get_by_label("to all runs that match").fill("id:bulk-*")
    page.get_by_role("button", name="Count them").click()
    page.get_by_label("Type the number").fill("3")
    page.get_by_role("button", name="Terminate them").click()
    expect(page.locator("tr[aria-current]")).to_contain_text("3 of 3")


def test_the_keyboard_is_enough(opened: Window) -> None:
    page = opened.open("/runs?filter=workflow:shop.checkout")
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.locator("tbody tr").nth(1)
    expect(second).to_have_attribute("data-here", "")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/run\\?id="))
    page.keyboard.press("Control+k")
    page.keyboard.type("order-1020")
    expect(page.locator("dialog li", has_text="order-1020")).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("id=order-1020"))
    page.keyboard.press("Control+k")
    page.keyboard.type("queu")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/queues"))
    page.keyboard.press("/")
    page.wait_for_url(re.compile("/runs"))
    page.keyboard.press("/")
    page.keyboard.type("status:failed")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("filter=status"))
    page.go_back()
    expect(page.locator("[data-filter]")).to_have_value("")


def test_a_filter_is_completed_and_kept_in_the_address(opened: Window) -> None:
    page = opened.open("/runs")
    box = page.locator("[data-filter]")
    box.press_sequentially("workflow:shop.ch")
    expect(page.locator("#completions option")).to_have_count(1)  # those for fewer letters may come before
    expect(page.locator("#completions option")).to_have_attribute("value", "workflow:shop.checkout")
    box.fill("stauts:failed")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("is 'status' meant")


def test_a_view_is_saved_gone_to_and_forgotten(opened: Window) -> None:
    page = opened.open("/runs?filter=workflow:shop.approval")
    page.get_by_label("Name of the view").fill("<b>Mine</b>")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Needs somebody").click()
    page.wait_for_url(re.compile("halted"))
    page.get_by_role("link", name="<b>Mine</b>").click()
    page.wait_for_url(re.compile("shop.approval"))
    expect(page.locator("[data-filter]")).to_have_value("workflow:shop.approval")
    page.wait_for_timeout(2_500)  # for the page to ask for itself again
    page.get_by_role("button", name="Forget the view <b>Mine</b>").click()
    expect(page.get_by_role("link", name="<b>Mine</b>")).to_have_count(0)


def test_an_operation_is_chosen_and_the_panes_divide(opened: Window) -> None:
    page = opened.open("/run?id=order-1007")
    page.locator(".row .label").first.click()
    expect(page.locator(".details")).to_contain_text("the gateway did not answer")
    expect(page.locator(".details")).to_contain_text("4242")
    handle = page.locator("[data-divider]")
    before = page.locator(".waterfall").bounding_box()
    handle.focus()
    page.keyboard.press("ArrowLeft")
    after = page.locator(".waterfall").bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] < before["width"]


def test_a_part_of_the_waterfall_is_drawn_larger(opened: Window) -> None:
    page = opened.open("/run?id=order-1007")
    box = page.locator("[data-zoom]").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 4)
    page.mouse.up()
    page.wait_for_url(re.compile("zoom="))
    expect(page.locator(".rows > li")).to_have_count(1)
    page.get_by_role("link", name="zoomed").click()
    expect(page.locator(".rows > li")).to_have_count(7)


def test_times_are_shown_as_they_are_wanted(opened: Window) -> None:
    page = opened.open("/run?id=order-1007")
    time_shown = page.locator(".facts time").first
    button = page.locator("[data-zone]")
    button.click()
    expect(time_shown).to_have_text(re.compile(r"^(\d+ [A-Z][a-z]{2} )?\d\d:\d\d:\d\d\.\d{3}Z$"))
    button.click()
    expect(time_shown).to_have_text(re.compile(" ago$"))
    page.reload()
    expect(page.locator(".facts time").first).to_have_text(re.compile(" ago$"))
    page.locator("[data-theme-switch]").click()
    chosen = page.locator("html").get_attribute("data-theme")
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == chosen


@pytest.mark.parametrize("name", HOSTILE)
def test_no_payload_is_executed_or_hidden(opened: Window, name: str) -> None:
    for path in ("/run?id=", "/run/journal?form=full&id="):
        page = opened.open(f"{path}hostile%20{name.replace(' ', '%20')}%20%3Ci%3E")
        assert page.evaluate("window.harmed") is None
        assert "\u202e" not in page.content()
        if name == "number" and "journal" not in path:
            expect(page.locator("body")).to_contain_text(str(2**63 + 1))
    opened.open("/runs?filter=id:hostile*")
    assert opened.page.evaluate("document.querySelectorAll('main i:not(.chips i), main b:not(.chips b)').length") == 0


@contextmanager
def another_site(page: str) -> Iterator[str]:
    """Serve a page of somebody else's; 127.0.0.1 and localhost are different sites."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_form_of_another_site_does_nothing(chromium: Browser, site: Served) -> None:
    run = site.engine.start(approval, "victim", id="victim")
    evil = (
        f'<form method="post" action="{site.address}/run/act?id=victim"><input name="act" value="terminate"></form>'
        "<script>document.forms[0].submit()</script>"
    )
    with window(chromium, site) as opened, another_site(evil) as address:
        opened.page.goto(address)
        expect(opened.page.locator("body")).to_contain_text("not from a page of")
    assert run.info().ended_at is None


def test_another_site_can_neither_read_nor_frame_a_page(chromium: Browser, site: Served) -> None:
    evil = (
        f'<iframe src="{site.address}/runs"></iframe><p>-</p><script>'
        "const say = (word) => () => { document.querySelector('p').textContent = word; };"
        f"fetch('{site.address}/runs', {{credentials: 'include'}}).then(say('read'), say('refused'))</script>"
    )
    with window(chromium, site) as opened, another_site(evil) as address:
        opened.page.goto(address)
        expect(opened.page.locator("p")).to_have_text("refused")
        assert "order-10" not in opened.page.frames[1].content()


def test_a_link_on_another_site_leads_to_its_page(chromium: Browser, site: Served) -> None:
    link = f'<a href="{site.address}/run?id=order-1007">the run</a>'
    with window(chromium, site) as opened, another_site(link) as address:
        opened.page.goto(address)
        opened.page.locator("a").click()
        expect(opened.page.locator("h1")).to_have_text("order-1007")


def test_a_file_of_ten_thousand_runs_and_a_run_of_ten_thousand_operations(chromium: Browser, tmp_path: Path) -> None:
    with Engine(tmp_path / "many.db", workflows=[many_operations]) as engine, served(engine) as site:
        engine.start(many_operations, 10_000, id="long").result(timeout=60)
        engine.start_many(many_operations, [(0,)] * 10_000, ids=[f"run-{n:05}" for n in range(10_000)])
        with window(chromium, site) as opened:
            for path, shown in (("/runs", "tbody tr"), ("/run?id=long", ".row")):
                began = time.perf_counter()
                opened.open(path)
                expect(opened.page.locator(shown).nth(99)).to_be_attached()
                print(f"{path}: {time.perf_counter() - began:.2f} s")
            page = opened.page
            expect(page.locator(".pane-head small").first).to_have_text("10,000")
            page.get_by_role("link", name="Later").click()
            expect(page.locator(".row .op").first).to_have_text("301")
            page = opened.open("/runs")
            expect(page.locator('[data-count=""]')).to_have_text(re.compile("10,001"))
            page.get_by_role("link", name="Older runs").click()
            expect(page.locator("tbody tr").nth(99)).to_be_attached()
            assert opened.faults == []


def test_the_command_serves_a_file(chromium: Browser, tmp_path: Path) -> None:
    Engine(tmp_path / "empty.db", workflows=[]).close()
    began = time.perf_counter()
    command = [sys.executable, "-m", "stepwell", "ui", "--db", str(tmp_path / "empty.db"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        page = chromium.new_context().new_page()
        page.goto(link)
        expect(page.locator("main")).to_contain_text("This file has no run yet")
        print(f"first page after the command: {time.perf_counter() - began:.2f} s")
        page.context.close()
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
