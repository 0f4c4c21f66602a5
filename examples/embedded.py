"""The engine inside a program of your own: no server, one directory.

Run it with ``python examples/embedded.py [directory]``; without a directory it uses a temporary one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from pathlib import Path

from allsource_core.engine import (
    AppendCondition,
    CaughtUp,
    ConditionFailedError,
    ConditionItem,
    EventQuery,
    EventStore,
    NewEvent,
    VersionConflictError,
)

SHOP = "shop"
"""The tenant: whose events these are. Nothing crosses from one to another."""


def event(kind: str, entity_id: str, *, tags: list[str] | None = None, **payload: object) -> NewEvent:
    """An event of ours: any JSON as payload."""
    return NewEvent(kind, entity_id, json.dumps(payload).encode(), tags=tags or [])


def place_orders(store: EventStore) -> None:
    """Appends are durable when they return, and atomic: all events of a call, or none."""
    store.append(SHOP, [event("order.placed", "order-1", customer="ada", total=42)])
    store.append(
        SHOP,
        [
            event("order.placed", "order-2", customer="bob", total=7),
            event("order.paid", "order-1", by="card"),
        ],
    )


def ship_once(store: EventStore) -> None:
    """Expected versions: whoever decided on old knowledge is refused."""
    version = store.version(SHOP, "order-1")
    store.append(SHOP, [event("order.shipped", "order-1")], expected_versions={"order-1": version})
    try:
        store.append(SHOP, [event("order.shipped", "order-1")], expected_versions={"order-1": version})
    except VersionConflictError as error:
        print(f"shipped already: version {error.actual}, not {error.expected}")


def register_once(store: EventStore, email: str) -> bool:
    """A condition over a query: no two customers with one e-mail address, whatever their ids."""
    tag = f"email:{email}"
    unused = AppendCondition((ConditionItem(event_types=("customer.registered",), tags=(tag,)),))
    try:
        store.append(SHOP, [event("customer.registered", f"customer-{uuid.uuid4()}", tags=[tag])], condition=unused)
    except ConditionFailedError:
        return False
    return True


def pay_safely(store: EventStore) -> None:
    """An id of your own makes a retry harmless: the second time is answered like the first, and stores nothing."""
    payment = event("order.paid", "order-2", by="invoice")
    payment.event_id = uuid.uuid5(uuid.NAMESPACE_URL, "payment-order-2")
    first = store.append(SHOP, [payment])
    again = store.append(SHOP, [payment])
    print(f"paid at position {first.first_position}; repeated: {again.duplicate}, same: {again.events == first.events}")


def read(store: EventStore) -> None:
    """Reads stream; they go by entity, type, tag, time, position and version, forwards and backwards."""
    for stored in store.read(SHOP, EventQuery(entity_id="order-1")):
        print(f"  {stored.version} {stored.event_type} {stored.payload.decode()}")
    newest = next(iter(store.read(SHOP, EventQuery(event_type="order.paid", descending=True, limit=1))))
    print(f"last payment: {newest.entity_id}")
    print(f"order-1 is {store.state(SHOP, 'order-1').value()}")
    print(f"order-1 was {store.state(SHOP, 'order-1', as_of_version=1).value()}")


def follow(store: EventStore) -> int:
    """A subscription gives everything behind a position, then what is new. Keep the position, and go on from there."""
    count = position = 0
    for item in store.subscribe(SHOP, EventQuery(after_position=position)):
        if isinstance(item, CaughtUp):
            break  # a long-lived program would go on: the next item is the next event
        count, position = count + 1, item.position
    print(f"followed {count} events up to position {position}")
    return position


def main() -> None:
    """Everything once, and once more after reopening."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary) / "store"
        with EventStore.open(directory) as store:
            place_orders(store)
            ship_once(store)
            print(f"registered: {register_once(store, 'ada@example.com')}, {register_once(store, 'ada@example.com')}")
            pay_safely(store)
            read(store)
            position = follow(store)
        with EventStore.open(directory) as store:
            assert store.last_position == position
            print(f"reopened: {sum(1 for _ in store.read(SHOP))} events are there")


if __name__ == "__main__":
    main()
