"""Reading events over HTTP: queries, as pages or as a stream of lines, and one event by its id."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import hdrs
from aiohttp.web import StreamResponse

from allsource_core.api.admission import Admission
from allsource_core.api.answers import add_lines
from allsource_core.api.call import Call, Handler, encoded_response
from allsource_core.api.cursors import decode_cursor, encode_cursor
from allsource_core.api.event_views import event_rows
from allsource_core.api.media import preferred_type
from allsource_core.api.memory_budget import UNCOUNTED_BYTES_MAX
from allsource_core.api.metrics import CoreMetrics
from allsource_core.api.problem_details import SERVER_NAME
from allsource_core.api.requests import parse_event_id, parse_query
from allsource_core.api.running_streams import RunningStreams
from allsource_core.api.warnings import warn_of_ignored
from allsource_core.api.written_rows import WrittenRows
from allsource_core.engine import (
    ENTITY_ID_BYTES_MAX,
    EVENT_TYPE_BYTES_MAX,
    TAG_BYTES_MAX,
    Event,
    EventQuery,
    EventStore,
    name_fault,
)
from allsource_core.tenancy.metering import Metering
from allsource_shared.context import REQUEST_ID_HEADER
from allsource_shared.problems import ApiError, ProblemItem
from allsource_shared.routes import NDJSON
from allsource_shared.wire.events import PAGE_LIMIT_DEFAULT, QueryParameters, ReadOptions
from allsource_shared.wire.times import to_microseconds

__all__ = ["ReadRoutes"]

_PAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A page ends early when its events exceed this; `next_cursor` goes on. 10,000 events may have 1 MiB each."""

_STREAM_WRITE_BYTES: Final = 256 * 1024
"""Bytes of events after which a stream hands over to the socket, which then slows it down to the reader's pace."""

_STREAM_BYTES: Final = 3 * 1024 * 1024
"""What a stream holds at most, about: the events that were read last, what is written of them, and which follow."""

_WAITING_MAX: Final = 100
"""Reads of one tenant that may wait for a position at a time, so that others find a connection."""

_PIECE_EVENTS_MAX: Final = 1024
"""Events that are written out, in about a millisecond, before others get their turn."""


_STREAM_TOKENS: Final = 9
"""That a stream of everything costs more than a page."""


