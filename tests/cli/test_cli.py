"""`stepwell worker` with one process, and the commands that look into a file or leave a request in it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import COMMAND, DEADLINE_SECONDS, Desk
from tests.support.programs.flows import failing, file_appears, forking, hanging, hanging_thread, sum_up

from stepwell import Engine, Queue, Rate, __version__, publish, receive, start, workflow
from stepwell.cli import main
from stepwell.cli.group import COMMANDS
from stepwell.errors import StoreError
from stepwell.testing import TestEngine

# --- the worker -------------------------------------------------------------------------------------------------------


def test_a_worker_says_what_it_serves_and_a_signal_lets_the_steps_under_way_end(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"), ("b", sum_up, [1, 2, 3]))
    worker = desk.begin("worker", "flows", "--db", "orders.db")
    line = worker.expect(r"stepwell worker \d+ \(process (\d+)\) serves 8 workflows of orders\.db$")
    assert int(line.group(1)) == worker.process.pid
    worker.expect("waiting for signal")
    worker.signal(signal.SIGTERM)
    worker.expect("drains .SIGTERM.")
    (desk.folder / "signal").touch()
    assert worker.end() == 0
    assert "every step under way had ended" in worker.output
    assert desk.read("show", "a")["result"] == "signal"


def test_a_drain_gives_up_on_steps_after_its_time_and_says_that_they_are_executed_again(desk: Desk) -> None:
    desk.start_runs(("a", hanging))
    worker = desk.worker("--drain-timeout", "0.1")
    worker.expect("hanging")
    worker.signal(signal.SIGINT)
    assert worker.end() == 0
    assert "under way after 0.1 s are executed again" in worker.output
    desk.worker().expect("hanging")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_ends_a_worker_at_once(desk: Desk, number: signal.Signals) -> None:
    desk.start_runs(("a", hanging), ("b", hanging_thread))
    worker = desk.worker()
    worker.expect("hanging")
    worker.expect("hanging")
    worker.signal(number)
    worker.expect(f"drains .{number.name}.")
    worker.signal(number)
    assert worker.end() == 128 + number
    assert "stops at once" in worker.output


def test_threads_of_user_code_that_never_end_do_not_keep_a_drained_worker_alive(desk: Desk) -> None:
    (desk.folder / "slow.py").write_text("import threading\nthreading.Thread(target=threading.Event().wait).start()\n")
    program = "import sys; from stepwell.cli import main, worker; worker.EXIT_GRACE_SECONDS = 0.05; sys.exit(main())"
    worker = desk.begin("worker", "flows", "slow", "--db", "orders.db", command=(sys.executable, "-c", program))
    worker.expect("serves")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_a_forked_child_of_a_step_dies_by_its_own_signals_and_its_worker_does_not_hear_of_them(desk: Desk) -> None:
    desk.start_runs(("a", forking), ("b", file_appears, "never"))
    worker = desk.worker()
    worker.expect(f"the child ended by signal {signal.SIGTERM:d}")
    assert "drains" not in worker.output
    worker.signal(signal.SIGTERM)
    worker.expect("drains")


def test_a_worker_whose_engine_fails_ends_with_an_error(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    worker = desk.worker()
    worker.expect("waiting for signal")
    desk.database.rename(desk.folder / "gone.db")
    (desk.folder / "signal").touch()
    assert worker.end() == 1
    assert "stopped by itself" in worker.output
    assert "deleted or renamed" in worker.output


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], {}),
        (
            ["--max-running", "1", "--step-threads", "2", "--step-processes", "3"],
            {"max_running": 1, "step_threads": 2, "step_processes": 3},
        ),
        (
            ["--durability", "normal", "--take-over-stalled-after", "1.5"],
            {"durability": "normal", "take_over_stalled_after": 1.5},
        ),
    ],
)
def test_options_of_the_worker_that_are_given_reach_the_engine(
    line: list[str], expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    def refuse(path: str, **options: object) -> None:
        given.extend((path, options))
        raise StoreError("enough seen")

    monkeypatch.setattr("stepwell.cli.worker.Engine", refuse)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert run_main("worker", "tests.support.programs.flows", "--db", "orders.db", *line) == 1
    assert given == ["orders.db", expected]


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["shop.flows", "./shop/flows", "{folder}/shop/flows.py"])
def test_a_module_is_given_by_name_or_by_path_and_its_workflows_have_the_same_names(desk: Desk, given: str) -> None:
    (desk.folder / "shop").mkdir()
    (desk.folder / "shop" / "__init__.py").touch()
    (desk.folder / "shop" / "flows.py").write_text(
        "from stepwell import workflow\n"
        "@workflow\nasync def nothing() -> None: ...\n"
        "print('serving', nothing.name, __name__, flush=True)\n"
    )
    worker = desk.begin("worker", given.format(folder=desk.folder), "--db", "orders.db")
    worker.expect("^serving shop.flows.nothing shop.flows$")
    worker.expect("serves 1 workflow of")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("nowhere", None, "No module named 'nowhere'. It was looked for in {folder}"),
        ("flows.nowhere", None, "No module named 'flows.nowhere'; 'flows' is not a package"),
        ("nowhere.py", None, "there is no file '{folder}/nowhere.py'"),
        (
            "other/logging.py",
            "",
            "'other/logging.py' would be the module 'logging', but that name belongs to {logging}; rename",
        ),
        ("empty", "import flows_of_nobody_else as nothing", "importing 'empty' failed: ModuleNotFoundError: No module"),
        ("empty", "x = 1", "empty: no workflow is defined there; decorate a function with @workflow"),
        ("empty", "import sys\nsys.exit(3)", "importing 'empty' failed: SystemExit: 3"),
        ("empty", "def f(:", "importing 'empty' failed: SyntaxError: invalid syntax"),
        ("empty", "def f():\n    raise ValueError('no luck')\nf()", "importing 'empty' failed: ValueError: no luck"),
    ],
)
def test_a_module_that_cannot_be_served_is_named_with_the_reason(
    desk: Desk, module: str, source: str | None, expected: str
) -> None:
    (desk.folder / "other").mkdir()
    if source is not None:
        (desk.folder / f"{module.removesuffix('.py')}.py").write_text(source)
    done = desk.run("worker", module)
    assert done.returncode == 2
    assert f"stepwell worker: {expected.format(folder=desk.folder, logging=logging.__file__)}" in done.stderr
    assert not desk.database.exists()


def test_the_traceback_of_a_module_begins_in_the_module(desk: Desk) -> None:
    broken = desk.folder / "broken.py"
    broken.write_text("def f():\n    raise ValueError('no luck')\n\nf()\n")
    done = desk.run("worker", "broken")
    assert re.findall(r'File "(.*)", line (\d+)', done.stderr) == [(str(broken), "4"), (str(broken), "2")]


def test_a_file_that_cannot_be_used_is_refused_with_the_reason(desk: Desk) -> None:
    sqlite3.connect(desk.database).execute("CREATE TABLE theirs (a)").connection.close()
    done = desk.run("worker", "flows")
    assert done.returncode == 1
    assert "is an SQLite database, but not Stepwell's" in done.stderr


# --- looking ----------------------------------------------------------------------------------------------------------


def run_main(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def orders(database: Path) -> str:
    """Return a file with a run that has ended, one that failed, and one that waits for its workflow."""
    with Engine(database, workflows=[sum_up, failing]) as engine:
        engine.start(sum_up, [1, 2], id="ada").result()
        with pytest.raises(ValueError, match="no luck"):
            engine.start(failing, id="bob").result()
        engine.start(file_appears, "x", id="cleo")
    return str(database)


def test_runs_are_listed_newest_first_with_what_matters_about_them(
    orders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("list", "--db", orders) == 0
    header, *rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert header == ["ID", "WORKFLOW", "STATUS", "CREATED", "REMARK"]
    assert [row[:3] for row in rows] == [
        ["cleo", "file_appears", "pending"],
        ["bob", "failing", "failed"],
        ["ada", "sum_up", "completed"],
    ]
    assert "no worker" in rows[0][4]
    assert rows[1][4] == "ValueError: no luck"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--status", "failed"], ["bob"]),
        (["--status", "failed", "--status", "completed"], ["bob", "ada"]),
        (["--workflow", "sum_up"], ["ada"]),
        (["--id-prefix", "cl"], ["cleo"]),
        (["--limit", "2"], ["cleo", "bob"]),
        (["--workflow", "nobody"], []),
    ],
)
def test_runs_are_filtered_and_given_to_programs_as_json(
    orders: str, options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("list", "--db", orders, "--json", *options) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)] == expected


@pytest.mark.parametrize(("limit", "is_said"), [(2, True), (4, False)])
def test_a_list_that_may_go_on_says_so(
    orders: str, limit: int, is_said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main("list", "--db", orders, "--limit", str(limit)) == 0
    said = capsys.readouterr().err
    assert said == (f"These are the newest {limit}; --limit shows more.\n" if is_said else "")


def test_a_run_is_shown_with_its_facts_and_its_journal(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("show", "ada", "--db", orders) == 0
    facts, _, journal = capsys.readouterr().out.partition("\n\n")
    assert re.search(r"^workflow: +sum_up$", facts, re.MULTILINE)
    assert re.search(r'^input: +\{"args":\[\[1,2\]\]\}$', facts, re.MULTILINE)
    assert re.search(r"^result: +3$", facts, re.MULTILINE)
    rows = [re.split(r"  +", line) for line in journal.splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("OP", "KIND", "VALUE"),
        ("1", "step", "1"),
        ("2", "step", "3"),
    ]


def test_the_journal_shows_no_value_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @workflow(name="publishes")
    async def publishes() -> None:
        await publish("progress", 1)
        await receive("nothing")

    with Engine(tmp_path / "orders.db", workflows=[publishes]) as engine:
        engine.start(publishes, id="a", messages=[("nothing", None)]).result(DEADLINE_SECONDS)
    assert run_main("show", "a", "--db", str(tmp_path / "orders.db")) == 0
    rows = [line.split() for line in capsys.readouterr().out.partition("\n\n")[2].splitlines()[1:]]
    assert [(row[1], row[-1] == "null") for row in rows] == [("published", False), ("message", True)]


def test_a_run_is_shown_with_the_children_that_it_may_wait_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @workflow(name="odd")
    async def odd() -> Any:
        return object()

    @workflow(name="patient")
    async def patient() -> None:
        await receive("go")

    @workflow(name="family")
    async def family() -> None:
        children = [await start(flow, id=f"child-{flow.name}") for flow in (odd, patient, sum_up_nothing)]
        await children[2].result()
        await children[0].result()

    @workflow(name="sum_up_nothing")
    async def sum_up_nothing() -> None: ...

    database = tmp_path / "orders.db"
    with TestEngine(database) as engine:
        engine.start(family, id="parent")
        engine.idle()
    assert run_main("show", "parent", "--db", str(database)) == 0
    facts = capsys.readouterr().out.partition("\n\n")[0]
    assert re.search(r"^reason: +its child, run 'child-odd', is halted: ResultNotSerializable: ", facts, re.MULTILINE)
    assert re.search(
        r"^children: +child-odd \(halted\) ResultNotSerializable: .*\n"
        r" +child-patient \(waiting\) it waits for message 'go'$",
        facts,
        re.MULTILINE,
    )
    assert run_main("show", "parent", "--db", str(database), "--json") == 0
    children = json.loads(capsys.readouterr().out)["children"]
    assert [(child["id"], child["status"]) for child in children] == [
        ("child-odd", "halted"),
        ("child-patient", "waiting"),
    ]


def test_a_run_is_given_to_programs_as_json(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("show", "bob", "--db", orders, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["error"] == "ValueError: no luck\nat all"
    assert shown["journal"] == []
    assert "result" not in shown


def test_looking_works_beside_a_worker_and_leaves_nothing_behind(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    worker = desk.worker()
    worker.expect("waiting for signal")
    assert [run["status"] for run in desk.read("list")] == ["running"]
    worker.signal(signal.SIGTERM)
    (desk.folder / "signal").touch()
    worker.end()
    before = sorted(desk.folder.iterdir())
    assert [run["id"] for run in desk.read("list")] == ["a"]
    assert sorted(desk.folder.iterdir()) == before


def test_what_a_killed_worker_left_in_the_log_is_seen_and_stays(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "signal"))
    worker = desk.worker()
    worker.expect("waiting for signal")
    worker.kill()
    log = desk.folder / "orders.db-wal"
    size = log.stat().st_size
    assert [run["status"] for run in desk.read("list")] == ["running"]
    assert log.stat().st_size == size > 0


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["show", "a"],
        ["workers"],
        ["queues"],
        ["cancel", "a"],
        ["resume", "a"],
        ["takeover", "1"],
        ["pause", "q"],
    ],
)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "There is no file"),
        (b"", "is empty: no worker has opened it yet"),
        (b"no database\n" * 100, "is not an SQLite database"),
    ],
)
def test_a_file_that_is_not_there_or_not_ours_is_neither_made_nor_changed(
    tmp_path: Path, command: list[str], content: bytes | None, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "orders.db"
    if content is not None:
        path.write_bytes(content)
    assert run_main(*command, "--db", str(path)) == 1
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == ([] if content is None else [path])
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("command", ["show", "cancel", "resume"])
def test_an_unknown_run_is_an_error_that_says_how_to_list_them(
    orders: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(command, "zoe", "--db", orders) == 1
    assert f"has no run 'zoe'; `stepwell list --db {orders}` lists them" in capsys.readouterr().err


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_cancellation_reaches_a_run_at_a_worker(desk: Desk) -> None:
    desk.start_runs(("a", file_appears, "never"))
    worker = desk.worker()
    worker.expect("waiting for never")
    done = desk.run("cancel", "a", "--reason", "changed my mind")
    assert (done.returncode, done.stdout) == (0, "run 'a': cancellation requested; a worker sees to that\n")
    worker.expect("cancelled while waiting for never")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    shown = desk.read("show", "a")
    assert (shown["status"], shown["reason"]) == ("cancelled", "changed my mind")


@pytest.mark.parametrize(("command", "run", "expected"), [
    ("cancel", "ada", "run 'ada' is completed already"),
    ("resume", "bob", "run 'bob' is failed; only a halted or a waiting run is resumed"),
])  # fmt: skip
def test_a_request_that_makes_no_sense_is_an_error(
    orders: str, command: str, run: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(command, run, "--db", orders) == 1
    assert expected in capsys.readouterr().err


# --- queues -----------------------------------------------------------------------------------------------------------

LINE = Queue("line", concurrency=2, rate=Rate(500, per=60))


def test_a_queue_is_paused_and_opened_again_and_shows_what_waits_in_it(desk: Desk) -> None:
    with Engine(desk.database, workflows=[]) as engine:
        engine.start(sum_up, [1, 2], id="queued", queue=LINE)
        engine.start(sum_up, [1, 2], id="late", queue=LINE, delay=3600)
    done = desk.run("pause", "line")
    assert (done.returncode, done.stdout) == (0, "queue 'line' is paused\n")
    desk.worker()
    with Engine(desk.database, workflows=[]) as engine:
        assert engine.start(sum_up, [3]).result(DEADLINE_SECONDS) == 3  # the worker works
        (queue,) = desk.read("queues")
        shown = {name: queue[name] for name in ("name", "kind", "paused", "waiting", "delayed", "running")}
        assert shown == {"name": "line", "kind": "queue", "paused": True, "waiting": 1, "delayed": 1, "running": 0}
        header, row = (re.split(r"  +", line) for line in desk.run("queues").stdout.splitlines())
        assert header == ["NAME", "KIND", "STATE", "WAITING", "DELAYED", "RUNNING", "OLDEST WAIT", "BOUNDS"]
        assert row[:6] == ["line", "queue", "paused", "1", "1", "0"]
        assert re.fullmatch(r"[0-9.]+ m?s|\d+ min \d+ s", row[6])
        assert row[7] == "concurrency 2, rate 500 in 1 min"
        assert desk.run("unpause", "line").stdout == "queue 'line' is open\n"
        assert engine.get("queued").result(DEADLINE_SECONDS) == 3


def test_a_worker_takes_runs_from_the_queues_that_it_was_given_and_those_in_none(desk: Desk) -> None:
    with Engine(desk.database, workflows=[]) as engine:
        engine.start(sum_up, [1], id="elsewhere", queue=LINE)
        engine.start(sum_up, [2], id="here", queue=Queue("other"))
        worker = desk.worker("--queues", "other, another")
        assert engine.get("here").result(DEADLINE_SECONDS) == 2
        assert engine.start(sum_up, [3]).result(DEADLINE_SECONDS) == 3
        assert engine.get("elsewhere").status == "pending"
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        desk.worker("--queues", "line")
        assert engine.get("elsewhere").result(DEADLINE_SECONDS) == 1


@pytest.mark.parametrize("command", ["pause", "unpause"])
def test_an_unknown_queue_is_an_error(orders: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(command, "nothing", "--db", orders) == 1
    assert "'nothing'" in capsys.readouterr().err


# --- the line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["nonsense"],
        ["list"],
        ["worker", "--db", "x"],
        ["worker", "flows", "--db", "x", "--processes", "0"],
        ["worker", "flows", "--db", "x", "--drain-timeout", "-1"],
        ["worker", "flows", "--db", "x", "--drain-timeout", "inf"],
        ["worker", "flows", "--db", "x", "--drain-timeout", "soon"],
        ["worker", "flows", "--db", "x", "--queues", " , "],
        ["list", "--db", "x", "--limit", "many"],
    ],
)
def test_a_wrong_line_is_refused_with_the_usage(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(*line) == 2
    assert "Usage: stepwell" in capsys.readouterr().err


def test_every_command_and_every_option_is_in_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"`stepwell {command}" in page
        assert run_main(command, "--help") == 0
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert options <= set(re.findall(r"--[a-z-]+", page)), command


def test_an_unknown_state_is_refused_with_those_that_there_are(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("list", "--db", orders, "--status", "lost") == 2
    assert "'pending', 'running', 'waiting'" in capsys.readouterr().err


def test_the_package_installs_the_command() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"stepwell": f"{main.__module__}:{main.__name__}"}


def test_help_and_version_are_answered_without_importing_the_engine() -> None:
    program = "import sys, stepwell.cli\ntry: stepwell.cli.main(['--version'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    version, loaded = done.stdout.splitlines()
    assert version == f"stepwell {__version__}"
    assert not {"apsw", "asyncio", "msgspec", "logging", "subprocess"} & set(loaded.split())


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_seen_enough_is_no_error(orders: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, "show", "ada", "--db", orders],
            stdout=closed, stderr=subprocess.PIPE, check=False, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""
