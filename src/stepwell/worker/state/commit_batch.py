"""The works of the batch under way: what will be committed together next.

A run that is touched by several events of one batch has one work, so that its changes stand or fall together; where a
work comes to touch a run that has a work already, the two become one.
"""

from __future__ import annotations

from stepwell.definitions.step_call import StepCall
from stepwell.store.changes import RunCreated
from stepwell.worker.state.loaded_run import LoadedRun
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.unit_of_work import UnitOfWork


def in_groups(works: list[UnitOfWork]) -> list[list[UnitOfWork]]:
    """Return in which transactions works are committed, one after the other.

    Most of them share one. One that calls transactional steps of the user's has its own; where there is such a one,
    what is decided about queues comes last: it must see what the others do.
    """
    plain = [work for work in works if work.rare is None or not work.rare.transactions]
    if len(plain) == len(works):
        return [plain]
    groups = [plain] if plain else []
    groups += [[work] for work in works if work.calls_transactions]
    decisions = [work for work in plain if work.decide is not None]
    if decisions:
        groups[0] = [work for work in plain if work.decide is None]
        groups = [group for group in [*groups, decisions] if group]
    return groups


class CommitBatch:
    """Collects works. Also knows what they will do to runs that others may ask about before the commit."""

    def __init__(self) -> None:
        self._works: list[UnitOfWork] = []
        self.creating: dict[str, RunCreated] = {}  # by run id: runs that uncommitted works create
        self.ending: dict[int, RunOver] = {}  # by run key: runs that uncommitted works end
        self.unread: set[int] = set()  # keys of runs that are to be read once uncommitted works have their outcomes
        self._shared: dict[tuple[int, str], UnitOfWork] = {}  # of those that are not taken yet; see `shared_work`
        self.steps: list[StepCall] = []  # made safe by commits, not handed out yet

    def __bool__(self) -> bool:
        """Tell whether there is something to commit."""
        return bool(self._works)

    def __len__(self) -> int:
        """Return how many works there are to commit."""
        return len(self._works)

    def calls_transactions(self) -> bool:
        """Tell whether a commit would call transactional steps."""
        return any(work.calls_transactions for work in self._works)

    def __contains__(self, work: UnitOfWork) -> bool:
        """Tell whether a work has not been taken yet."""
        return work in self._works

    def keeps_out(self, key: int) -> bool:
        """Tell whether a run must not be read now: what is uncommitted ends it, or says more about it."""
        return key in self.ending or key in self.unread

    def touches(self, key: int) -> bool:
        """Tell whether something is uncommitted of a run that is in memory, or was when it happened."""
        return any(run.key == key for work in self._works for run in work.loaded_runs)

    def writes_of(self, key: int) -> bool:
        """Tell whether something is to be written about such a run."""
        return any(work.is_written and run.key == key for work in self._works for run in work.loaded_runs)

    def work_of(self, run: LoadedRun) -> UnitOfWork:
        """Return the run's work, a new one where it has none."""
        work: UnitOfWork | None = run.work
        if work is None:
            run.work = work = UnitOfWork([], None, None, run)
            self._works.append(work)
        return work

    def lone_work(self) -> UnitOfWork:
        """Return a new work that touches no run in memory."""
        work = UnitOfWork([])
        self._works.append(work)
        return work

    def shared_work(self, place: tuple[int, str]) -> tuple[UnitOfWork, bool]:
        """Return the work that all share which is written to one place until the commit, and whether it is new.

        A place is a stream of a run: hundreds of steps may write to it, each awaiting its own item. What is refused of
        it is refused for all of them.
        """
        work = self._shared.get(place)
        if work is not None:
            return work, False
        work = self._shared[place] = self.lone_work()
        return work, True

    def share_no_more(self, place: tuple[int, str]) -> None:
        """Have what is written to a place from now on stand behind what comes in between."""
        self._shared.pop(place, None)

    def join(self, run: LoadedRun, work: UnitOfWork) -> None:
        """Make `run` part of `work`; where it has a work of its own already, the two become one."""
        other: UnitOfWork | None = run.work
        if other is None:
            work.add_run(run)
        elif other is not work:
            work.absorb(other)
            self._works.remove(other)

    def take(self) -> list[UnitOfWork]:
        """Return the works; the next event begins a new batch."""
        works, self._works = self._works, []
        if self._shared:
            self._shared = {}
        for work in works:
            if work.run is not None:
                work.run.work = None
                for run in work.others:
                    run.work = None
        return works

    def put_back(self, works: list[UnitOfWork]) -> None:
        """Take works back that could not be committed now; what happens to their runs meanwhile joins them."""
        for work in works:
            for run in work.loaded_runs:
                other: UnitOfWork | None = run.work
                if other is not None and other is not work:
                    work.absorb(other)
                    self._works.remove(other)
                run.work = work
        self._works = works + self._works

    def discard(self, work: UnitOfWork) -> None:
        """Drop a work that must not be committed."""
        self._works.remove(work)
        for run in work.loaded_runs:
            run.work = None

    def forget(self, work: UnitOfWork) -> None:
        """Forget what a work was going to create and end: it is committed, or refused."""
        for over in work.extra.over:
            self.ending.pop(over.key, None)
        self.unread.difference_update(work.extra.unread)
        if self.creating:
            for index, _ in (*work.extra.results, *work.extra.told):
                change = work.changes[index]
                if isinstance(change, RunCreated):
                    self.creating.pop(change.id, None)
