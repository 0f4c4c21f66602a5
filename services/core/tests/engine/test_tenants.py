"""The numbers of tenants: what may be written down of them while removals are under way."""

from __future__ import annotations

from allsource_core.engine.tenants import TenantNumbers


def test_a_tenant_that_is_removed_and_comes_again_has_its_first_number_until_that_is_durable() -> None:
    numbers = TenantNumbers([(1, "a"), (2, "b")], 3)
    numbers.retire(1)
    assert numbers.assign("a") == 3
    numbers.retire(3)
    assert numbers.assign("a") == 4
    assert numbers.items() == [(2, "b"), (4, "a")]
    assert numbers.durable_items() == [(1, "a"), (2, "b")]
    numbers.forget_retired(1)
    assert numbers.durable_items() == [(2, "b"), (3, "a")]
    numbers.forget_retired(3)
    assert numbers.durable_items() == [(2, "b"), (4, "a")]


def test_removals_are_taken_back_the_newest_first() -> None:
    numbers = TenantNumbers([(1, "a")], 2)
    numbers.retire(1)
    numbers.assign("a")
    numbers.retire(2)
    numbers.restore(2)
    assert numbers.get("a") == 2
    numbers.restore(1)
    assert numbers.items() == numbers.durable_items() == [(1, "a")]
    assert numbers.assign("b") == 3
