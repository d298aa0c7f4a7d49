"""A run as a tree: what it is and why it waits, then its operations with their times, attempts and children.

For people at a terminal; `show_run` is the same in plain lines, and as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from stepwell.api.reading.outline import Attempt, Outline, OutlinedOperation
from stepwell.api.reading.read_service import ReadService
from stepwell.api.reading.views import JournalEntry, RunDetails, RunInfo
from stepwell.cli.printing import COLOURS, ago, for_this_file, moment
from stepwell.cli.show_run import progress_in_words
from stepwell.errors import RunNotFound
from stepwell.model.clock import MICROSECONDS, datetime_of
from stepwell.model.durations import duration

#: How much of a value is shown, in characters; `--json` shows all of it.
_VALUE_CHARS: Final = 72
#: How many operations of a run are shown, the last ones, and of each child; how deep children go.
_MAX_OPERATIONS: Final = 200
_MAX_OF_A_CHILD: Final = 12
_MAX_DEPTH: Final = 3
_FEW_CHILDREN: Final = 3
_MARKS: Final = {"done": ("✓", "green"), "failed": ("✗", "bold red"), "open": ("◌", "cyan"), "cut off": ("✂", "yellow")}
_OUTCOMES: Final = {"completed": "done", "failed": "failed", "halted": "failed", "cancelled": "cut off"}
_KINDS: Final = {"step": "", "start": "child", "result": "result of", "receive": "message", "describe": "attributes"}


def draw(read: ReadService, run_id: str, db: str, *, tail: int | None = None) -> RenderableType:
    """Return a run as a terminal shows it; raises `RunNotFound`."""
    details = read.details(run_id)
    now = datetime.now(UTC)
    parts: list[RenderableType] = [_title(details.info)]
    why = _why(details.info, db, now)
    if why is not None:
        parts.append(why)
    parts.append(_facts(details, now))
    chapters = read.chapters(run_id)
    if len(chapters) > 1:
        parts.append(_chapters(chapters))
    tree = Tree(Text("operations", style="bold dim"), guide_style="dim")
    _grow(tree, read, details, now, tail or _MAX_OPERATIONS, depth=0)
    parts.append(tree if tree.children else Text("no operations yet", style="dim"))
    if details.acts:
        parts.append(_acts(details))
    failure = details.failure
    if failure is not None and details.info.status == "halted":
        failure = failure.origin
    if failure is not None:
        parts.append(Group(Text("failure", style="bold dim"), Padding(Text(failure.text, style="red"), (0, 0, 0, 2))))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def print_tree(part: RenderableType) -> None:
    """Print it for the terminal, or for whatever reads the output in its place."""
    Console(highlight=False).print(part)


# --- the head ---------------------------------------------------------------------------------------------------------


def _title(info: RunInfo) -> Text:
    title = Text()
    title.append(info.id, style="bold")
    title.append("  ")
    title.append(info.workflow, style="dim")
    title.append("  ")
    title.append(f" {info.status} ", style=f"reverse {COLOURS.get(info.status, '')}".strip())
    if info.chapter > 1:
        title.append(f"  chapter {info.chapter}", style="dim")
    return title


def _why(info: RunInfo, db: str, now: datetime) -> Text | None:
    """Say why it is as it is and, of what waits, until when."""
    text = for_this_file(info.error or info.reason or "", db)
    if not text:
        return None
    why = Text(text, style="red" if info.status in ("failed", "halted") else "")
    if info.wake_at is not None:
        at = moment(info.wake_at)
        why.append(
            f"  ({ago(info.wake_at, now)})" if at in text else f"  ({at}, {ago(info.wake_at, now)})", style="dim"
        )
    return why


def _facts(details: RunDetails, now: datetime) -> Table:
    info = details.info
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")

    def fact(name: str, value: str | Text | None) -> None:
        if value:  # a string would be read as markup, whose brackets are those of payloads here
            facts.add_row(Text(name), Text(value) if isinstance(value, str) else value)

    fact("created", _when(info.created_at, now))
    fact("started", _when(info.started_at, now) if info.started_at != info.created_at else None)
    took = "" if info.took_seconds is None else f"  took {duration(info.took_seconds)}"
    fact("ended", None if info.ended_at is None else f"{_when(info.ended_at, now)}{took}")
    fact("deadline", _when(info.deadline_at, now))
    place = [
        info.queue,
        info.partition and f"partition {info.partition}",
        info.priority and f"priority {info.priority}",
    ]
    fact("queue", ", ".join(str(each) for each in place if each) if info.queue else None)
    fact("parent", info.parent)
    fact("attempts", str(info.attempts) if info.attempts > 1 else None)
    said = [f"{name}={_short(value)}" for name, value in info.attributes.items()] + [f"#{tag}" for tag in info.tags]
    fact("about", "  ".join(said))
    fact("input", None if details.input is None else _short(details.input))
    fact("result", _short(details.result) if info.status == "completed" else None)
    fact("progress", progress_in_words(info))
    for name, value in details.published.items():
        fact(f"value {name}", _short(value))
    if details.owner is not None:
        fact(
            "worker",
            f"{details.owner.epoch} (process {details.owner.pid} on {details.owner.host}), {details.owner.state}",
        )
    return facts


def _chapters(chapters: Sequence[Any]) -> Table:
    found = Table.grid(padding=(0, 2, 0, 0))
    found.add_column(style="dim")
    found.add_column()
    found.add_column(style="dim")
    for chapter in chapters:
        end = "goes on" if chapter.ended_at is None else f"until {moment(chapter.ended_at)}"
        found.add_row(f"chapter {chapter.number}", Text(chapter.beginning), f"{moment(chapter.began_at)}, {end}")
    return found


def _acts(details: RunDetails) -> Group:
    lines = [Text("history", style="bold dim")]
    for act in details.acts[-10:]:
        line = Text(f"  {moment(act.at)}  ", style="dim")
        line.append(act.verb)
        line.append(f" by {act.by}", style="dim")
        if act.reason is not None:
            line.append(f": {act.reason}")
        lines.append(line)
    return Group(*lines)


def _when(at: datetime | None, now: datetime) -> Text | None:
    if at is None:
        return None
    text = Text(moment(at))
    text.append(f"  {ago(at, now)}", style="dim")
    return text


# --- the operations ---------------------------------------------------------------------------------------------------


def _grow(tree: Tree, read: ReadService, details: RunDetails, now: datetime, most: int, depth: int) -> None:
    outline: Outline = read.outline(details.info.id)
    entries: dict[int, list[JournalEntry]] = {}
    for entry in details.journal:
        entries.setdefault(entry.operation, []).append(entry)
    operations = outline.operations
    if len(operations) > most:
        tree.add(Text(f"… {len(operations) - most} operations before these; --json has all", style="dim"))
    starts = sum(each.kind == "start" for each in operations[-most:])
    for operation in operations[-most:]:
        told = entries.get(operation.number, [])
        if operation.kind == "start" and depth < _MAX_DEPTH and (child := _child_of(read, told)) is not None:
            branch = tree.add(_child_line(operation, child.info))
            # Of many children those that are well are a line each: whoever looks wants the others.
            if starts <= _FEW_CHILDREN or child.info.status != "completed":
                _grow(branch, read, child, now, _MAX_OF_A_CHILD, depth + 1)
            continue
        branch = tree.add(_line(operation, told, now))
        for attempt in _before_the_last(operation):
            branch.add(_attempt(attempt, told))


def _line(operation: OutlinedOperation, told: Sequence[JournalEntry], now: datetime) -> Text:
    mark, style = _MARKS[operation.outcome]
    line = Text()
    line.append(f"{mark} ", style=style)
    line.append(f"{operation.number:>3} ", style="dim")
    word = _KINDS.get(operation.kind, operation.kind)
    if word:
        line.append(f"{word} ", style="dim")
    line.append(operation.name, style="bold" if operation.kind == "step" else "")
    last = told[-1] if told else None
    if last is not None and last.summary is not None:
        line.append(f"  {last.summary}", style="italic")
    line.append(f"  {_took(operation, now)}", style="dim")
    if len(operation.attempts) > 1:
        line.append(f"  attempt {operation.attempts[-1].number}", style="yellow")
    if operation.outcome == "failed" and last is not None and last.error is not None:
        line.append(f"  {last.error.partition(chr(10))[0]}", style="red")
    elif last is not None and last.value is not None and operation.outcome == "done":
        line.append(f"  → {_short(last.value)}", style="green dim")
    return line


def _took(operation: OutlinedOperation, now: datetime) -> str:
    begin = operation.attempts[0].started_at if operation.attempts else operation.issued_at
    if operation.ended_at is not None:
        return duration((operation.ended_at - begin) / MICROSECONDS)
    until = operation.waits_until
    waits = f"for {duration(now.timestamp() - begin / MICROSECONDS)}"
    return waits if until is None else f"{waits}, until {moment(datetime_of(until))} ({ago(datetime_of(until), now)})"


def _before_the_last(operation: OutlinedOperation) -> Iterable[Attempt]:
    return operation.attempts[:-1] if operation.outcome != "open" else operation.attempts


def _attempt(attempt: Attempt, told: Sequence[JournalEntry]) -> Text:
    mark, style = _MARKS[attempt.outcome]
    line = Text()
    line.append(f"{mark} ", style=style)
    line.append(f"attempt {attempt.number}", style="dim")
    if attempt.ended_at is not None:
        line.append(f"  {duration((attempt.ended_at - attempt.started_at) / MICROSECONDS)}", style="dim")
    error = next((entry.error for entry in told if entry.attempt == attempt.number and entry.error is not None), None)
    if error is not None:
        line.append(f"  {error.partition(chr(10))[0]}", style="red")
    return line


def _child_of(read: ReadService, told: Sequence[JournalEntry]) -> RunDetails | None:
    """Return the run that an operation started; None where none is known yet, or it is not in this file any more."""
    child_id = next((entry.value for entry in told if isinstance(entry.value, str)), None)
    if child_id is None:
        return None
    try:
        return read.details(child_id)
    except RunNotFound:
        return None


def _child_line(operation: OutlinedOperation, info: RunInfo) -> Text:
    mark, style = _MARKS[_OUTCOMES.get(info.status, "open")]
    line = Text()
    line.append(f"{mark} ", style=style)
    line.append(f"{operation.number:>3} ", style="dim")
    line.append("child ", style="dim")
    line.append(info.id, style="bold")
    line.append(f"  {info.workflow}", style="dim")
    line.append(f"  {info.status}", style=COLOURS.get(info.status, ""))
    if info.took_seconds is not None:
        line.append(f"  {duration(info.took_seconds)}", style="dim")
    if info.remark:
        line.append(
            f"  {info.remark.partition(chr(10))[0]}", style="red" if info.status in ("failed", "halted") else "dim"
        )
    return line


# --- words ------------------------------------------------------------------------------------------------------------


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = text.replace("\n", "⏎")
    return text if len(text) <= _VALUE_CHARS else f"{text[: _VALUE_CHARS - 1]}…"
