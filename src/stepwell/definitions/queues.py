"""Queues and limits as inert objects: a name, what it bounds, and how starts are gathered.

Like workflows they are entered in a plain registry and do nothing else. What they bound is kept in the file, under the
name, so that all workers heed the same bounds; an engine writes it there when it first uses an object that states
bounds. One that states none only names the queue or limit, whose bounds are as others state them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, TypedDict, TypeVar, cast

import msgspec

from stepwell.errors import InvalidArgument
from stepwell.model.clock import MICROSECONDS, to_seconds
from stepwell.model.names import check_name, is_blank
from stepwell.shown import is_one_of, shown

FlowKind: TypeAlias = Literal["queue", "limit"]
OnDuplicate: TypeAlias = Literal["attach", "reject"]

#: Priorities are from minus this to this.
MAX_PRIORITY: Final = 2**31 - 1
#: The longest key of a partition or for dedup, in characters.
MAX_KEY_LENGTH: Final = 1000
#: The latest time that fits: "never".
NEVER: Final = 2**63 - 1


class Unset:
    """The type of `UNSET`."""

    def __repr__(self) -> str:
        """Show as an option that was left out."""
        return "UNSET"


#: An option that was not given, where None means "no bound".
UNSET: Final = Unset()


class Rate(msgspec.Struct, frozen=True):
    """At most `limit` starts in any window of `per` (seconds or a timedelta), wherever the window begins.

    The window slides: there is no burst at a boundary, and none after a restart.
    """

    limit: int
    per: float | timedelta = 60.0

    def __post_init__(self) -> None:
        """Refuse a rate that could not be kept."""
        _at_least_one(self.limit, "the limit of a Rate")
        if self.per_microseconds < 1:
            raise InvalidArgument(f"per of a Rate must be at least a microsecond, not {shown(self.per)}")

    @property
    def per_microseconds(self) -> int:
        """The length of the window."""
        return round(to_seconds(self.per, "per of a Rate") * MICROSECONDS)


class Batch(msgspec.Struct, frozen=True):
    """Starts are collected into one run: until there are `size` items, or `within` seconds after the first.

    The workflow takes one argument, a list. Each start brings a list of one or more items; the run gets them joined.
    """

    size: int
    within: float | timedelta

    def __post_init__(self) -> None:
        """Refuse a batch that could not be collected."""
        _at_least_one(self.size, "the size of a Batch")
        to_seconds(self.within, "within of a Batch")


class QueueSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a queue or limit bounds, as the file keeps it; None: no bound. `rate_per` is in microseconds."""

    concurrency: int | None = None
    per_worker: int | None = None
    partition_concurrency: int | None = None
    rate_limit: int | None = None
    rate_per: int | None = None
    partition_per_worker: int | None = None
    partition_rate_limit: int | None = None
    partition_rate_per: int | None = None

    @property
    def text(self) -> str:
        """The bounds in words."""
        named = {
            "concurrency": self.concurrency,
            "per worker": self.per_worker,
            "per partition": self.partition_concurrency,
            "rate": None if self.rate is None else f"{self.rate_limit} in {self.rate.per:g} s",
            "per worker of a partition": self.partition_per_worker,
            "rate of a partition": (
                None if self.partition_rate is None else f"{self.partition_rate_limit} in {self.partition_rate.per:g} s"
            ),
        }
        return ", ".join(f"{name} {bound}" for name, bound in named.items() if bound is not None) or "nothing"

    @property
    def rate(self) -> Rate | None:
        """The rate as users write it."""
        if self.rate_limit is None or self.rate_per is None:
            return None
        return Rate(self.rate_limit, self.rate_per / MICROSECONDS)

    @property
    def partition_rate(self) -> Rate | None:
        """The rate of each partition, as users write it."""
        if self.partition_rate_limit is None or self.partition_rate_per is None:
            return None
        return Rate(self.partition_rate_limit, self.partition_rate_per / MICROSECONDS)


class SettingsChange(msgspec.Struct, frozen=True):
    """New bounds, by the names of the fields of `QueueSettings`; what is not among them stays."""

    bounds: dict[str, int | None]

    def applied_to(self, settings: QueueSettings) -> QueueSettings:
        """Return the settings with these bounds changed."""
        return msgspec.structs.replace(settings, **self.bounds)


class QueueBounds(TypedDict, total=False):
    """The keyword arguments of ``engine.queue(…).change``, typed once for both kinds of handles; see `Queue`."""

    concurrency: int | Unset | None
    per_worker: int | Unset | None
    partition_concurrency: int | Unset | None
    rate: Rate | Unset | None
    partition_per_worker: int | Unset | None
    partition_rate: Rate | Unset | None


