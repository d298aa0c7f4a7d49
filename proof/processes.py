"""What else happens to processes that share a file: clocks, disks, deleted files, other tools, old code, orderly ends.

Each scenario has a file of its own, workers (`proof.crew`) and, as a rule, a client that starts runs all the time
(`proof.load`). What the scenario did must have been noticed or not, as it says; and in the end all that was
acknowledged must have ended rightly, with nothing repeated that was recorded (`proof.verdict`).

Where the machine lacks what a scenario needs (the right to mount, strace), the result says so, and it is not counted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

from proof import orders
from proof.crew import PATIENCE_SECONDS, Crew, Member
from proof.load import Load
from proof.patience import Patience
from proof.pool import scratch
from proof.result import Result
from proof.verdict import Evidence, judge, repetitions
from stepwell import AsyncEngine, DeterminismError, RunCrashed
from stepwell.errors import SecondSqliteError, StorageFull
from stepwell.store.sqlite import migrate
from stepwell.store.sqlite.opening import open_database
from stepwell.store.sqlite.writer import WAL_LIMIT_BYTES

FAULT: Final = "clocks, full disks, lost files, other tools, old code, crash loops, orderly ends"
SOAK: Final = "make proof NAME=processes CASES=1000"

_OPTIONS: Final[Mapping[str, Any]] = {"max_crashes": 1000, "max_waiting_in_memory": 8}
_CUSTOMERS: Final = 8
_HOUR: Final = 3600 * 1_000_000
_YEAR: Final = 365 * 24 * _HOUR
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kolkata")
#: How often a scenario that does something again and again does it.
_TIMES: Final = 12
_FAILURES_TOLD: Final = 20

#: What a scenario does while the client is at work.
Act = Callable[[Crew, Load], Awaitable[None]]
Scenario = Callable[[Path, int], None]


class Impossible(Exception):
    """This machine lacks what the scenario needs."""


class Broken(Exception):
    """What the scenario expected did not happen."""


# --- the life of a file -----------------------------------------------------------------------------------------------


async def _live(crew: Crew, load: Load, act: Act) -> None:
    load.on_hang = crew.tell_where
    await load.open()
    working = asyncio.ensure_future(load.run())
    try:
        await load.has_begun.wait()
        await act(crew, load)
    finally:
        load.over = True
        await working
        await load.engine.close()


def _end(crew: Crew, load: Load, pids: Mapping[str, int]) -> Evidence:
    """End the workers in order and raise `Broken` for whatever is wrong with the file."""
    late = crew.drain()
    if Path(crew.database + "-wal").exists():
        raise Broken("the log is left over, though all have closed the file")
    evidence = Evidence.gather(crew.database, [crew.log], load.offset)
    wrong = [*load.failures, *judge(evidence, pids=pids), *load.missing(evidence.ledger)]
    wrong += [f"worker {name} does not end when it is told to" for name in late]
    _check(wrong)
    return evidence


def _check(wrong: list[str]) -> None:
    if wrong:
        raise Broken(f"{len(wrong)}: {wrong[0]}")


async def _until(fact: Callable[[], bool], what: str) -> None:
    """Wait for a fact of another process."""
    patience = Patience(PATIENCE_SECONDS)
    while not fact():
        if patience.is_over():
            raise Broken(what)
        await asyncio.sleep(0.01)


def _pids(members: list[Member]) -> dict[str, int]:
    return {member.name: member.pid for member in members}


# --- clocks -----------------------------------------------------------------------------------------------------------


def wall_clocks(folder: Path, seed: int) -> None:
    """Wall clocks are set by hours and a year, time zones differ: all workers have one time, and no timer is early."""
    chance, walls = Random(seed), [folder / f"wall-{number}" for number in range(3)]
    members: list[Member] = []

    def set_clock(wall: Path) -> None:
        new = wall.with_suffix(".new")
        new.write_text(str(chance.choice((-_YEAR, -5 * _HOUR, -_HOUR, 0, _HOUR, 7 * _HOUR, _YEAR))))
        new.replace(wall)

    async def act(crew: Crew, _load: Load) -> None:
        for number in range(_TIMES):
            for wall in walls:
                set_clock(wall)
            await asyncio.sleep(0.05)
            # One that opens the file while its clock is wrong.
            crew.remove(crew.present[0])
            members.append(crew.hire(wall=str(walls[number % 3]), zone=chance.choice(_ZONES)))

    for wall in walls:
        set_clock(wall)
    began = orders.steady()
    with Crew(folder, _OPTIONS) as crew:
        load = Load(crew.database, seed, customers=_CUSTOMERS)
        members += [crew.hire(wall=str(wall), zone=chance.choice(_ZONES)) for wall in walls]
        asyncio.run(_live(crew, load, act))
        evidence = _end(crew, load, _pids(members))
        # The clock of whoever opened the file first is everybody's, however wrong it is.
        times = [record.at - load.offset for record in evidence.records]
        if not began - 1_000_000 <= min(times) <= max(times) <= orders.steady() + 1_000_000:
            raise Broken(f"entries are from {min(times)} to {max(times)}, though all was written since {began}")
        last = max(times) + load.offset
    # All have left, the clock is behind, and whoever comes first brings it: time does not run backwards for that.
    walls[0].write_text(str(-_YEAR))
    with Crew(folder, _OPTIONS, prefix="v") as crew:
        member = crew.hire(wall=str(walls[0]), zone="UTC")
        asyncio.run(_one_run(crew.database, "late"))
        member.wait(0)
        crew.drain()
    connection = apsw.Connection(str(folder / "orders.db"), flags=apsw.SQLITE_OPEN_READONLY)
    sql = "SELECT min(at) FROM stepwell_journal WHERE run IN (SELECT key FROM stepwell_runs WHERE id = 'late')"
    first: Any = connection.execute(sql).fetchall()[0]
    connection.close()
    if first[0] < last:
        raise Broken(f"an entry was written at {first[0]}, after one at {last}")


async def _one_run(database: str, run_id: str) -> None:
    async with AsyncEngine(database, workflows=[]) as engine:
        run = await engine.start(orders.job, run_id, id=run_id)
        if await run.result(PATIENCE_SECONDS) != run_id:
            raise Broken(f"run {run_id} has another result")


# --- files that are taken away ----------------------------------------------------------------------------------------


def _taken_away(take: Callable[[str], None], put_back: Callable[[str], None], words: str) -> Scenario:
    """Return the scenario in which `take` does something to the files of a database; `words` are what workers say."""

    def scenario(folder: Path, seed: int) -> None:
        members: list[Member] = []

        async def act(crew: Crew, _load: Load) -> None:
            take(crew.database)
            await _until(
                lambda: len(crew.fallen()) == len(crew.present),
                f"{[member.name for member in crew.present if member not in crew.fallen()]} write on",
            )

        with Crew(folder, _OPTIONS) as crew:
            load = Load(crew.database, seed, customers=_CUSTOMERS, hang_seconds=10.0)
            members += [crew.hire() for _ in range(3)]
            with suppress(Exception):  # the client's engine refuses to close, too
                asyncio.run(_live(crew, load, act))
            running = [member.name for member in crew.present if member not in crew.fallen()]
            _check([f"worker {name} goes on" for name in running])
            said = crew.words.read_text()
            if words not in said:
                raise Broken(f"no worker says {words!r}: {said[-500:]}")
        put_back(str(folder / "orders.db"))
        with Crew(folder, _OPTIONS, prefix="v") as crew:
            members += [crew.hire() for _ in range(2)]
            asyncio.run(load.carry_to_the_end())
            crew.drain()
            logs = [crew.log.with_name("log-w"), crew.log]
            evidence = Evidence.gather(crew.database, logs, load.offset)
        _check([*load.failures, *judge(evidence, pids=_pids(members)), *load.missing(evidence.ledger)])

    return scenario


def _move_away(path: str) -> None:
    Path(path).rename(path + ".away")


def _move_back(path: str) -> None:
    Path(path + ".away").replace(path)


def _copy_over(path: str) -> None:
    os.link(path, path + ".away")
    # Not in this process, in which the engine guards its file.
    subprocess.run(["cp", path, path + ".copy"], check=True)
    Path(path + ".copy").replace(path)


def _delete(path: str) -> None:
    os.link(path, path + ".away")
    Path(path).unlink()


moved = _taken_away(_move_away, _move_back, "orders.db")
restored = _taken_away(_copy_over, _move_back, "orders.db")
deleted = _taken_away(_delete, _move_back, "orders.db")
lock_deleted = _taken_away(lambda path: Path(path + "-lock").unlink(), lambda _path: None, "-lock")


# --- other tools ------------------------------------------------------------------------------------------------------

#: Reads and writes with the SQLite of Python's library until its input ends; prints how many rows it wrote.
_OTHER_SQLITE: Final = """
import select, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("CREATE TABLE IF NOT EXISTS notes (n INTEGER)")
count = 0
while not select.select([sys.stdin], [], [], 0.002)[0]:
    connection.execute("SELECT count(*), max(at) FROM stepwell_journal").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO notes VALUES (?)", (count,))
    connection.execute("COMMIT")
    count += 1
