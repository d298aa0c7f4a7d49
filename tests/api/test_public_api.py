"""The public surface: exactly these names, with these parameters; the tree of errors as it is drawn."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import errors

CLASSES = {
    "Act", "AsyncEngine", "AsyncQueueHandle", "AsyncRun", "Archive", "AsyncTransaction", "Backup", "Batch", "BulkInfo",
    "ChapterInfo", "Check",
    "ChildRun", "Clock", "Connection", "Current", "Engine", "FailureInfo", "JournalEntry", "Limit", "OpenTransaction",
    "OtherRun",
    "PatchCheck",
    "Queue", "QueueHandle", "QueueInfo", "Rate", "Retry", "Rows", "Run", "RunCheck", "RunContext", "Restoration",
    "FailedRun", "Form", "Progress", "ProgressInfo", "Promise", "PromiseInfo",
    "RunInfo", "Saga",
    "Step", "StepInfo",
    "AsyncScheduleHandle", "DeclaredSchedules", "Every", "Schedule", "ScheduleHandle", "ScheduleInfo", "TickInfo",
    "AsyncStreamReader", "ItemResult", "Stream", "StreamItem", "StreamReader",
    "Transaction", "Verification", "WaitInfo", "Workflow",
}  # fmt: skip
FUNCTIONS = {
    "continue_as_new", "current", "get_logger", "get_run", "list", "last_failure", "last_result",
    "scheduled_at", "map", "now", "patched", "poll_until", "promise", "publish", "query", "random", "receive",
    "run_step", "saga", "send", "set_attributes",
    "check", "stream",
    "sleep_until", "start", "step", "transaction", "update", "uuid4", "restore", "verify", "workflow",
}  # fmt: skip
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}


#: `from stepwell import *` leaves out what would take the place of a type that annotations name.
NOT_BY_STAR = {"list"}


def test_the_package_exports_exactly_these_names_in_order() -> None:
    assert set(stepwell.__all__) == (CLASSES | FUNCTIONS | ERRORS | {"sync"}) - NOT_BY_STAR
    assert list(stepwell.__all__) == sorted(stepwell.__all__)
    assert len(set(stepwell.__all__)) == len(stepwell.__all__)


def test_each_name_exists_and_is_documented() -> None:
    for name in stepwell.__all__:
        assert inspect.getdoc(getattr(stepwell, name)), name
    assert set(stepwell.__all__) <= set(dir(stepwell))
    assert re.fullmatch(r"\d+\.\d+\.\d+", stepwell.__version__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Enigne"):
        _ = stepwell.Enigne


def parameters(function: Any) -> list[str]:
    """Return the parameters as they are written: ``*`` before those that must be named, defaults left out."""
    found = []
    named = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.VAR_KEYWORD:  # of `start`, which says where such arguments go
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            named = True
            found.append("*")
        found.append(f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name)
        named = named or parameter.kind is parameter.VAR_POSITIONAL
    return found


RUN_STEP = ["retry", "timeout", "deadline", "delivery", "isolate", "limit", "summary", "heartbeat_timeout"]
IN_A_QUEUE = ["queue", "priority", "delay", "dedup", "partition", "debounce", "debounce_limit", "on_duplicate"]
SAID = ["attributes", "tags", "note"]
CONFLICTS = ["on_conflict", "reuse"]
STARTING = ["workflow", "*args", "id", "kwargs", "deadline", "messages", "updates", *SAID, *CONFLICTS, *IN_A_QUEUE]
OPTIONS = [
    "path", "*", "workflows", "durability", "max_payload_bytes", "max_waiting_in_memory", "max_running", "max_crashes",
    "max_journal_entries",
    "step_threads", "step_processes", "retention", "take_over_stalled_after", "queues", "clock",
    "on_failure",
]  # fmt: skip
QUEUE = [
    "name", "*", "concurrency", "per_worker", "rate", "partition_concurrency", "partition_per_worker",
    "partition_rate", "on_duplicate", "debounce",
    "debounce_limit", "batch",
]  # fmt: skip
SCHEDULE = [
    "kwargs", "cron", "every", "exclude", "zone", "missing", "repeated", "start", "end", "jitter", "overlap",
    "catch_up", "pause_on_failure", "limit", "deadline", "queue", "priority", "partition",
]  # fmt: skip
SIGNATURES: dict[str, list[str]] = {
    "Schedule": ["workflow", "*args", "id", *SCHEDULE],
    "Every": ["interval", "phase"],
    "scheduled_at": [],
    "last_result": ["type"],
    "last_failure": [],
    "Engine": OPTIONS,
    "AsyncEngine": OPTIONS,
    "Retry": ["*", "attempts", "delay", "backoff", "max_delay", "jitter", "on", "when", "then"],
    "step": [
        "function",
        "*",
        "name",
        "retry",
        "timeout",
        "deadline",
        "delivery",
        "isolate",
        "limit",
        "heartbeat_timeout",
    ],
    "workflow": ["function", "*", "name", "fail_on", "max_journal_entries", "on_failure", "version"],
    "transaction": ["function", "*", "name", "retry"],
    "Step.options": [
        "*",
        "retry",
        "timeout",
        "deadline",
        "delivery",
        "isolate",
        "limit",
        "summary",
        "heartbeat_timeout",
    ],
    "run_step": ["name", "function", "*args", "type", *RUN_STEP],
    "promise": ["type", "*", "timeout", "default", "form"],
    "receive": ["name", "type", "*", "timeout", "default"],
    "send": ["run_id", "name", "value", "*", "key"],
    "publish": ["key", "value"],
    "stream": ["name", "type", "*", "keep", "limit"],
    "Stream.write": ["value"],
    "Stream.write_many": ["values"],
    "Stream.close": [],
    "sync.stream": ["name", "type", "*", "keep", "limit"],
    "sync.Stream.write": ["value"],
    "sync.Stream.write_many": ["values"],
    "sync.Stream.close": [],
    "StreamReader.items": [],
    "AsyncStreamReader.items": [],
    "sleep_until": ["when"],
    "query": ["function", "*", "name"],
    "update": ["function", "*", "name", "validate"],
    "start": [
        "workflow",
        "*args",
        "id",
        "kwargs",
        "detached",
        *CONFLICTS,
        *IN_A_QUEUE,
        *SAID,
        "deadline",
        "messages",
        "updates",
    ],
    "get_run": ["id"],
    "list": ["*", "status", "workflow", "id_prefix", "limit"],
    "OtherRun.result": ["timeout", "*", "type"],
    "OtherRun.status": [],
    "OtherRun.value": ["key", "*", "type", "default"],
    "set_attributes": ["attributes", "*", "tags", "remove_tags", "note"],
    "Queue": QUEUE,
    "Limit": ["name", "*", "concurrency", "rate"],
    "Rate": ["limit", "per"],
    "Batch": ["size", "within"],
    "poll_until": ["step", "*args", "until", "every", "timeout"],
    "map": ["function", "items", "*", "limit", "tolerate", "enough"],
    "continue_as_new": ["*args", "kwargs"],
    "now": [],
    "random": [],
    "uuid4": [],
    "current": [],
    "patched": ["name"],
    "saga": [],
    "check": ["path", "*", "workflows", "progress"],
    "Saga.undo": ["function", "*args"],
    "Saga.pivot": [],
    "sync.Saga.undo": ["function", "*args"],
    "get_logger": ["name"],
    "RetryLater": ["message", "*", "delay"],
    "ChildRun.result": ["timeout"],
    "ChildRun.send": ["name", "value", "*", "key"],
    "ChildRun.cancel": ["reason"],
    "sync.sleep": ["duration"],
    "sync.call": ["function", "*args"],
}
OF_AN_ENGINE = {
    "start": STARTING,
    "start_many": [
        "workflow",
        "args",
        "*",
        "ids",
        "kwargs",
        "deadline",
        "messages",
        "updates",
        *SAID,
        *CONFLICTS,
        *IN_A_QUEUE,
    ],
    "get": ["id"],
    "list": ["filter", "*", "status", "workflow", "id_prefix", "limit", "before"],
    "query": ["sql", "parameters"],
    "retry_all": ["*", "status", "workflow", "started_since", "id_prefix", "dry_run", "reason", "by"],
    "schedule": ["workflow", "*args", "id", "by", *SCHEDULE],
    "get_schedule": ["id"],
    "schedules": [],
    "declare_schedules": ["source", "*", "remove", "group"],
    "check": [],
    "take_over": ["epoch", "*", "reason", "by"],
    "send": ["id", "name", "value", "*", "key"],
    "resolve": ["token", "value", "*", "by", "reason"],
    "reject": ["token", "error", "*", "by", "reason"],
    "transaction": [],
    "close": ["timeout"],
}
OF_A_RUN = {
    "query": ["name", "*args", "kwargs", "timeout"],
    "update": ["name", "*args", "kwargs", "key", "timeout", "type"],
    "result": ["timeout"],
    "info": [],
    "cancel": ["reason", "*", "by"],
    "retry": ["reason", "*", "by"],
    "rewind": ["to", "*", "results", "args", "kwargs", "reason", "by"],
    "restart": ["*args", "kwargs", "reason", "by"],
    "fork": ["to", "*", "id", "results", "args", "kwargs", "reason", "by"],
    "settle": ["op", "*", "result", "error", "reason", "by"],
    "resume": ["reason", "*", "by"],
    "pause": ["reason", "*", "children", "by"],
    "unpause": ["reason", "*", "children", "by"],
    "terminate": ["reason", "*", "by"],
    "reschedule": ["delay", "*", "reason", "by"],
    "delete": ["reason", "*", "by"],
    "acts": [],
    "set_attributes": ["attributes", "*", "tags", "remove_tags", "note", "by"],
    "send": ["name", "value", "*", "key"],
    "value": ["key", "timeout", "*", "type"],
    "truncate": ["stream", "*", "before"],
    "journal": ["chapter"],
    "chapters": [],
}
OF_A_QUEUE = {
    "info": [],
    "pause": ["reason", "*", "by"],
    "unpause": ["reason", "*", "by"],
    "resume": ["reason", "*", "by"],
    "acts": [],
    "change": [
        "*",
        "concurrency",
        "per_worker",
        "partition_concurrency",
        "rate",
        "partition_per_worker",
        "partition_rate",
    ],
    "cancel_waiting": ["*", "partition", "reason", "by"],
}
OF_A_SCHEDULE = {
    "info": [],
    "pause": ["note", "*", "by"],
    "unpause": ["note", "*", "by"],
    "trigger": ["note", "*", "by"],
    "backfill": ["start", "end", "*", "overlap", "note", "by"],
    "change": ["*", "by", *SCHEDULE],
    "delete": ["*", "by"],
}
for _prefix in ("", "Async"):
    SIGNATURES[f"{_prefix}Run.stream"] = ["name", "type", "*", "start", "last_attempt", "follow", "timeout"]
    SIGNATURES |= {f"{_prefix}ScheduleHandle.{name}": expected for name, expected in OF_A_SCHEDULE.items()}
    SIGNATURES |= {f"{_prefix}QueueHandle.{name}": expected for name, expected in OF_A_QUEUE.items()}
    SIGNATURES |= {f"{_prefix}Engine.{name}": expected for name, expected in OF_AN_ENGINE.items()}
    SIGNATURES |= {f"{_prefix}Run.{name}": expected for name, expected in OF_A_RUN.items()}
for _name in (
    *("receive", "send", "publish", "sleep_until", "start", "map", "now", "random", "uuid4", "patched"),
    *("continue_as_new", "saga", "set_attributes", "scheduled_at", "last_result", "last_failure"),
):
    SIGNATURES[f"sync.{_name}"] = SIGNATURES[_name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_call_has_exactly_these_parameters(name: str) -> None:
    found: Any = stepwell
    for part in name.split("."):
        found = getattr(found, part)
    assert parameters(found) == SIGNATURES[name]


@pytest.mark.parametrize("name", [*OF_AN_ENGINE, *OF_A_RUN])
def test_the_async_engine_has_what_the_engine_has_awaited(name: str) -> None:
    owner = "Engine" if name in OF_AN_ENGINE else "Run"
    plain = getattr(getattr(stepwell, owner), name)
    awaited = getattr(getattr(stepwell, f"Async{owner}"), name)
    assert not inspect.iscoroutinefunction(plain)
    assert inspect.iscoroutinefunction(awaited) or name == "transaction"


TWINS: list[tuple[Any, Any]] = [
    (stepwell.Engine, stepwell.AsyncEngine),
    (stepwell.Run, stepwell.AsyncRun),
    (stepwell.QueueHandle, stepwell.AsyncQueueHandle),
    (stepwell.ScheduleHandle, stepwell.AsyncScheduleHandle),
    (stepwell.OpenTransaction, stepwell.AsyncTransaction),
    (stepwell.sync.ChildRun, stepwell.ChildRun),
    (stepwell.sync.Stream, stepwell.Stream),
]


def public(owner: Any) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


@pytest.mark.parametrize(("plain", "awaited"), TWINS, ids=lambda twin: twin.__name__)
def test_twins_have_the_same_names_with_the_same_parameters_and_one_is_awaited(plain: Any, awaited: Any) -> None:
    assert public(plain) == public(awaited)
    for name in public(plain):
        one, other = inspect.getattr_static(plain, name), inspect.getattr_static(awaited, name)
        assert type(one) is type(other), name
        if isinstance(one, property):
            continue
        assert parameters(one) == parameters(other), name
        assert not inspect.iscoroutinefunction(one)
        opens = name in ("transaction", "stream") or (plain is stepwell.Engine and name == "queue")
        assert inspect.iscoroutinefunction(other) or opens, name


def test_sync_has_the_operations_of_the_package_and_what_asyncio_has() -> None:
    other = {"ChildRun", "OtherRun", "Promise", "Saga", "Stream", "call", "sleep"}
    operations = set(stepwell.sync.__all__) - other
    assert operations == FUNCTIONS - NOT_BY_STAR - {
        "get_logger",
        "step",
        "transaction",
        "restore",
        "verify",
        "check",
        "workflow",
    }


def test_the_page_of_the_api_has_every_name() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text(encoding="utf-8")
    for name in set(stepwell.__all__) - ERRORS:
        assert re.search(rf"\b{name}\b", page), name
    handles = {"engine": stepwell.Engine, "run": stepwell.Run, "": stepwell.QueueHandle, "tx": stepwell.OpenTransaction}
    for handle, owner in handles.items():
        for name in public(owner) - {"name"}:
            assert re.search(rf"`{handle}\.?{name}\b" if handle in ("engine", "run") else rf"\b{name}\b", page), (
                f"{owner.__name__}.{name}"
            )


def drawn_tree(text: str) -> dict[str, str]:
    """Return the parent of each error in the drawing."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        match = re.match(r"^ {4}((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)", line)
        if match:
            depth = len(match.group(1)) // 4
            above = [*above[:depth], match.group(2)]
            if depth:
                found[match.group(2)] = above[depth - 1]
    return found


def test_the_tree_of_errors_in_the_docstring_is_the_real_one() -> None:
    tree = drawn_tree(errors.__doc__ or "")
    assert set(tree) | {"StepwellError"} == ERRORS
    for name, parent in tree.items():
        assert getattr(errors, parent) in getattr(errors, name).__bases__, name


def test_errors_that_python_has_a_class_for_are_of_that_class_too() -> None:
    assert issubclass(stepwell.InvalidArgument, ValueError)
    assert issubclass(stepwell.DefinitionError, TypeError)
    assert issubclass(stepwell.SerializationError, TypeError)
    assert issubclass(stepwell.RunNotFound, LookupError)
    assert issubclass(stepwell.StepTimeout, TimeoutError)
    assert issubclass(stepwell.RunDeadlineExceeded, TimeoutError)


def test_defining_workflows_imports_neither_sqlite_nor_asyncio_servers() -> None:
    program = "import sys, stepwell; stepwell.Engine; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"apsw", "sqlite3", "pytest", "stepwell.testing"} & loaded
