"""Who waits for what: the end of a run, a published value, a moment without work.

Waiters live in memory only; what they wait for is in the file. A caller that dies waits again with the next engine.
Everything here happens on the engine's thread, and each reply is called once.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final, TypeVar

import msgspec

from stepwell.errors import RunEnded, RunNotFound, StepwellError
from stepwell.model.journal import Payload
from stepwell.model.lifecycle import ENDED
from stepwell.model.run import RunRecord
from stepwell.model.updates import UpdateAnswer, called
from stepwell.runtime.serving.requests import WaitForIdle, WaitForRun, WaitForStream, WaitForValue
from stepwell.store.store import Store
from stepwell.worker.rules.stuck import stuck_runs, why_stuck
from stepwell.worker.state.commit_batch import CommitBatch
from stepwell.worker.state.run_cache import RunCache
from stepwell.worker.state.run_over import RunOver
from stepwell.worker.state.unit_of_work import Reply

K = TypeVar("K")

#: How many runs are looked at with one read.
_LOOK_CHUNK: Final = 500


class _Update(msgspec.Struct):
    """Who waits for an update of a run, which is called `name` as a message."""

    run_id: str
    name: str
    replies: list[Reply]


class Waiters:
    """The replies of one engine that are still to come.

    `memory` knows runs that have not ended, `batch` those that have, but whose end is not committed yet, `claiming` has
    the keys of those that are about to be carried on. While anyone
    waits, the store is asked to tell of ends in other processes, and asked before the run is looked at: what happens
    between the two is told, what happened before is seen.
    """

    def __init__(self, store: Store, memory: RunCache, batch: CommitBatch, claiming: AbstractSet[int]) -> None:
        self._store = store
        self._claiming = claiming
        self._memory = memory
        self._batch = batch
        self._of_runs: dict[str, list[Reply]] = {}
        self._of_values: dict[tuple[int, str], list[Reply]] = {}
        self._of_streams: dict[tuple[int, str], list[Reply]] = {}
        self._of_updates: dict[tuple[int, str], _Update] = {}  # by run and key
        self._ids: dict[int, str] = {}  # of the runs in `_of_runs`, by key
        self._listening = False
        self.idle: list[Reply] = []

    def serve(self, request: WaitForRun | WaitForValue | WaitForStream | WaitForIdle, reply: Reply) -> None:
        """Serve one of these requests."""
        match request:
            case WaitForRun():
                self.run(request, reply)
            case WaitForValue():
                self.value(request, reply)
            case WaitForStream():
                self.stream(request, reply)
            case WaitForIdle():
                self.when_idle(reply)

    def run(self, request: WaitForRun, reply: Reply) -> None:
        """Serve a `WaitForRun`."""
        run_id = request.run_id
        self._listen()
        run = self._memory.by_id(run_id)
        if run is not None:
            key = run.key
        else:
            record = self._record(run_id)
            # Of a halted run that is tried again, or was and has ended, it is told when that is committed.
            tried_again = record.key in self._batch.ending or record.key in self._claiming
            if record.status in ENDED or (record.status == "halted" and not tried_again):
                over = RunOver.of(record)
                reply(over, None)
                return
            key = record.key
        self._ids[key] = run_id
        self._of_runs.setdefault(run_id, []).append(reply)

    def value(self, request: WaitForValue, reply: Reply) -> None:
        """Serve a `WaitForValue`."""
        run_id, key = request.run_id, request.key
        self._listen()
        record = self._record(run_id)
        if not self._tell_value(record.key, key, [reply]):
            if record.status in ENDED:
                raise _will_not_publish(run_id, key, record.status)
            self._of_values.setdefault((record.key, key), []).append(reply)

    def stream(self, request: WaitForStream, reply: Reply) -> None:
        """Serve a `WaitForStream`."""
        self._listen()
        found = self._store.inspector.stream(request.run_id, request.name)
        if found is None:
            raise RunNotFound(f"{self._store.location} has no run {request.run_id!r}")
        if found.next > request.after or found.closed_by is not None or found.status in ENDED:
            reply(None, None)
        else:
            self._of_streams.setdefault((found.run, request.name), []).append(reply)

    def stream_grew(self, run: int, name: str) -> None:
        """Tell whoever waits for more of this stream, so that they look."""
        if self._of_streams:
            for reply in self._of_streams.pop((run, name), ()):
                reply(None, None)

    def _streams_changed(self, keys: AbstractSet[int] | None) -> None:
        """Have all look who wait for streams of the runs with these keys, None for all."""
        for place in [place for place in self._of_streams if keys is None or place[0] in keys]:
            self.stream_grew(*place)

    def update(self, run: int, run_id: str, name: str, key: str, reply: Reply, *, is_new: bool) -> None:
        """Tell how an update was answered, as soon as it is. `is_new`: it was recorded just now, for an own run."""
        self._listen()  # before the look: an answer that comes between the two is told of
        known = None if is_new else self._store.reads.update(run, key)
        if known is not None and known.is_answered:
            reply(known, None)
            return
        if not is_new and (known is None or run not in self._memory):
            refusal = self._no_answer(run_id, name, is_known=known is not None)
            if refusal is not None:
                reply(None, refusal)
                return
        self._of_updates.setdefault((run, key), _Update(run_id, name, [])).replies.append(reply)

    def look_at_updates(self, keys: AbstractSet[int] | None) -> None:
        """Look whether updates of the runs with these keys, None for all, were answered elsewhere, or are gone."""
        for run, key in [place for place in self._of_updates if keys is None or place[0] in keys]:
            found = self._store.reads.update(run, key)
            if found is None:
                waiting = self._of_updates.pop((run, key))
                refusal = self._no_answer(waiting.run_id, waiting.name, is_known=False)
                for reply in waiting.replies:
                    reply(None, refusal)
            elif found.is_answered:
                self.answered(run, key, found.payload, found.failed)

    def _no_answer(self, run_id: str, name: str, *, is_known: bool) -> RunEnded | None:
        """Return why there will be no answer to an update, None where one may come; `is_known`: the file has it."""
        record = self._store.reads.run_by_id(run_id)
        if record is None or record.status in ENDED:
            return _will_not_answer(run_id, name, "purged" if record is None else record.status)
        if is_known:
            return None
        return RunEnded(
            f"a new run is in the place of the run {run_id!r} that {called(name)} was meant for, so it is answered no "
            "more; ask the new one"
        )

    def answered(self, run: int, key: str, payload: Payload, failed: bool) -> None:
        """Tell whoever waits for this update."""
        waiting = self._of_updates.pop((run, key), None)
        if waiting is not None:
            for reply in waiting.replies:
                reply(UpdateAnswer(waiting.name, True, failed, payload), None)

    def _record(self, run_id: str) -> RunRecord:
        record = self._store.reads.run_by_id(run_id)
        if record is None:
            raise RunNotFound(f"{self._store.location} has no run {run_id!r}")
        return record

    def _tell_value(self, run: int, key: str, replies: list[Reply]) -> bool:
        found = self._store.reads.value(run, key)
        for reply in replies if found is not None else ():
            reply(found[0] if found is not None else None, None)
        return found is not None

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._store.notifications.listen(True)

    def look(self, keys: set[int] | None) -> None:
        """Look whether the runs with these keys, None for all, ended or published elsewhere; an event."""
        if self._of_streams:
            self._streams_changed(keys)
        if not self._of_runs and not self._of_values and not self._of_updates:
            if keys is None and self._listening and not self._of_streams:
                self._listening = False
                self._store.notifications.listen(False)
            return
        self._tell_of_deleted(keys)
        # Ends are read before values, and told after them: what a run published together with its end is found so.
        over = self._ended_elsewhere(keys)
        for key, name in [place for place in self._of_values if keys is None or place[0] in keys]:
            if key not in self._memory and self._tell_value(key, name, self._of_values.get((key, name), [])):
                del self._of_values[key, name]
        self.look_at_updates(keys)
        self.run_over(over)

    def _tell_of_deleted(self, keys: set[int] | None) -> None:
        """Tell whoever waits for runs that were deleted elsewhere; a new run may have the id by now."""
        reads = self._store.reads
        wanted = list(self._ids) if keys is None else [key for key in self._ids if key in keys]
        runs = [(key, self._ids[key]) for key in wanted if key not in self._memory and key not in self._batch.ending]
        for start in range(0, len(runs), _LOOK_CHUNK):
            for key in reads.gone_among(runs[start : start + _LOOK_CHUNK]):
                run_id = self._ids.pop(key)
                record = reads.run_by_id(run_id)
                if record is not None:
                    self._ids[record.key] = run_id
                    if record.status in ENDED:
                        self.run_over([RunOver.of(record)])
                    continue
                for reply in self._of_runs.pop(run_id, ()):
                    reply(None, RunNotFound(f"run {run_id!r} was deleted before it had ended"))

    def _ended_elsewhere(self, keys: set[int] | None) -> list[RunOver]:
        """Return how those of the runs with these keys ended, None for all, that anyone waits for."""
        reads = self._store.reads
        wanted = self._ids if keys is None else self._ids.keys() & keys
        ids = [self._ids[key] for key in wanted if key not in self._memory and key not in self._batch.ending]
        over: list[RunOver] = []
        for start in range(0, len(ids), _LOOK_CHUNK):
            settled = reads.over_among(ids[start : start + _LOOK_CHUNK])
            # Of a halted run that is tried again it is told when that is committed.
            told = (record for record in settled if record.status in ENDED or record.key not in self._claiming)
            over += map(RunOver.of, told)
        places = (*self._of_values, *self._of_updates)
        awaited = {place[0] for place in places if keys is None or place[0] in keys}
        awaited = {key for key in awaited if key not in self._memory}
        for record in reads.records(list(awaited)):
            awaited.discard(record.key)
            if record.status in ENDED and record.key not in self._batch.ending:
                over.append(RunOver.of(record))
        for place in [place for place in self._of_values if place[0] in awaited]:
            for reply in self._of_values.pop(place):
                reply(None, RunNotFound(f"the run that was to publish {place[1]!r} was deleted before it had"))
        return over

    def look_at_stuck(self) -> None:
        """Tell whoever waits for runs that cannot go on, because what they wait for is halted; an event."""
        if self._of_runs:
            stuck = stuck_runs(self._store.inspector, self._store.reads)
            ids = [(run, cause) for run, cause in stuck.values() if run.id in self._of_runs]
            self.run_over([RunOver.halted(run.key, run.id, why_stuck(run, cause)) for run, cause in ids])

    def when_idle(self, reply: Reply) -> None:
        """Serve a `WaitForIdle`."""
        self.idle.append(reply)

    def run_over(self, over: list[RunOver]) -> None:
        """Tell whoever waits for these runs, or for a value that they will not publish any more."""
        for end in over:
            self._ids.pop(end.key, None)
            if self._of_streams and end.status in ENDED:
                self._streams_changed({end.key})
            for reply in self._of_runs.pop(end.id, ()):
                reply(end, None)
            if self._of_values and end.status in ENDED:
                for place in [place for place in self._of_values if place[0] == end.key]:
                    for reply in self._of_values.pop(place):
                        reply(None, _will_not_publish(end.id, place[1], end.status))
            if self._of_updates and end.status in ENDED:
                for place in [place for place in self._of_updates if place[0] == end.key]:
                    waiting = self._of_updates.pop(place)
                    for reply in waiting.replies:
                        reply(None, _will_not_answer(end.id, waiting.name, end.status))

    def published(self, run: int, key: str, value: Payload) -> None:
        """Tell whoever waits for this value."""
        for reply in self._of_values.pop((run, key), ()):
            reply(value, None)

    def tell_idle(self, due: int | None) -> None:
        """Tell whoever waits for a moment without work that it has come; `due` is when it ends by itself."""
        replies, self.idle = self.idle, []
        for reply in replies:
            reply(due, None)

    def refuse(self, error: StepwellError) -> None:
        """Tell everyone that nothing will come any more, and why."""
        updates = [waiting.replies for waiting in self._of_updates.values()]
        waiting = [*self._of_runs.values(), *self._of_values.values(), *self._of_streams.values(), *updates, self.idle]
        self._of_runs, self._of_values, self._of_streams, self._of_updates, self.idle = {}, {}, {}, {}, []
        self._ids.clear()
        for replies in waiting:
            for reply in replies:
                reply(None, error)

    def _forget_update(self, reply: Reply) -> bool:
        for place, waiting in self._of_updates.items():
            if reply in waiting.replies:
                waiting.replies.remove(reply)
                if not waiting.replies:
                    del self._of_updates[place]
                return True
        return False

    def forget(self, reply: Reply) -> None:
        """Drop a reply that nobody waits for any more; an event."""
        if reply in self.idle:
            self.idle.remove(reply)
        elif self._forget_update(reply) or _drop(reply, self._of_values) or _drop(reply, self._of_streams):
            return
        elif _drop(reply, self._of_runs):
            self._ids = {key: run_id for key, run_id in self._ids.items() if run_id in self._of_runs}


def _will_not_answer(run_id: str, name: str, status: str) -> RunEnded:
    remedy = "" if status == "completed" else "; where it is retried, ask again with the same key"
    return RunEnded(f"run {run_id!r} is {status}, and had not answered {called(name)}{remedy}")


def _drop(reply: Reply, waiters: dict[K, list[Reply]]) -> bool:
    for place, replies in waiters.items():
        if reply in replies:
            replies.remove(reply)
            if not replies:
                del waiters[place]
            return True
    return False


def _will_not_publish(run_id: str, key: str, status: str) -> RunEnded:
    return RunEnded(f"run {run_id!r} is {status} and never published {key!r}")