class ReadRoutes:
    """Handlers of ``GET events/query`` and ``GET events/{event_id}``."""

    def __init__(
        self,
        store: EventStore,
        metrics: CoreMetrics,
        admission: Admission,
        metering: Metering,
        streams: RunningStreams,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._admission = admission
        self._metering = metering
        self._streams = streams
        self._waiting: Counter[str] = Counter()
        self._written = WrittenRows()

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "query_events": self.query_events,
            "get_event": self.get_event,
        }

    async def query_events(self, call: Call) -> StreamResponse:
        """``GET events/query``."""
        parameters = parse_query(call, QueryParameters)
        media = preferred_type(call)
        query = _to_query(parameters)
        if media == NDJSON:
            self._admission.charge_more(call, _STREAM_TOKENS)
        self._metering.query(call.principal.tenant_id)
        await self._caught_up(call, parameters)
        started = time.perf_counter()
        if media == NDJSON:
            with self._streams.watch(call):
                response = await self._stream(call, query)
        else:
            response = encoded_response(await self._page(call, query, parameters))
        self._metrics.queries.labels("stream" if media == NDJSON else "page").inc()
        self._metrics.query_seconds.observe(time.perf_counter() - started)
        return response

    async def _page(self, call: Call, query: EventQuery, parameters: QueryParameters) -> bytes:
        """An `EventPage`, encoded.

        Raises:
            ApiError: ``overloaded`` for a page that there is no memory for.
        """
        tenant_id = call.principal.tenant_id
        limit = parameters.limit or PAGE_LIMIT_DEFAULT
        # One more than asked for tells whether there is a next page.
        query = msgspec.structs.replace(query, limit=limit + 1)
        parts: list[bytes] = []
        count = size = last_position = 0
        next_cursor = b"null"
        async with aclosing(self._store.read_async(tenant_id, query)) as chunks, aclosing(_pieces(chunks)) as pieces:
            async for events in pieces:
                wanted = events[: limit - count]
                taken = 0
                if wanted and size <= _PAGE_BYTES_MAX:
                    rows, taken = self._written.write(wanted, _PAGE_BYTES_MAX - size)
                    parts.append(rows)
                    size += len(rows)
                    if size > UNCOUNTED_BYTES_MAX:
                        call.keep(size)
                    count += taken
                    last_position = wanted[taken - 1].position
                if taken < len(events):
                    next_cursor = b'"%b"' % encode_cursor(last_position, parameters).encode()
                    break
        first = b""
        if query.entity_id is not None and parameters.cursor is None:
            # Looked up last: what was removed meanwhile may still be on the page, and nothing is missing unsaid.
            first = b',"first_version":%d' % await self._store.first_version_async(tenant_id, query.entity_id)
        return b'{"events":[%b],"count":%d,"next_cursor":%b%b}' % (b",".join(parts), count, next_cursor, first)

    async def _stream(self, call: Call, query: EventQuery) -> StreamResponse:
        """Lines, as they are read.

        Raises:
            ApiError: ``overloaded``, before anything is sent, where there is no memory for another stream.
            ConnectionError: the reader is gone, or has stopped reading.
        """
        if call.request.method != hdrs.METH_HEAD:
            call.keep(_STREAM_BYTES)
        response = StreamResponse(
            headers={"Content-Type": NDJSON, REQUEST_ID_HEADER: call.ids.request_id, hdrs.SERVER: SERVER_NAME}
        )
        add_lines(response.headers, call.rate_lines)
        warn_of_ignored(response, call.ignored)
        await response.prepare(call.request)
        if call.request.method == hdrs.METH_HEAD:
            # aiohttp would write the lines all the same, and the caller take them for the next answer.
            await response.write_eof()
            return response
        rows: list[bytes] = []
        size = 0
        async with (
            aclosing(self._store.read_async(call.principal.tenant_id, query)) as chunks,
            aclosing(_pieces(chunks)) as pieces,
        ):
            async for events in pieces:
                for row in event_rows(events):
                    rows.append(row)
                    size += len(row)
                    if size >= _STREAM_WRITE_BYTES:
                        await _write(response, rows)
                        rows, size = [], 0
                if rows:
                    await _write(response, rows)
                    rows, size = [], 0
        await response.write_eof()
        call.check_reader()
        return response

    async def get_event(self, call: Call) -> StreamResponse:
        """``GET events/{event_id}``."""
        options = parse_query(call, ReadOptions)
        event_id = parse_event_id(call.match.parameters["event_id"])
        self._metering.query(call.principal.tenant_id)
        await self._caught_up(call, options)
        started = time.perf_counter()
        event = await self._store.get_async(call.principal.tenant_id, event_id)
        self._metrics.queries.labels("by_id").inc()
        self._metrics.query_seconds.observe(time.perf_counter() - started)
        if event is None:
            raise ApiError("not_found", f"there is no event {event_id}")
        return encoded_response(next(event_rows((event,))))

    async def _caught_up(self, call: Call, options: ReadOptions) -> None:
        """Wait for the position that the caller wants to see.

        Raises:
            ApiError: ``not_yet``, with the position reached; ``rate_limited`` if too many of the tenant's wait; after
                waiting, as `Call.recheck`.
        """
        if options.min_position <= self._store.last_position:
            return
        tenant_id = call.principal.tenant_id
        if self._waiting[tenant_id] >= _WAITING_MAX:
            detail = f"{_WAITING_MAX} reads of this tenant wait for a position already"
            raise ApiError("rate_limited", detail, headers={"Retry-After": "1"})
        self._waiting[tenant_id] += 1
        try:
            reached = await self._store.wait_for_position_async(options.min_position, options.wait_ms / 1000)
        finally:
            self._waiting[tenant_id] -= 1
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id]
        call.recheck(call)
        if not reached:
            raise ApiError(
                "not_yet",
                f"the store did not reach position {options.min_position} within {options.wait_ms} ms",
                expected=options.min_position,
                actual=self._store.last_position,
            )


async def _pieces(chunks: AsyncIterator[list[Event]]) -> AsyncGenerator[list[Event], None]:
    """The same events in shorter lists; others run between one and the next."""
    async for events in chunks:
        if len(events) <= _PIECE_EVENTS_MAX:
            yield events
            continue
        for start in range(0, len(events), _PIECE_EVENTS_MAX):
            yield events[start : start + _PIECE_EVENTS_MAX]
            await asyncio.sleep(0)


async def _write(response: StreamResponse, rows: list[bytes]) -> None:
    """Write lines at the reader's pace, if it has one.

    Raises:
        ConnectionResetError: the reader is gone, or has stopped reading.
    """
    rows.append(b"")
    await response.write(b"\n".join(rows))


def _to_query(parameters: QueryParameters) -> EventQuery:
    """What the engine is asked for.

    Raises:
        ApiError: ``bad_query`` for a name that no event can have, ``invalid_cursor``.
    """
    _check_name("entity_id", parameters.entity_id, ENTITY_ID_BYTES_MAX)
    _check_name("event_type", parameters.event_type, EVENT_TYPE_BYTES_MAX)
    for tag in parameters.tag:
        _check_name("tag", tag, TAG_BYTES_MAX)
    untils = [to_microseconds(instant) for instant in (parameters.until, parameters.as_of) if instant is not None]
    after = parameters.after_position or 0
    before = parameters.before_position
    descending = parameters.order == "desc"
    if parameters.cursor is not None:
        position = decode_cursor(parameters.cursor, parameters)
        if descending:
            before = position
        else:
            after = position
    return EventQuery(
        entity_id=parameters.entity_id,
        event_type=parameters.event_type,
        tags=tuple(parameters.tag),
        since=None if parameters.since is None else to_microseconds(parameters.since),
        until=min(untils, default=None),
        after_position=after,
        before_position=before,
        descending=descending,
        limit=parameters.limit,
    )


def _check_name(parameter: str, name: str | None, bytes_max: int) -> None:
    fault = name_fault(name, bytes_max) if name is not None else None
    if fault is not None:
        raise ApiError("bad_query", f"{parameter}: {fault}", errors=[ProblemItem(f"query.{parameter}", fault)])
