"""The engine for code that does not use asyncio; its handles are in `stepwell.api.blocking.handles`.

`stepwell.api.async_engine` is the awaited twin.
"""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, TypeVarTuple, Unpack, cast

from stepwell.api.asking.acts import checked_actor
from stepwell.api.asking.listing_options import LISTING_DEFAULTS, Listing
from stepwell.api.asking.options import ENGINE_DEFAULTS, EngineOptions, Options, flow_name
from stepwell.api.blocking.caller import Caller
from stepwell.api.blocking.handles import OpenTransaction, QueueHandle, Run, Starter
from stepwell.api.blocking.schedules import Scheduling
from stepwell.api.one_block import OneBlock
from stepwell.api.reading.promise_views import PromiseInfo
from stepwell.api.reading.views import WorkerInfo, to_datetime
from stepwell.api.session import Session
from stepwell.definitions.definition import Workflow
from stepwell.definitions.queues import Limit, Queue
from stepwell.definitions.start_options import shows_options
from stepwell.model.lifecycle import Status
from stepwell.runtime.serving.requests import AnswerPromise, BulkAct, SendMessage, StartRun, WaitForIdle
from stepwell.store.inspector import CountGroup
from stepwell.values.own_tables import Parameters, Rows

if TYPE_CHECKING:
    from stepwell.api.archive import Archive
    from stepwell.api.backup import Backup, Progress
    from stepwell.api.check import Check
    from stepwell.api.reading.bulk import BulkInfo

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")

#: How long `close` gives steps under way, in seconds.
CLOSE_TIMEOUT_SECONDS: Final = 5.0


