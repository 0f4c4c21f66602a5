"""An embedded, durable event store: a library with no HTTP in it.

    from allsource_core.engine import EventQuery, EventStore, NewEvent, Raw

    with EventStore.open(path) as store:
        store.append("default", [NewEvent("order.placed", "order-1", Raw(b'{"total": 12}'))])
        for event in store.read("default", EventQuery(entity_id="order-1")):
            print(event.version, event.payload)

`EventStore` (store.py) is the only door; what it raises is in errors.py.
"""

from msgspec import Raw

from allsource_core.engine.appends import Expected
from allsource_core.engine.errors import (
    AppendUncertainError,
    CorruptionError,
    EngineError,
    EventIdConflictError,
    ForeignDirectoryError,
    InvalidEventError,
    OverloadedError,
    StoreClosedError,
    StoreLockedError,
    StoreReadOnlyError,
    VersionConflictError,
)
from allsource_core.engine.events import Appended, Event, NewEvent
from allsource_core.engine.limits import (
    ENTITY_ID_BYTES_MAX,
    EVENT_TYPE_BYTES_MAX,
    NESTING_MAX,
    TAG_BYTES_MAX,
)
from allsource_core.engine.names import name_fault
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.recovery import RecoveryProgress
from allsource_core.engine.store import EventStore, StoreOptions, StoreStats

__all__ = [
    "ENTITY_ID_BYTES_MAX",
    "EVENT_TYPE_BYTES_MAX",
    "NESTING_MAX",
    "TAG_BYTES_MAX",
    "AppendUncertainError",
    "Appended",
    "CorruptionError",
    "EngineError",
    "Event",
    "EventIdConflictError",
    "EventQuery",
    "EventStore",
    "Expected",
    "ForeignDirectoryError",
    "InvalidEventError",
    "NewEvent",
    "OverloadedError",
    "Raw",
    "RecoveryProgress",
    "StoreClosedError",
    "StoreLockedError",
    "StoreOptions",
    "StoreReadOnlyError",
    "StoreStats",
    "VersionConflictError",
    "name_fault",
]
