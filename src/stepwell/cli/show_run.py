"""How a run is shown: one run, its facts, what was done to it, its journal, and how what failed in it failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from stepwell.api.asking.acts import Act
from stepwell.api.reading.views import JournalEntry, RunDetails, RunInfo
from stepwell.cli.printing import counted, for_this_file, moment, print_facts, print_json, print_table
from stepwell.model.journal import TICK
from stepwell.operations.table import OPERATIONS
from stepwell.values.failure_info import FailureInfo

#: How much of a value a line of the journal shows, in characters; `--json` shows all of it.
_VALUE_CHARS: Final = 100
#: How many failures of its journal are shown with their tracebacks.
_MAX_FAILURES: Final = 10
#: How many of the things that somebody did to a run are shown.
_MAX_ACTS: Final = 10


def show_run(details: RunDetails, db: str, *, tail: int | None, as_json: bool) -> None:
    """Print what the file has of a run; only the last lines of its journal where `tail` says how many."""
    facts = _facts(details)
    entries = details.journal
    left_out = 0 if tail is None else max(0, len(entries) - tail)
    entries = entries[left_out:]
    if as_json:
        print_json({**facts, "children": details.children, "acts": details.acts, "journal": entries})
        return
    status, failure = details.info.status, details.failure
    _print_facts(facts, details, db)
    print()
    if left_out:
        print(f"{counted(left_out, 'line')} of the journal before these {'is' if left_out == 1 else 'are'} left out")
    rows = [journal_row(entry, count) for entry, count in _ticks_together(entries)]
    print_table(("OP", "KIND", "NAME", "AT", "ATTEMPT", "VALUE"), rows)
    _print_failures(entries, failure.origin if status == "halted" and failure is not None else failure)


def _facts(details: RunDetails) -> dict[str, Any]:
    """Return what is known of the run itself, by name; what does not apply to it is left out."""
    info = details.info
    facts: dict[str, Any] = {
        name: value for name, value in msgspec.structs.asdict(info).items() if value is not msgspec.UNSET
    }
    if details.owner is not None:
        facts["worker"] = details.owner
    facts["input"] = details.input
    if details.failure is not None:
        facts["failure"] = details.failure
    if info.status == "completed":
        facts["result"] = details.result
    facts["published"] = details.published
    return facts


def acts_in_words(acts: Sequence[Act]) -> str:
    """Return who did what to a run or queue, a line for each of the last; why stands behind it."""
    lines = [] if len(acts) <= _MAX_ACTS else [f"{len(acts) - _MAX_ACTS} before these are left out; --json has all"]
    for act in acts[-_MAX_ACTS:]:
        why = "" if act.reason is None else f": {act.reason}"
        lines.append(f"{act.verb} by {act.by} at {moment(act.at)}{why}")
    return "\n".join(lines)


def progress_in_words(info: RunInfo) -> str:
    """Return how far the operations of a run are that say so and have not ended, a line for each."""
    return "\n".join(f"{each.operation} {each.name}: {each.words}" for each in info.progress)


def _print_facts(facts: dict[str, Any], details: RunDetails, db: str) -> None:
    told = {name: value for name, value in facts.items() if name != "waiting_on"}  # the reason says it in words
    told["progress"] = progress_in_words(details.info) or None
    if details.info.reason is not None:
        told["reason"] = for_this_file(details.info.reason, db)
    if details.owner is not None:
        owner = details.owner
        told["worker"] = f"{owner.epoch} (process {owner.pid} on {owner.host}), {owner.state}"
    if details.info.status == "halted" and details.failure is not None:  # what the reason says already is left out
        told["failure"] = details.failure.origin
    if details.children:
        told["children"] = "\n".join(
            f"{child.id} ({child.status}) {for_this_file(child.remark, db)}".rstrip() for child in details.children
        )
    if details.acts:
        told["acts"] = acts_in_words(details.acts)
    print_facts(told)


# --- the journal ------------------------------------------------------------------------------------------------------


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


def journal_row(entry: JournalEntry, count: int = 1) -> tuple[str, ...]:
    """Return an entry in words: operation, kind, name, when, attempt, value."""
    value = (
        f"{count} times"
        if count > 1
        else entry.error
        if entry.error is not None
        else ""
        if entry.kind in OPERATIONS.kinds.valueless and entry.value is None
        else _short(entry.value)
    )
    return (
        str(entry.operation),
        entry.kind,
        entry.name if entry.summary is None else f"{entry.name}: {entry.summary}",
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
