"""The pages about all of a file: what needs somebody, queues, schedules, workers, acts on many runs, queries."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.web import TOKEN, VIEWER_TOKEN, Browser, approval, browser, checkout

from stepwell import Engine, InvalidArgument, Limit, Queue, Rate, ReadTooLong
from stepwell.api.face import Face
from stepwell.api.reading.overview import Throughput
from stepwell.ui import app
from stepwell.ui.cron_words import cron_in_words, in_words
from stepwell.ui.pages import overview
from stepwell.ui.pages.overview import heat_of
from stepwell.ui.plots import plot_of

POST = Queue("ui.post", concurrency=1)
GATE = Limit("ui.gate", concurrency=2)
PAGES = ["/", "/queues", "/schedules", "/workers", "/bulk", "/database", "/database/query"]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_is_shown_of_an_empty_file_and_needs_a_login(tmp_path: Path, page: str) -> None:
    Engine(tmp_path / "empty.db", workflows=[]).close()
    visitor = browser(app(tmp_path / "empty.db", token=TOKEN))
    assert visitor.get(page).status_code == 401
    assert visitor.log_in().get(page).status_code == 200


def test_the_overview_counts_by_workflow_and_state_and_says_how_long_runs_take(looking: Browser) -> None:
    text = looking.get("/").text
    assert 'aria-label="1 failed"' in text
    assert "3 runs ended, 1 of them failed" in text
    assert all(each in text for each in ("p50", "p90", "p99"))


def test_the_overview_says_what_needs_somebody(engine: Engine, acting: Browser) -> None:
    assert "Nothing: no run is halted" in acting.get("/").text
    engine.start(approval, "x", id="first", queue=POST)
    engine.start(approval, "x", id="second", queue=POST)
    engine.queue(POST).pause(reason="the van is broken")
    assert "queue ui.post" in acting.get("/").text


def test_sums_of_many_runs_are_made_beside_the_page(looking: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "_FEW", 0)
    assert "being counted" in looking.get("/").text
    while 'aria-label="1 failed"' not in looking.get("/").text:
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    ("status", "count", "total", "heat"),
    [("completed", 9, 9, 0), ("failed", 0, 9, 0), ("failed", 1, 1000, 1), ("halted", 5, 100, 2), ("paused", 1, 2, 4)],
)
def test_what_is_expected_does_not_stand_out(status: str, count: int, total: int, heat: int) -> None:
    assert heat_of(status, count, total) == heat  # type: ignore[arg-type]


def test_a_plot_has_a_column_where_runs_ended() -> None:
    plot = plot_of(Throughput(60, [0, 2, 4, 0], [0, 1, 0, 0]))
    assert [(each.x, each.ended_height, each.failed_height) for each in plot.columns] == [(150, 30, 15), (300, 60, 0)]
    assert (plot.most, plot.total, plot.failed) == (4, 6, 1)
    assert plot_of(Throughput(60, [0], [0])).columns == []


def test_queues_are_paused_changed_and_emptied(engine: Engine, acting: Browser) -> None:
    for name in ("first", "second"):
        engine.start(approval, name, id=name, queue=POST)
    assert acting.submit("/queues/act?name=ui.post", act="pause", reason="the van is broken").status_code == 303
    assert "the van is broken" in acting.get("/queues").text
    assert acting.submit("/queues/act?name=ui.post", act="change", concurrency="7").status_code == 303
    assert engine.queue(POST).info().concurrency == 7
    assert acting.submit("/queues/act?name=ui.post", act="change", concurrency="many").status_code == 400
    assert acting.submit("/queues/act?name=ui.post", act="unpause").status_code == 303
    assert not engine.queue(POST).info().paused
    assert acting.submit("/queues/act?name=nowhere", act="pause").status_code == 404


def test_each_bound_of_a_queue_can_be_changed_and_what_a_form_does_not_have_stays(
    engine: Engine, acting: Browser
) -> None:
    engine.start(approval, "first", id="first", queue=POST)

    def change(**fields: str) -> int:
        return int(acting.submit("/queues/act?name=ui.post", act="change", **fields).status_code)

    bounds = {"concurrency": "4", "per_worker": "3", "partition_concurrency": "2", "partition_per_worker": "1"}
    rates = {"rate": "90", "rate_per": "60", "partition_rate": "5", "partition_rate_per": "0.5"}
    assert change(**bounds, **rates) == 303
    info = engine.queue(POST).info()
    assert {name: str(getattr(info, name)) for name in bounds} == bounds
    assert (info.rate, info.partition_rate) == (Rate(90, per=60), Rate(5, per=0.5))
    page = acting.get("/queues").text
    for name, value in {**bounds, **rates}.items():
        shown = re.search(f'<input name="{name}" [^>]*value="([^"]*)"', page)
        assert shown is not None
        assert float(shown[1]) == float(value), "a form that is sent as it is shown changes nothing"
    assert change(rate="", rate_per="", per_worker="") == 303
    left = engine.queue(POST).info()
    assert (left.rate, left.per_worker, left.concurrency, left.partition_rate) == (None, None, 4, Rate(5, per=0.5))
    for wrong in ({"rate": "9"}, {"rate": "", "rate_per": "9"}, {"rate": "0", "rate_per": "9"}):
        assert change(**wrong) == 400
    assert change(partition_rate="9", partition_rate_per="often") == 400
    assert change(partition_rate="9", partition_rate_per="nan") == 400
    assert engine.queue(POST).info() == left


def test_a_queue_says_how_much_came_through(engine: Engine, acting: Browser) -> None:
    for order in ("good", "bad", "better"):
        engine.start(checkout, order, id=order, queue=POST)
    for order in ("good", "bad", "better"):
        with suppress(ValueError):
            engine.get(order).result(timeout=30)
    text = " ".join(acting.get("/queues").text.split())
    assert '<dt>Ended in the last hour</dt><dd>3, <span class="is-failed">1 failed</span></dd>' in text


@pytest.mark.parametrize(
    "page", ["/", "/runs?filter=status:failed", "/run?id=order-1&op=1", "/queues", "/database", "/nowhere"]
)
def test_behind_a_proxy_every_address_begins_where_it_is(made: Path, page: str) -> None:
    visitor = Browser(
        app(made, token=TOKEN), base_url="http://localhost", headers={"Origin": "http://localhost"}, root_path="/flows"
    )
    assert visitor.post("/flows/login", data={"token": TOKEN}).status_code == 200
    addresses = re.findall(r'(?:href|src|action)="([^"#][^"]*)"', visitor.get(f"/flows{page}").text)
    assert len(addresses) > 2
    assert [each for each in addresses if not each.startswith("/flows/")] == []


def test_schedules_are_paused_triggered_and_backfilled(engine: Engine, acting: Browser) -> None:
    handle = engine.schedule(approval, "x", id="a/b", cron="30 2 * * 1-5")
    assert "at 02:30, Monday to Friday" in acting.get("/schedules").text
    assert acting.submit("/schedule/act?id=a/b", act="pause", reason="holidays").status_code == 303
    assert handle.info().note == "holidays"
    assert "holidays" in acting.get("/schedule?id=a/b").text
    assert acting.submit("/schedule/act?id=a/b", act="unpause").status_code == 303
    assert acting.submit("/schedule/act?id=a/b", act="trigger").status_code == 303
    assert len(engine.list("workflow:ui.approval")) == 1
    end = datetime.now(UTC) - timedelta(days=30)
    fields = {"start": (end - timedelta(days=10)).isoformat(), "end": end.strftime("%Y-%m-%dT%H:%M")}
    assert acting.submit("/schedule/act?id=a/b", act="backfill", **fields).status_code == 303
    assert acting.submit("/schedule/act?id=a/b", act="backfill", start="soon", end="later").status_code == 400


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("7 * * * *", "at minute 7 of every hour"),
        ("5 9 * * SUN", "at 09:05 on Sundays"),
        ("0 0 1 * *", "at 00:00 on day 1 of the month"),
        ("0 0 1,15 * *", "at 00:00 on days 1 and 15 of the month"),
        ("0 0 1 1,4,7,10 *", "at 00:00 on day 1 of January, April, July and October"),
        ("0 21 * jun-aug 7", "at 21:00 on Sundays from June to August"),
        ("15 6,18 * * sat,sun", "at 06:15 and 18:15, Saturday and Sunday"),
        ("0 0-5 * * 1-5", "every hour from 00:00 to 05:00, Monday to Friday"),
        ("0 */3 * * *", "at minute 0 of every 3rd hour"),
        ("0 0 13 * FRI", "0 0 13 * FRI"),
        ("0 0 L * *", "0 0 L * *"),
        ("*/7 3-5 1,15 * *", "*/7 3-5 1,15 * *"),
        ("0 1,2,3,4,5,6,7 * * *", "0 1,2,3,4,5,6,7 * * *"),
        ("30 * * * * *", "30 * * * * *"),
    ],
)
def test_crons_in_words(cron: str, words: str) -> None:
    assert cron_in_words(cron) == words
    assert in_words([cron], [(90, 30)]) == f"{words}; every 1 min 30 s, 30 s after the full ones"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(10, "every 10 s"), (300, "every 5 min"), (3_600, "every 1 h"), (4_200, "every 1 h 10 min")],
)
def test_intervals_in_words(seconds: float, words: str) -> None:
    assert in_words([], [(seconds, 0)]) == words


def test_a_run_that_has_ended_is_not_under_way(engine: Engine, acting: Browser) -> None:
    schedule = engine.schedule(checkout, "x", id="daily", every=86_400)
    schedule.trigger()
    while not (ticks := schedule.info().recent):
        pass
    assert ticks[0].run is not None
    engine.get(ticks[0].run).result(timeout=30)
    assert "Under way" not in acting.get("/schedule?id=daily").text


def test_workers_are_listed_and_only_a_stalled_one_can_be_relieved(engine: Engine, acting: Browser) -> None:
    text = acting.get("/workers").text
    assert "active" in text
    assert "Take over" not in text
    assert acting.submit("/workers/takeover", epoch=str(engine.workers()[0].epoch)).status_code == 400
    assert acting.submit("/workers/takeover", epoch="all").status_code == 400


def test_many_runs_are_acted_on_when_their_number_was_typed(engine: Engine, acting: Browser) -> None:
    for number in range(3):
        engine.start(approval, "x", id=f"run-{number}")
    text = acting.get("/bulk", params={"act": "pause", "filter": "id:run-*"}).text
    assert "Pause 3 runs?" in text
    form = {"act": "pause", "filter": "id:run-*", "count": "3", "reason": "all of them"}
    assert acting.submit("/bulk/begin", typed="2", **form).status_code == 400
    assert engine.bulks() == []
    answer = acting.submit("/bulk/begin", typed="3", **form)
    assert answer.headers["location"] == f"/bulk?number={engine.bulks()[0].id}"
    assert (engine.bulks()[0].by, engine.bulks()[0].reason) == ("ada (web)", "all of them")
    assert "all of them" in acting.get("/bulk").text


def test_more_runs_than_were_counted_are_not_acted_on(engine: Engine, acting: Browser) -> None:
    for number in range(3):
        engine.start(approval, "x", id=f"run-{number}")
    form = {"act": "pause", "filter": "id:run-*", "count": "2", "typed": "2"}
    assert acting.submit("/bulk/begin", **form).status_code == 400
    assert "3 match by now" in acting.submit("/bulk/begin", **form).text
    assert engine.bulks() == []


@pytest.mark.parametrize(
    ("act", "filter", "why"),
    [("pause", "", "seldom meant"), ("explode", "id:a*", "is one of"), ("retry", "what", "no condition")],
)
def test_what_cannot_be_done_to_many_is_said(acting: Browser, act: str, filter: str, why: str) -> None:
    text = acting.get("/bulk", params={"act": act, "filter": filter}).text
    assert why in text
    assert "Type the number" not in text


def test_the_database_page_says_how_long_runs_are_kept(tmp_path: Path, acting: Browser) -> None:
    with Engine(tmp_path / "kept.db", workflows=[approval], retention=timedelta(days=30)) as engine:
        text = browser(app(engine, token=TOKEN)).log_in().get("/database").text
    assert "Runs are kept after their end</dt><dd>30 d" in text
    assert "Runs are kept" not in acting.get("/database").text


def test_a_query_shows_rows(looking: Browser) -> None:
    text = looking.submit("/database/query", sql="SELECT id, NULL, x'00' FROM stepwell_run_view ORDER BY id").text
    assert "order-1" in text
    assert "NULL" in text
    assert "(1 bytes)" in text


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM stepwell_runs",
        "UPDATE stepwell_runs SET status = 'failed'",
        "CREATE TABLE t (a)",
        "PRAGMA writable_schema = 1",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO '/tmp/elsewhere.db'",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('evil')",
        "SELECT 1; DELETE FROM stepwell_runs",
        "WITH x AS (SELECT 1) INSERT INTO stepwell_acts SELECT * FROM x",
        "SELECT hex(zeroblob(1000000000))",
        "SELECT * FROM nowhere",
        "",
        "SELECT '" + "x" * 20_000 + "'",
    ],
)
def test_a_query_can_only_read(made: Path, looking: Browser, sql: str) -> None:
    before = made.read_bytes()
    answer = looking.submit("/database/query", sql=sql)
    assert answer.status_code == 200
    assert ("fault" in answer.text) is bool(sql)
    assert made.read_bytes() == before


def test_a_query_has_a_time_and_a_number_of_rows(made: Path) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "
    with pytest.raises(ReadTooLong):
        Face(made, seconds=0.05).query(f"{endless} count(*) FROM n", 10)
    answer = Face(made).query(f"{endless} i FROM n", 10)
    assert (len(answer.rows), answer.is_cut) == (10, True)
    with pytest.raises(ReadTooLong):
        Face(made, seconds=-1).look(lambda reads: [reads.cells() for _ in range(10_000)])


def test_queries_are_for_who_may_act_and_not_where_fields_are_hidden(made: Path) -> None:
    viewer = browser(app(made, token=TOKEN, viewer_token=VIEWER_TOKEN)).log_in(VIEWER_TOKEN)
    assert viewer.submit("/database/query", sql="SELECT 1").status_code == 403
    hiding = browser(app(made, token=TOKEN, redact=["number"])).log_in()
    assert hiding.submit("/database/query", sql="SELECT * FROM stepwell_journal_view").status_code == 403


def test_a_mere_file_can_be_looked_at_and_not_acted_on(made: Path, looking: Browser) -> None:
    assert "act-pause" not in looking.get("/run?id=approval-1").text
    assert looking.submit("/run/act?id=approval-1", act="pause").status_code == 403
    assert checkout.name in looking.get("/").text
    with pytest.raises(InvalidArgument, match="looked at"):
        Face(made)._acting()
