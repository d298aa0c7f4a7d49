"""Telling the workers of other processes what a commit means for them, and the engine what others tell.

Whom to tell is read after the commit. A worker says that it listens before it reads what it then waits for; so either
its reading finds the commit, or the committer finds it listening. Letters may be lost all the same (see `datagrams`):
they make things quick, the ticks of `listener` make them right.
"""

# ruff: noqa: D102 -- what the methods of the protocol do is said where they are

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

from stepwell.store.membership import Answer
from stepwell.store.notifications import Notification, Readers
from stepwell.store.sqlite.peers import datagrams

if TYPE_CHECKING:
    from stepwell.store.sql.aftermath import Aftermath
    from stepwell.store.sqlite.peers.listener import Callback
    from stepwell.store.sqlite.peers.membership import Seat


class Members(Protocol):
    """What the store needs of `membership.Membership`, which says what each is for."""

    @property
    def faulty(self) -> bool: ...
    def mark_fault(self) -> None: ...
    def clear_fault(self) -> None: ...
    def take_seat(self) -> int: ...
    def announce(self, epoch: int, *, takes_work: bool) -> None: ...
    def listen(self, on: bool) -> None: ...
    def others(self) -> list[Seat]: ...
    def is_seated(self, slot: int, epoch: int) -> bool: ...
    def state_of(self, slot: int) -> Literal["active", "stopped"]: ...
    def nudge(self, kind: bytes, epochs: Iterable[int], keys: Sequence[int] = ()) -> None: ...
    def watch(self, callback: Callback, readers: Readers | None) -> None: ...
    def answer_pings(self, post: Callable[[Callable[[], None]], None]) -> None: ...
    def ask(self, epochs: Sequence[int], timeout_seconds: float) -> dict[int, Answer]: ...
    def shared_offset(self, own_offset_ns: int) -> int: ...


_KINDS: Final[dict[bytes, Literal["work", "turn", "mail", "ends", "death"]]] = {
    datagrams.WORK: "work",
    datagrams.TURN: "turn",
    datagrams.MAIL: "mail",
    datagrams.ENDED: "ends",
    datagrams.DIED: "death",
}
_ANYTHING: Final = Notification("anything")


def tell(members: Members, after: Aftermath) -> None:
    """Tell the others what was gathered in the transaction that was just committed."""
    told, ended = after.told, after.ended
    made = datagrams.WORK if after.made_work else datagrams.TURN if after.made_turn else None
    if not (told or ended or made):
        return
    others = members.others()
    if not others:
        return
    if told:
        members.nudge(datagrams.MAIL, [seat.epoch for seat in others if seat.epoch in told])
    if made is not None:
        members.nudge(made, [seat.epoch for seat in others if seat.takes_work])
    if ended:
        members.nudge(datagrams.ENDED, [seat.epoch for seat in others if seat.listens], ended)


class SqliteNotifications:
    """The `stepwell.store.notifications.Notifications` of one SQLite file."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def watch(self, callback: Callable[[Notification], None], readers: Readers | None = None) -> None:
        """Have `callback` called with what happens in other processes: in a thread of the store's, or by `readers`."""

        def hear(kind: bytes, keys: tuple[int, ...]) -> None:
            word = _KINDS.get(kind)
            if word is None or (word == "ends" and not keys):  # too many ends to name them
                callback(_ANYTHING)
            else:
                callback(Notification(word, keys if word == "ends" else ()))

        self._members.answer_pings(lambda reply: callback(Notification("alive", (), reply)))
        self._members.watch(hear, readers)

    def listen(self, on: bool) -> None:
        """Say whether this worker wants to hear of ``ends``. Read the run's state after saying so, not before."""
        self._members.listen(on)
