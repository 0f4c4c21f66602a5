"""An embedded, durable event store: a library with no HTTP in it.

    from allsource_core.engine import EventQuery, EventStore, NewEvent, Raw

    with EventStore.open(path) as store:
        store.append("default", [NewEvent("order.placed", "order-1", Raw(b'{"total": 12}'))])
        for event in store.read("default", EventQuery(entity_id="order-1")):
            print(event.version, event.payload)

`EventStore` (store.py) is the only door; what it raises is in errors.py.
"""

from msgspec import Raw

from allsource_core.engine.appended import Appended
from allsource_core.engine.appends import Expected
from allsource_core.engine.clock import system_clock
from allsource_core.engine.conditions import (
    CONDITION_ITEMS_MAX,
    CONDITION_VALUES_MAX,
    AppendCondition,
    ConditionItem,
)
from allsource_core.engine.errors import (
    AppendUncertainError,
    ConditionFailedError,
    ConditionTooBroadError,
    CorruptionError,
    EngineError,
    EventIdConflictError,
    ForeignDirectoryError,
    InvalidEventError,
    KeysDamagedError,
    NotFoundError,
    OverloadedError,
    StateNotKeptError,
    StoreClosedError,
    StoreLockedError,
    StoreReadOnlyError,
    VersionConflictError,
    without_frames,
)
from allsource_core.engine.events import Event
from allsource_core.engine.inspection import StoreDescription, inspect_store
from allsource_core.engine.limits import (
    ENTITY_ID_BYTES_MAX,
    EVENT_TYPE_BYTES_MAX,
    NESTING_MAX,
    TAG_BYTES_MAX,
)
from allsource_core.engine.manifest import Policy, Removal
from allsource_core.engine.names import name_fault, tenant_fault
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.recovery import RecoveryProgress
from allsource_core.engine.repair import PlannedRepair, RepairRefusedError, Repairs, plan_repairs, repair_store
from allsource_core.engine.states import EntityState
from allsource_core.engine.stats import StoreStats
from allsource_core.engine.store import EventStore
from allsource_core.engine.subscriptions import CaughtUp
from allsource_core.engine.upgrading import upgrade_store
from allsource_core.engine.usage import DAY_US, Appends, TenantUsage
from allsource_core.engine.verification import Finding, Severity, VerificationProgress, verify_store
from allsource_shared.wire.events import NewEvent

__all__ = [
    "CONDITION_ITEMS_MAX",
    "CONDITION_VALUES_MAX",
    "DAY_US",
    "ENTITY_ID_BYTES_MAX",
    "EVENT_TYPE_BYTES_MAX",
    "NESTING_MAX",
    "TAG_BYTES_MAX",
    "AppendCondition",
    "AppendUncertainError",
    "Appended",
    "Appends",
    "CaughtUp",
    "ConditionFailedError",
    "ConditionItem",
    "ConditionTooBroadError",
    "CorruptionError",
    "EngineError",
    "EntityState",
    "Event",
    "EventIdConflictError",
    "EventQuery",
    "EventStore",
    "Expected",
    "Finding",
    "ForeignDirectoryError",
    "InvalidEventError",
    "KeysDamagedError",
    "NewEvent",
    "NotFoundError",
    "OverloadedError",
    "PlannedRepair",
    "Policy",
    "Raw",
    "RecoveryProgress",
    "Removal",
    "RepairRefusedError",
    "Repairs",
    "Severity",
    "StateNotKeptError",
    "StoreClosedError",
    "StoreDescription",
    "StoreLockedError",
    "StoreOptions",
    "StoreReadOnlyError",
    "StoreStats",
    "TenantUsage",
    "VerificationProgress",
    "VersionConflictError",
    "inspect_store",
    "name_fault",
    "plan_repairs",
    "repair_store",
    "system_clock",
    "tenant_fault",
    "upgrade_store",
    "verify_store",
    "without_frames",
]
