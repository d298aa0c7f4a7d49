"""What is read of streams and promises: a part of the `ReadService`, in a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stepwell.api.asking.listing_options import MAX_PAGE
from stepwell.api.reading.overview import EngineTime, OverviewService
from stepwell.api.reading.views import to_datetime
from stepwell.errors import InvalidArgument, RunNotFound
from stepwell.model.lifecycle import ENDED
from stepwell.model.promise import PromiseRecord
from stepwell.shown import shown
from stepwell.store.inspector import Inspector
from stepwell.store.streams import StreamItemRow, StreamSummary
from stepwell.values.codec import Codec

if TYPE_CHECKING:  # loaded with the first stream or promise that is looked at
    from stepwell.api.reading.promise_views import PromiseInfo
    from stepwell.api.reading.streams import ShownPage, StreamItem, StreamPage


class TalkReads(OverviewService):
    """The part of `ReadService` that is here; `location` and `run_listing` are its."""

    def __init__(
        self,
        inspector: Inspector,
        codec: Codec,
        time_now: Callable[[], EngineTime],
        *,
        location: str,
        run_listing: str,
    ) -> None:
        super().__init__(inspector, codec, time_now)
        self._location: Final = location
        self._run_listing: Final = run_listing

    # --- streams -----------------------------------------------------------------------------------------------------

    def stream_page(self, run_id: str, name: str, start: int, limit: int, last_attempt: bool) -> StreamPage:
        """Return a page of a stream, from an offset on; one below 0 counts from the end. Raises `RunNotFound`."""
        from stepwell.api.reading.streams import StreamPage

        # How it stands is read first: what is over then is so behind all items that are read next.
        facts = self._inspector.stream(run_id, name)
        if facts is None:
            raise RunNotFound(f"{self._location} has no run {run_id!r}; {self._run_listing} lists them")
        begin = max(facts.first, facts.next + start) if start < 0 else start
        rows: list[StreamItemRow] = []
        if facts.key:
            rows = self._inspector.stream_items(facts.run, name, begin, limit, last_attempt=last_attempt)
        has_more = len(rows) == limit
        following = rows[-1].offset + 1 if rows else begin
        if not has_more:  # what is between the two is superseded
            following = max(following, facts.next)
        over = not has_more and (facts.closed_by is not None or facts.status in ENDED)
        return StreamPage(rows, following, over, has_more, facts.ahead)

    def stream_shown(self, run_id: str, name: str, start: int, limit: int, last_attempt: bool) -> ShownPage:
        """Return a page of a stream, values as plain JSON data; as `stream_page`."""
        from stepwell.api.reading.streams import ShownPage, StreamItem

        page = self.stream_page(run_id, name, start, limit, last_attempt)
        where = f"an item of stream {name!r} of run {run_id!r}"
        items: list[StreamItem[Any]] = []
        for row in page.items:
            at = to_datetime(row.at, page.ahead)
            assert at is not None
            items.append(StreamItem(self._codec.show(row.value, where), row.offset, row.op, row.attempt, at))
        return ShownPage(items, page.following, page.over, page.has_more)

    def streams(self, run_id: str) -> list[StreamSummary]:
        """Return the streams of a run, by name; raises `RunNotFound`."""
        return self._inspector.streams(self.record(run_id).key)

    # --- promises ----------------------------------------------------------------------------------------------------

    def promise(self, token: str) -> PromiseRecord:
        """Return the promise with this token, open or not; raises `PromiseNotFound`."""
        if not isinstance(token, str):
            raise InvalidArgument(f"the token of a promise must be text, not {shown(token)}")
        found = self._inspector.promise(token) if token.isascii() else None  # no other text is one
        if found is None:
            from stepwell.runtime.serving.promise_requests import unknown_token

            raise unknown_token()
        return found

    def promises(self, most: int | None = None, run_id: str | None = None) -> list[PromiseInfo]:
        """Return the open promises of runs that have not ended, or of one run, the oldest first, at most so many.

        Raises `RunNotFound`.
        """
        from stepwell.api.reading.promise_views import PromiseInfo

        found: list[PromiseInfo] = []
        run, after = None if run_id is None else self.record(run_id).key, 0
        limit = MAX_PAGE if most is None else min(most, MAX_PAGE)
        while page := self._inspector.promises_open(after, limit, run):
            found += [PromiseInfo.of(record, self._codec) for record in page]
            after = page[-1].number
            if most is not None and len(found) >= most:
                break
        return found[:most]

    def promise_info(self, token: str) -> PromiseInfo:
        """Return how the promise with this token asks, open or not; raises `PromiseNotFound`."""
        from stepwell.api.reading.promise_views import PromiseInfo

        return PromiseInfo.of(self.promise(token), self._codec)
