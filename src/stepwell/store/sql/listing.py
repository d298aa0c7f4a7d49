"""Finds the runs that match a filter, a page at a time, in time that as a rule does not grow with the file.

SQLite keeps no statistics here and cannot know which condition is rare, so this looks. Each condition that an index can
answer is asked for the keys that it matches, at most `FEW` of them. If one of them matches no more than that, the runs
are among its keys (and among those of each other condition that is rare): they are read, checked and sorted. If none
does, runs that match are as a rule not far apart, and the listing walks: along the index of one condition that has its
runs by age, else along the order that was asked for, until the page is full.

What stays slow is a page of runs that match two frequent conditions which hardly ever meet.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf
from typing import Any, Final

from stepwell.model.lifecycle import Status
from stepwell.store.inspector import AttributeMatch, CountGroup, RunFilter
from stepwell.store.sql.queue_facts import to_json

#: How many keys of one condition are looked at; to read so many runs takes 10 to 20 ms.
FEW: Final = 4_000
#: How many keys are sorted, where the runs of a condition may lie far back and its index does not have them by age.
SORTED: Final = 150_000
#: Keys are in the order of creation but for what several processes do at a time: far less than this, an hour.
_LATE_MICROSECONDS: Final = 3_600_000_000
_NO_KEY: Final = 2**63 - 1
_LAST_CHARACTER: Final = chr(sys.maxunicode)
#: What yields the keys of the runs in a state, where an index has them.
_KEYS_BY_STATUS: Final[dict[Status, tuple[str, ...]]] = {
    "running": ("keys_in_memory",),
    "waiting": ("keys_in_memory", "keys_parked"),
    "pending": ("keys_by_status",),
    "halted": ("keys_by_status",),
    "failed": ("keys_by_status",),
    "cancelled": ("keys_cancelled",),
    "paused": ("keys_paused",),
}
#: What walks along them, the newest first.
_WALKS_BY_STATUS: Final[dict[Status, str]] = {
    "pending": "runs_listed_by_status",
    "halted": "runs_listed_by_status",
    "failed": "runs_listed_by_status",
    "cancelled": "runs_listed_cancelled",
    "paused": "runs_listed_paused",
}

#: What walks in the order of a time, and for which sign.
_WALKS: Final = {
    ("created", -1): "runs_listed_by_created_down",
    ("created", 1): "runs_listed_by_created_up",
    ("started", -1): "runs_listed_by_started_down",
    ("started", 1): "runs_listed_by_started_up",
    ("ended", -1): "runs_listed_by_ended_down",
    ("ended", 1): "runs_listed_by_ended_up",
}
_COUNTED_BY: Final[dict[CountGroup, str]] = {
    "status": "runs_counted_by_status",
    "workflow": "runs_counted_by_workflow",
    "queue": "runs_counted_by_queue",
}
_COUNTED_AMONG_BY: Final[dict[CountGroup, str]] = {
    "status": "runs_counted_by_status_among",
    "workflow": "runs_counted_by_workflow_among",
    "queue": "runs_counted_by_queue_among",
}
_ALL_COUNTED_BY: Final[dict[CountGroup, str]] = {
    "status": "all_counted_by_status",
    "workflow": "all_counted_by_workflow",
    "queue": "all_counted_by_queue",
}

#: Returns the rows of a statement.
Rows = Callable[..., list[Any]]
#: Statements that together yield the keys of one condition, each with its parameters.
_Keys = list[tuple[str, tuple[Any, ...]]]


def listed(rows: Rows, run_filter: RunFilter) -> list[Any]:
    """Return the rows of the runs that match, in the order of the filter, at most `run_filter.limit`."""
    given = parameters(run_filter)
    if run_filter.id is not None:
        return _among(rows, run_filter, given, {row[0] for row in rows("runs_listed_by_id", *given)})
    conditions = _conditions(run_filter)
    walk = _only(run_filter, conditions)
    if walk is None:
        keys = _few(rows, conditions)
        if keys is not None:
            return _among(rows, run_filter, given, keys)
    return _walked(rows, run_filter, given)


def _only(run_filter: RunFilter, conditions: Sequence[_Keys]) -> bool | None:
    """Tell that there is nothing to look at first: no condition, or one along whose index the page lies."""
    if not conditions:
        return True
    is_one = len(conditions) == 1 and run_filter.order == "-created"
    by_age = run_filter.parent or run_filter.workflow or run_filter.queue or run_filter.tags
    return True if is_one and by_age else None


def counted(rows: Rows, run_filter: RunFilter, group: CountGroup) -> dict[str, int]:
    """Return how many of the runs that match are of each state, workflow or queue."""
    if run_filter == RunFilter(limit=run_filter.limit, order=run_filter.order):
        return dict(rows(_ALL_COUNTED_BY[group]))
    keys = _few(rows, _conditions(run_filter))
    if keys is None:
        return dict(rows(_COUNTED_BY[group], *parameters(run_filter)))
    return dict(rows(_COUNTED_AMONG_BY[group], *parameters(run_filter), to_json(sorted(keys))))


def count(rows: Rows, run_filter: RunFilter) -> int:
    """Return how many runs match, at most `run_filter.limit`."""
    keys = _few(rows, _conditions(run_filter))
    if keys is None:
        return int(rows("runs_counted", *parameters(run_filter))[0][0])
    return int(rows("runs_counted_among", *parameters(run_filter), to_json(sorted(keys)))[0][0])


# --- few --------------------------------------------------------------------------------------------------------------


def _few(rows: Rows, conditions: Sequence[_Keys]) -> set[int] | None:
    """Return the keys that all rare conditions have in common; None where no condition is rare."""
    found: set[int] | None = None
    for condition in conditions:
        keys: set[int] = set()
        for statement, values in condition:
            keys.update(key for (key,) in rows(statement, *values, FEW + 1))
            if len(keys) > FEW:
                break
        else:
            found = keys if found is None else found & keys
            if not found:
                break
    return found


def _among(rows: Rows, run_filter: RunFilter, given: tuple[Any, ...], keys: set[int]) -> list[Any]:
    what, sign = _order(run_filter)
    given = (*given[:7], run_filter.before_key, *given[8:])
    cursor = run_filter.before_key if what == "created" else run_filter.before_time
    return rows("runs_listed_among", *given, cursor, to_json(sorted(keys)), what, sign)


def _conditions(run_filter: RunFilter) -> list[_Keys]:
    """Return what an index can answer: for each condition the statements that yield its keys."""
    found: list[_Keys] = []
    if run_filter.parent is not None:
        found.append([("keys_by_parent", (run_filter.parent,))])
    statuses = run_filter.status
    if statuses and all(status in _KEYS_BY_STATUS for status in statuses):
        found.append([(name, (status,)) for status in statuses for name in _KEYS_BY_STATUS[status]])
    if run_filter.workflow is not None and statuses and set(statuses) <= {"failed", "cancelled"}:
        found.append([("keys_unwell", (run_filter.workflow, status)) for status in statuses])
    found += [_attribute(match) for match in run_filter.attributes]
    found += [[("keys_by_tag", (tag,))] for tag in run_filter.tags]
    if run_filter.id_prefix:
        found.append([("keys_by_prefix", (run_filter.id_prefix, run_filter.id_prefix + _LAST_CHARACTER))])
    if run_filter.queue is not None:
        found.append([("keys_by_queue", (run_filter.queue,))])
    if run_filter.workflow is not None:
        found.append([("keys_by_workflow", (run_filter.workflow,))])
    times = (
        ("keys_created", run_filter.created_after, run_filter.created_before),
        ("keys_started", run_filter.started_since, run_filter.started_before),
        ("keys_ended", run_filter.ended_after, run_filter.ended_before),
    )
    for name, low, high in times:
        if low is not None or high is not None:
            found.append([(name, (-_NO_KEY if low is None else low, _NO_KEY if high is None else high))])
    return found


def _attribute(match: AttributeMatch) -> _Keys:
    found: _Keys = []
    for kind, comparison, value in match.any:
        if comparison == "=":
            found.append(("keys_with_value", (match.name, kind, value)))
        else:
            # Between numbers, texts and blobs SQLite's order is this one.
            least, most = ("", b"") if kind == "str" else (-inf, "")
            low, high = (value, most) if comparison[0] == ">" else (least, value)
            found.append(("keys_with_values", (match.name, kind, low, high)))
    return found


# --- many -------------------------------------------------------------------------------------------------------------


def _walked(rows: Rows, run_filter: RunFilter, given: tuple[Any, ...]) -> list[Any]:
    what, sign = _order(run_filter)
    if what != "created":
        return rows(_WALKS[what, sign], *given[:7], run_filter.before_key, *given[8:], run_filter.before_time)
    if sign > 0:
        if run_filter.created_after is not None:
            values = (*given[:7], run_filter.before_key, *given[8:], run_filter.before_time)
            return rows(_WALKS[what, sign], *values)
        key = 0 if run_filter.before_key is None else run_filter.before_key
        return rows("runs_listed_up", *given[:7], key, *given[8:])
    walks = _by_age(run_filter)
    if walks:
        given = _from_bound(rows, run_filter, given)
        found = [rows(name, *given, *more) for name, more in walks]
        return list(islice(heapq.merge(*found, key=_newest_first), run_filter.limit)) if len(found) > 1 else found[0]
    if run_filter.id_prefix:
        prefix = run_filter.id_prefix, run_filter.id_prefix + _LAST_CHARACTER
        if rows("prefix_counted", *prefix, SORTED)[0][0] < SORTED:
            return rows("runs_listed_by_prefix", *given)
    latest = _created_before(run_filter)
    if latest is not None and not run_filter.is_exact:
        values = (*given[:6], latest, run_filter.before_key, *given[8:], run_filter.before_time)
        return rows(_WALKS[what, sign], *values)
    return rows("runs_listed", *given)


def _from_bound(rows: Rows, run_filter: RunFilter, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have a walk along keys begin at the bound of a time, where there is one, and not pass by all that is newer."""
    latest = _created_before(run_filter)
    if latest is None or run_filter.is_exact:
        return given
    found = rows("key_created_before", latest + _LATE_MICROSECONDS)
    first = found[0][0] + 1 if found else 0
    return (*given[:7], min(given[7], first), *given[8:])


