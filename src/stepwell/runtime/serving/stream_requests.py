"""Serves what steps say while they execute, and what callers ask about streams."""

from __future__ import annotations

from stepwell.definitions.saying import ProgressMade, PublishedValue, StreamItems
from stepwell.definitions.step_call import StepCall
from stepwell.errors import StepwellError
from stepwell.runtime.serving.requests import FromStep, TruncateStream
from stepwell.store.changes import ValuePublished
from stepwell.store.streams import StreamTruncated, adds_only
from stepwell.worker.state import facts
from stepwell.worker.state.unit_of_work import Reply
from stepwell.worker.steps.streams import written
from stepwell.worker.worker import Worker


class StreamRequests:
    """Turns requests into work for a worker; belongs to the worker's thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def serve(self, request: FromStep | TruncateStream, reply: Reply) -> None:
        """Serve one of these requests."""
        if isinstance(request, FromStep):
            self._from_step(request, reply)
        else:
            self._truncate(request, reply)

    def _from_step(self, request: FromStep, reply: Reply) -> None:
        """Serve a `FromStep`: only the attempt that its run waits for is heard."""
        attempts: StepCall = request.attempts
        runs = self._worker.runs
        run = runs.memory.runs.get(attempts.run_key)
        if (
            run is None
            or not attempts.wanted
            or attempts.attempt != request.number
            or attempts.retry_at is not None
            or run.calls.get(attempts.operation) is not attempts
        ):
            raise StepwellError(
                f"step {attempts.name!r} of run {attempts.run_id!r} was cancelled or its time is up, so what it writes "
                "is not recorded"
            )
        said = request.said
        if isinstance(said, ProgressMade):
            self._worker.progress.heard(attempts)
            reply(None, None)
            return
        if isinstance(said, PublishedValue):
            work = runs.batch.lone_work()
            work.changes.append(ValuePublished(run.key, said.key, said.value, runs.now, runs.epoch))
            work.afterwards(lambda: facts.ValuePublished(run.key, said.key, said.value))
        else:
            assert isinstance(said, StreamItems)
            change = written(
                runs,
                run,
                said,
                attempts.operation,
                attempt=attempts.attempt,
                interruptions=attempts.interruptions,
            )
            if isinstance(change, StepwellError):
                raise change
            if adds_only(change):
                work, is_new = runs.batch.shared_work((run.key, said.name))
            else:
                runs.batch.share_no_more((run.key, said.name))
                work, is_new = runs.batch.lone_work(), True
            work.changes.append(change)
            if is_new:
                work.afterwards(lambda: facts.StreamGrew(run.key, said.name))
        work.answer(reply, None)

    def _truncate(self, request: TruncateStream, reply: Reply) -> None:
        """Serve a `TruncateStream`."""
        work = self._worker.batch.lone_work()

        def truncated(number: int) -> None:
            reply(number, None)

        work.then(StreamTruncated(request.run_id, request.name, request.before), truncated, lambda e: reply(None, e))
