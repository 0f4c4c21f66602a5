"""The event that every benchmark uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from allsource_core.engine import NewEvent

__all__ = [
    "EVENT_TYPE",
    "TENANT",
    "batch_body",
    "entity",
    "event_body",
    "neighbours",
    "new_events",
    "random_batch_bodies",
    "random_events",
    "round_robin",
]

TENANT = "default"
EVENT_TYPE = "benchmark.event"
ENTITIES = 100


def entity(index: int) -> str:
    """The entity of the event of this index."""
    return f"entity-{index % ENTITIES}"


def round_robin(entities: int) -> Callable[[int], str]:
    """The same with so many entities: the events of one are spread over the whole load."""
    return lambda index: f"entity-{index % entities}"


def neighbours(each: int) -> Callable[[int], str]:
    """So many events of one entity behind each other, then the next one's."""
    return lambda index: f"entity-{index // each}"


def new_events(first: int, count: int, entity_of: Callable[[int], str] = entity) -> list[NewEvent]:
    """Events as an embedding program gives them: structs whose payload is bytes."""
    return _events(first, map(entity_of, range(first, first + count)))


def random_events(first: int, count: int, entities: int, rng: random.Random) -> list[NewEvent]:
    """Events of entities that chance picks, each of another one."""
    return _events(first, (f"entity-{number}" for number in rng.sample(range(entities), count)))


def _events(first: int, entity_ids: Iterable[str]) -> list[NewEvent]:
    return [
        NewEvent(EVENT_TYPE, entity_id, b'{"index":%d,"data":"payload"}' % index)
        for index, entity_id in enumerate(entity_ids, first)
    ]


def event_body(index: int, entity_id: str | None = None) -> bytes:
    """The event as the body of ``POST events``."""
    return b'{"event_type":"%s","entity_id":"%s","payload":{"index":%d,"data":"payload"}}' % (
        EVENT_TYPE.encode(),
        (entity_id or entity(index)).encode(),
        index,
    )


def batch_body(first: int, count: int, entity_of: Callable[[int], str] = entity) -> bytes:
    """Events as the body of ``POST events/batch``."""
    return _batch(event_body(index, entity_of(index)) for index in range(first, first + count))


def random_batch_bodies(count: int, entities: int, seed: int) -> Iterator[bytes]:
    """Batches without end, made as they are asked for: `count` events each, of entities that chance picks."""
    rng = random.Random(seed)  # noqa: S311 - which entities these are keeps nothing secret
    first = 0
    while True:
        numbers = rng.choices(range(entities), k=count)
        yield _batch(event_body(first + place, f"entity-{number}") for place, number in enumerate(numbers))
        first += count


def _batch(bodies: Iterable[bytes]) -> bytes:
    return b'{"events":[' + b",".join(bodies) + b"]}"