def _created_before(run_filter: RunFilter) -> int | None:
    """Return before when all that match were created, None: nothing says so. What began, or ended, was there before.

    So a walk begins there, and does not pass by all that is newer.
    """
    bounds = run_filter.created_before, run_filter.started_before, run_filter.ended_before
    return min((bound for bound in bounds if bound is not None), default=None)


def _by_age(run_filter: RunFilter) -> _Keys:
    """Return the walks along the index of one condition, the newest first; none where no index has its runs by age."""
    statuses, workflow = run_filter.status, run_filter.workflow
    if run_filter.parent is not None:
        return [("runs_listed_by_parent", ())]
    if workflow is not None and statuses and set(statuses) <= {"failed", "cancelled"}:
        return [("runs_listed_unwell", (status,)) for status in statuses]
    if statuses and all(status in _WALKS_BY_STATUS for status in statuses):
        return [(_WALKS_BY_STATUS[status], (status,)) for status in statuses]
    for match in run_filter.attributes:
        if all(comparison == "=" for _, comparison, _ in match.any):
            return [("runs_listed_by_attribute", (match.name, kind, value)) for kind, _, value in match.any]
    if run_filter.tags:
        return [("runs_listed_by_tag", (run_filter.tags[0],))]
    if run_filter.queue is not None:
        return [("runs_listed_by_queue", ())]
    return [] if workflow is None else [("runs_listed_by_workflow", ())]


