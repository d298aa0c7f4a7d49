"""The command ``show``: one run, its facts, what was done to it, its journal, and how what failed in it failed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from stepwell.api.acts import Act
from stepwell.api.views import JournalEntry, RunInfo
from stepwell.api.why import Reasons
from stepwell.cli.printing import counted, for_this_file, moment, print_facts, print_json, print_table
from stepwell.errors import RunNotFound
from stepwell.model.journal import TICK, VALUELESS
from stepwell.model.lifecycle import ENDED, STATUSES, Status
from stepwell.model.run import Member, RunRecord
from stepwell.operations.functions import check_id
from stepwell.store.inspector import Inspector, RunFilter
from stepwell.store.sqlite.file.read_only import Look
from stepwell.values.codec import Codec
from stepwell.values.failure_info import FailureInfo, failure_info

#: How much of a value a line of the journal shows, in characters; `--json` shows all of it.
_VALUE_CHARS: Final = 100
#: How many failures of its journal are shown with their tracebacks.
_MAX_FAILURES: Final = 10
#: How many of the things that somebody did to a run are shown.
_MAX_ACTS: Final = 10
#: How many children of a run are shown.
_MAX_CHILDREN: Final = 20


def show(look: Look, reasons: Reasons, options: argparse.Namespace) -> None:
    """Print what the file has of a run."""
    codec = Codec()
    record = find(look, options)
    info = RunInfo.of(record, reasons)
    facts: dict[str, Any] = msgspec.structs.asdict(info)
    worker = None if record.owner is None else _worker(record.owner, look.workers())
    if worker is not None:
        facts["worker"] = worker
    facts["input"] = codec.show(record.input, "the input")
    failure = record.error if record.status == "failed" else look.halted_by(record.key)
    if failure is not None:
        facts["failure"] = failure_info(failure)
    if record.status == "completed":
        facts["result"] = codec.show(record.result, "the result")
    facts["published"] = {
        key: codec.show(value, f"the value {key!r}") for key, value in sorted(look.values(record.key).items())
    }
    children = _children(look, record, reasons)
    acts = [Act.of(act, record.ahead) for act in look.acts(record.key)]
    entries = _entries(look, record, codec)
    left_out = 0 if options.tail is None else max(0, len(entries) - options.tail)
    entries = entries[left_out:]
    if options.json:
        print_json({**facts, "children": children, "acts": acts, "journal": entries})
        return
    _print_facts(facts, record.status, children, acts, options.db)
    print()
    if left_out:
        print(f"{counted(left_out, 'line')} of the journal before these {'is' if left_out == 1 else 'are'} left out")
    rows = [_journal_row(entry, count) for entry, count in _ticks_together(entries)]
    print_table(("OP", "KIND", "NAME", "AT", "ATTEMPT", "VALUE"), rows)
    shown: FailureInfo | None = facts.get("failure")
    _print_failures(entries, shown.origin if record.status == "halted" and shown is not None else shown)


def find(inspector: Inspector, options: argparse.Namespace) -> RunRecord:
    """Return the run that the line names; raises `RunNotFound`."""
    record = inspector.run_by_id(check_id(options.run))
    if record is None:
        raise RunNotFound(f"{options.db} has no run {options.run!r}; `stepwell runs --db {options.db}` lists them")
    return record


def remark(info: RunInfo, db: str) -> str:
    """Return what matters most about a run in its state, in one line."""
    return for_this_file((info.error or info.reason or "").partition("\n")[0], db)


def acts_in_words(acts: Sequence[Act]) -> str:
    """Return who did what to a run or queue, a line for each of the last; why stands behind it."""
    lines = [] if len(acts) <= _MAX_ACTS else [f"{len(acts) - _MAX_ACTS} before these are left out; --json has all"]
    for act in acts[-_MAX_ACTS:]:
        why = "" if act.reason is None else f": {act.reason}"
        lines.append(f"{act.verb} by {act.by} at {moment(act.at)}{why}")
    return "\n".join(lines)


def _worker(epoch: int, members: Iterable[Member]) -> dict[str, Any]:
    """Return the worker in whose memory a run is, as far as it is known: one that has ended is just a number."""
    found = next((member for member in members if member.epoch == epoch), None)
    return {
        "epoch": epoch,
        "pid": None if found is None else found.pid,
        "host": None if found is None else found.host,
        "state": "dead" if found is None else found.state,
    }


def _print_facts(
    facts: dict[str, Any], status: Status, children: Sequence[dict[str, str]], acts: Sequence[Act], db: str
) -> None:
    told = {name: value for name, value in facts.items() if name != "waiting_on"}  # the reason says it in words
    if facts["reason"] is not None:
        told["reason"] = for_this_file(facts["reason"], db)
    if "worker" in facts:
        told["worker"] = "{epoch} (process {pid} on {host}), {state}".format(**facts["worker"])
    if status == "halted" and "failure" in facts:  # what the reason says already is left out
        told["failure"] = facts["failure"].origin
    if children:
        told["children"] = "\n".join(
            f"{child['id']} ({child['status']}) {for_this_file(child['remark'], db)}".rstrip() for child in children
        )
    if acts:
        told["acts"] = acts_in_words(acts)
    print_facts(told)


def _children(inspector: Inspector, parent: RunRecord, reasons: Reasons) -> list[dict[str, str]]:
    """Return children that have not ended, which a run may wait for: first those that need somebody."""
    first: tuple[Status, ...] = ("halted",)
    others: tuple[Status, ...] = tuple(status for status in STATUSES if status not in ENDED and status not in first)
    found: list[RunRecord] = []
    for statuses in (first, others):
        wanted = RunFilter(status=statuses, parent=parent.key, limit=_MAX_CHILDREN - len(found))
        found += inspector.list_runs(wanted) if wanted.limit else []
    infos = [RunInfo.of(record, reasons) for record in found]
    return [
        {
            "id": info.id,
            "workflow": info.workflow,
            "status": info.status,
            "remark": (info.error or info.reason or "").partition("\n")[0],
        }
        for info in infos
    ]


# --- the journal ------------------------------------------------------------------------------------------------------


def _entries(inspector: Inspector, run: RunRecord, codec: Codec) -> list[JournalEntry]:
    entries: list[JournalEntry] = []
    after = 0
    while page := inspector.journal(run.key, after=after):
        entries += [JournalEntry.of(entry, codec, run.ahead) for entry in page]
        after = page[-1].position
    return entries


def _ticks_together(entries: Sequence[JournalEntry]) -> Iterator[tuple[JournalEntry, int]]:
    """Yield entries and how many each stands for: the last tick for those right before it, which may be thousands."""
    ticks = 0
    for entry, following in zip(entries, [*entries[1:], None], strict=False):  # no entries, no pairs
        ticks += 1
        if not (_is_tick(entry) and following is not None and _is_tick(following)):
            yield entry, ticks
            ticks = 0


def _is_tick(entry: JournalEntry) -> bool:
    return entry.operation == 0 and entry.name == TICK


def _journal_row(entry: JournalEntry, count: int) -> tuple[str, ...]:
    value = (
        f"{count} times"
        if count > 1
        else entry.error
        if entry.error is not None
        else ""
        if entry.kind in VALUELESS and entry.value is None
        else _short(entry.value)
    )
    return (
        str(entry.operation),
        entry.kind,
        entry.name,
        moment(entry.at),
        "" if entry.attempt is None else str(entry.attempt),
        value.partition("\n")[0],
    )


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…"


# --- failures ---------------------------------------------------------------------------------------------------------


def _print_failures(entries: Sequence[JournalEntry], of_run: FailureInfo | None) -> None:
    """Print how the last attempts and operations failed that did, below the journal's one line for each.

    What was printed before, in the failure `of_run` or for an earlier attempt, is not printed again.
    """
    failed = [entry for entry in entries if entry.failure is not None]
    if len(failed) > _MAX_FAILURES:
        print(f"\n{len(failed) - _MAX_FAILURES} failures before these are left out; --json has all")
    printed: dict[str, str] = {}
    for entry in failed[-_MAX_FAILURES:]:
        assert entry.failure is not None
        attempt = "" if entry.attempt is None else f", attempt {entry.attempt}"
        place = f"OP {entry.operation} {entry.kind} {entry.name}{attempt}"
        text = entry.failure.text
        if of_run is not None and _holds(of_run, entry.failure):
            print(f"\n{place}: see the run's failure, above")
        elif text in printed:
            print(f"\n{place}: the same as {printed[text]}")
        else:
            print(f"\n{place}:\n{text}")
            printed[text] = place


def _holds(outer: FailureInfo, failure: FailureInfo) -> bool:
    """Tell whether a failure, with all that it shows, is part of what is shown of another one."""
    if outer.summary == failure.summary and failure.traceback.strip() in outer.traceback:
        of_outer, inner = (outer.cause, outer.context), (failure.cause, failure.context)
        if all(
            part is None or (whole is not None and _holds(whole, part))
            for whole, part in zip(of_outer, inner, strict=True)
        ):
            return failure.notes == outer.notes and len(failure.members) == len(outer.members)
    return any(_holds(part, failure) for part in (outer.cause, outer.context, *outer.members) if part is not None)
