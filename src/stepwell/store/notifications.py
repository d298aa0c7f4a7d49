"""What workers tell each other, so that nobody has to poll."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol


class Notification(NamedTuple):
    """That something happened in another process.

    - ``work``: there may be runs to claim, in queues or not; ``turn``: in queues only.
    - ``mail``: something arrived for runs of this worker (`WorkerReads.news`).
    - ``ends``: the runs with these `keys` ended or published a value; only where `Notifications.listen` was asked for.
    - ``death``: a worker died; `Membership.reap` is due.
    - ``anything``: the store changed, or workers came or went, and nothing more is known. Told as well where a more
      precise word was lost, so whoever acts on ``anything`` as on all of the others misses nothing.
    - ``alive``: somebody asks whether the worker still works; `reply` must be called from where the work is done.
    """

    kind: Literal["work", "turn", "mail", "ends", "death", "anything", "alive"]
    keys: tuple[int, ...] = ()
    reply: Callable[[], None] | None = None


class Readers(Protocol):
    """A loop that tells when a descriptor can be read, in its own thread; both are safe from any thread."""

    def add_reader(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Have `ready` called whenever there is something to read."""
        ...

    def remove_reader(self, descriptor: int, then: Callable[[], None]) -> None:
        """Stop that; `then` is called when nothing comes of this descriptor any more."""
        ...


class Notifications(Protocol):
    """Tells what happens in other processes. Safe from any thread.

    After each commit the store tells the workers whom it concerns. A word may be lost or come twice: it makes things
    quick, and what is right never rests on it.
    """

    def watch(self, callback: Callable[[Notification], None], readers: Readers | None = None) -> None:
        """Have `callback` called with what happens in other processes: in a thread of the store's, or by `readers`."""
        ...

    def listen(self, on: bool) -> None:
        """Say whether this worker wants to hear of ``ends``. Read the run's state after saying so, not before."""
        ...
