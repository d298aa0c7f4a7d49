"""The harnesses of `proof/`, at a size that shows that they work: sound engines pass, broken ones are caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from proof.__main__ import HARNESSES, LANES, _why, main
from proof.disk import Disk
from proof.pool import scratch
from proof.recorder import Op
from proof.result import Control, Result, judged
from proof.sim import controls as simulated
from proof.table import BEGIN, END, rewrite

from proof import corrupt, crew_member, disk_errors, images
from stepwell.store.sqlite.file import locking


def written(*texts: str) -> Disk:
    """Return a disk with a file whose name is safe, and to which each of the texts was written in turn."""
    disk = Disk()
    disk.play(Op("given", 0, "", data=b"-" * 12))
    offset = 0
    for text in texts:
        disk.play(Op("write", 0, "", offset, text.encode()))
        offset += len(text)
    return disk


# --- the model of the disk --------------------------------------------------------------------------------------------


def test_what_is_not_synced_may_be_lost_and_what_is_synced_is_not() -> None:
    disk = written("one")
    assert disk.kept().files == {"": b"one---------"}
    assert disk.dropped().files == {"": b"-" * 12}
    disk.play(Op("sync", 0, ""))
    assert disk.dropped().files == {"": b"one---------"}
    assert disk.pending == 0


def test_a_power_loss_leaves_any_part_of_what_is_pending_in_any_order() -> None:
    disk = written("one", "two")
    found = {disk.some(Random(seed)).files[""] for seed in range(300)}
    assert {b"one---------", b"---two------", b"onetwo------", b"-" * 12} <= found


def test_sectors_tear_on_their_own() -> None:
    disk = Disk()
    disk.play(Op("given", 0, "", data=b"-" * 1024))
    disk.play(Op("write", 0, "", 0, b"x" * 1024))
    found = {disk.some(Random(seed)).files[""] for seed in range(300)}
    assert {b"-" * 512 + b"x" * 512, b"x" * 512 + b"-" * 512} <= found


def test_a_name_is_safe_only_once_the_folder_is_synced() -> None:
    disk = Disk()
    disk.play(Op("make", 1, "-wal"))
    disk.play(Op("write", 1, "-wal", 0, b"log"))
    disk.play(Op("sync", 1, "-wal"))
    assert disk.dropped().files == {}
    disk.play(Op("sync_folder"))
    disk.play(Op("remove", 1, "-wal"))
    assert disk.dropped().files == {"-wal": b"log"}
    assert disk.kept().files == {}


def test_what_a_failed_sync_lost_does_not_come_back_with_the_next_one() -> None:
    disk = written("one")
    disk.play(Op("lose", 0, ""))
    disk.play(Op("write", 0, "", 3, b"two"))
    disk.play(Op("sync", 0, ""))
    assert disk.dropped().files == {"": b"---two------"}


# --- results ----------------------------------------------------------------------------------------------------------


def result(**changes: object) -> Result:
    fields: dict[str, object] = {
        "name": "images",
        "fault": "power loss",
        "cases": 20_000,
        "failures": 0,
        "details": {"lives": 8},
        "controls": [Control("no sync", caught=True, how="image 3")],
        "seconds": 90.0,
        "command": "python -m proof images --seed 1",
        "soak": "make images CASES=1000000",
    }
    return Result(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    assert Result.read(result().write(tmp_path)) == result()


def test_a_result_passes_only_without_failures_and_with_every_control_caught() -> None:
    assert result().passed
    assert not result(failures=1).passed
    assert not result(cases=0).passed
    assert not result(controls=[Control("no sync", caught=False, how="nothing")]).passed


def test_a_harness_without_controls_does_not_pass_unless_it_looks_at_one_case_again() -> None:
    assert not result(controls=[]).passed
    assert result(controls=[], is_one_case=True).passed


def test_a_control_is_caught_only_for_its_own_reason() -> None:
    complaints = ["the harness failed: KeyError", "run r0: acknowledged, but lost"]
    assert judged("no sync", complaints, "acknowledged, but lost") == Control("no sync", caught=True, how=complaints[1])
    assert not judged("no sync", complaints[:1], "acknowledged, but lost").caught
    assert not judged("no sync", [], "acknowledged, but lost").caught


def test_the_end_of_a_long_log_says_why_a_harness_failed(tmp_path: Path) -> None:
    missed = [Control("no sync", caught=False, how="nothing was noticed")]
    path = result(failures=1, details={"failed": ["life 7: lost"]}, controls=missed).write(tmp_path)
    said = _why(path, "")
    assert "1 failures" in said
    assert "life 7: lost" in said
    assert "NOT CAUGHT: no sync" in said
    assert _why(tmp_path / "none.json", "first\nlast") == "first\nlast"


@pytest.mark.parametrize(
    "breaking",
    [
        lambda: crew_member._put(locking, "try_lock_renamed", None),
        lambda: crew_member._put_sql({"claims": "SELECT 1"}, "claims_renamed", "1", "2"),
        lambda: crew_member._put_sql({"claims": "SELECT 1"}, "claims", "2", "3"),
    ],
)
def test_a_control_whose_target_was_renamed_fails_loudly(breaking: Callable[[], None]) -> None:
    with pytest.raises((AttributeError, LookupError)):
        breaking()


def test_every_control_of_the_simulation_finds_what_it_breaks() -> None:
    for name in simulated.CONTROLS:
        with simulated.broken_engine(name):
            pass


def test_the_table_stands_between_the_markers_and_is_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for cases in (1, 20_000):
        rewrite(page, [result(cases=cases)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| power loss | 20,000 in 90 s | 0 | no sync |" in text


def test_rows_of_the_table_without_a_result_stay_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    both = [result(cases=7, name=name, command=f"python -m proof {name}") for name in ("images", "sim")]
    assert rewrite(page, both) == []
    assert rewrite(page, [result(cases=8, name="sim", command="python -m proof sim")]) == ["images"]
    rows = [line for line in page.read_text().splitlines() if "python -m proof" in line and line.startswith("|")]
    assert ["| 7 in" in row for row in rows] == [True, False]
    assert "| 8 in" in rows[1]


def test_every_harness_says_what_it_does_and_how_much() -> None:
    for module in (images, disk_errors, corrupt):
        assert module.__name__ in HARNESSES.values()
        assert module.FAULT
        assert module.CI_CASES >= 1_000
        assert module.SOAK


def test_every_harness_runs_in_ci() -> None:
    assert sorted(name for lane in LANES for name in lane) == sorted(HARNESSES)


# --- harnesses --------------------------------------------------------------------------------------------------------


def test_images_of_a_sound_engine_lose_nothing() -> None:
    tally = images.check_life((11, 60))
    assert (tally.images, tally.failed) == (60, [])
    assert tally.ended >= tally.recovered > 0


@pytest.mark.parametrize("name", ["acknowledge before commit", "NORMAL sold as FULL"])
def test_images_catch_a_broken_engine(name: str) -> None:
    assert images.run_control((name, 1)).caught


def test_disk_errors_make_a_sound_engine_lose_nothing() -> None:
    tally = disk_errors.run_chunk((1, 8))
    assert (tally.cases, tally.failed) == (8, [])


def test_damaged_files_are_judged_in_processes_of_their_own() -> None:
    with scratch() as folder:
        corrupt.make_bases(folder, 1, count=2)
        found = corrupt.watch_batch(folder, list(range(8)), 1)
    assert len(found) == 8
    assert {seen.outcome for _, seen in found} <= {"correct", "refused", "check only", "other values"}


def test_the_command_line_names_the_harnesses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "images" in capsys.readouterr().out