#: What is left out stays as it is.
UNCHANGED: Final[QueueBounds] = {
    "concurrency": UNSET,
    "per_worker": UNSET,
    "partition_concurrency": UNSET,
    "rate": UNSET,
    "partition_per_worker": UNSET,
    "partition_rate": UNSET,
}

#: The bounds that are a `Rate`, each of which is kept as two numbers.
_RATES: Final = ("rate", "partition_rate")


def _stated(**bounds: object) -> QueueSettings | None:
    """Return the bounds that a queue or limit states; None where it states none, not even that there are none."""
    if all(bound is UNSET for bound in bounds.values()):
        return None
    return changed_settings(**bounds).applied_to(QueueSettings())


def changed_settings(**bounds: object) -> SettingsChange:
    """Check new bounds as users write them, those that are `UNSET` left out; raises `InvalidArgument`."""
    checked: dict[str, int | None] = {}
    for name, bound in bounds.items():
        if name not in UNCHANGED:
            raise TypeError(f"a queue has no bound {name!r}; it has {', '.join(UNCHANGED)}")
        if bound is UNSET:
            continue
        if name not in _RATES:
            checked[name] = _bound(bound, name)
            continue
        if bound is not None and not isinstance(bound, Rate):
            raise InvalidArgument(f"{name} must be a Rate(limit, per=seconds), not {shown(bound)}")
        checked[f"{name}_limit"] = None if bound is None else bound.limit
        checked[f"{name}_per"] = None if bound is None else bound.per_microseconds
    return SettingsChange(checked)


class Queue:
    """A line in which runs wait for their turn: ``engine.start(workflow, …, queue=queue)``.

    A run holds its slot from the moment it is taken until it ends, also while it sleeps.

    - `concurrency`: how many runs of the queue may be under way at once, over all workers.
    - `per_worker`: how many of them one worker takes.
    - `rate`: how many may start in any stretch of time; see `Rate`.
    - `partition_concurrency`: how many of one partition may be under way; see `partition=` of ``start``. Partitions
      take turns, whether this is set or not.
    - `partition_per_worker`: how many runs of one partition one worker takes.
    - `partition_rate`: how many of one partition may start in any stretch of time.
    - `on_duplicate`: what a start with the `dedup` key of a run that has not ended does: ``"attach"`` returns that run,
      ``"reject"`` raises `DuplicateRun`.
    - `debounce`: seconds or a timedelta. A start with the `dedup` key of a run that still waits replaces that run's
      input, and postpones it until `debounce` after now, but not beyond `debounce_limit` after the first start.
    - `batch`: starts are collected into one run; see `Batch`.

    If you give one of the six bounds, you state all of them: those that are None, or left out, do not bound. Without
    any bound, ``Queue("jobs")`` only names the queue, and its bounds stay as they are. The bounds are kept in the file,
    and can be changed there while runs wait: see ``engine.queue``. Raises `InvalidArgument` for bounds that cannot
    hold, or options that contradict each other.
    """

    kind: Final[FlowKind] = "queue"

    def __init__(
        self,
        name: str,
        *,
        concurrency: int | Unset | None = UNSET,
        per_worker: int | Unset | None = UNSET,
        rate: Rate | Unset | None = UNSET,
        partition_concurrency: int | Unset | None = UNSET,
        partition_per_worker: int | Unset | None = UNSET,
        partition_rate: Rate | Unset | None = UNSET,
        on_duplicate: OnDuplicate = "attach",
        debounce: float | timedelta | None = None,
        debounce_limit: float | timedelta | None = None,
        batch: Batch | None = None,
    ) -> None:
        self.name = check_name(name, "the name of a queue")
        self.stated = _stated(
            concurrency=concurrency,
            per_worker=per_worker,
            partition_concurrency=partition_concurrency,
            partition_per_worker=partition_per_worker,
            rate=rate,
            partition_rate=partition_rate,
        )
        if batch is not None and not isinstance(batch, Batch):
            raise InvalidArgument(f"batch must be a Batch(size, within), not {shown(batch)}")
        if batch is not None and debounce is not None:
            raise InvalidArgument(
                f"queue {name!r} cannot both debounce and batch: the one drops what the other collects"
            )
        self.on_duplicate: OnDuplicate = checked_on_duplicate(on_duplicate)
        self.debounce, self.debounce_limit = checked_debounce(name, debounce, debounce_limit)
        self.batch = batch
        self.batch_within = 0 if batch is None else round(to_seconds(batch.within, "within of a Batch") * MICROSECONDS)
        _register(self)

    @property
    def settings(self) -> QueueSettings:
        """What it states that it bounds: nothing where it states nothing."""
        return self.stated or QueueSettings()

    def __repr__(self) -> str:
        """Name the queue."""
        return f"<queue {self.name!r}>"