connection.close()
print(count)
"""

#: Keeps a read transaction open until its input ends.
_READER: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
first = connection.execute("SELECT count(*) FROM stepwell_journal").fetchall()
print("reading", flush=True)
sys.stdin.read()
assert connection.execute("SELECT count(*) FROM stepwell_journal").fetchall() == first
connection.execute("COMMIT")
print("done")
"""


def _script(text: str, database: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def other_sqlite(folder: Path, seed: int) -> None:
    """Another process reads and writes with its own SQLite; in a process of an engine that is refused."""
    counts: list[int] = []

    async def act(crew: Crew, load: Load) -> None:
        try:
            sqlite3.connect(crew.database).execute("SELECT count(*) FROM stepwell_runs")
        except SecondSqliteError:
            pass
        else:
            raise Broken("a second SQLite was let into the client's process")
        other = _script(_OTHER_SQLITE, crew.database)
        finished = load.finished
        await _until(lambda: load.finished > finished + 50 or bool(load.failures), "runs do not end any more")
        output, _ = await asyncio.to_thread(other.communicate)
        counts.append(int(output or -1))

    with Crew(folder, _OPTIONS) as crew:
        load = Load(crew.database, seed, customers=_CUSTOMERS)
        members = [crew.hire() for _ in range(3)]
        asyncio.run(_live(crew, load, act))
        _end(crew, load, _pids(members))
        connection = apsw.Connection(crew.database, flags=apsw.SQLITE_OPEN_READONLY)
        found = connection.execute("SELECT count(*) FROM notes").fetchall()
        connection.close()
    if found != [(counts[0],)] or counts[0] < 1:
        raise Broken(f"the other program wrote {counts[0]} rows, and {found} are there")


def _size_bytes(path: Path) -> int:
    return path.stat().st_size


def long_reader(folder: Path, seed: int) -> None:
    """Another process reads for long: nobody waits for it, and the log shrinks again when it is done."""

    async def act(crew: Crew, load: Load) -> None:
        log = Path(crew.database + "-wal")
        reader = _script(_READER, crew.database)
        assert reader.stdout is not None
        await asyncio.to_thread(reader.stdout.readline)
        finished, began = load.finished, time.monotonic()
        await _until(
            lambda: _size_bytes(log) > 2 * WAL_LIMIT_BYTES or time.monotonic() > began + 10 or bool(load.failures),
            "the log does not grow",
        )
        if load.finished == finished:
            raise Broken("no run ended while another process was reading")
        output, _ = await asyncio.to_thread(reader.communicate)
        if "done" not in output:
            raise Broken("the reader's view changed")
        # The log is used from its beginning again; it need not become shorter before all have left.
        grown, finished = _size_bytes(log), load.finished
        await _until(lambda: load.finished > finished + 200 or bool(load.failures), "runs do not end any more")
        if (size := _size_bytes(log)) > grown + WAL_LIMIT_BYTES:
            raise Broken(f"the log had {grown} bytes when the reader ended, and grew to {size}")

    with Crew(folder, _OPTIONS) as crew:
        load = Load(crew.database, seed, customers=_CUSTOMERS)
        members = [crew.hire() for _ in range(3)]
        asyncio.run(_live(crew, load, act))
        _end(crew, load, _pids(members))


# --- versions ---------------------------------------------------------------------------------------------------------


def eight_migrate(folder: Path, seed: int) -> None:
    """Eight processes open a file of the first release at once: one migrates it, and its runs go on."""
    chance = Random(seed)
    numbers = {f"order-{number}": orders.actions_of(chance.getrandbits(32)) for number in range(1, 41)}
    numbers = {run_id: [action for action in actions if action != "letter"] for run_id, actions in numbers.items()}
    _make_old_file(folder, numbers)
    with Crew(folder, _OPTIONS) as crew:
        members = [crew.hire() for _ in range(8)]
        load = Load(crew.database, seed)
        load.ordered |= numbers
        asyncio.run(load.carry_to_the_end())
        _check([f"worker {member.name} ended: {crew.words.read_text()[-500:]}" for member in crew.fallen()])
        _end(crew, load, _pids(members))


def _make_old_file(folder: Path, numbers: Mapping[str, list[str]]) -> None:
    """Make a file as the first release would have, in which runs wait to be taken up."""
    scripts = folder / "scripts"
    scripts.mkdir()
    shutil.copy(Path(migrate.__file__).with_name("migrations") / "0001_initial.sql", scripts)
    modern = folder / "modern.db"

    async def start_all() -> None:
        async with AsyncEngine(modern, workflows=[]) as engine:
            for run_id, actions in numbers.items():
                await engine.start(orders.order, int(run_id.rpartition("-")[2]), actions, id=run_id)

    asyncio.run(start_all())
    database = open_database(folder / "orders.db", migrations=str(scripts))
    database.writer.execute("ATTACH ? AS modern", (str(modern),))
    columns = "id, workflow, status, input, fingerprint, created_at, updated_at, reason"
    database.writer.execute(f"INSERT INTO main.stepwell_runs ({columns}) SELECT {columns} FROM modern.stepwell_runs")
    database.writer.execute("DETACH modern")
    for table in orders.TABLES:
        database.writer.execute(table)
    database.close()


def two_versions(folder: Path, seed: int) -> None:
    """A worker leaves workflows that it lacks to one that has them; changed code stops a run, right code resumes it."""
    del seed

    async def go() -> None:
        async with AsyncEngine(crew.database, workflows=[]) as engine:
            crew.hire(serves=["job"])
            run = await engine.start(orders.changing, "text", id="changing")
            other = await engine.start(orders.job, "a job", id="job")
            await other.result(PATIENCE_SECONDS)
            if run.id in _begun(crew):
                raise Broken("a worker executed a workflow that it does not have")
            first = crew.hire(serves=["changing"])
            await _until(lambda: run.id in _begun(crew), "the worker that has the workflow does not take it")
            await _until(lambda: len(engine._opened().journal(run.id)) >= 1, "its first step is not recorded")
            crew.remove(first)
            changed = crew.hire(serves=["changing"], version=2)
            await run.send("go on")
            try:
                await run.result(PATIENCE_SECONDS)
            except DeterminismError:
                pass
            else:
                raise Broken("changed code went on with a run of the old code")
            crew.remove(changed)
            crew.hire(serves=["changing"])
            await run.resume()
            if await run.result(PATIENCE_SECONDS) != ["text", "text"]:
                raise Broken("the run has another result after its repair")

    with Crew(folder, _OPTIONS) as crew:
        asyncio.run(go())


def _begun(crew: Crew) -> set[str]:
    return {line.split(" ")[1] for line in crew.log.read_text().splitlines() if line.startswith("B ")}


# --- ends -------------------------------------------------------------------------------------------------------------


def crash_loop(folder: Path, seed: int) -> None:
    """A run that kills its workers is given up after `max_crashes`, and its neighbours end as they should."""
    members: list[Member] = []

    async def act(crew: Crew, load: Load) -> None:
        run = await load.engine.start(orders.deadly, id="deadly")
        ending = asyncio.ensure_future(run.result(2 * PATIENCE_SECONDS))
        died = 0
        while not ending.done():
            for member in crew.fallen():
                died += 1
                crew.remove(member)
                members.append(crew.hire())
            await asyncio.sleep(0.01)
        try:
            await ending
        except RunCrashed:
            pass
        else:
            raise Broken("a run that kills its workers has a result")
        if died != 3:
            raise Broken(f"the run killed {died} workers, though max_crashes is 3")

    options = {**_OPTIONS, "max_crashes": 3}
    with Crew(folder, options) as crew:
        load = Load(crew.database, seed, customers=_CUSTOMERS)
        members += [crew.hire() for _ in range(3)]
        asyncio.run(_live(crew, load, act))
        crew.drain()
        evidence = Evidence.gather(crew.database, [crew.log], load.offset)
        evidence.unsettled = [text for text in evidence.unsettled if "'deadly'" not in text]
        _check([*load.failures, *judge(evidence, pids=_pids(members)), *load.missing(evidence.ledger)])


def drains(folder: Path, seed: int) -> None:
    """Workers are told to end, one after the other: all goes on elsewhere, and no step is executed twice."""
    members: list[Member] = []

    async def act(crew: Crew, _load: Load) -> None:
        for _ in range(_TIMES):
            leaving = crew.present[0]
            leaving.send(15)
            members.append(crew.hire())
            if not await asyncio.to_thread(leaving.wait):
                raise Broken(f"worker {leaving.name} does not end when it is told to")
            crew.remove(leaving)

    with Crew(folder, _OPTIONS) as crew:
        load = Load(crew.database, seed, customers=_CUSTOMERS)
        members += [crew.hire() for _ in range(3)]
        asyncio.run(_live(crew, load, act))
        evidence = _end(crew, load, _pids(members))
        if repeated := repetitions(evidence):
            raise Broken(f"{repeated} executions were repeated, though every worker ended in order")


# --- disks ------------------------------------------------------------------------------------------------------------


def disk_fills(folder: Path, seed: int) -> None:
    """A real file system in memory fills and is freed: calls are refused meanwhile, then all goes on by itself."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        raise Impossible("mounting needs root and unshare(1)")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "proof.processes", str(folder), str(seed)],
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
            refused, said = load.refused, _size_bytes(crew.words) if crew.words.exists() else 0

            def is_noticed(refused: int = refused, said: int = said) -> bool:
                # By the client, or by workers, which say so; a client that only waits for them has no part in it.
                return load.refused > refused or "is full" in crew.words.read_text()[said:] or bool(load.failures)

            _fill(place / "filler")
            try:
                await _until(is_noticed, "nobody notices that the disk is full")
                await asyncio.sleep(0.3)
            finally:
                (place / "filler").unlink()
            finished = load.finished
            await _until(
                lambda seen=finished: load.finished > seen + 20 or bool(load.failures),  # type: ignore[misc]
                "nothing goes on though there is space again",
            )

    with Crew(folder, _OPTIONS, place=place) as crew:
        load = Load(crew.database, seed, customers=_CUSTOMERS, tolerates=StorageFull)
        members = [crew.hire() for _ in range(3)]
        try:
            asyncio.run(_live(crew, load, act))
        except Exception as error:
            sizes = {path.name: path.stat().st_size for path in place.iterdir()}
            raise Broken(f"{type(error).__name__}: {error}; {load.finished} runs ended, {sizes}") from error
        _end(crew, load, _pids(members))


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
        with Crew(place, _OPTIONS) as crew:
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


# --- all of them ------------------------------------------------------------------------------------------------------

SCENARIOS: Final[dict[str, Scenario]] = {
    "wall clocks set by hours and a year, time zones": wall_clocks,
    "file moved away": moved,
    "file replaced by a copy": restored,
    "file deleted": deleted,
    "lock file deleted": lock_deleted,
    "another SQLite beside the workers": other_sqlite,
    "a long reader": long_reader,
    "8 processes migrate at once": eight_migrate,
    "two versions of the code": two_versions,
    "a crash loop": crash_loop,
    "orderly ends under load": drains,
    "a tmpfs fills and is freed": disk_fills,
    "system calls fail (strace)": system_calls,
}
CI_CASES: Final = len(SCENARIOS)


def run(cases: int, jobs: int, seed: int) -> Result:
    """Play `cases` scenarios, one after the other, again and again with other seeds."""
    del jobs
    played, failures, notes = 0, list[str](), list[str]()
    names = list(SCENARIOS)
    for number in range(cases):
        name = names[number % len(names)]
        try:
            play(name, seed * 1_000 + number)
        except Impossible as reason:
            notes.append(f"{name}: {reason}")
        except Exception as error:
            played += 1
            failures.append(f"{name}, seed {seed * 1_000 + number}: {type(error).__name__}: {error}")
        else:
            played += 1
    return Result(
        name="processes",
        fault=FAULT,
        cases=played,
        failures=len(failures),
        details={"scenarios": names, "not possible here": sorted(set(notes)), "failed": failures[:_FAILURES_TOLD]},
        controls=[],
        seconds=0.0,
        command="",
    )


def play(name: str, seed: int) -> None:
    """Play a scenario; raises `Broken` where a promise was broken."""
    with scratch() as folder:
        try:
            SCENARIOS[name](folder, seed)
        except Impossible:
            raise
        except Exception:
            kept = Path(__file__).with_name("results") / "failed-processes" / str(seed)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, ignore_dangling_symlinks=True)
            raise


if __name__ == "__main__":
    _disk_fills(Path(sys.argv[1]), int(sys.argv[2]))
