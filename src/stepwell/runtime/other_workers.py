"""The other workers of a store, as one worker sees them: it stands in their list, and notices who leaves."""

from __future__ import annotations

from stepwell.model.run import Claim, Member
from stepwell.store.membership import Membership
from stepwell.worker.running.claims import Claims
from stepwell.worker.state.runs import Runs


class OtherWorkers:
    """What one worker says of itself to the others, and which of them took work when it last looked."""

    def __init__(
        self, membership: Membership, runs: Runs, claims: Claims, queues: frozenset[str] | None, *, takes_work: bool
    ) -> None:
        self._membership = membership
        self._runs = runs
        self._claims = claims
        self._queues = None if queues is None else sorted(queues)
        self._takes_work = takes_work
        self._at_work: frozenset[int] = frozenset()  # their epochs

    def register(self, now: int) -> Claim:
        """Enter this worker in the list, and return its claim."""
        workflows, queues = self._claims.serving(), self._queues
        versions = self._runs.workflows.versions()
        claim = self._membership.register(
            now, takes_work=self._takes_work, workflows=workflows, queues=queues, versions=versions
        )
        self._runs.epoch = claim.epoch
        return claim

    def somebody_left(self, members: list[Member]) -> bool:
        """Note who takes work; tell whether somebody does not any more."""
        before = self._at_work
        self._at_work = frozenset(member.epoch for member in members if member.takes_work and member.state != "dead")
        return not before <= self._at_work
