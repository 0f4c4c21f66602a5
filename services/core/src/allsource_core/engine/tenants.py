"""The internal numbers of tenants: every key on disk carries one, and none is ever used for another tenant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["TenantKey", "TenantNumbers"]


class TenantKey(NamedTuple):
    """A tenant as keys on disk know it, and as people do. Number 0: it never had an event."""

    number: int
    id: str


class TenantNumbers:
    """Which number a tenant has.

    Args:
        known: (number, id) of those that have one.
        next_number: that the next new tenant gets.

    Attributes:
        by_id: tenant id to number.
    """

    def __init__(self, known: Iterable[tuple[int, str]] = (), next_number: int = 1) -> None:
        self.by_id = {tenant_id: number for number, tenant_id in known}
        self.next_number = next_number
        # Number to id of tenants whose removal is not durable yet, oldest removal first.
        self._retiring: dict[int, str] = {}

    def key(self, tenant_id: str) -> TenantKey:
        """The tenant with its number."""
        return TenantKey(self.by_id.get(tenant_id, 0), tenant_id)

    def get(self, tenant_id: str) -> int:
        """The tenant's number; 0 for one that has none."""
        return self.by_id.get(tenant_id, 0)

    def assign(self, tenant_id: str) -> int:
        """The tenant's number, a new one if it has none."""
        number = self.by_id.get(tenant_id)
        if number is None:
            number = self.by_id[tenant_id] = self.next_number
            self.next_number += 1
        return number

    def learn(self, tenant_id: str, number: int) -> int:
        """Take a number from a record that was read back, 0 in those of format 1, which have none."""
        if not number:
            return self.assign(tenant_id)
        self.by_id[tenant_id] = number
        self.next_number = max(self.next_number, number + 1)
        return number

    def retire(self, number: int) -> str | None:
        """The tenant of this number is removed; returns its id. Appended to again, it gets another number."""
        for tenant_id, known in self.by_id.items():
            if known == number:
                # In this order: whoever copies both, this one last, misses nobody.
                self._retiring[number] = tenant_id
                del self.by_id[tenant_id]
                return tenant_id
        return None

    def forget_retired(self, number: int) -> None:
        """A removal is durable: `restore` will not be asked for it."""
        self._retiring.pop(number, None)

    def restore(self, number: int) -> None:
        """Undo `retire`: the removal did not reach the disk. The newest first."""
        tenant_id = self._retiring.pop(number, None)
        if tenant_id is not None:
            self.by_id[tenant_id] = number

    def items(self) -> list[tuple[int, str]]:
        """(number, id) of every tenant that has one."""
        return sorted((number, tenant_id) for tenant_id, number in list(self.by_id.items()))

    def names(self) -> dict[int, str]:
        """Number to id of every tenant that has one, those too whose removal is not durable yet."""
        names = {number: tenant_id for tenant_id, number in self.by_id.copy().items()}
        return names | self._retiring.copy()

    def durable_items(self) -> list[tuple[int, str]]:
        """The same, but for removals that are not durable yet: what may be written down of tenants.

        One that was removed and came again, none of which is durable, still has the number that it had before. That a
        new tenant's number may be written down before its first event is durable does no harm.
        """
        # In this order: what is retired in between is in the second copy.
        numbers = self.by_id.copy()
        for number, tenant_id in reversed(list(self._retiring.items())):
            numbers[tenant_id] = number
        return sorted((number, tenant_id) for tenant_id, number in numbers.items())
