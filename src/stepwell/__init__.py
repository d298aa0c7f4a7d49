"""Durable workflows for Python whose whole state is one SQLite file.

The public names, nothing else. Each is imported when it is first used, so that a program that only defines workflows,
or a command line that only prints its help, does not wait for asyncio and SQLite.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell import sync
    from stepwell.async_engine import AsyncEngine, AsyncQueueHandle, AsyncRun, AsyncTransaction
    from stepwell.clock import Clock
    from stepwell.context import Current, RunContext, StepInfo
    from stepwell.definition import (
        Step,
        Transaction,
        Workflow,
        step,
        transaction,
        workflow,
    )
    from stepwell.engine import Engine, OpenTransaction, QueueHandle, Run
    from stepwell.errors import (
        ClaimLost,
        DefinitionError,
        DeterminismError,
        DuplicateRun,
        EngineClosed,
        FileInUse,
        FileNotUsable,
        InvalidArgument,
        LoopMethodMissing,
        PayloadTooLarge,
        PermanentError,
        QueueNotFound,
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
        TransactionError,
        WorkflowCodeError,
        WorkflowIOError,
    )
    from stepwell.failure_info import FailureInfo
    from stepwell.flow import Batch, Limit, Queue, Rate
    from stepwell.handles import JournalEntry, QueueInfo, RunInfo, WaitInfo
    from stepwell.operations import (
        ChildRun,
        current,
        get_logger,
        map,
        now,
        patched,
        publish,
        random,
        receive,
        send,
        sleep_until,
        start,
        uuid4,
    )
    from stepwell.own_tables import Connection, Rows
    from stepwell.retry import Retry

__version__ = "0.1.0"

#: Where each public name is defined, by module.
_HOMES = {
    "stepwell.async_engine": (
        "AsyncEngine",
        "AsyncQueueHandle",
        "AsyncRun",
        "AsyncTransaction",
    ),
    "stepwell.clock": ("Clock",),
    "stepwell.context": (
        "Current",
        "RunContext",
        "StepInfo",
    ),
    "stepwell.definition": (
        "Step",
        "Transaction",
        "Workflow",
        "step",
        "transaction",
        "workflow",
    ),
    "stepwell.engine": (
        "Engine",
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
        "FileInUse",
        "FileNotUsable",
        "InvalidArgument",
        "LoopMethodMissing",
        "PayloadTooLarge",
        "PermanentError",
        "QueueNotFound",
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
        "RunNotFound",
        "SchemaTooNew",
        "SecondSqliteError",
        "SerializationError",
        "StepFailed",
        "StepInterrupted",
        "StepProcessDied",
        "StepTimeout",
        "StepwellError",
        "StorageFull",
        "StoreError",
        "StoreFailed",
        "StoreUnavailable",
        "TransactionError",
        "WorkflowCodeError",
        "WorkflowIOError",
    ),
    "stepwell.failure_info": ("FailureInfo",),
    "stepwell.flow": (
        "Batch",
        "Limit",
        "Queue",
        "Rate",
    ),
    "stepwell.handles": (
        "JournalEntry",
        "QueueInfo",
        "RunInfo",
        "WaitInfo",
    ),
    "stepwell.operations": (
        "ChildRun",
        "current",
        "get_logger",
        "map",
        "now",
        "patched",
        "publish",
        "random",
        "receive",
        "send",
        "sleep_until",
        "start",
        "uuid4",
    ),
    "stepwell.own_tables": (
        "Connection",
        "Rows",
    ),
    "stepwell.retry": ("Retry",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name == "sync":
        return import_module("stepwell.sync")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    "AsyncEngine",
    "AsyncQueueHandle",
    "AsyncRun",
    "AsyncTransaction",
    "Batch",
    "ChildRun",
    "ClaimLost",
    "Clock",
    "Connection",
    "Current",
    "DefinitionError",
    "DeterminismError",
    "DuplicateRun",
    "Engine",
    "EngineClosed",
    "FailureInfo",
    "FileInUse",
    "FileNotUsable",
    "InvalidArgument",
    "JournalEntry",
    "Limit",
    "LoopMethodMissing",
    "OpenTransaction",
    "PayloadTooLarge",
    "PermanentError",
    "Queue",
    "QueueHandle",
    "QueueInfo",
    "QueueNotFound",
    "Rate",
    "ResultNotSerializable",
    "Retry",
    "RetryLater",
    "Rows",
    "Run",
    "RunCancelled",
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
    "Transaction",
    "TransactionError",
    "WaitInfo",
    "Workflow",
    "WorkflowCodeError",
    "WorkflowIOError",
    "current",
    "get_logger",
    "map",
    "now",
    "patched",
    "publish",
    "random",
    "receive",
    "send",
    "sleep_until",
    "start",
    "step",
    "sync",
    "transaction",
    "uuid4",
    "workflow",
]
