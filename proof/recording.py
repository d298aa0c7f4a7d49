"""Recordings of whole lives of a file: the shop under a recorder, with crashes, checkpoints, a purge, a migration."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from proof.client import PATIENCE_SECONDS, Client, Plan
from proof.recorder import Op, recording
from proof.shop import OBSERVER, TABLES
from stepwell.store.sqlite.file import migrate
from stepwell.store.sqlite.file.opening import open_database
from stepwell.store.sqlite.store import SqliteStore
from stepwell.testing import TestEngine

#: The log sizes after which the engine copies its log into the file, in bytes: small, so that it does so often.
_LOG_LIMITS_BYTES: Final = (8_192, 32_768, 131_072, 1 << 22)


@dataclass(frozen=True)
class Life:
    """One recorded life of a file: what was wanted of the engine, and what reached the disk."""

    plan: Plan
    log: list[Op]


def record(seed: int, folder: Path, *, broken: bool = False) -> Life:
    """Live a life that follows from `seed` in `folder`, which is removed. How threads take turns does not follow.

    The life of a `broken` engine may end early.
    """
    logging.getLogger("stepwell").setLevel(logging.CRITICAL + 1)
    random = Random(seed)
    plan = Plan.of(random)
    path = str(folder / "life.db")
    options: dict[str, Any] = {
        "max_waiting_in_memory": random.choice([0, 2, 1_000]),
        "max_running": random.choice([2, 10_000]),
    }
    if random.random() < 0.4:
        make_old_file(path, plan)
    with small_logs(random.choice(_LOG_LIMITS_BYTES)), recording(path) as found:
        OBSERVER.reset(found.acknowledge)
        engine = TestEngine(path, **options)
        try:
            _live(engine, plan, random)
        except Exception:
            if not broken:
                raise
        finally:
            engine.close()
            OBSERVER.reset(None)
    shutil.rmtree(folder)
    return Life(plan, found.log)


def _live(engine: TestEngine, plan: Plan, random: Random) -> None:
    client = Client(engine, plan)
    client.make_tables()
    client.start_till()
    actions: list[Callable[[], object]] = [
        *(partial(client.start_passing, number) for number in range(plan.passing)),
        *(partial(client.start_order, number) for number in plan.orders),
    ]
    _do(engine, actions, random)
    engine.advance(3_600, timeout=PATIENCE_SECONDS)
    if random.random() < 0.7:
        client.purge()
    actions = [
        *(partial(client.place_order, number) for number in plan.placed),
        *(partial(client.send_go, number) for number in plan.orders),
        *(partial(client.look, number) for number in plan.orders for _ in range(2)),
        *(partial(client.start_job, number) for number in range(plan.jobs)),
        client.start_ends,
    ]
    _do(engine, actions, random)
    client.cancel()
    client.end_all()


def _do(engine: TestEngine, actions: list[Callable[[], object]], random: Random) -> None:
    """Do all `actions` in any order, with other events in between."""
    disturbances: list[Callable[[], object]] = [engine.idle, engine.reopen, partial(_crash, engine)]
    disturbances += [partial(engine.advance, random.randint(1, 400), timeout=PATIENCE_SECONDS) for _ in range(2)]
    actions = [*actions, *(random.choice(disturbances) for _ in range(random.randint(1, 5)))]
    random.shuffle(actions)
    for action in actions:
        action()


def _crash(engine: TestEngine) -> None:
    engine.crash()
    engine.reopen()


@contextmanager
def small_logs(limit_bytes: int) -> Generator[None]:
    """Have engines copy a log of `limit_bytes` into the file, until the block ends."""
    defaults = SqliteStore.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    before = defaults["wal_limit_bytes"]
    defaults["wal_limit_bytes"] = limit_bytes
    try:
        yield
    finally:
        defaults["wal_limit_bytes"] = before


def make_old_file(path: str, plan: Plan) -> None:
    """Make a file at `path` as the first release would have, in which the orders of `plan` wait to be taken up.

    It was not closed in order: most of it is in its log.
    """
    scripts = Path(path + "-scripts")
    scripts.mkdir()
    source = Path(str(migrate.package_folder()))
    shutil.copy(source / "0001_initial.sql", scripts)
    modern = path + "-modern"
    with TestEngine(modern, workflows=[]) as engine:
        client = Client(engine, plan)
        for number in plan.orders:
            client.start_order(number)
    database = open_database(path, migrations=str(scripts))
    database.writer.execute("ATTACH ? AS modern", (modern,))
    columns = "id, workflow, status, input, fingerprint, created_at, updated_at, reason"
    database.writer.execute(f"INSERT INTO main.stepwell_runs ({columns}) SELECT {columns} FROM modern.stepwell_runs")
    database.writer.execute("DETACH modern")
    # The orders begin as soon as an engine opens the file.
    for statement in TABLES:
        database.writer.execute(statement)
    database.close()
    shutil.rmtree(scripts)
    for suffix in ("", "-lock"):
        Path(modern + suffix).unlink()
