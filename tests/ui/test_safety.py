"""Whoever is not meant to see or do something does not; each attack is refused before any page is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.routing import Route
from tests.support.web import TOKEN, VIEWER_TOKEN, Browser, approval, browser

from stepwell import Engine, InvalidArgument, Queue
from stepwell.ui import User, app
from stepwell.ui.access import LOGIN_SECONDS, Access, Guesses, name_of

POST = Queue("ui.safe")
PAGES = ["/runs", "/runs/counts", "/runs/complete?word=st", "/run?id=order-1", "/run/journal?id=order-1&form=json"]


@pytest.mark.parametrize("page", PAGES)
def test_nothing_of_the_file_is_shown_before_a_login(made: Path, page: str) -> None:
    answer = browser(app(made, token=TOKEN)).get(page)
    assert answer.status_code == 401
    assert "order-1" not in answer.text


def test_a_token_logs_in_and_a_wrong_one_does_not(made: Path) -> None:
    visitor = browser(app(made, token=TOKEN))
    assert visitor.post("/login", data={"token": TOKEN + "x"}).status_code == 401
    assert visitor.get("/runs").status_code == 401
    assert visitor.log_in().get("/runs").status_code == 200


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(made: Path) -> None:
    cookie = browser(app(made, token=TOKEN)).post("/login", data={"token": TOKEN}).headers["set-cookie"]
    assert re.search("HttpOnly", cookie)
    assert re.search("SameSite=strict", cookie)
    assert TOKEN not in cookie


def test_a_forged_or_old_cookie_is_no_login() -> None:
    access, other = Access(TOKEN, None), Access(TOKEN + "other", None)
    cookie = access.cookie(User("ada"), 1000.0)
    assert access.user_of(cookie, 1000.0 + LOGIN_SECONDS - 1) == User("ada")
    assert access.user_of(cookie, 1000.0 + LOGIN_SECONDS) is None
    for forged in (cookie[:-1], cookie.swapcase(), f"x{cookie}", "", ".", "é.é", other.cookie(User("ada"), 1000.0)):
        assert access.user_of(forged, 1000.0) is None


def test_wrong_tokens_are_taken_slowly(made: Path) -> None:
    visitor = browser(app(made, token=TOKEN))
    answers = [visitor.post("/login", data={"token": f"guess number {n}, long"}).status_code for n in range(6)]
    assert answers == [401] * 5 + [429]
    assert visitor.post("/login", data={"token": TOKEN}).status_code == 429  # the right one has to wait as well


def test_guesses_are_forgotten_after_a_minute_and_counted_over_all_addresses() -> None:
    guesses = Guesses()
    for second in range(50):
        guesses.failed(f"10.0.0.{second}", 100.0 + second / 10)
    assert guesses.wait_seconds("10.0.1.1", 106.0) == pytest.approx(54)
    assert guesses.wait_seconds("10.0.1.1", 166.0) == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "x@localhost"]
)
def test_a_name_that_was_made_to_lead_here_shows_nothing(looking: Browser, host: str) -> None:
    answer = looking.get("/runs", headers={"Host": host})
    assert answer.status_code == 421
    assert "order-1" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1:1", "[::1]:8420", "LOCALHOST"])
def test_the_names_of_the_machine_itself_are_served(looking: Browser, host: str) -> None:
    assert looking.get("/static/icon.svg", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_site_sends_does_nothing(acting: Browser, engine: Engine, headers: dict[str, str]) -> None:
    engine.start(approval, "x", id="victim")
    form = {"form_token": acting.form_token(), "act": "terminate"}
    assert acting.post("/run/act?id=victim", data=form, headers=headers).status_code == 403
    assert engine.get("victim").info().ended_at is None


def test_a_request_that_does_not_say_where_it_comes_from_does_nothing(acting: Browser, engine: Engine) -> None:
    engine.start(approval, "x", id="victim")
    form = {"form_token": acting.form_token(), "act": "terminate"}
    del acting.headers["Origin"]
    assert acting.post("/run/act?id=victim", data=form).status_code == 403
    assert engine.get("victim").info().ended_at is None


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
def test_a_form_without_the_token_of_this_login_does_nothing(
    acting: Browser, engine: Engine, token: str | None
) -> None:
    engine.start(approval, "x", id="victim")
    form = {"act": "terminate", **({} if token is None else {"form_token": token})}
    assert acting.post("/run/act?id=victim", data=form).status_code == 403
    other = Browser(acting.app, base_url="http://localhost", headers={"Origin": "http://localhost"}).log_in()
    assert (
        acting.post("/run/act?id=victim", data={"act": "terminate", "form_token": other.form_token()}).status_code
        == 403
    )
    assert engine.get("victim").info().ended_at is None


def test_nothing_is_done_by_a_link(acting: Browser, engine: Engine) -> None:
    engine.start(approval, "x", id="victim")
    assert acting.get("/run/act?id=victim&act=terminate").status_code == 405
    assert acting.request("DELETE", "/run?id=victim").status_code == 405
    assert engine.get("victim").info().ended_at is None


def test_who_may_only_look_cannot_act_and_is_not_offered_to(acting: Browser, engine: Engine) -> None:
    engine.start(approval, "x", id="victim")
    viewer = browser(acting.app).log_in(VIEWER_TOKEN)
    assert "Terminate" in acting.get("/run?id=victim").text
    assert "Terminate" not in viewer.get("/run?id=victim").text
    answer = viewer.submit("/run/act?id=victim", act="terminate")
    assert answer.status_code == 403
    assert "look only" in answer.text
    assert engine.get("victim").info().ended_at is None


def routes_of(visitor: Browser) -> list[Route]:
    return [route for route in visitor.app.routes if isinstance(route, Route)]  # type: ignore[attr-defined]


def test_who_may_only_look_is_refused_at_every_address_that_takes_a_form(acting: Browser, engine: Engine) -> None:
    engine.start(approval, "x", id="victim")
    engine.queue(POST).pause()
    viewer = browser(acting.app).log_in(VIEWER_TOKEN)
    nobody = browser(app(engine, token=TOKEN, read_only=True)).log_in()
    posts = {route.path for route in routes_of(acting) if "POST" in (route.methods or ())}
    assert posts >= {"/run/act", "/bulk/begin", "/queues/act", "/database/query"}
    for path in posts - {"/login", "/logout"}:
        address, fields = f"{path}?id=victim&name=ui.safe", {"act": "terminate", "token": "x", "epoch": "1"}
        assert viewer.submit(address, **fields).status_code == 403, path
        if path != "/database/query":  # it reads, so whoever may act may use it there as well
            assert nobody.submit(address, **fields).status_code == 403, path
    assert engine.get("victim").acts() == []
    assert engine.get("victim").info().ended_at is None


def test_nobody_who_is_not_logged_in_is_shown_or_allowed_anything(made: Path) -> None:
    stranger = browser(app(made, token=TOKEN))
    for route in routes_of(stranger):
        for method in (route.methods or set()) - {"HEAD"} if route.path != "/login" else ():
            answer = stranger.request(method, f"{route.path}?id=order-1")
            assert answer.status_code == 401, route.path
            assert "order-1" not in answer.text, route.path


def test_an_address_has_a_length_and_is_not_sent_back_when_it_is_longer(looking: Browser) -> None:
    said = "In this address, {}=… has 2,001 characters; it may have 2,000. Shorten it.\n"
    for route in routes_of(looking):
        for name in ("filter", "id") if "GET" in (route.methods or ()) and route.path != "/login" else ():
            answer = looking.get(route.path, params={name: "x" * 2_001})
            assert (answer.status_code, answer.text) == (400, said.format(name)), route.path
    assert looking.get("/runs", params={"filter": f'id:"{"x" * 200}"'}).status_code == 200


@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("/run/act?id=victim", "act"),
        ("/bulk/begin", "act"),
        ("/queues/act?name=ui.safe", "act"),
        ("/schedule/act?id=x", "act"),
        ("/workers/takeover", "epoch"),
    ],
)
def test_a_long_field_of_a_form_is_not_sent_back_whole(
    acting: Browser, engine: Engine, address: str, field: str
) -> None:
    engine.start(approval, "x", id="victim")
    answer = acting.submit(address, **{field: "a" * 100_000})
    assert answer.status_code == 400
    assert len(answer.text) < 10_000


def test_a_ui_that_is_read_only_lets_nobody_act(engine: Engine) -> None:
    engine.start(approval, "x", id="victim")
    visitor = browser(app(engine, token=TOKEN, read_only=True)).log_in()
    assert visitor.submit("/run/act?id=victim", act="terminate").status_code == 403
    assert engine.get("victim").info().ended_at is None


@pytest.mark.parametrize("page", [*PAGES, "/login", "/nowhere", "/static/stepwell.js", "/run?id=nobody"])
def test_every_answer_forbids_what_is_not_ours(looking: Browser, page: str) -> None:
    headers = looking.get(page).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert ("no-store" in headers["cache-control"]) is not page.startswith("/static")


@pytest.mark.parametrize("page", ["/runs", "/run?id=order-1", "/login"])
def test_pages_have_no_script_or_style_of_their_own(looking: Browser, page: str) -> None:
    text = looking.get(page).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)|javascript:", text)
    assert not re.search(r'(src|href|action)="(https?:)?//', text)  # nor do they ask any other host


def test_a_body_has_a_size(acting: Browser) -> None:
    assert acting.post("/run/act?id=x", content=b"a" * 1_000_001).status_code == 413
    assert acting.post("/run/act?id=x", content=iter([b"form_token="])).status_code == 413  # it does not say how long
    many = "&".join(f"f{number}=1" for number in range(200))
    assert acting.post("/run/act?id=x", content=many).status_code == 403


def test_short_or_equal_tokens_are_refused(made: Path) -> None:
    with pytest.raises(InvalidArgument, match="at least 16"):
        app(made, token="short")
    with pytest.raises(InvalidArgument, match="the same"):
        app(made, token=TOKEN, viewer_token=TOKEN)
    assert len(app(made).state.token) >= 32


def test_a_program_that_knows_its_users_tells_who_asks(engine: Engine) -> None:
    engine.start(approval, "x", id="victim")

    async def authenticate(request: Request) -> User | None:
        return {"ada": User("ada"), "bob": User("bob", "viewer")}.get(request.headers.get("X-User", ""))

    application = app(engine, authenticate=authenticate)
    assert browser(application).get("/runs").status_code == 403
    assert browser(application).post("/login", data={"token": "whatever it may be"}).status_code == 404
    assert browser(application, **{"X-User": "bob"}).submit("/run/act?id=victim", act="cancel").status_code == 403
    ada = browser(application, **{"X-User": "ada"})
    token = ada.form_token("/run?id=victim")
    bobs = ("1" if token[0] == "0" else "0") + token[1:]
    assert ada.post("/run/act?id=victim", data={"form_token": bobs, "act": "cancel"}).status_code == 403
    form = {"form_token": ada.form_token("/run?id=victim"), "act": "cancel"}
    assert ada.post("/run/act?id=victim", data=form, follow_redirects=False).status_code == 303
    assert engine.get("victim").acts()[-1].by == "ada (web)"


def test_the_name_of_a_login_is_one_line_of_what_can_be_read() -> None:
    assert name_of(" ada\n\u202elovelace ", "operator") == "ada lovelace"
    assert name_of("\x00", "operator") == "operator"
    assert len(name_of("a" * 500, "operator")) == 60


def test_a_link_on_another_site_comes_by_a_page_that_leads_on(looking: Browser, made: Path) -> None:
    # The browser does not send the cookie then; it does when a page of ours leads to itself, once.
    visitor = browser(app(made, token=TOKEN), **{"Sec-Fetch-Site": "cross-site"})
    stone = visitor.get("/run?id=order-1")
    assert 'content="0;url=/run?id=order-1&amp;stepped="' in stone.text
    assert visitor.get("/run?id=order-1&stepped=").status_code == 401
    assert looking.get("/run?id=order-1&stepped=").status_code == 200
