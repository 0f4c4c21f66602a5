"""Appending over HTTP: one event, or a batch as JSON or NDJSON."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import islice
from typing import Final

import msgspec
from aiohttp.web import StreamResponse

from allsource_core.api.admission import Admission
from allsource_core.api.bodies import Bodies, media_type
from allsource_core.api.call import Call, Handler, encoded_response
from allsource_core.api.event_views import appended_rows
from allsource_core.api.metrics import CoreMetrics
from allsource_core.api.problem_details import invalid_event
from allsource_core.api.requests import body_error, decode_body, note_unknown_fields, parse_query
from allsource_core.engine import (
    CONDITION_ITEMS_MAX,
    CONDITION_VALUES_MAX,
    NESTING_MAX,
    AppendCondition,
    Appended,
    ConditionItem,
    EngineError,
    EventStore,
    InvalidEventError,
)
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.metering import Metering
from allsource_shared.problems import ApiError, ProblemItem
from allsource_shared.routes import NDJSON
from allsource_shared.wire import events
from allsource_shared.wire.events import AppendOptions, EventBatch, NewEvent

__all__ = ["AppendRoutes", "deep_event_index"]


class _LenientEvent(NewEvent, forbid_unknown_fields=False):
    """The same event as clients of AllSource v1.0 may send it, with fields that we don't know."""


_event_decoder: Final = msgspec.json.Decoder(_LenientEvent)
_strict_decoder: Final = msgspec.json.Decoder(NewEvent)
_batch_decoder: Final = msgspec.json.Decoder(EventBatch)

_EVENTS_A_TOKEN: Final = 100
"""So many events of a batch cost as much as a request."""

_BATCH_ANSWER: Final = b'{"count":%d,"first_position":%d,"last_position":%d%b%b}'
"""An `AppendedBatch`, encoded; tests compare it with what the encoder makes of that."""

_CONDITION: Final = "condition.fail_if_events_match"

_EVENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the body of one event, of which 1 MiB of payload is the most that can be stored; the rest is spacing and escapes.
What is ignored in it must not cost everybody else their time."""

_UNKNOWN_BYTES_MAX: Final = 64 * 1024
"""Of the fields of one event that are ignored, and of spacing. To look at 7,000 of them takes 2 ms (measured), and at
420,000, which 4 MiB have room for, half a second."""

_MARKS_BYTES: Final = 3
"""Quotes and comma of a tag."""

_TOO_DEEP: Final = f"must nest at most {NESTING_MAX} levels deep"
_EVENTS_DEPTH: Final = 2
"""A comma at this depth, inside the object and the array of its events, is between two events."""
_EVENT_NESTING: Final = 1
_BATCH_NESTING: Final = 3
"""Levels around a payload: the object, the array, the event."""
_TOKENS_MAX: Final = 1_000_000
"""Where this is not enough to find the place, the answer does without: a refusal must not cost seconds."""
# Possessive: a backtracking string would cost a hundred times its length in memory.
_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)


class AppendRoutes:
    """Handlers of ``POST events`` and ``POST events/batch``."""

    def __init__(
        self, store: EventStore, bodies: Bodies, metrics: CoreMetrics, admission: Admission, metering: Metering
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._metrics = metrics
        self._admission = admission
        self._metering = metering

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "append_event": self.append_event,
            "append_batch": self.append_batch,
        }

    async def append_event(self, call: Call) -> StreamResponse:
        """``POST events``."""
        options = parse_query(call, AppendOptions)
        media_type(call)
        body = await self._bodies.read(call, _EVENT_BYTES_MAX)
        try:
            event = _decode_event(call, body)
        except RecursionError:
            key, _ = await asyncio.to_thread(_deep_place, body, _EVENT_NESTING)
            raise invalid_event(key or "$", _TOO_DEEP) from None
        try:
            appended = await self._append(call, EventBatch([event]), options, len(body))
        except InvalidEventError as error:
            raise invalid_event(error.field, error.message) from None
        row = next(appended_rows(appended.events))
        return encoded_response(b"%b%b}" % (row[:-1], _marks(appended)), _status(appended))

    async def append_batch(self, call: Call) -> StreamResponse:
        """``POST events/batch``."""
        options = parse_query(call, AppendOptions)
        media = media_type(call)
        body = await self._bodies.read(call)
        try:
            batch = EventBatch(_decode_lines(body)) if media == NDJSON else decode_body(_batch_decoder, body)
        except RecursionError:
            # Finding the event means to walk the whole body; elsewhere, so that others are served meanwhile.
            index = await asyncio.to_thread(deep_event_index, body, lines=media == NDJSON)
            raise invalid_event("events" if index is None else f"events[{index}]", _TOO_DEEP) from None
        self._admission.charge_more(call, len(batch.events) / _EVENTS_A_TOKEN)
        appended = await self._append(call, batch, options, len(body))
        minimal = "return=minimal" in call.request.headers.get("Prefer", "").lower()
        events = b"" if minimal else b',"events":[%b]' % b",".join(appended_rows(appended.events))
        places = len(appended), appended.first_position, appended.last_position
        response = encoded_response(_BATCH_ANSWER % (*places, _marks(appended), events), _status(appended))
        if minimal:
            response.headers["Preference-Applied"] = "return=minimal"
        return response

    async def _append(self, call: Call, batch: EventBatch, options: AppendOptions, body_bytes: int) -> Appended:
        started = time.perf_counter()
        tenant_id = call.principal.tenant_id
        condition = None if batch.condition is None else _checked_condition(batch.condition)
        try:
            reservation = self._metering.append(tenant_id, batch.events, body_bytes)
        except QuotaExceededError:
            repeated = await self._repetition(tenant_id, batch)
            if repeated is None:
                raise
            return repeated
        try:
            appended = await self._store.append_async(
                tenant_id,
                batch.events,
                expected_versions=batch.expected_versions,
                condition=condition,
                dry_run=options.dry_run,
                decoded=True,
            )
        except asyncio.CancelledError:
            # It may be stored: who can't tell counts it, until the store is asked.
            reservation.keep()
            raise
        except BaseException:
            # Also where it is uncertain: this store does not have it, and the next one to be opened is counted anew.
            reservation.release()
            raise
        if appended.duplicate or appended.dry_run:
            reservation.release()
        else:
            # Counting bytes costs as much as all else here: only where somebody wants to know them exactly.
            reservation.commit(appended.recorded_at, appended.content_bytes if reservation.is_exact else body_bytes)
            self._metrics.appended(len(appended), time.perf_counter() - started)
        return appended

    async def _repetition(self, tenant_id: str, batch: EventBatch) -> Appended | None:
        """The answer to an append that was made before, which costs nothing; None for one that was not."""
        if any(event.event_id is None for event in batch.events):
            return None
        try:
            appended = await self._store.append_async(tenant_id, batch.events, dry_run=True, decoded=True)
        except EngineError:
            return None
        return appended if appended.duplicate else None


def _marks(appended: Appended) -> bytes:
    """What an answer says only where it is not as usual."""
    marks = b""
    if appended.duplicate:
        marks += b',"duplicate":true'
    if appended.dry_run:
        marks += b',"dry_run":true'
    elif not appended.durable:
        marks += b',"durable":false'
    return marks


def _checked_condition(condition: events.AppendCondition) -> AppendCondition:
    """The condition for the engine, if it is within bounds.

    Raises:
        ApiError: ``condition_too_broad``, naming the item. Names are left to the engine.
    """
    items = condition.fail_if_events_match
    if not 1 <= len(items) <= CONDITION_ITEMS_MAX:
        raise _too_broad(_CONDITION, f"must have 1 to {CONDITION_ITEMS_MAX} items, has {len(items)}")
    for index, item in enumerate(items):
        lists = {"event_types": item.event_types, "tags": item.tags, "entity_ids": item.entity_ids}
        if not any(lists.values()):
            raise _too_broad(f"{_CONDITION}[{index}]", "must name at least one type, tag or entity")
        for name, values in lists.items():
            if len(values) > CONDITION_VALUES_MAX:
                message = f"must have at most {CONDITION_VALUES_MAX} values, has {len(values)}"
                raise _too_broad(f"{_CONDITION}[{index}].{name}", message)
    return AppendCondition(
        tuple(ConditionItem(item.event_types, item.tags, item.entity_ids) for item in items), condition.after
    )


def _too_broad(path: str, message: str) -> ApiError:
    return ApiError("condition_too_broad", f"{path}: {message}", errors=[ProblemItem(path, message)])


def _decode_event(call: Call, body: bytes) -> NewEvent:
    """One event. Only where it is refused as it stands, it is looked at for fields that are to be ignored.

    Raises:
        ApiError, RecursionError: as `decode_body`; ``invalid_body`` where those fields take too much.
    """
    try:
        return _strict_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        event = decode_body(_event_decoder, body)
        if len(body) - _known_bytes(event) > _UNKNOWN_BYTES_MAX:
            message = f"unknown fields take more than {_UNKNOWN_BYTES_MAX // 1024} KiB"
            raise ApiError("invalid_body", message, errors=[ProblemItem("$", message)]) from None
        note_unknown_fields(call, body, NewEvent)
        return event


def _known_bytes(event: NewEvent) -> int:
    """About what the fields of an event took of its body; those of fixed length are left out."""
    names = len(event.event_type) + len(event.entity_id) + sum(map(len, event.tags)) + _MARKS_BYTES * len(event.tags)
    metadata = 0 if event.metadata is None else memoryview(event.metadata).nbytes
    return names + memoryview(event.payload).nbytes + metadata


def _status(appended: Appended) -> int:
    return 200 if appended.duplicate or appended.dry_run else 201


def _decode_lines(body: bytes) -> list[NewEvent]:
    """The events of an NDJSON body; empty lines are passed over.

    Raises:
        ApiError: as `decode_body`, naming the event.
        RecursionError: an event is nested too deeply.
    """
    try:
        events = _strict_decoder.decode_lines(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _line_error(body, error) from None
    # The decoder also takes several events on a line, and one on several lines. Counting line ends shows that there
    # are none of these, unless there are empty lines.
    if body.count(b"\n") + (not body.endswith(b"\n")) != len(events) and len(_lines(body)) != len(events):
        raise _line_error(body, msgspec.DecodeError("a line must hold one event"))
    return events


def _line_error(body: bytes, error: Exception) -> ApiError:
    """What is wrong with an NDJSON body: slower, line by line, to know which one it is."""
    for index, line in enumerate(_lines(body)):
        try:
            _strict_decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as line_error:
            return body_error(line_error, f"events[{index}]")
    return body_error(error)


def _lines(body: bytes) -> list[bytes]:
    """The lines of an NDJSON body that are not empty; only what JSON calls white space makes one empty."""
    return [line for line in body.split(b"\n") if line.strip(b" \t\r")]


def deep_event_index(body: bytes, *, lines: bool) -> int | None:
    """Which event of a batch, from 0, has the place that nests more than anything allowed; None if none has.

    Args:
        body: JSON that nests deeper than the decoder follows.
        lines: NDJSON, else ``{"events": [...]}``.
    """
    if lines:
        return next((index for index, line in enumerate(_lines(body)) if _deep_place(line, _EVENT_NESTING)[0]), None)
    key, index = _deep_place(body, _BATCH_NESTING)
    return index if key == "events" else None


def _deep_place(body: bytes, outer: int) -> tuple[str, int]:
    """Where a JSON object nests deeper than allowed: its key, or "", and how many commas one level below came before.

    Args:
        body: the object.
        outer: levels around a payload.
    """
    depth = commas = 0
    key = b""
    for match in islice(_STRUCTURE.finditer(body), _TOKENS_MAX):
        token = match[0]
        if token in b"[{":
            depth += 1
            if depth > NESTING_MAX + outer:
                return key.strip(b'"').decode(errors="replace"), commas
        elif token in b"]}":
            depth -= 1
        elif token == b",":
            commas += depth == _EVENTS_DEPTH
        elif depth == 1:
            # A value that nests comes right behind its key.
            key, commas = token, 0
    return "", 0
