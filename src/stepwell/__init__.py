"""Durable workflows for Python, with all state in one SQLite file.

The public names, nothing else. Each is imported when it is first used, so that a program that only defines workflows,
or a command line that only prints its help, does not wait for asyncio and SQLite.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stepwell.importing import without_collector

if TYPE_CHECKING:
    from stepwell import sync
    from stepwell.api.archive import Archive
    from stepwell.api.asking.acts import Act
    from stepwell.api.async_engine import AsyncEngine
    from stepwell.api.awaited.async_handles import AsyncQueueHandle, AsyncRun, AsyncTransaction
    from stepwell.api.awaited.async_schedules import AsyncScheduleHandle
    from stepwell.api.backup import Backup, Verification, verify
    from stepwell.api.blocking.handles import OpenTransaction, QueueHandle, Run
    from stepwell.api.blocking.schedules import DeclaredSchedules, ScheduleHandle
    from stepwell.api.check import Check, PatchCheck, RunCheck, check
    from stepwell.api.engine import Engine
    from stepwell.api.reading.bulk import BulkInfo
    from stepwell.api.reading.chapters import ChapterInfo
    from stepwell.api.reading.progress_views import ProgressInfo
    from stepwell.api.reading.promise_views import PromiseInfo
    from stepwell.api.reading.schedule_views import ScheduleInfo, TickInfo
    from stepwell.api.reading.streams import AsyncStreamReader, StreamItem, StreamReader
    from stepwell.api.reading.views import JournalEntry, QueueInfo, RunInfo, WaitInfo
    from stepwell.api.restore import Restoration, restore
    from stepwell.definitions.decorators import step, transaction, workflow
    from stepwell.definitions.definition import Step, Transaction, Workflow
    from stepwell.definitions.queues import Batch, Limit, Queue, Rate
    from stepwell.definitions.reports import Progress
    from stepwell.definitions.schedules import Every, Schedule
    from stepwell.definitions.step_info import Current, RunContext, StepInfo
    from stepwell.errors import (
        ClaimLost,
        DefinitionError,
        DeterminismError,
        DuplicateRun,
        EngineClosed,
        EngineInUse,
        FileInUse,
        FileNotUsable,
        HandlerNotFound,
        InvalidArgument,
        InvalidFilter,
        JournalTooLong,
        LoopMethodMissing,
        MapFailed,
        PayloadTooLarge,
        PermanentError,
        PollTimeout,
        PromiseEnded,
        PromiseNotFound,
        PromiseRejected,
        PromiseTimedOut,
        QueryFailed,
        QueueNotFound,
        ReadTooLong,
        ResultNotSerializable,
        RetryLater,
        RunCancelled,
        RunConflict,
        RunCrashed,
        RunDeadlineExceeded,
        RunEnded,
        RunFailed,
        RunHalted,
        RunNotEnded,
        RunNotFound,
        RunNotPaused,
        RunNotQueued,
        RunPaused,
        RunUndone,
        ScheduleNotFound,
        SchemaTooNew,
        SecondSqliteError,
        SerializationError,
        StepFailed,
        StepInterrupted,
        StepProcessDied,
        StepTimeout,
        StepwellError,
        StorageFull,
        StoreError,
        StoreFailed,
        StoreUnavailable,
        StreamClosed,
        StreamFull,
        TransactionError,
        UndoFailed,
        UpdateFailed,
        UpdateRefused,
        WorkflowCodeError,
        WorkflowIOError,
    )
    from stepwell.model.clock import Clock
    from stepwell.model.failed_run import FailedRun
    from stepwell.model.promise import Form
    from stepwell.model.retry import Retry
    from stepwell.operations.child import ChildRun, start
    from stepwell.operations.context import current, get_logger
    from stepwell.operations.continue_as_new import continue_as_new
    from stepwell.operations.derived import now, random, uuid4
    from stepwell.operations.describe import set_attributes
    from stepwell.operations.handlers import query, update
    from stepwell.operations.map import ItemResult, map
    from stepwell.operations.other_run import OtherRun, get_run
    from stepwell.operations.other_run import list as list  # not in __all__: a star import would hide the type
    from stepwell.operations.patch import patched
    from stepwell.operations.poll import poll_until
    from stepwell.operations.promise import Promise, promise
    from stepwell.operations.publish import publish
    from stepwell.operations.receive import receive
    from stepwell.operations.run_step import run_step
    from stepwell.operations.saga import Saga, saga
    from stepwell.operations.schedule import last_failure, last_result, scheduled_at
    from stepwell.operations.send import send
    from stepwell.operations.stream import Stream, stream
    from stepwell.operations.timer import sleep_until
    from stepwell.values.failure_info import FailureInfo
    from stepwell.values.own_tables import Connection, Rows

__version__ = "0.1.0"

#: Where each public name is defined, by module.
_HOMES = {
    "stepwell.api.reading.progress_views": ("ProgressInfo",),
    "stepwell.api.reading.promise_views": ("PromiseInfo",),
    "stepwell.definitions.reports": ("Progress",),
    "stepwell.model.promise": ("Form",),
    "stepwell.model.failed_run": ("FailedRun",),
    "stepwell.operations.poll": ("poll_until",),
    "stepwell.operations.promise": ("Promise", "promise"),
    "stepwell.api.awaited.async_schedules": ("AsyncScheduleHandle",),
    "stepwell.api.blocking.schedules": (
        "DeclaredSchedules",
        "ScheduleHandle",
    ),
    "stepwell.api.reading.schedule_views": (
        "ScheduleInfo",
        "TickInfo",
    ),
    "stepwell.definitions.schedules": (
        "Every",
        "Schedule",
    ),
    "stepwell.operations.schedule": (
        "last_failure",
        "last_result",
        "scheduled_at",
    ),
    "stepwell.api.async_engine": ("AsyncEngine",),
    "stepwell.api.awaited.async_handles": ("AsyncQueueHandle", "AsyncRun", "AsyncTransaction"),
    "stepwell.model.clock": ("Clock",),
    "stepwell.definitions.step_info": (
        "Current",
        "RunContext",
        "StepInfo",
    ),
    "stepwell.definitions.decorators": ("step", "transaction", "workflow"),
    "stepwell.definitions.definition": ("Step", "Transaction", "Workflow"),
    "stepwell.api.archive": ("Archive",),
    "stepwell.api.backup": ("Backup", "Verification", "verify"),
    "stepwell.api.check": ("Check", "PatchCheck", "RunCheck", "check"),
    "stepwell.api.engine": ("Engine",),
    "stepwell.api.restore": ("Restoration", "restore"),
    "stepwell.api.blocking.handles": (
        "OpenTransaction",
        "QueueHandle",
        "Run",
    ),
    "stepwell.errors": (
        "ClaimLost",
        "DefinitionError",
        "DeterminismError",
        "DuplicateRun",
        "EngineClosed",
        "EngineInUse",
        "FileInUse",
        "FileNotUsable",
        "HandlerNotFound",
        "InvalidArgument",
        "InvalidFilter",
        "JournalTooLong",
        "LoopMethodMissing",
        "MapFailed",
        "PayloadTooLarge",
        "PermanentError",
        "QueryFailed",
        "PromiseEnded",
        "PromiseNotFound",
        "PromiseRejected",
        "PromiseTimedOut",
        "QueueNotFound",
        "ReadTooLong",
        "ResultNotSerializable",
        "RetryLater",
        "RunCancelled",
        "RunConflict",
        "RunCrashed",
        "RunDeadlineExceeded",
        "RunEnded",
        "RunFailed",
        "RunHalted",
        "RunNotEnded",
        "RunNotPaused",
        "RunNotQueued",
        "RunPaused",
        "RunUndone",
        "RunNotFound",
        "ScheduleNotFound",
        "SchemaTooNew",
        "SecondSqliteError",
        "SerializationError",
        "StepFailed",
        "StepInterrupted",
        "StepProcessDied",
        "PollTimeout",
        "StepTimeout",
        "StepwellError",
        "StorageFull",
        "StoreError",
        "StoreFailed",
        "StoreUnavailable",
        "StreamClosed",
        "StreamFull",
        "TransactionError",
        "UndoFailed",
        "UpdateFailed",
        "UpdateRefused",
        "WorkflowCodeError",
        "WorkflowIOError",
    ),
    "stepwell.values.failure_info": ("FailureInfo",),
    "stepwell.definitions.queues": (
        "Batch",
        "Limit",
        "Queue",
        "Rate",
    ),
    "stepwell.api.asking.acts": ("Act",),
    "stepwell.api.reading.chapters": ("ChapterInfo",),
    "stepwell.api.reading.bulk": ("BulkInfo",),
    "stepwell.api.reading.views": (
        "JournalEntry",
        "QueueInfo",
        "RunInfo",
        "WaitInfo",
    ),
    "stepwell.operations.child": ("ChildRun", "start"),
    "stepwell.operations.context": ("current", "get_logger"),
    "stepwell.operations.continue_as_new": ("continue_as_new",),
    "stepwell.operations.derived": ("now", "random", "uuid4"),
    "stepwell.operations.handlers": ("query", "update"),
    "stepwell.operations.describe": ("set_attributes",),
    "stepwell.operations.map": ("ItemResult", "map"),
    "stepwell.operations.other_run": ("OtherRun", "get_run", "list"),
    "stepwell.operations.patch": ("patched",),
    "stepwell.operations.publish": ("publish",),
    "stepwell.operations.receive": ("receive",),
    "stepwell.operations.run_step": ("run_step",),
    "stepwell.operations.saga": ("Saga", "saga"),
    "stepwell.operations.send": ("send",),
    "stepwell.operations.stream": ("Stream", "stream"),
    "stepwell.api.reading.streams": ("AsyncStreamReader", "StreamItem", "StreamReader"),
    "stepwell.operations.timer": ("sleep_until",),
    "stepwell.values.own_tables": (
        "Connection",
        "Rows",
    ),
    "stepwell.model.retry": ("Retry",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name == "sync":
        return import_module("stepwell.sync")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    with without_collector():
        value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> Any:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    "Act",
    "Archive",
    "AsyncEngine",
    "AsyncQueueHandle",
    "AsyncRun",
    "AsyncScheduleHandle",
    "AsyncStreamReader",
    "AsyncTransaction",
    "Backup",
    "Batch",
    "BulkInfo",
    "ChapterInfo",
    "Check",
    "ChildRun",
    "ClaimLost",
    "Clock",
    "Connection",
    "Current",
    "DeclaredSchedules",
    "DefinitionError",
    "DeterminismError",
    "DuplicateRun",
    "Engine",
    "EngineClosed",
    "EngineInUse",
    "Every",
    "FailedRun",
    "FailureInfo",
    "FileInUse",
    "FileNotUsable",
    "Form",
    "HandlerNotFound",
    "InvalidArgument",
    "InvalidFilter",
    "ItemResult",
    "JournalEntry",
    "JournalTooLong",
    "Limit",
    "LoopMethodMissing",
    "MapFailed",
    "OpenTransaction",
    "OtherRun",
    "PatchCheck",
    "PayloadTooLarge",
    "PermanentError",
    "PollTimeout",
    "Progress",
    "ProgressInfo",
    "Promise",
    "PromiseEnded",
    "PromiseInfo",
    "PromiseNotFound",
    "PromiseRejected",
    "PromiseTimedOut",
    "QueryFailed",
    "Queue",
    "QueueHandle",
    "QueueInfo",
    "QueueNotFound",
    "Rate",
    "ReadTooLong",
    "Restoration",
    "ResultNotSerializable",
    "Retry",
    "RetryLater",
    "Rows",
    "Run",
    "RunCancelled",
    "RunCheck",
    "RunConflict",
    "RunContext",
    "RunCrashed",
    "RunDeadlineExceeded",
    "RunEnded",
    "RunFailed",
    "RunHalted",
    "RunInfo",
    "RunNotEnded",
    "RunNotFound",
    "RunNotPaused",
    "RunNotQueued",
    "RunPaused",
    "RunUndone",
    "Saga",
    "Schedule",
    "ScheduleHandle",
    "ScheduleInfo",
    "ScheduleNotFound",
    "SchemaTooNew",
    "SecondSqliteError",
    "SerializationError",
    "Step",
    "StepFailed",
    "StepInfo",
    "StepInterrupted",
    "StepProcessDied",
    "StepTimeout",
    "StepwellError",
    "StorageFull",
    "StoreError",
    "StoreFailed",
    "StoreUnavailable",
    "Stream",
    "StreamClosed",
    "StreamFull",
    "StreamItem",
    "StreamReader",
    "TickInfo",
    "Transaction",
    "TransactionError",
    "UndoFailed",
    "UpdateFailed",
    "UpdateRefused",
    "Verification",
    "WaitInfo",
    "Workflow",
    "WorkflowCodeError",
    "WorkflowIOError",
    "check",
    "continue_as_new",
    "current",
    "get_logger",
    "get_run",
    "last_failure",
    "last_result",
    "map",
    "now",
    "patched",
    "poll_until",
    "promise",
    "publish",
    "query",
    "random",
    "receive",
    "restore",
    "run_step",
    "saga",
    "scheduled_at",
    "send",
    "set_attributes",
    "sleep_until",
    "start",
    "step",
    "stream",
    "sync",
    "transaction",
    "update",
    "uuid4",
    "verify",
    "workflow",
]
