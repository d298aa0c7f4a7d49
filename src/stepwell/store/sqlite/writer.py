"""The write side: transactions, units and their outcomes, the three results of a COMMIT.

One connection writes. A transaction is `begin`, changes by `Applier`, `finish`; whatever goes wrong in between goes
through `abandon`, after which nothing of the transaction is in the file.

A COMMIT that raises has three possible results: committed, not committed, unknown. With the error, SQLite has dropped
the transaction from its view, but the commit record may be in the log all the same, and the next process to open the
file would find it. So the log is folded into the file (TRUNCATE), which throws away what this connection
does not count as committed; then the evidence that the transaction left is looked up. Where the log cannot be folded,
the result stays unknown and the store stops for good.

An error of the disk before the COMMIT, or at one that turns out not to stand, leaves nothing behind once the log is
folded: it is `StoreUnavailable`, and the next transaction may go well. A disk that fails `MAX_ERRORS_IN_A_ROW` of them
does not get well by trying.
"""

# apsw's stubs name a type of Python 3.12, which pyright does not know of when it checks for 3.11:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import apsw

from stepwell.errors import ClaimLost, EngineClosed, StoreError, StoreFailed, TransactionError
from stepwell.model.run import Claim
from stepwell.store.changes import Change, RunCreated, RunFinished
from stepwell.store.sql.aftermath import Evidence
from stepwell.store.sql.creation import is_plain
from stepwell.store.sql.run_changes import Applier
from stepwell.store.sqlite.faults import TransactionGone, concerns_all, is_corruption, refusal, translate
from stepwell.store.sqlite.file.last_commit import LastCommit
from stepwell.store.sqlite.file.wal_growth import LogGrowth
from stepwell.store.sqlite.file.wal_room import cut_failed_commit
from stepwell.store.sqlite.peers.notifier import Members, tell
from stepwell.store.sqlite.statements import SQL
from stepwell.store.sqlite.user_connection import Gate, SqliteLent, SqliteTransaction
from stepwell.store.store import Outcome, StoreTransaction, Unit

if TYPE_CHECKING:
    from stepwell.store.sqlite.file.opening import Database

_BEGIN: Final = SQL["begin"]
_COMMIT: Final = SQL["commit"]

#: The log is copied into the file by a commit that leaves it larger than this.
WAL_LIMIT_BYTES: Final = 4 * 1024 * 1024
#: After so many transactions that failed for an error of the disk, and none that did not, the store stops for good.
MAX_ERRORS_IN_A_ROW: Final = 10
_ENDED_BY_USER: Final = (
    "SQL of user code ended the transaction (ON CONFLICT ROLLBACK, OR ROLLBACK or RAISE(ROLLBACK)); nothing was "
    "written. Use ABORT in its place, which undoes the statement alone"
)


