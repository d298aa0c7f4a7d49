"""Disks: a real file system that fills, and real system calls that fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from proof.crew import PATIENCE_SECONDS, Crew
from proof.load import Load
from proof.scenarios.life import CUSTOMERS, OPTIONS, Broken, Impossible, end, live, pids_of, size_bytes, until
from stepwell import AsyncEngine
from stepwell.errors import StorageFull


def disk_fills(folder: Path, seed: int) -> None:
    """A real file system in memory fills and is freed: calls are refused meanwhile, then all goes on by itself."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        raise Impossible("mounting needs root and unshare(1)")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "proof.scenarios.disks", str(folder), str(seed)],
        capture_output=True, text=True, check=False, timeout=10 * PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
    )  # fmt: skip
    if "Impossible" in done.stderr:
        raise Impossible(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise Broken((done.stderr or done.stdout).strip()[-1500:])


def _disk_fills(folder: Path, seed: int) -> None:
    """In a mount namespace of its own."""
    place = folder / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "stepwell-proof", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        raise Impossible(f"Impossible: mounting a tmpfs is refused: {mounted.stderr.decode().strip()}")

    async def act(crew: Crew, load: Load) -> None:
        for _ in range(3):
            refused, said = load.refused, size_bytes(crew.words) if crew.words.exists() else 0

            def is_noticed(refused: int = refused, said: int = said) -> bool:
                # By the client, or by workers, which say so; a client that only waits for them has no part in it.
                return load.refused > refused or "is full" in crew.words.read_text()[said:] or bool(load.failures)

            _fill(place / "filler")
            try:
                await until(is_noticed, "nobody notices that the disk is full")
                await asyncio.sleep(0.3)
            finally:
                (place / "filler").unlink()
            finished = load.finished
            await until(
                lambda seen=finished: load.finished > seen + 20 or bool(load.failures),  # type: ignore[misc]
                "nothing goes on though there is space again",
            )

    with Crew(folder, OPTIONS, place=place) as crew:
        load = Load(crew.database, seed, customers=CUSTOMERS, tolerates=StorageFull)
        members = [crew.hire() for _ in range(3)]
        try:
            asyncio.run(live(crew, load, act))
        except Exception as error:
            sizes = {path.name: path.stat().st_size for path in place.iterdir()}
            raise Broken(f"{type(error).__name__}: {error}; {load.finished} runs ended, {sizes}") from error
        end(crew, load, pids_of(members))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


#: Starts runs and notes those that are acknowledged, until something fails.
_UNDER_STRACE: Final = """
import sys
from proof import orders
from stepwell import Engine, StepwellError
database, log, acknowledged = sys.argv[1:]
orders.LOG.open(log, "traced", forks=False)
with open(acknowledged, "w") as file:
    try:
        with Engine(database) as engine:
            for number in range(1, 31):
                run = engine.start(orders.job, f"job-{number}", id=f"job-{number}")
                print(run.id, file=file, flush=True)
                run.result(30)
    except StepwellError as error:
        print(f"{type(error).__name__}: {error}")
"""
#: Calls of the kernel, what they return, and at which of them.
_INJECTED: Final = (
    ("fdatasync", "EIO", 4), ("fdatasync", "EIO", 9), ("pwrite64", "EIO", 60), ("pwrite64", "EIO", 90),
    ("pwrite64", "ENOSPC", 75), ("ftruncate", "EIO", 2), ("fsync", "EIO", 1), ("pread64", "EIO", 40),
)  # fmt: skip


def system_calls(folder: Path, seed: int) -> None:
    """Real system calls fail: what was acknowledged is there afterwards, and nothing hangs."""
    if shutil.which("strace") is None:
        raise Impossible("strace is not installed")
    for number, (call, error, at) in enumerate(_INJECTED):
        place = folder / str(number)
        place.mkdir()
        names = [str(place / name) for name in ("orders.db", "log", "acknowledged")]
        command = [
            "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
            "-e", f"inject={call}:error={error}:when={at + seed % 7}", sys.executable, "-c", _UNDER_STRACE, *names,
        ]  # fmt: skip
        what = f"{call} with {error} at call {at + seed % 7}"
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=3 * PATIENCE_SECONDS,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            )  # fmt: skip
        except subprocess.TimeoutExpired as expired:
            raise Broken(f"{what}: the engine hangs") from expired
        if "PTRACE" in done.stderr:
            raise Impossible("strace may not trace here")
        acknowledged = Path(names[2]).read_text().split()
        with Crew(place, OPTIONS) as crew:
            crew.hire()
            asyncio.run(_find(crew.database, acknowledged, f"{what}: {done.stdout[-300:]}{done.stderr[-300:]}"))


async def _find(database: str, run_ids: list[str], what: str) -> None:
    async with AsyncEngine(database, workflows=[]) as engine:
        for run_id in run_ids:
            try:
                run = await engine.get(run_id)
                result = await run.result(PATIENCE_SECONDS)
            except Exception as error:
                raise Broken(f"{what}: run {run_id} was acknowledged: {type(error).__name__}: {error}") from error
            if result != run_id:
                raise Broken(f"{what}: run {run_id} has the result {result!r}")


if __name__ == "__main__":
    _disk_fills(Path(sys.argv[1]), int(sys.argv[2]))
