"""The judge of what runs have to do with each other: that children and messages are what was started and sent, once.

`entries` are those of the journals of all runs, by run: operation, kind, name, value.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proof.sim import model
from proof.sim.database import text_of
from proof.sim.faults import Violation

if TYPE_CHECKING:
    from proof.sim.world import World


class RelationJudge:
    """Compares, at rest and at the end, what runs heard with what other runs did."""

    def __init__(self, world: World, rows: Callable[..., list[Any]]) -> None:
        self._world = world
        self._rows = rows

    @property
    def _ids(self) -> dict[int, str]:
        return self._world.judge.ids

    def rested(self, entries: dict[int, list[Any]], waiting: Sequence[str]) -> None:
        """Look, while runs still wait, whether each message that was sent to one is there or was received."""
        sent, _, _ = self._sent(entries)
        for run_id in waiting:
            key = self._world.judge.keys[run_id]
            there = Counter(name for (name,) in self._rows("SELECT name FROM stepwell_messages WHERE run = ?", key))
            there.update(name for _, kind, name, _ in entries[key] if kind == "message")
            for name, count in sent.items():
                if name.startswith(f"{run_id}.") and not name.endswith(".keyed") and there[name] < count:
                    raise Violation("no message is lost", f"{name}: {there[name]} of {count}")

    def ended(self, entries: dict[int, list[Any]]) -> None:
        """Compare, when everything has ended, parents with their children, and receivers with their senders."""
        self._check_children(entries)
        self._check_messages(entries)

    def _check_children(self, entries: dict[int, list[Any]]) -> None:
        rows = self._rows("SELECT key, id, status, result, parent, parent_op FROM stepwell_runs")
        by_id = {row[1]: row for row in rows}
        started: set[tuple[int, str]] = set()
        for run, of_run in entries.items():
            for _, kind, name, value in of_run:
                if kind == "child":
                    child = json.loads(value)
                    started.add((run, child))
                    if child not in by_id:
                        raise Violation("a child exists", f"{self._ids[run]} was told of {child}, which does not exist")
                elif kind == "result" and (by_id[name][2] != "completed" or text_of(by_id[name][3]) != value):
                    raise Violation("a parent hears what the child said", f"{self._ids[run]} heard {value} of {name}")
                elif (
                    kind == "result_failed"
                    and "RunNotFound" not in value
                    and by_id[name][2] not in ("failed", "cancelled")
                ):
                    raise Violation(
                        "a parent hears how the child ended", f"{self._ids[run]} heard of a failure of {name}"
                    )
        for _, run_id, _, _, parent, _ in rows:
            if parent is None or parent in self._world.judge.of_story or (parent, run_id) in started:
                continue
            if not self._withdraws(parent, entries.get(parent, [])):
                raise Violation("a child is committed with its parent's journal", f"{run_id} of {self._ids[parent]}")

    def _withdraws(self, run: int, entries: list[Any]) -> bool:
        """Tell whether a run may have started a child, and dropped the task that started it before hearing of it."""
        found = model.kinds(self._program(run))
        return bool(found & {"race", "group", "limit"}) or any(kind == "cancel" for _, kind, _, _ in entries)

    def _program(self, run: int) -> Any:
        """Return the program of a run; one that collects items does nothing but steps, one of the story has none."""
        if run in self._world.judge.of_story:
            return ["step"]
        (encoded,) = self._rows("SELECT input FROM stepwell_runs WHERE key = ?", run)[0]
        return ["step"] if encoded is None else json.loads(text_of(encoded))["args"][0]

    def _sent(self, entries: dict[int, list[Any]]) -> tuple[Counter[str], set[str], set[str]]:
        """Return how many messages were sent for certain, by name; the loose senders; and the names that they used.

        Of a loose sender it is not certain what it has sent: it may have dropped a task in the middle of a send, or a
        send was refused.
        """
        sent: Counter[str] = Counter()
        senders: set[str] = set()
        names: set[str] = set()
        for run, of_run in entries.items():
            for _, kind, name, _ in of_run:
                sent[name] += kind == "sent"
            if any(kind == "send_failed" for _, kind, _, _ in of_run) or self._withdraws(run, of_run):
                senders.add(self._ids[run])
                names |= model.names_sent(self._program(run))
        for call in self._world.calls:
            if call.action.kind == "send":
                sent[call.action.name] += call.outcome == "acknowledged"
                if call.unknown:
                    names.add(call.action.name)
            elif call.action.kind == "transact" and not self._world.judge.starts.is_keyed(call.action.target):
                sent[call.action.name] += self._world.judge.starts.transacted(call)
        return sent, senders, names

    def _check_messages(self, entries: dict[int, list[Any]]) -> None:
        sent, loose_senders, loose_names = self._sent(entries)
        for run, of_run in entries.items():
            heard: dict[tuple[str, str], list[int]] = defaultdict(list)
            for _, kind, name, value in of_run:
                if kind == "message":
                    sender, number, count = json.loads(value)
                    heard[sender, name].append(count if number else 0)
                    if not name.startswith(f"{self._ids[run]}."):
                        raise Violation("a message goes where it was sent", f"{self._ids[run]} heard {value}")
            total: Counter[str] = Counter()
            for (sender, name), counts in heard.items():
                total[name] += len(counts)
                if sorted(set(counts)) != counts:
                    raise Violation(
                        "messages of one sender come in order, and once", f"{self._ids[run]}: {sender} {counts}"
                    )
                strict = not name.endswith(".keyed") and sender not in loose_senders
                if strict and counts != list(range(len(counts))):
                    raise Violation(
                        "no message is lost before a later one", f"{self._ids[run]}: {sender} {name} {counts}"
                    )
            for name, count in total.items():
                if count > sent[name] and name not in loose_names and not name.endswith(".keyed"):
                    raise Violation("a message is received once", f"{name}: {count} of {sent[name]}")