class Writer:
    """Writes through `database.writer`. Every method is called with the writers' lock held."""

    def __init__(self, database: Database, members: Members, *, wal_limit_bytes: int = WAL_LIMIT_BYTES) -> None:
        self._database = database
        self._members = members
        #: Where the last commit is noted, if anywhere.
        self.last_commit: LastCommit | None = None
        self._connection = database.writer
        self._execute = self._connection.cursor().execute
        self._location = database.path
        self.applier = Applier(self._connection, SQL)
        self.gate = Gate(self._connection)
        #: Why the store has stopped for good, once it has.
        self.failed: StoreFailed | None = None
        self.closed = False
        self._errors_in_a_row = 0
        self._changes_before = 0
        # What the version of the file was after the last commit for a claim, and the epoch of that: while it is the
        # same, nobody else has written, so the claim still holds.
        self._proved: tuple[int, int] | None = None
        self.log = LogGrowth(database.writer, database.path, database.log_room, limit_bytes=wal_limit_bytes)

    # --- one transaction -----------------------------------------------------------------------------------------

    def begin(self, claim: Claim | None) -> None:
        """Open a transaction for the worker with `claim`; raise `ClaimLost` where it may not write any more."""
        self.check_usable()
        if self._members.faulty:
            self._mend()
        self.applier.begin(0 if claim is None else claim.epoch)
        self.gate.has_written = False
        self._changes_before = self._connection.total_changes()
        try:
            self._execute(_BEGIN)
            if claim is not None and self._proved != (claim.epoch, self._connection.data_version()):
                self._check_claim(claim)
        except (apsw.Error, ClaimLost) as error:
            raise self.abandon(error) from error
        if self.log.pages >= self.log.roomy_until:
            self.log.make_room()

    def _check_claim(self, claim: Claim) -> None:
        if not self._rows(SQL["worker_may_write"], (claim.epoch,)):
            raise ClaimLost(self._why_claim_is_lost(claim))

    def finish(self, claim: Claim | None, evidence: Evidence | None = None) -> None:
        """Make the transaction durable. `evidence` proves it where the changes themselves do not.

        Raises only when nothing of the transaction is in the file, or, as `StoreFailed`, when that cannot be known.
        """
        try:
            self.applier.flush()
            self.applier.after.made_turn = self.applier.entries.made_work
            evidence = evidence or self.applier.after.evidence
            if evidence is None and claim is not None and self._has_changes():
                traces: int = self._rows(SQL["trace_left"], (claim.epoch,))[0][0]
                evidence = SQL["evidence_of_trace"], (claim.epoch, traces)
        except Exception as error:
            raise self.abandon(error) from error
        except BaseException as error:
            self.abandon(error)
            raise
        if evidence is not None and self.last_commit is not None:
            self.last_commit.forget()
        try:
            self._execute(_COMMIT)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the commit may have happened
            self._resolve_commit(error, evidence)
        self._errors_in_a_row = 0
        self._proved = None if claim is None else (claim.epoch, self._connection.data_version())
        if evidence is not None and self.last_commit is not None:
            self.last_commit.note(*evidence)
        tell(self._members, self.applier.after)
        if self.log.pages >= self.log.checkpoint_at:
            self._checkpoint()

    def _checkpoint(self) -> None:
        try:
            self._database.check_in_place()
        except StoreError:  # the next commit says so; a log without its name may not belong to the file any more
            return
        fault = self.log.checkpoint()
        if fault is not None:
            self._fold_log(fault)

    def _has_changes(self) -> bool:
        # SQLite does not count CREATE TABLE and its like among the changes, but the gate sees them.
        return self.gate.has_written or self._connection.total_changes() != self._changes_before

    def abandon(self, error: BaseException) -> StoreError:
        """Roll the transaction back because of `error`; return what to raise for it."""
        self.applier.drop_entries()
        try:
            if self._connection.in_transaction:
                self._connection.execute(SQL["rollback"])
        except apsw.Error as second:
            self.failed = StoreFailed(
                f"{self._location}: rolling back after {error!r} failed with {second!r}. The engine stopped; restart it"
            )
            return self.failed
        if not isinstance(error, Exception):
            return StoreError(f"{self._location}: interrupted by {error!r}; the transaction was rolled back")
        fault = translate(error, self._location)
        if is_corruption(error) and isinstance(fault, StoreFailed):
            self.failed = fault
        elif isinstance(error, apsw.IOError):
            self._fold_log(error)
            self._count(error)
            return self.failed or fault
        return fault

    def _count(self, error: Exception) -> None:
        """Take note of an error of the disk that left nothing behind; stop for good where there were too many."""
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= MAX_ERRORS_IN_A_ROW and self.failed is None:
            self.failed = StoreFailed(
                f"{self._location}: the disk reported an error ({error}), as it did in each of the last "
                f"{self._errors_in_a_row} transactions. The engine stopped; what was acknowledged is in the file, and "
                "nothing of those transactions. Check the disk, then start the engine again"
            )

    def check_usable(self) -> None:
        """Raise where nothing may be written any more: after a failure or `close`, in a fork, to a replaced file."""
        if self.closed:
            raise EngineClosed(f"{self._location}: the store is closed; open the engine again to write")
        if self.failed is not None:
            raise StoreFailed(str(self.failed)) from self.failed
        self._database.check_process()
        self._database.check_identity()

    def _why_claim_is_lost(self, claim: Claim) -> str:
        rows = self._rows(SQL["worker_state"], (claim.epoch,))
        if not rows:
            return (
                f"{self._location}: there is no worker {claim.epoch} in this file: it has ended long ago, or another "
                "file was put in the place of its own"
            )
        fenced, pid, host = rows[0]
        how = "was fenced off: another worker took over its runs" if fenced else "has ended"
        return f"{self._location}: worker {claim.epoch} (process {pid} on {host}) {how}; nothing was written"

    # --- the result of a COMMIT ----------------------------------------------------------------------------------

    def _resolve_commit(self, error: Exception, evidence: Evidence | None) -> None:
        """Find out what became of a COMMIT that raised; return if it stands, raise if it does not."""
        if self._connection.in_transaction:
            raise self.abandon(error) from error
        if isinstance(error, apsw.FullError):
            # With no room to fold the log the next commit overwrites the remains; a full disk must not stop the store.
            with contextlib.suppress(StoreError, apsw.Error):
                self._database.truncate_wal()
        elif not is_corruption(error):
            self._fold_log(error)
        if self.failed is None and self._is_proved(evidence):
            return
        if isinstance(error, apsw.IOError):
            self._count(error)
        fault = self.failed or translate(error, self._location)
        if isinstance(fault, StoreFailed):
            self.failed = fault
        raise fault from error

    def _is_proved(self, evidence: Evidence | None) -> bool:
        if evidence is None:
            return False
        try:
            return bool(self._rows(*evidence))
        except apsw.Error as error:
            self._stop(error, error)
            return False

    def _fold_log(self, error: Exception) -> None:
        """Fold the log into the file after a disk error; where that fails too, the store stops for good.

        After a failed fsync the kernel may have dropped what it could not write, and says so only once. To go on, or to
        close and reopen, would build on pages that are not on the disk. Folding writes and syncs every page once more.
        """
        try:
            self._database.truncate_wal()
        except (StoreError, apsw.Error) as second:
            self._stop(error, second)

    def _mend(self) -> None:
        """Fold the log into the file in place of another process whose disk failed it, and which could not.

        What it committed last may stand in the log that everybody reads, and not on the disk. Folding writes and syncs
        it once more; nothing may be built on it before that.
        """
        try:
            self._database.truncate_wal()
        except (StoreError, apsw.Error) as error:
            self.failed = StoreFailed(
                f"{self._location}: the disk failed another process of this file, and then this one as well, when it "
                f"tried to save what the other had written ({error}). The engine stopped, to lose nothing. Check the "
                "disk, keep the file and its -wal file together, then start the engines again"
            )
            raise self.failed from error
        self._members.clear_fault()

    def _stop(self, error: Exception, second: Exception) -> None:
        with contextlib.suppress(apsw.Error, OSError):
            cut_failed_commit(self._connection, self._location)
        with contextlib.suppress(OSError):
            self._members.mark_fault()
        self.failed = StoreFailed(
            f"{self._location}: the disk reported an error ({error}), and then another one ({second}). The engine "
            "stopped, to lose nothing: what was acknowledged is in the file and its -wal file, the last transaction "
            "may or may not be. Check the disk, keep both files together, then start the engine again"
        )

    # --- units ---------------------------------------------------------------------------------------------------

    def commit(self, units: Sequence[Unit], claim: Claim) -> list[Outcome]:
        """Apply all units in one transaction, each for itself; see `Store.commit`."""
        refused: dict[int, Outcome] = {}
        while True:
            left = [unit for index, unit in enumerate(units) if index not in refused] if refused else list(units)
            self.begin(claim)
            try:
                applied = self._apply_units(left, claim)
            except _BodyEndedTransaction as ended:
                self.abandon(ended)
                _refuse_bodies(refused, units, ended.index)
                continue
            except Exception as error:
                raise self.abandon(error) from error
            except BaseException as error:
                self.abandon(error)
                raise
            self.finish(claim)
            if not refused:
                return applied
            rest = iter(applied)
            return [refused[index] if index in refused else next(rest) for index in range(len(units))]

    def _apply_units(self, units: list[Unit], claim: Claim) -> list[Outcome]:
        """Apply units in order: those with a body each in a savepoint, those between two of them first as one."""
        if all(unit.body is None for unit in units):
            try:
                return self._apply_together(units)
            except Exception as error:
                if self._is_over(error):
                    raise
                self.abandon(error)
            self.begin(claim)
            return [self._apply_alone(unit) for unit in units]
        outcomes: list[Outcome] = []
        for has_body, group in groupby(units, lambda unit: unit.body is not None):
            if has_body:
                for unit in group:
                    outcomes.append(self._run_body(unit, len(outcomes)))
            else:
                outcomes += self._apply_segment(list(group))
        return outcomes

    def _apply_together(self, units: list[Unit]) -> list[Outcome]:
        # No savepoint: with one, SQLite would copy every page that it touches.
        apply, apply_unit = self.applier.apply, self.applier.apply_unit
        ends = [end.run for unit in units if unit.changes and type(end := unit.changes[-1]) is RunFinished]
        if len(ends) > 1:
            self.applier.expect_ends(ends)
        outcomes: list[Outcome] = [apply(unit.changes) if unit.decide is None else apply_unit(unit) for unit in units]
        self.applier.flush()
        return outcomes

    def _apply_segment(self, units: list[Unit]) -> list[Outcome]:
        # Bodies ran before in this transaction and must not run twice, so it cannot be rolled back as a whole.
        try:
            with self.savepoint():
                return self._apply_together(units)
        except Exception as error:
            if self._is_over(error):
                raise
        return [self._apply_alone(unit) for unit in units]

    def _apply_alone(self, unit: Unit) -> Outcome:
        try:
            with self.savepoint():
                results = self.applier.apply_unit(unit)
                self.applier.flush()
                return results
        except Exception as error:
            if self._is_over(error):
                raise
            return refusal(error, unit.changes, self._location)

    def _run_body(self, unit: Unit, index: int) -> Outcome:
        lent = SqliteLent(self._connection, self.gate, self.savepoint)
        changes = list(unit.changes)
        try:
            with self.savepoint():
                changes += self._call_body(unit, lent)
                results = self.applier.apply_unit(Unit(changes, decide=unit.decide))
                self.applier.flush()
                return results
        except TransactionGone as error:
            raise _BodyEndedTransaction(index) from error
        except Exception as error:
            if self._is_over(error):
                raise
            return refusal(error, changes, self._location)

    def _call_body(self, unit: Unit, lent: SqliteLent) -> list[Change]:
        try:
            return unit.body(lent) if unit.body is not None else []
        finally:
            lent.end()
            if lent.fault is not None:
                # Whatever the body made of it: a full disk is not the failure of a step.
                raise lent.fault

    @contextlib.contextmanager
    def transaction(self, claim: Claim) -> Generator[StoreTransaction, None, None]:
        """Open a transaction for code outside of workflows; see `Store.transaction`."""
        self.begin(claim)
        lent = SqliteLent(self._connection, self.gate, self.savepoint)
        try:
            yield SqliteTransaction(self.apply_inside, lent)
        except BaseException as error:
            lent.end()
            if self.closed:  # and with the connection, the transaction is gone
                raise
            told = self.abandon(lent.fault or error)
            if error is lent.fault:
                raise told from error
            raise
        lent.end()
        if self.closed:
            raise EngineClosed(
                f"{self._location}: the engine was closed within this transaction; nothing of it was written"
            )
        if isinstance(lent.fault, TransactionGone):
            self.abandon(lent.fault)
            raise TransactionError(_ENDED_BY_USER) from lent.fault
        if lent.fault is not None:
            raise self.abandon(lent.fault) from lent.fault
        self.finish(claim)

    def apply_inside(
        self, changes: Sequence[Change], lent: SqliteLent, accept: Callable[[list[Any]], None] | None
    ) -> list[Any]:
        """Apply all of `changes` in the transaction that `lent` belongs to, or raise and apply none.

        What can be gathered is written with the commit: nobody sees the engine's tables before.
        """
        lent.check()
        try:
            if len(changes) == 1 and type(start := changes[0]) is RunCreated and is_plain(start):
                return self._apply_start(start, accept)
            self._write_gathered(lent)  # a savepoint that is undone must take back its own only
            with self.savepoint():
                results = self._apply_many(changes)
                if accept is not None:
                    accept(results)
                return results
        except Exception as error:
            if self._is_over(error):
                lent.fault = error
                raise translate(error, self._location) from error
            raise refusal(error, changes, self._location) from error

    def _apply_many(self, changes: Sequence[Change]) -> list[Any]:
        """Apply changes, the starts before all others many at a time."""
        starts: list[RunCreated] = []
        for change in changes:
            if type(change) is not RunCreated or not is_plain(change):
                break
            starts.append(change)
        results: list[Any] = list(self.applier.creation.create_all(starts))
        return results + self.applier.apply(changes[len(starts) :]) if len(starts) < len(changes) else results

    def _write_gathered(self, lent: SqliteLent) -> None:
        """Write what earlier calls in a transaction have gathered; it cannot be committed where that is interrupted."""
        try:
            self.applier.flush()
        except Exception:
            raise
        except BaseException as error:
            lent.fault = StoreError(f"{self._location}: {error!r} interrupted a write; start the transaction again")
            raise

    def _apply_start(self, start: RunCreated, accept: Callable[[list[Any]], None] | None) -> list[Any]:
        """Apply a start that is one statement, without a savepoint, which takes as long as all the rest of it."""
        applier, connection = self.applier, self._connection
        before, entering = connection.total_changes(), applier.entries.entering
        made_work, evidence = applier.after.made_work, applier.after.evidence
        try:
            results = [applier.creation.create(start)]
            if accept is not None:
                accept(results)
            return results  # noqa: TRY300 - somebody may press Ctrl-C until here
        except BaseException:
            if connection.in_transaction and connection.total_changes() != before:
                connection.execute(SQL["run_uncreated"], (connection.last_insert_rowid(),))
                applier.entries.stay_out(entering)
                applier.after.made_work, applier.after.evidence = made_work, evidence
            raise

    def _is_over(self, error: Exception) -> bool:
        return concerns_all(error) or not self._connection.in_transaction

    @contextlib.contextmanager
    def savepoint(self) -> Generator[None, None, None]:
        """Undo, when the block raises, what was written inside it; the transaction goes on."""
        evidence = self.applier.after.evidence
        self._connection.execute(SQL["savepoint"])
        try:
            yield
        except BaseException:
            self.applier.drop_entries()
            self.applier.after.evidence = evidence
            if self._connection.in_transaction:
                self._connection.execute(SQL["savepoint_undone"])
                self._connection.execute(SQL["savepoint_kept"])
            raise
        self._connection.execute(SQL["savepoint_kept"])

    def _rows(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        return self._connection.execute(statement, parameters).fetchall()


class _BodyEndedTransaction(Exception):
    """The body of the unit at `index` ended the transaction of all units."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _refuse_bodies(refused: dict[int, Outcome], units: Sequence[Unit], culprit: int) -> None:
    """Refuse one unit of those not refused yet, and those before it whose bodies have run and must not run again."""
    left = [index for index in range(len(units)) if index not in refused]
    for index in left[:culprit]:
        if units[index].body is not None:
            refused[index] = StoreError(
                "nothing of this unit was written: the SQL of another one ended the transaction that both were part "
                "of. It may be retried"
            )
    refused[left[culprit]] = TransactionError(_ENDED_BY_USER)
