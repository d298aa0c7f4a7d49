"""The requests of callers, each an event of the turn loop; refused while nothing can be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepwell.definitions.queues import QueueSettings
from stepwell.errors import StoreUnavailable
from stepwell.model.acts import Actor
from stepwell.runtime.queue_requests import QueueRequests
from stepwell.runtime.requests import OutgoingMessage, Requests
from stepwell.runtime.retry_requests import RetryRequests
from stepwell.store.changes import Created, RunCreated
from stepwell.store.inspector import RunFilter
from stepwell.worker.conflicts import conflict_of
from stepwell.worker.unit_of_work import Reply
from stepwell.worker.worker import Worker


class RequestGate:
    """The half of `stepwell.runtime.turn.TurnLoop` that faces callers; a base of it, not a part."""

    worker: Worker
    requests: Requests
    retry_requests: RetryRequests
    queue_requests: QueueRequests
    #: Why commits are held back until the store is tried again: the disk is full, or had an error, or is locked.
    unavailable: StoreUnavailable | None

    def refuses(self, reply: Reply) -> bool:
        """Tell a caller where nothing can be written now; return whether that is so."""
        if self.unavailable is None:
            return False
        reply(None, copy_of(self.unavailable))
        return True

    def start_run(self, run: RunCreated, messages: Sequence[OutgoingMessage], reply: Reply) -> None:
        """Create a run."""
        if self.refuses(reply):
            return
        if messages and (existing := self.worker.find(run.id)) is not None:
            conflict = conflict_of(self.worker.codec, run, Created(existing.key, existing))
            if conflict is not None:  # it sends nothing; a start that finds its run sends the messages to it
                reply(None, conflict)
                return
        at_once = run.entry is not None or self.worker.admits(run.workflow)
        self.requests.start(run if at_once else self.requests.as_pending(run), messages, reply)

    def send(self, run_id: str, message: OutgoingMessage, reply: Reply) -> None:
        """Send a message."""
        if self.refuses(reply):
            return
        self.requests.send(run_id, message, reply)

    def cancel(self, run_id: str, actor: Actor, reply: Reply) -> None:
        """Ask a run to stop."""
        if self.refuses(reply):
            return
        self.requests.cancel(run_id, actor, reply)

    def resume(self, run_id: str, actor: Actor, reply: Reply) -> None:
        """Try a halted run again."""
        if self.refuses(reply):
            return
        self.requests.resume(run_id, actor, reply)

    def retry(self, run_id: str, actor: Actor, reply: Reply) -> None:
        """Bring a run back that has failed or was cancelled."""
        if not self.refuses(reply):
            self.retry_requests.retry(run_id, actor, reply)

    def retry_all(self, run_filter: RunFilter, actor: Actor, reply: Reply) -> None:
        """Bring all runs back that match."""
        if not self.refuses(reply):
            self.retry_requests.retry_all(run_filter, actor, reply)

    def change_queue(self, name: str, settings: Callable[[QueueSettings], QueueSettings], reply: Reply) -> None:
        """Change what a queue or limit bounds."""
        if not self.refuses(reply):
            self.queue_requests.change(name, settings, reply)

    def pause_queue(self, name: str, paused: bool, actor: Actor, reply: Reply) -> None:
        """Pause a queue or limit, or let it go on."""
        if not self.refuses(reply):
            self.queue_requests.pause(name, paused, actor, reply)

    def cancel_waiting(self, name: str, partition: str | None, actor: Actor, reply: Reply) -> None:
        """Cancel what waits in a queue."""
        if self.refuses(reply):
            return
        self.queue_requests.cancel_waiting(name, partition, actor, reply)


def copy_of(error: StoreUnavailable) -> StoreUnavailable:
    """Return the error for one more caller: whoever raises it adds a traceback."""
    return type(error)(str(error))