class Engine(Scheduling, Starter):
    """Runs durable workflows whose state is the SQLite file at `path`; made if missing. Thread-safe.

    - `workflows`: the workflows to serve; None serves every workflow that this process defines.
    - `durability`: ``"full"`` survives power loss; ``"normal"`` survives the death of the process, but may lose the
      last moments at power loss.
    - `max_payload_bytes`: the limit for one argument list, result, message or value.
    - `max_waiting_in_memory`: how many waiting runs stay in memory for a quick reaction; the others are read again when
      something happens to them.
    - `max_running`: how many runs may be under way at once; further ones are pending.
    - `max_crashes`: a run that was under way at this many deaths of its worker in a row, without progress in between,
      is halted, and not tried again by itself (`RunCrashed`).
    - `max_journal_entries`: a run whose journal reaches this number of entries is halted (`JournalTooLong`); the log
      warns from a tenth of it on.
    - `step_threads`: how many ``def`` steps execute at once.
    - `step_processes`: how many steps with ``isolate="process"`` execute at once; None: as many as there are CPUs.
    - `retention`: how long after its end a run is kept, in seconds or as a timedelta; None keeps runs for ever.
    - `take_over_stalled_after`: seconds, or a timedelta, after which the runs of another worker that does not answer
      (it is stopped, or hangs) are taken over; None never does that by itself.
    - `queues`: the queues to take runs from, as objects or names; None takes from all.
    - `clock`: where time comes from; for tests.
    - `on_failure`: a workflow that is started with a `FailedRun` when a run that this engine executes fails or is
      halted, in the commit that records the failure. ``@workflow(on_failure=…)`` takes precedence for its runs.

    Any number of processes may open the file, one engine each; one of them at a time executes a run. Opening continues
    the runs of workers that are gone. With ``workflows=[]`` the engine is a client: it starts, sends and waits, and
    leaves the execution to workers. Use it as a context manager, or call `close`. Raises `FileNotUsable`, `FileInUse`
    or `SchemaTooNew` where the file cannot be used, `InvalidArgument` for unusable options.
    """

    @shows_options(ENGINE_DEFAULTS, ENGINE_DEFAULTS)
    def __init__(self, path: str | os.PathLike[str], **options: Unpack[EngineOptions]) -> None:
        self._session = Session(path, Options(options), None)
        self._block = OneBlock(path)

    def __enter__(self) -> Self:
        """Return the engine; raises `EngineInUse` in another ``with`` block of it, `EngineClosed` after its end."""
        self._session.check_usable()
        self._session.engine_thread.check_open()
        self._block.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""
        self._block.leave()
        self.close()

    def close(self, timeout: float | timedelta | None = CLOSE_TIMEOUT_SECONDS) -> None:
        """Stop: take no more work, give steps under way `timeout` to end, and close the file.

        `timeout` is seconds or a timedelta, or None: as long as they need. Steps that need longer are cancelled, or, in
        threads, abandoned; they are executed again by the next engine.
        A transaction of this engine that is open then is named in the log, and rolled back.
        Runs that have not ended go on with the next engine. Calling it again does nothing.
        """
        self._session.close(timeout)

    def _caller(self) -> Caller:
        return self

    def _submit(self, request: StartRun | SendMessage | AnswerPromise) -> Any:
        return self._ask(request)

    def _submit_all(self, requests: Sequence[StartRun]) -> builtins.list[str]:
        self._session.check_usable()
        return self._session.start_all(requests)

    def get(self, id: str) -> Run[Any]:
        """Return the handle of a run; raises `RunNotFound`."""
        record = self._session.reads.record(id)
        return Run(self, record.id, self._session.definition_of(record))

    @shows_options(LISTING_DEFAULTS, LISTING_DEFAULTS)
    def list(self, filter: str = "", /, **options: Unpack[Listing]) -> builtins.list[Run[Any]]:
        """Return the handles of the runs that match all filters, newest first.

        `filter`: a line such as ``"status:failed workflow:checkout started>-2h id:order-*"``; ``stepwell docs filters``
        lists its fields. `status`, `workflow` and `id_prefix` are filters as well. At most `limit` runs are returned;
        `before`, the id of the last run of one page, gives the next page.

        Raises `InvalidFilter`, which says where the line goes wrong; `InvalidArgument`; `RunNotFound` where `before` is
        no run.
        """
        records = self._session.reads.records(filter, **options)
        return [Run(self, record.id, self._session.definition_of(record)) for record in records]

    def bulk(self, act: BulkAct, filter: str, /, *, reason: str | None = None, by: str | None = None) -> BulkInfo:
        """Pause, unpause, cancel, retry, terminate or delete all runs that match a filter (see `list`); wait for that.

        `act`: ``"pause"``, ``"unpause"``, ``"cancel"``, ``"retry"`` (failed ones, unless the filter names states),
        ``"terminate"`` or ``"delete"`` (of runs that have ended). Count first: `counts`. The act is recorded in the
        file with who asked for it and why. If this process dies, another worker continues it; `bulks` shows how far it
        has come. Runs that are started meanwhile are not affected. A run whose state has changed meanwhile may refuse
        the act, and the log says why. Raises `InvalidFilter`, and `InvalidArgument` for a filter that matches every
        run, or for states to which the act does not apply.
        """
        from stepwell.api.reading.bulk import BULK_LOOK_SECONDS

        session = self._session
        runs = session.reads.bulk_filter(act, filter)
        number = self._ask(session.requests.bulk(act, filter, runs, by, reason))
        while (info := session.reads.bulk(number)).ended_at is None:
            session.check_usable()
            time.sleep(BULK_LOOK_SECONDS)
        return info

    def bulks(self) -> builtins.list[BulkInfo]:
        """Return the acts on many runs, the newest first: who asked for each and why, and how far it has come."""
        return self._session.reads.bulks()

    def promises(self) -> builtins.list[PromiseInfo]:
        """Return the open promises of all runs, the oldest first; whoever has a promise's token can answer it."""
        return self._session.reads.promises()

    def counts(self, filter: str = "", /, *, by: CountGroup = "status") -> dict[str, int]:
        """Return how many of the runs that match a filter (see `list`) are of each state.

        `by`: ``"status"``, ``"workflow"`` or ``"queue"`` (those of no queue stand under ``""``). All runs are looked
        at: some tenths of a second for a million. Raises `InvalidFilter`.
        """
        return self._session.reads.counts(filter, by)

    def retry_all(
        self,
        *,
        status: Status | Sequence[Status] | None = None,
        workflow: Workflow[..., Any] | str | None = None,
        started_since: datetime | timedelta | float | None = None,
        id_prefix: str | None = None,
        dry_run: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> int:
        """Retry the runs that match all filters (see `Run.retry`), and return how many there were.

        `status`: ``"failed"``, ``"cancelled"``, ``"halted"`` or several of them; without it the failed ones.
        `started_since`: an aware datetime, or how long ago, in seconds or as a timedelta; runs that never began are
        left out. With `dry_run` the runs are only counted. A run that cannot be brought back now is left out, and the
        log says why. Raises `InvalidArgument` where no filter is given.
        """
        session = self._session
        request = session.requests.retry_all(status, workflow, started_since, id_prefix, by, reason)
        return session.reads.count(request.runs) if dry_run else cast("int", self._ask(request))

    def purge(self, older_than: float | timedelta) -> int:
        """Delete the runs that ended more than `older_than` (seconds or a timedelta) ago; return how many there were.

        With them go their journals and values, and their ids become free. A child stays as long as its parent has not
        ended. `retention` does the same by itself.
        """
        return cast("int", self._ask(self._session.requests.purge(older_than)))

    def run_until_idle(self, timeout: float | timedelta | None = None) -> datetime | None:
        """Do everything that is due, and return when something is due next (aware, UTC); None: nothing is.

        Timers, further attempts of steps, deadlines, ticks of schedules, delays and rates of queues are due at a time.
        The call does not wait for what others have to do first (a message, an answer, another worker). It is meant for
        programs that are started now and then: by cron, a systemd timer, or as a cloud function. Raises `TimeoutError`
        after `timeout` (seconds or a timedelta); if steps are under way then, close the engine, and the next one
        executes them again.
        """
        due: int | None = self._wait("the engine is not idle", timeout, WaitForIdle())
        return to_datetime(due, self._session.engine_thread.worker.runs.ahead)

    def queue(self, queue: Queue | Limit | str) -> QueueHandle:
        """Return the handle of a queue or limit, given as an object or by its name, to look at it and to change it."""
        return QueueHandle(self, flow_name(queue))

    def queues(self) -> builtins.list[QueueHandle]:
        """Return the handles of all queues and limits that the file knows, by name."""
        return [QueueHandle(self, name) for name in self._session.reads.queue_names()]

    def workers(self) -> builtins.list[WorkerInfo]:
        """Return the workers that have the file open, this one among them, and those that died just now, oldest first.

        A worker that is stopped, or that does not answer a question in the file within two seconds, is ``stalled``. A
        worker that is alive but cannot be asked is ``unreachable``.
        """
        self._session.check_usable()
        return self._session.reads.workers()

    def take_over(self, epoch: int, *, reason: str | None = None, by: str | None = None) -> int:
        """Take the runs of another worker, a stalled one (see `workers`), and let others continue them.

        Whatever that worker still tries to write is refused; when it wakes up, it goes on as a new worker. Returns how
        many runs it had. Raises `InvalidArgument` if there is no such worker, `StoreUnavailable` if it was stopped in
        the middle of a write, so that nobody can write until it is continued or killed.
        """
        return self._session.take_over(epoch, checked_actor(by, reason))

    def query(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Return the rows of a query, on the caller's own tables or on those of the file's schema.

        It reads what was committed, on a connection that cannot write, and blocks nobody. Keep it short all the same:
        the log cannot be shortened while it reads. Raises `TransactionError` for SQL that would do more than read, and
        `InvalidArgument` for SQL or parameters that SQLite does not take.
        """
        return self._session.query(sql, parameters)

    def backup(
        self, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> Backup:
        """Make a backup of the file while workers use it, and return facts about it.

        The backup is a single file, compressed if its name ends in ``.gz``. It holds the file as of the last commit
        when the backup began. It gets its name only after it has been checked as by `stepwell.verify` and synced to the
        disk. Nobody waits for it; the log grows meanwhile. `progress` is called with the name of the present stage, how
        much of it is done, and how much there is (0 and 0 if unknown). Raises `InvalidArgument` if `target` exists and
        `overwrite` is not set, `FileInUse` while another backup to it is under way, `StorageFull` if there is no room,
        `FileNotUsable` if the file is damaged or the target cannot be written.
        """
        from stepwell.api.backup import back_up

        session = self._session
        session.check_usable()
        return back_up(session.store.location, target, overwrite=overwrite, progress=progress)

    def archive(
        self,
        target: str | os.PathLike[str],
        filter: str,
        /,
        *,
        progress: Callable[[int], None] | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Archive:
        """Move the runs that have ended and match a filter (see `list`) into another file, and return what was moved.

        `target`: the archive; it is created if it is missing. It is an ordinary file of Stepwell: `stepwell list --db`,
        `stepwell ui --db` and an engine open it. Runs are moved some at a time, and synced to the archive before they
        are deleted here; if the process dies in between, a run may be in both files until the call is repeated. A child
        stays while its parent has not ended, and so does a run whose id another run in the archive has. `progress` is
        called with how many were moved so far. Raises `InvalidFilter`, `InvalidArgument` for a filter that matches
        every run or other states, or for an archive of another file, `StorageFull`, and what opening a file raises.
        """
        from stepwell.api.archive import archive

        return archive(self._session, self._ask, target, filter, by, reason, progress)

    def check(self) -> Check:
        """Replay every run in flight with the workflows that this engine serves, and say which do not go on.

        See `stepwell.check`, which does the same without an engine. No step is executed, and no worker is disturbed.
        """
        return self._session.check()

    @contextmanager
    def transaction(self) -> Generator[OpenTransaction]:
        """Open a transaction on the file, for the caller's own tables and for starting and sending, all or nothing.

        It blocks every other writer: keep it short. Leaving the block commits; an exception rolls back.
        Raises `TransactionError` for what a lent connection must not do, `StorageFull`.
        """
        session = self._session
        session.check_usable()
        with session.transaction() as (lent, enlisted):
            yield OpenTransaction(self, lent, enlisted)
