"""The benchmarks work and report what they promise. What they measure is for `make bench`, on a quiet machine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from bench import __main__ as command
from bench import baseline, large, readme, several
from bench.figures import TINY, Figure, System, figure
from bench.measure import Facts, Process, in_turns, percentile
from bench.queues import Line
from bench.report import best_peer, target
from bench.workloads import STEPWELL, WORKLOADS, w5

ROOT = Path(__file__).parents[2]


def measure(results: Path, *arguments: str) -> dict[str, Any]:
    assert command.main([*arguments, "--tiny", "--results", str(results)]) == 0
    data: dict[str, Any] = json.loads((results / "latest.json").read_text())
    return data


@pytest.mark.parametrize("workload", WORKLOADS)
def test_each_workload_measures_and_writes_its_figures(
    workload: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = measure(tmp_path, workload)
    figures = data["systems"]["stepwell"]
    assert {one["workload"] for one in figures} == {workload}
    for one in figures:
        assert isinstance(one["value"], float)
        assert isinstance(one["reached"], bool | None)
    assert any(one["reached"] is not None for one in figures), "a workload has something to reach"
    printed = capsys.readouterr().out
    assert all(one["what"] in printed for one in figures)


def test_the_rows_of_the_readme_follow_from_the_results_and_name_the_best_peer(tmp_path: Path) -> None:
    data = measure(tmp_path, "W1", "W5", "W7")
    ours = data["systems"]["stepwell"]
    for name, share, runs in (("slow", 2.0, 5), ("quick", 0.5, 3)):
        data["systems"][name] = [one | {"value": one["value"] * share} for one in ours if one["workload"] != "W7"]
        data["sizes"][name] = {"midway_runs": runs}
    head, _, steps, killed, grown = readme.rows(data)
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["Stepwell", "beside raw SQLite", "the best peer"]
    assert steps.startswith("| one step after another, p50 | ")
    assert f"| quick: {min(one['value'] for one in ours if one['workload'] == 'W1') / 2:.2f}"[:-1] in steps
    assert killed.startswith("| 5 runs killed half-way, all done again | ")
    assert killed.endswith(" for 3 runs |")  # it is not a figure of the same size
    assert grown.startswith("| growth of the file per small step | ")
    assert grown.endswith(" bytes | | |")
    assert readme.main([str(tmp_path / "latest.json")]) == 0


def test_the_results_tell_the_machine_its_load_and_the_raw_baseline(tmp_path: Path) -> None:
    data = measure(tmp_path, "W1")
    assert {"cpus", "python", "sqlite", "file_system", "commit", "platform"} == set(data["machine"])
    assert len(data["load_before"]) == len(data["load_after"]) == 3
    assert set(data["raw"]) == {
        "insert_commit_p50_ms",
        "insert_commit_p99_ms",
        "group_commit_1000_rows_per_second",
        "prototype_steps_per_second",
        "prototype_with_plain_rows_steps_per_second",
    }
    assert data["tiny"] is True
    assert data["command"][:4] == ["python", "-m", "bench", "W1"]
    assert len(list(tmp_path.iterdir())) == 2  # the results under their time and as the latest; no database is left


def test_an_unknown_workload_is_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["W99", "--results", str(tmp_path)])
    assert "W1, W2" in capsys.readouterr().err


class Repeating(System):
    """An engine that executes a recorded step again."""

    def facts(self, name: str, **options: object) -> Facts:
        return {**super().facts(name, **options), "repeated": 1}


def test_a_repeated_recorded_step_fails_the_benchmark(tmp_path: Path) -> None:
    facts = {field.name: getattr(STEPWELL, field.name) for field in fields(STEPWELL)}
    with pytest.raises(RuntimeError, match="1 recorded steps were executed again"):
        w5(Repeating(**{**facts, "sizes": TINY}), tmp_path)


class Echo(Process):
    """A measured process that answers what it is told to."""

    def __init__(self, **answers: Facts) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def ask(self, order: str, **options: object) -> Facts:
        self.asked.append(f"{order} {options['kind']}" if options else order)
        return self.answers[order]


def test_a_job_that_is_executed_twice_fails_the_benchmark() -> None:
    client = Echo(enqueue={}, release={"seconds": 0.5})
    first = Echo(start={}, stop={"executed": 60, "cpu_seconds": 0.1})
    second = Echo(start={}, stop={"executed": 41, "cpu_seconds": 0.1})
    with pytest.raises(RuntimeError, match="101 executions of 100 jobs"):
        Line(client, [first, second], "step", 100).with_two()
    assert Line(client, [first, second], "step", 60).with_one() == 120
    assert client.asked == 2 * ["enqueue step", "release"]
    assert second.asked == ["start", "stop"], "the second worker had no part in the other measurement"


def test_a_run_that_does_not_go_on_after_the_kill_fails_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="2 runs do not go on after the kill"):
        several.takeover(replace(STEPWELL, sizes=TINY), tmp_path)


def test_a_soak_has_as_many_runs_as_it_is_told(tmp_path: Path) -> None:
    names = [one["what"] for one in measure(tmp_path, "backlog", "--runs", "40")["systems"]["stepwell"]]
    assert "enqueued a second, 40 waiting, 1,000 partitions" in names


def test_a_home_made_queue_does_every_job_once(tmp_path: Path) -> None:
    connection = baseline.connect(tmp_path / "raw.db")
    assert baseline.jobs_per_second(connection, 25, batch=10) > 0
    done = list(connection.execute("SELECT state, count(*), sum(json_extract(result, '$')) FROM jobs GROUP BY state"))
    assert done == [("done", 25, sum(range(25)))]
    connection.close()


def test_a_measured_process_does_what_it_is_told_until_it_is_let_go() -> None:
    script = "from bench.measure import obey; obey({'double': lambda number: {'result': 2 * number}})"
    with Process([sys.executable, "-c", script]) as process:
        assert process.hear() == {"ready": True}
        assert process.ask("double", number=21) == {"result": 42}


def test_subjects_are_measured_in_turns_after_a_warm_up_that_does_not_count() -> None:
    calls: list[str] = []

    def subject(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    measured = in_turns(2, a=lambda: subject("a"), b=lambda: subject("b"))
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert measured == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0) == 1
    assert percentile(values, 99) == 99
    assert percentile([5.0], 99) == 5


def test_a_figure_compares_round_by_round_and_knows_whether_it_reached_its_targets() -> None:
    # The machine was twice as slow in the second round: the ratio does not move.
    measured = figure("W1", "it", "ms", [3.0, 6.0], "raw", [2.0, 4.0], ratio_at_most=1.5)
    assert (measured.value, measured.baseline, measured.ratio) == (4.5, 3.0, 1.5)
    assert measured.reached is True
    assert target(measured) == "<= 1.5 x"
    both = figure("W2", "it", "/s", [10.0], "raw", [30.0], at_least=5, ratio_at_least=0.5)
    assert both.reached is False
    assert target(both) == ">= 5, >= 0.5 x"
    bare = Figure(workload="W", what="", unit="", value=1.0)
    assert bare.reached is None


def test_a_measured_process_that_dies_is_reported_with_its_error_output() -> None:
    with (
        Process([sys.executable, "-c", "raise SystemExit('it broke')"]) as process,
        pytest.raises(RuntimeError, match="it broke"),
    ):
        process.hear()


def test_the_command_line_works() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--peer" in done.stdout


def test_large_values_go_all_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert large.main([0.01]) == 0
    printed = capsys.readouterr().out
    assert [way for way in large.WAYS if way in printed] == list(large.WAYS)
    assert printed.count("active") == len(large.WAYS)


@pytest.mark.parametrize(("unit", "best"), [("ms", "quick"), ("bytes", "quick"), ("/s", "slow")])
def test_the_best_peer_has_the_lowest_time_or_size_or_the_highest_rate(unit: str, best: str) -> None:
    def measured(value: float, what: str = "a step") -> Figure:
        return figure("W1", what, unit, [value], "raw", [1.0])

    peers = {"slow": [measured(9.0)], "quick": [measured(2.0)], "other": [measured(1.0, "something else")]}
    assert best_peer(measured(5.0), peers) == best
    assert best_peer(measured(5.0, "what no peer does"), peers) == ""


@pytest.mark.parametrize("peer", command.PEERS)
def test_each_peer_has_the_phases_and_the_program_that_it_is_measured_by(peer: str) -> None:
    folder = ROOT / "bench" / "peers" / peer.replace("-", "_")
    inside = ast.parse((folder / "inside.py").read_text(encoding="utf-8"))
    functions = {each.name for each in inside.body if isinstance(each, ast.FunctionDef)}
    assert {"sequence", "burst", "grow", "midway", "finish"} <= functions
    assert "@bench" in (folder / "cold.py").read_text(encoding="utf-8")
