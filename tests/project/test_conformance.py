"""The tool that runs other people's tests as workflows judges rightly, and its page says what it found."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path

import pytest
from conformance.trial import MODES, Mode, run_trial
from conformance.verdicts import PAGE, Finding, complaints, plain, read, read_known

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mode", MODES)
def test_a_test_that_ends_well_has_passed(mode: Mode) -> None:
    async def body() -> None:
        for _ in range(3):
            await asyncio.sleep(10)

    assert run_trial(body, mode).status == "passed"


@pytest.mark.parametrize("mode", MODES)
def test_a_test_that_raises_has_failed(mode: Mode) -> None:
    async def body() -> None:
        await asyncio.sleep(10)
        pytest.fail("not as it should be")

    verdict = run_trial(body, mode)
    assert (verdict.status, verdict.reason) == ("failed", "not as it should be")


def test_a_test_that_waits_for_what_never_comes_has_failed() -> None:
    async def body() -> None:
        await asyncio.get_running_loop().create_future()

    assert run_trial(body, "live").reason == "it waits for ever"


def test_a_test_that_says_something_else_each_time_has_failed_where_it_is_replayed() -> None:
    lengths = iter(range(1, 100))

    async def body() -> None:
        for _ in range(next(lengths)):
            await asyncio.sleep(1)
        await asyncio.to_thread(print)

    assert run_trial(body, "evicted").status == "failed"


def test_a_test_that_reaches_outside_is_refused_wherever_the_error_comes_out() -> None:
    async def reach() -> None:
        threading.Thread(target=print).start()

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(reach())

    assert run_trial(body, "live").status == "refused"


def test_a_test_that_skips_is_not_counted() -> None:
    async def body() -> None:
        pytest.skip("not on this platform")

    assert run_trial(body, "live").status == "skipped"


# --- what is made of the trials ---------------------------------------------------------------------------------------


def verdict_of(tmp_path: Path, *ends: tuple[Mode, str, str]) -> Finding:
    records = [
        {"test": "anyio file.test", "mode": mode, "status": status, "reason": "", "journal": journal}
        for mode, status, journal in ends
    ]
    (tmp_path / "1.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (verdict,) = read(tmp_path)
    return verdict


def test_the_worst_of_all_modes_counts(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, ("live", "passed", ""), ("evicted", "failed", ""), ("crashed", "passed", ""))
    assert (verdict.status, verdict.modes) == ("failed", ("evicted",))


def test_a_test_that_passes_with_another_journal_has_failed(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, ("live", "passed", "a"), ("evicted", "passed", "a"), ("crashed", "passed", "b"))
    assert (verdict.status, verdict.modes) == ("failed", ("crashed",))


def test_a_mode_without_an_end_is_a_failure(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, ("live", "passed", ""), ("crashed", "passed", ""))
    assert (verdict.status, verdict.modes) == ("failed", ("evicted",))


@pytest.mark.parametrize(
    ("status", "known", "complains"),
    [("failed", False, True), ("failed", True, False), ("passed", True, True), ("passed", False, False)],
)
def test_what_is_known_may_only_shrink(status: str, known: bool, complains: bool) -> None:
    verdict = Finding("anyio file.test", status, ("live",), "")  # type: ignore[arg-type]
    assert bool(complaints([verdict], {verdict.test} if known else set())) == complains


def test_reasons_are_the_same_on_every_machine() -> None:
    reason = "run 'trial': workflow code did this at /home/somebody/test.py:3 in test. Do something else"
    assert plain(reason) == "workflow code did this"


def test_the_page_shows_the_failures_that_are_known() -> None:
    rows = re.findall(r"^\| ((?:CPython|anyio) .+?) \| failed", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == read_known()


def test_every_known_failure_has_a_reason() -> None:
    paragraphs = (ROOT / "conformance" / "known.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert all(paragraph.startswith("# ") for paragraph in paragraphs)
