"""The part of a store's contract about moves of runs and permits: those of the model's tables happen, and no others.

See `stepwell.testing.contract` for how to run it.
"""

from __future__ import annotations

import contextlib

import pytest

from stepwell.errors import StepwellError
from stepwell.model.lifecycle import MOVES, STATUSES, TRANSITIONS, Status
from stepwell.model.permit_states import PERMIT_MOVES, PERMIT_PLACES, PermitPlace
from stepwell.model.start_policy import StartPolicy
from stepwell.store.changes import (
    Change,
    PauseEnded,
    RunCreated,
    RunFinished,
    RunMoved,
    RunResumed,
    RunRetried,
    RunRewound,
)
from stepwell.store.claims import RunsClaimed
from stepwell.store.queues import (
    PermitAsked,
    PermitDetached,
    PermitFreed,
    PermitKept,
    PermitReturned,
    PermitsGranted,
    PermitStarted,
)
from stepwell.store.store import Store
from stepwell.testing.contract_kit import NOW, StoreFixtures, Worker
from stepwell.testing.contract_queue_kit import declare, state_of

#: What does not begin in a state that a test can put a run into: see `DeathContract` and `PauseContract`.
_ELSEWHERE = ("claimed as a suspect", "paused")


class MoveContract(StoreFixtures):
    """What a store allows is what `stepwell.model.lifecycle` and `stepwell.model.permit_states` name."""

    @pytest.mark.parametrize("source", STATUSES)
    @pytest.mark.parametrize("name", [name for name in MOVES if name not in _ELSEWHERE])
    def test_a_run_makes_the_moves_that_have_a_name_and_no_others(
        self, worker: Worker, store: Store, name: str, source: Status
    ) -> None:
        run = worker.create("a", source)
        move = MOVES[name]
        if move.change == "reap":
            other = Worker(store)
            self.kill(worker)
            other.reap()
        else:
            with contextlib.suppress(StepwellError):
                worker.apply(_change_of(name, run, source))
        status = worker.record(run).status
        if source in move.sources:
            assert status == move.target
        else:
            assert status == source or (status == move.target and status in TRANSITIONS[source])

    @pytest.mark.parametrize("source", PERMIT_PLACES)
    @pytest.mark.parametrize("name", PERMIT_MOVES)
    def test_a_permit_makes_the_moves_that_have_a_name_and_no_others(
        self, worker: Worker, name: str, source: PermitPlace
    ) -> None:
        declare(worker, "limit", concurrency=2)
        run = worker.create("a")
        if source != "none":
            worker.apply(PermitAsked(run, 1, "limit", NOW))
        if source in ("running", "detached"):
            worker.apply(PermitsGranted("limit", [(run, 1)], NOW))
        if source == "detached":
            worker.apply(PermitDetached(run, 1, 1, NOW))
        assert _place(worker, run) == source
        worker.apply(_permit_change_of(name, run))
        move = PERMIT_MOVES[name]
        if source == "detached" and name == "asked":  # for the next attempt; the one that goes on keeps its own
            assert (_place(worker, run), state_of(worker, "limit").running) == ("waiting", 1)
        else:
            assert _place(worker, run) == (move.target if source in move.sources else source)


def _change_of(name: str, run: int, source: Status) -> Change:
    """Return the change that makes the move `name` of the run."""
    target, change = MOVES[name].target, MOVES[name].change
    match change:
        case "RunsClaimed":
            return RunsClaimed([run], NOW)
        case "PauseEnded":
            return PauseEnded("a", NOW, "mia@web")
        case "RunResumed":
            return RunResumed(run, NOW)
        case "RunRetried":
            return RunRetried(run, NOW, NOW)
        case "RunRewound":
            return RunRewound(run, source, 0, NOW, "rewound")
        case "RunCreated":
            policy = StartPolicy("attach", "always", "mia@web")
            return RunCreated("a", "shop.checkout", "[1]", 7, "pending", NOW, policy=policy)
        case "RunFinished":
            return RunFinished(run, target, NOW, error="{}" if target == "failed" else None)
        case _:
            return RunMoved(run, target, NOW, reason="why" if target == "halted" else None)


def _permit_change_of(name: str, run: int) -> Change:
    """Return the change that makes the move `name` of the permit of the run's first operation."""
    match name:
        case "asked":
            return PermitAsked(run, 1, "limit", NOW)
        case "granted":
            return PermitsGranted("limit", [(run, 1)], NOW)
        case "kept":
            return PermitKept(run, 1)
        case "started":
            return PermitStarted(run, 1, NOW)
        case "returned":
            return PermitReturned(run, 1, NOW)
        case "run over":
            return RunFinished(run, "completed", NOW)
        case "detached":
            return PermitDetached(run, 1, 1, NOW)
        case _:
            return PermitFreed(run, 1, 1)


def _place(worker: Worker, run: int) -> PermitPlace:
    """Return where the permit is that the first operation of the run may have."""
    permits = [permit for permit in worker.reads.permits([run])[run] if permit.op == 1]
    if permits:
        return "running" if permits[0].granted else "waiting"
    return "detached" if state_of(worker, "limit").running else "none"
