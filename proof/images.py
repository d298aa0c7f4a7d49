"""Crash images: whatever a power loss leaves of the files, the engine recovers it, and nothing acknowledged is missing.

Lives of a file are recorded (`proof.recording`), and at every operation of a recording the power fails. Each image that
the disk may then hold (`proof.disk`) is a case; equal images of a life count once. What is done with an image:

1. The engine's store opens and closes it, which recovers the log and migrates the file.
2. What it recovered must hold every fact that was acknowledged before that operation, and be whole: SQLite's checks,
   and the workload's (the user's tables agree with the journal, money is neither made nor lost, …).
3. An engine runs it to the end: every run ends as it must, and no recorded step is executed again. Images that were
   recovered to the same bytes have the same end, so that is done once for each recovered file, on the image and not on
   what was recovered; and for further images at random, equal or not. The result says how many there were of each.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from proof import broken
from proof.disk import Disk, Image
from proof.finishing import finish
from proof.holding import Held, look_into, missing
from proof.pool import scratch, spread
from proof.recording import Life, record
from proof.result import Control, Result, judged
from proof.shop import Fact
from stepwell.store.sqlite.store import SqliteStore

FAULT: Final = (
    "power loss at every write, sync, truncation and deletion; unsynced writes kept, dropped, reordered, torn at 512 B "
    "and 4 KiB"
)
CI_CASES: Final = 8_000
SOAK: Final = "make images CASES=1000000"

#: How many images are taken of one life.
_IMAGES_OF_LIFE: Final = 2_500
#: How often the recording of a life is gone through, at most: a short one may not have as many images as are wanted.
_MOST_PASSES: Final = 50
#: How many of a hundred images are run to the end although their like was before.
_AGAIN_PERCENT: Final = 8
#: How many images of how many lives a control may need. How threads take turns is chance: a life shows that sectors are
#: shared in about one of two cases.
_CONTROL_IMAGES: Final = 2_000
_CONTROL_LIVES: Final = 16
_FAILURES_TOLD: Final = 20
#: What is said of a fact that was acknowledged and is missing: the complaint that the controls must cause.
_LOST: Final = "acknowledged, but lost"


@dataclass
class Tally:
    """What was seen of the images of one or more lives."""

    images: int = 0
    recovered: int = 0
    ended: int = 0
    ops: int = 0
    lives: int = 0
    old_files: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    failures: int = 0

    def add(self, other: Tally) -> None:
        """Add what was seen of other lives."""
        for name in ("images", "recovered", "ended", "ops", "lives", "old_files", "failures"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.kinds += other.kinds
        self.failed = (self.failed + other.failed)[:_FAILURES_TOLD]


def run(cases: int, jobs: int, seed: int) -> Result:
    """Check `cases` images; see `proof.result`."""
    shares = [min(_IMAGES_OF_LIFE, cases - start) for start in range(0, cases, _IMAGES_OF_LIFE)]
    total = Tally()
    for tally in spread(check_life, [(seed * 1_000_003 + index, share) for index, share in enumerate(shares)], jobs):
        total.add(tally)
    controls = spread(run_control, [(name, seed) for name in CONTROLS], jobs)
    details: dict[str, Any] = {
        "lives recorded": total.lives,
        "of them begun with a file of an older release": total.old_files,
        "points of power loss": total.ops,
        "images opened and recovered by the engine, all different": total.images,
        "different files that they were recovered to, each run to the end": total.recovered,
        "images run to the end, the above among them": total.ended,
        **{f"images with {name}": count for name, count in sorted(total.kinds.items())},
    }
    if total.failed:
        details["failed"] = total.failed
    return Result("images", FAULT, total.images, total.failures, details, controls, 0.0, "")


def check_life(task: tuple[int, int]) -> Tally:
    """Record the life of a seed, and check a number of images of it."""
    seed, count = task
    with scratch() as folder:
        (folder / "life").mkdir()
        life = record(seed, folder / "life")
        (folder / "image").mkdir()
        return Checker(life, folder / "image", Random(seed), seed).check(count)


class Checker:
    """Checks images of one life in `folder`."""

    def __init__(self, life: Life, folder: Path, random: Random, seed: int) -> None:
        self._life = life
        self._path = folder / "image.db"
        self._folder = folder
        self._random = random
        self._seed = seed
        #: The digest of the recovered file by that of the image; None where it could not be recovered.
        self._recovered: dict[bytes, bytes | None] = {}
        #: What each recovered file holds, and how many of the acknowledged facts it was compared with.
        self._known: dict[bytes, Held] = {}
        self._checked_facts: dict[bytes, int] = {}
        #: Whether images that fail are kept for a closer look.
        self.keeps = True
        self.tally = Tally(lives=1, ops=sum(op.kind not in {"fact", "given"} for op in life.log))
        self.tally.old_files = int(life.log[0].kind == "given")

    def check(self, count: int, *, to_the_end: bool = True, stop_at: str | None = None) -> Tally:
        """Check `count` different images, or as many as there are, or until a complaint has `stop_at` in it."""
        for image, facts in _images(self._life, self._random, count):
            wrong = self._wrong_with(image, facts, to_the_end=to_the_end)
            if wrong:
                self._fail(image, wrong)
            if self.tally.images >= count or (stop_at and any(stop_at in text for text in wrong)):
                break
        return self.tally

    def _wrong_with(self, image: Image, facts: list[Fact], *, to_the_end: bool) -> list[str]:
        digest = image.digest()
        if digest in self._recovered:
            # The same bytes as before, but more may have been acknowledged since.
            recovered = self._recovered[digest]
            return [] if recovered is None else self._lost(recovered, facts)
        self.tally.images += 1
        for way in image.how.split(", "):
            self.tally.kinds[way.split(" of ")[0].replace("_", " ")] += 1
        self._recovered[digest] = None
        try:
            self._lay_out(image)
            SqliteStore.open(self._path).close(None, 0)
            recovered = self._recovered[digest] = hashlib.sha1(self._path.read_bytes()).digest()
            is_new = recovered not in self._known
            if is_new:
                self._known[recovered] = look_into(str(self._path))
                self.tally.recovered += 1
            held = self._known[recovered]
            wrong = held.wrong + self._lost(recovered, facts)
            if not wrong and to_the_end and (is_new or self._random.randrange(100) < _AGAIN_PERCENT):
                self._lay_out(image)
                self.tally.ended += 1
                wrong = finish(str(self._path), self._life.plan, held)
        except Exception as error:
            return [f"it cannot be used: {type(error).__name__}: {error}"]
        return wrong

    def _lost(self, recovered: bytes, facts: list[Fact]) -> list[str]:
        if self._checked_facts.get(recovered, -1) >= len(facts):
            return []
        lost = missing(self._known[recovered], facts)
        if not lost:
            self._checked_facts[recovered] = len(facts)
        return [f"{_LOST}: {fact}" for fact in lost]

    def _lay_out(self, image: Image) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        for suffix, content in image.files.items():
            Path(f"{self._path}{suffix}").write_bytes(content)

    def _fail(self, image: Image, wrong: list[str]) -> None:
        self.tally.failures += 1
        if len(self.tally.failed) < _FAILURES_TOLD:
            text = f"life {self._seed}, {image.how}: " + "; ".join(wrong[:3])
            self.tally.failed.append(text)
            if self.keeps:
                image.keep(f"{self._seed}-{self.tally.failures}", text)


def _images(life: Life, random: Random, count: int) -> Iterator[tuple[Image, list[Fact]]]:
    """Yield images at all points of the log, with the facts that were acknowledged before each.

    The first pass has at every point the image with everything, that with nothing unsafe, and one at random; further
    passes have one more at random. Where `count` is too small for a whole pass, points are left out at random.
    """
    share = count / (2 * len(life.log))
    for number in range(_MOST_PASSES):
        disk = Disk()
        facts: list[Fact] = []
        for op in life.log:
            if op.kind == "fact":
                facts.append(op.fact)
            else:
                disk.play(op)
            if op.kind == "given" or random.random() >= share:
                continue
            if not number:
                yield disk.kept(), facts
                yield disk.dropped(), facts
            if disk.pending:
                yield disk.some(random), facts


# --- controls ---------------------------------------------------------------------------------------------------------


CONTROLS: Final = {
    "acknowledge before commit": broken.acknowledging_before_commit,
    "NORMAL sold as FULL": broken.normal_sold_as_full,
    "commits that share a sector (psow=1)": broken.sharing_sectors,
}


def run_control(task: tuple[str, int]) -> Control:
    """Check images of the lives of a broken engine, until something is lost."""
    name, seed = task
    for attempt in range(_CONTROL_LIVES):
        with scratch() as folder:
            (folder / "life").mkdir()
            (folder / "image").mkdir()
            with CONTROLS[name]():
                life = record(seed + attempt, folder / "life", broken=True)
            checker = Checker(life, folder / "image", Random(seed), seed)
            checker.keeps = False
            tally = checker.check(_CONTROL_IMAGES, to_the_end=False, stop_at=_LOST)
        found = judged(name, tally.failed, _LOST)
        if found.caught:
            return replace(found, how=f"image {tally.images} of life {attempt + 1}, {found.how}")
    return Control(name, caught=False, how=f"{_CONTROL_LIVES} lives, {_CONTROL_IMAGES} images of each: nothing lost")
