"""What the pages show of runs, whatever is in them, and what their forms do."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import TOKEN, Browser, approval, browser, checkout

import stepwell
from stepwell import AsyncEngine, Engine, PermanentError, StepwellError, step, workflow
from stepwell.model.durations import duration
from stepwell.model.sizes import size_in_words
from stepwell.ui import app
from stepwell.ui.filter_links import value_of, with_word
from stepwell.ui.rendering import environment
from stepwell.ui.words import as_json, pieces, place_of, short_error, short_place, visible

STRANGE = "bad/../order?&#"


@step(name="ui.give-back")
async def give_back() -> None:
    pass


@step(name="ui.vain")
async def in_vain() -> None:
    raise PermanentError("no such thing")


@workflow(name="ui.undoing")
async def undoing() -> None:
    async with stepwell.saga() as saga:
        saga.undo(give_back)
        await in_vain()


def test_runs_are_listed_by_the_filter_of_the_address(looking: Browser) -> None:
    text = looking.get("/runs", params={"filter": "status:completed id:order-*"}).text
    assert "order-1" in text
    assert "approval-1" not in text
    assert 'value="status:completed id:order-*"' in text  # the box has what the address has


def test_a_wrong_filter_says_where(looking: Browser) -> None:
    answer = looking.get("/runs", params={"filter": "stauts:failed"})
    assert answer.status_code == 200
    assert "is &#39;status&#39; meant" in answer.text


def test_counts_stand_beside_each_status(looking: Browser) -> None:
    assert looking.get("/runs/counts").json() | {"": "4", "completed": "2", "failed": "1", "waiting": "1"} == (
        looking.get("/runs/counts").json()
    )
    assert looking.get("/runs/counts", params={"filter": "status:failed id:order-*"}).json()["completed"] == "2"


@pytest.mark.parametrize(
    ("word", "offered"),
    [("sta", ["status:", "started:"]), ("status:fa", ["status:failed"]), ("workflow:ui.c", ["workflow:ui.checkout"])],
)
def test_a_filter_is_completed(looking: Browser, word: str, offered: list[str]) -> None:
    assert looking.get("/runs/complete", params={"word": word}).json() == offered


def test_pages_of_the_list_follow_each_other(tmp_path: Path) -> None:
    with Engine(tmp_path / "many.db", workflows=[]) as engine:
        engine.start_many(approval, [(f"{n}",) for n in range(150)], ids=[f"run-{n:03}" for n in range(150)])
    visitor = browser(app(tmp_path / "many.db", token=TOKEN)).log_in()
    first = visitor.get("/runs").text
    assert first.count('<tr data-key="') == 100
    second = visitor.get("/runs", params={"after": "run-050"}).text
    assert second.count('<tr data-key="') == 50
    assert 'data-key="run-049"' in second
    assert "Older runs" not in second


def test_a_run_is_shown_with_its_operations_and_what_it_failed_with(looking: Browser) -> None:
    text = looking.get("/run", params={"id": STRANGE}).text
    assert "ValueError: no such address" in text
    assert "in refuse" in text  # the traceback
    assert text.count('<li class="row is-') == 5
    assert "2 attempts" in text


def test_an_operation_is_shown_with_its_value_exactly(looking: Browser) -> None:
    text = looking.get("/run", params={"id": "order-1", "op": "1"}).text
    assert str(2**63 + 1) in text


def test_ids_of_any_kind_lead_to_their_runs(looking: Browser) -> None:
    import re
    from html import unescape

    links = [unescape(found) for found in re.findall(r'class="id" href="([^"]*)"', looking.get("/runs").text)]
    assert [looking.get(link).status_code for link in links] == [200] * 4


def test_what_is_not_there_is_said(looking: Browser) -> None:
    assert looking.get("/run", params={"id": "nobody"}).status_code == 404
    assert looking.get("/run").status_code == 400
    for visitor in (looking, browser(looking.app)):  # logged in or not
        nowhere = visitor.get("/nowhere")
        assert nowhere.status_code == 404
        assert "stepwell.css" in nowhere.text
    assert looking.get("/static/nowhere").text == "There is no such file.\n"


def test_a_journal_can_be_kept_as_json(looking: Browser) -> None:
    answer = looking.get("/run/journal", params={"id": STRANGE, "form": "json"})
    assert "attachment" in answer.headers["content-disposition"]
    assert [entry["kind"] for entry in json.loads(answer.text)][-2:] == ["attempt_failed", "step_failed"]
    assert "no such address" in looking.get("/run/journal", params={"id": STRANGE, "form": "full"}).text


def test_fields_are_hidden_wherever_they_are(made: Path) -> None:
    visitor = browser(app(made, token=TOKEN, redact=["Number", "state"])).log_in()
    pages = [
        "/run?id=order-1",
        "/run?id=order-1&op=1",
        "/run/journal?id=order-1",
        "/run/journal?id=order-1&form=full",
        "/run/journal?id=order-1&form=json",
    ]
    for page in pages:
        text = visitor.get(page).text
        assert "4111" not in text, page
        assert "hidden" in text, page


def test_attributes_are_hidden_as_well(engine: Engine) -> None:
    engine.start(approval, "x", id="hides", attributes={"phone": "555-1234", "city": "Bonn"})
    visitor = browser(app(engine, token=TOKEN, redact=["phone"])).log_in()
    for page in ("/runs", "/run?id=hides"):
        assert "555-1234" not in visitor.get(page).text
    assert "city <b>Bonn</b>" in visitor.get("/run?id=hides").text


def test_the_list_leads_from_a_filter_to_an_act_on_all_that_match(looking: Browser, acting: Browser) -> None:
    assert "/bulk?filter=status%3Afailed" in acting.get("/runs?filter=status:failed").text
    assert "/bulk?filter" not in acting.get("/runs").text  # not by mistake on all there are
    assert "/bulk?filter" not in acting.get("/runs?filter=stauts:failed").text
    assert "/bulk?filter" not in looking.get("/runs?filter=status:failed").text  # of a mere file


def test_the_list_has_the_queue_and_how_often_a_run_was_begun(engine: Engine, acting: Browser) -> None:
    engine.start(checkout, "bad", id="bad", queue="ui.q")
    with pytest.raises(ValueError, match="no such address"):
        engine.get("bad").result(timeout=30)
    engine.get("bad").retry()
    with pytest.raises(ValueError, match="no such address"):
        engine.get("bad").result(timeout=30)
    text = acting.get("/runs").text
    assert "filter=queue%3Aui.q" in text
    assert 'data-label="attempts">2<' in text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "a\u202ecod.exe",
    "\x00\x1b[31m\x7f",
    "عربى " * 3,
    "x" * 100_000,
    "javascript:alert(1)",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_shown_is_never_markup_and_never_hidden(engine: Engine, acting: Browser, text: str) -> None:
    run_id = f"run {text[:99]}" if text.isprintable() else "run"
    engine.start(checkout, text, kwargs={"note": text}, id=run_id).result(timeout=30)
    for page in ("/runs", "/run", "/run/journal"):
        shown = acting.get(page, params={"id": run_id}).text
        assert "<script>alert" not in shown
        assert "<img" not in shown
        assert "\u202e" not in shown
        assert "\x1b" not in shown
    assert acting.get("/run", params={"id": run_id, "op": "1"}).status_code == 200


def test_an_act_is_done_with_who_and_why(engine: Engine, acting: Browser) -> None:
    run = engine.start(approval, "x", id="a/b")
    answer = acting.submit("/run/act?id=a%2Fb", act="pause", reason="looking into it")
    assert answer.headers["location"] == "/run?id=a%2Fb&done=pause"
    assert [(act.act, act.by, act.reason) for act in run.acts()] == [("pause", "ada (web)", "looking into it")]
    shown = acting.get("/run?id=a%2Fb&done=pause").text
    assert "Paused." in shown
    assert "looking into it" in shown


def test_a_message_is_sent_as_it_was_typed(engine: Engine, acting: Browser) -> None:
    run = engine.start(approval, "x", id="asks")
    assert acting.submit("/run/act?id=asks", act="send", name="approval", value="true").status_code == 303
    assert run.result(timeout=30) is True


@pytest.mark.parametrize("act", ["cancel", "terminate"])
def test_a_run_is_ended(engine: Engine, acting: Browser, act: str) -> None:
    run = engine.start(approval, "x", id="victim")
    assert acting.submit("/run/act?id=victim", act=act, reason="not needed").status_code == 303
    assert run.acts()[0].act == act


def test_a_failed_run_is_retried_rewound_restarted_and_deleted(engine: Engine, acting: Browser) -> None:
    run = engine.start(checkout, "bad", id="bad one")
    for act, fields in [
        ("retry", {}),
        ("rewind", {"to": "1"}),
        ("restart", {"input": "these", "argument order": "good"}),
    ]:
        with pytest.raises(Exception, match="no such address"):
            run.result(timeout=30)
        assert acting.submit("/run/act?id=bad%20one", act=act, **fields).status_code == 303
    assert run.result(timeout=30)["order"] == "good"
    assert acting.submit("/run/act?id=bad%20one", act="delete", typed="other").status_code == 400
    assert (
        acting.submit("/run/act?id=bad%20one", act="delete", typed="bad one").headers["location"] == "/runs?done=delete"
    )
    assert engine.list() == []


def test_a_run_is_forked_settled_and_described(engine: Engine, acting: Browser) -> None:
    run = engine.start(checkout, "bad", id="bad one")
    with pytest.raises(Exception, match="no such address"):
        run.result(timeout=30)
    answer = acting.submit(
        "/run/act?id=bad%20one", act="fork", to="5", new_id="other one", instead="result", answer="null"
    )
    assert answer.headers["location"] == "/run?id=other%20one&done=fork"
    assert engine.get("other one").result(timeout=30)["order"] == "bad"
    fields = {"attributes": "customer=acme\namount=42\nold=", "tags": "vip checked", "note": "calls twice a day"}
    assert acting.submit("/run/act?id=bad%20one", act="describe", **fields).status_code == 303
    assert (run.info().attributes, run.info().tags) == ({"amount": 42, "customer": "acme"}, ["checked", "vip"])
    shown = acting.get("/run?id=bad%20one").text
    assert "calls twice a day" in shown
    assert "customer <b>acme</b>" in shown
    assert acting.get("/runs/complete?word=cust").json() == ["customer="]
    assert acting.submit("/run/act?id=bad%20one", act="describe", attributes="no value").status_code == 400
    assert acting.submit("/run/act?id=bad%20one", act="settle", to="1", ended="failed", error="lost").status_code == 400


def test_what_the_engine_refuses_is_said(engine: Engine, acting: Browser) -> None:
    engine.start(checkout, "good", id="good").result(timeout=30)
    answer = acting.submit("/run/act?id=good", act="retry")
    assert answer.status_code == 409
    assert "completed" in answer.text
    assert acting.submit("/run/act?id=good", act="explode").status_code == 400


def test_a_page_says_why_a_run_whose_saga_has_undone_its_work_is_not_retried(tmp_path: Path) -> None:
    with Engine(tmp_path / "undone.db", workflows=[undoing]) as engine:
        with pytest.raises(PermanentError, match="no such thing"):
            engine.start(undoing, id="undone").result(timeout=30)
        answer = browser(app(engine, token=TOKEN)).log_in().submit("/run/act?id=undone", act="retry")
    assert answer.status_code == 409
    assert "Rewind the run to operation 1" in answer.text


def test_a_page_that_is_still_the_same_is_not_sent_again(looking: Browser) -> None:
    live: dict[str, Any] = {"X-Stepwell-Live": "1"}
    answer = looking.get("/runs", headers=live)
    assert "<!doctype" not in answer.text
    assert looking.get("/runs", headers=live | {"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_a_file_that_was_replaced_is_called_that_and_not_damaged(tmp_path: Path, made: Path) -> None:
    path, other = tmp_path / "orders.db", tmp_path / "other.db"
    shutil.copy(made, other)
    with suppress(StepwellError), Engine(path, workflows=[checkout]) as engine:
        engine.start(checkout, "order-1").result(timeout=30)
        visitor = browser(app(engine, token=TOKEN)).log_in()
        other.replace(path)  # while the log of the other one lies there
        answers = [visitor.get(page) for page in ("/runs", "/", "/database", "/run?id=order-1", "/runs/counts")]
    for answer in answers:
        assert answer.status_code == 503
        assert "was replaced by another file" in answer.text
        assert "damaged" not in answer.text


def test_an_async_engine_is_shown_and_acted_on_where_it_is_mounted(tmp_path: Path) -> None:
    asyncio.run(mounted(tmp_path / "async.db"))


async def mounted(path: Path) -> None:
    import httpx
    from starlette.applications import Starlette
    from starlette.routing import Mount

    async with AsyncEngine(path, workflows=[approval]) as engine:
        run = await engine.start(approval, "x", id="asks")
        outer = Starlette(routes=[Mount("/workflows", app(engine, token=TOKEN))])
        transport = httpx.ASGITransport(app=outer)
        headers = {"Origin": "http://localhost"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            await client.post("/workflows/login", data={"token": TOKEN})
            shown = (await client.get("/workflows/run?id=asks")).text
            assert 'href="/workflows/static/stepwell.css' in shown
            token = shown.partition('name="form_token" value="')[2].partition('"')[0]
            form = {"form_token": token, "act": "send", "name": "approval", "value": "true"}
            answer = await client.post("/workflows/run/act?id=asks", data=form)
            assert answer.headers["location"] == "/workflows/run?id=asks&done=send"
        assert await run.result(timeout=30) is True


@pytest.mark.parametrize(
    ("text", "field", "value", "changed"),
    [
        ("status:failed x>1", "status", None, "x>1"),
        ('workflow:"my flow" status:a', "status", "b", 'workflow:"my flow" status:b'),
        ("", "id", 'a "b"', 'id:"a \\"b\\""'),
    ],
)
def test_one_word_of_a_filter_is_changed(text: str, field: str, value: str | None, changed: str) -> None:
    assert with_word(text, field, value) == changed
    assert value_of("id:x status:failed", "status") == "failed"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.0, "0 s"),
        (0.00043, "430 µs"),
        (0.4321, "432 ms"),
        (0.9999, "1000 ms"),
        (2.3, "2.3 s"),
        (192, "3 min 12 s"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_in_words(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_places_and_errors_are_shortened() -> None:
    assert short_place("/home/ada/shop/flows.py:83 in checkout") == "shop/flows.py:83 in checkout"
    assert short_place("C:\\shop\\src\\flows.py:8 in <lambda>") == "src\\flows.py:8 in <lambda>"
    assert short_place("flows.py:8 in f") == "flows.py:8 in f"
    assert short_error("shop.errors.NoStock: none in shop.Berlin") == "NoStock: none in shop.Berlin"
    assert short_error("it waits for a timer") == "it waits for a timer"


def test_values_and_sizes_in_words() -> None:
    assert as_json([1], 2) == "[\n\n… and 5 more characters"
    sizes = [size_in_words(number) for number in (0, 512, 999, 3_200, 81_061_000_000, 5e15)]
    assert sizes == ["0 B", "512 B", "999 B", "3.2 kB", "81.1 GB", "5000.0 TB"]
    assert visible("a\u202eb\ud800\x00\n") == "a\\u202eb\\ud800\\u0000\n"


def test_a_sentence_of_the_engine_has_its_commands_and_moments_marked_and_all_else_escaped() -> None:
    said = "<b> waits; `stepwell send <id>` ends that, until 2026-11-30 17:48:20.841Z; a `lone one\u202e"
    assert list(pieces(said))[1:4] == [
        ("command", "stepwell send <id>"),
        ("text", " ends that, until "),
        ("moment", "2026-11-30T17:48:20.841000Z"),
    ]
    marked = str(environment().filters["told"](said))
    assert marked.startswith("&lt;b&gt; waits; <code>stepwell send &lt;id&gt;</code> ends that, until <time datetime=")
    assert marked.endswith("; a `lone one\\u202e")


def test_a_finding_leads_to_the_page_that_shows_more() -> None:
    found = [place_of(about) for about in ("halted runs", "queue mails", "limit x", "workers", "clock", "")]
    assert found == ["/runs?filter=status:halted", "/queues", "/queues", "/workers", "", ""]