def _newest_first(row: Any) -> int:
    return -int(row[0])


def _order(run_filter: RunFilter) -> tuple[str, int]:
    """Return by which time runs are ordered, and -1 where the last comes first, else 1."""
    return run_filter.order.removeprefix("-"), -1 if run_filter.order.startswith("-") else 1


def parameters(run_filter: RunFilter) -> tuple[Any, ...]:
    """Return the parameters that all the listing queries share."""
    prefix = run_filter.id_prefix or None
    return (
        None if run_filter.status is None else to_json(run_filter.status),
        run_filter.workflow,
        prefix,
        None if prefix is None else prefix + _LAST_CHARACTER,
        run_filter.parent,
        run_filter.created_after,
        run_filter.created_before,
        _NO_KEY if run_filter.before_key is None else run_filter.before_key,
        run_filter.limit,
        run_filter.started_since,
        int(run_filter.roots),
        run_filter.id,
        run_filter.queue,
        run_filter.started_before,
        run_filter.ended_after,
        run_filter.ended_before,
        _attributes(run_filter.attributes) if run_filter.attributes else None,
        to_json(run_filter.tags) if run_filter.tags else None,
    )


def _attributes(matches: Sequence[AttributeMatch]) -> str:
    """Return what attributes must be as the statements want it: each name once, with all that is said of it."""
    found: dict[str, list[Any]] = {}
    for match in matches:
        found.setdefault(match.name, []).append(match.any)
    return to_json(list(found.items()))
