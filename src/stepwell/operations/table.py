"""The kinds of operations, one a row: what replay, the worker and whoever shows a journal know of them follows.

The runtime hands the table to the worker, and that to each execution: both are below this package.
"""

from __future__ import annotations

from typing import Final

from stepwell.operations.child import START
from stepwell.operations.describe import DESCRIBE
from stepwell.operations.handlers import ANSWER
from stepwell.operations.other_run import LOOK
from stepwell.operations.patch import PATCH
from stepwell.operations.promise import PROMISE
from stepwell.operations.publish import PUBLISH
from stepwell.operations.receive import RECEIVE
from stepwell.operations.result import RESULT
from stepwell.operations.send import SEND
from stepwell.operations.step import STEP
from stepwell.operations.stream import STREAM
from stepwell.operations.timer import TIMER
from stepwell.worker.state.operation_kinds import OperationTable

OPERATIONS: Final = OperationTable(
    (STEP, TIMER, RECEIVE, SEND, PUBLISH, STREAM, START, RESULT, PATCH, PROMISE, DESCRIBE, ANSWER, LOOK)
)