class Limit:
    """A bound for steps, wherever they run: ``@step(limit=limit)``.

    An attempt of such a step starts only with a permit, and returns it when it ends.

    - `concurrency`: how many attempts may be under way at once, over all runs, workflows and processes.
    - `rate`: how many may start in any stretch of time; see `Rate`.

    As with a `Queue`, a limit with bounds states them, and one without only names it; the bounds are kept in the file.
    Limits and queues share one space of names. Raises `InvalidArgument`.
    """

    kind: Final[FlowKind] = "limit"

    def __init__(
        self, name: str, *, concurrency: int | Unset | None = UNSET, rate: Rate | Unset | None = UNSET
    ) -> None:
        self.name = check_name(name, "the name of a limit")
        self.stated = _stated(concurrency=concurrency, rate=rate)
        _register(self)

    @property
    def settings(self) -> QueueSettings:
        """What it states that it bounds: nothing where it states nothing."""
        return self.stated or QueueSettings()

    @property
    def may_be_rated(self) -> bool:
        """Whether it may have a rate: it states one, or leaves that to others."""
        return self.stated is None or self.stated.rate_limit is not None

    def __repr__(self) -> str:
        """Name the limit."""
        return f"<limit {self.name!r}>"


def check_key(key: object, what: str) -> str | None:
    """Return a dedup key or partition, or None; raises `InvalidArgument`."""
    if key is None:
        return None
    if not isinstance(key, str):
        raise InvalidArgument(f"{what} must be text, not {type(key).__name__} {shown(key)}")
    if is_blank(key) or len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidArgument(
            f"{what} must be printable text of 1 to {MAX_KEY_LENGTH} characters, and not blank, not {key[:50]!r}"
        )
    return key


def checked_on_duplicate(policy: OnDuplicate) -> OnDuplicate:
    """Return what is done with a start whose dedup key a run has; raises `InvalidArgument`."""
    if not is_one_of(policy, ("attach", "reject")):
        raise InvalidArgument(f"on_duplicate must be 'attach' or 'reject', not {shown(policy)}")
    return policy


def checked_debounce(
    queue: str,
    debounce: float | timedelta | None,
    limit: float | timedelta | None,
    default: tuple[int | None, int | None] = (None, None),
) -> tuple[int | None, int | None]:
    """Return debounce and debounce_limit in microseconds; raises `InvalidArgument`.

    `default` is what holds where one of them is not given.
    """
    period, latest = default
    if debounce is not None:
        period = round(to_seconds(debounce, "debounce") * MICROSECONDS)
    if limit is not None:
        latest = round(to_seconds(limit, "debounce_limit") * MICROSECONDS)
        if period is None:
            raise InvalidArgument(f"queue {queue!r} has a debounce_limit, but no debounce")
    if period is not None and latest is not None and latest < period:
        raise InvalidArgument(
            f"queue {queue!r}: debounce_limit ({latest / MICROSECONDS:g} s) must not be below debounce "
            f"({period / MICROSECONDS:g} s), which it would cut"
        )
    return period, latest


def _at_least_one(number: object, what: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= NEVER:
        raise InvalidArgument(f"{what} must be a whole number of at least 1, not {shown(number)}")
    return number


def _bound(number: object, what: str) -> int | None:
    return None if number is None else _at_least_one(number, what)


_registry: Final[dict[str, Queue | Limit]] = {}
AnyFlow = TypeVar("AnyFlow", bound=Queue | Limit)


def _register(flow: Queue | Limit) -> None:
    known = _registry.get(flow.name)
    if known is not None and known.kind != flow.kind:
        raise InvalidArgument(f"{flow.name!r} is the name of a {known.kind} already; a {flow.kind} needs another one")
    used(flow)


def used(flow: AnyFlow) -> AnyFlow:
    """Make this object count where several were made of its name, because a caller handed it in; return it.

    One that only names the queue or limit takes the place of none that states its bounds.
    """
    known = _registry.get(flow.name)
    if known is None or known.stated is None or flow.stated is not None:
        _registry[flow.name] = flow
    return flow


def queue_named(name: str) -> Queue:
    """Return the queue of a name: the object that this process has, with what it says of duplicates, or a mere mention.

    Raises `InvalidArgument` for a limit's name, or what is no name.
    """
    known = _registry.get(check_name(name, "the name of a queue"))
    if known is None:
        return Queue(name)
    if known.kind != "queue":
        raise InvalidArgument(f"{name!r} is the name of a limit, in which no run can wait; name a queue")
    return cast("Queue", known)


def registered_flows() -> Mapping[str, Queue | Limit]:
    """Return a live view of the queues and limits of this process, by name.

    Of several the latest made or used counts, of those that state bounds where there are any.
    """
    return MappingProxyType(_registry)
