"""Presets as the API's documentation has them, and counting against quotas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.tenancy.errors import InvalidTenantError, QuotaExceededError
from allsource_core.tenancy.quotas import PRESETS, CountedQuota, check_count, find_preset, preset_of
from allsource_core.tenancy.rate_limits import RateLimit
from allsource_shared.wire.tenants import Quotas

NAMES: list[CountedQuota] = ["max_api_keys", "max_projections", "max_pipelines"]


def test_the_presets_are_those_of_the_documentation():
    assert list(PRESETS) == ["free", "professional", "unlimited"]
    free, professional, unlimited = PRESETS.values()
    assert free.quotas == Quotas(
        max_events_per_day=10_000,
        max_storage_bytes=2**30,
        max_queries_per_hour=1_000,
        max_api_keys=2,
        max_projections=5,
        max_pipelines=2,
    )
    assert professional.quotas == Quotas(
        max_events_per_day=1_000_000,
        max_storage_bytes=100 * 2**30,
        max_queries_per_hour=100_000,
        max_api_keys=25,
        max_projections=100,
        max_pipelines=50,
    )
    assert unlimited.quotas == Quotas()
    assert (free.limit, professional.limit, unlimited.limit) == (RateLimit(60, 100), RateLimit(600, 1_000), None)


@pytest.mark.parametrize("name", ["", "Free", "gold", "custom"])
def test_another_preset_is_refused_with_the_names_that_there_are(name: str):
    with pytest.raises(InvalidTenantError, match="tier: must be one of free, professional, unlimited"):
        find_preset(name, field="tier")


def test_quotas_are_called_after_the_preset_that_they_are_of():
    assert [preset_of(preset.quotas) for preset in PRESETS.values()] == list(PRESETS)
    assert preset_of(Quotas(max_api_keys=1)) == "custom"


@given(name=st.sampled_from(NAMES), limit=st.integers(1, 2**53 - 1), used=st.integers(0, 2**53))
def test_there_are_never_more_than_the_quota_allows(name: CountedQuota, limit: int, used: int):
    quotas = Quotas(**{name: limit})
    if used < limit:
        check_count(quotas, name, used)
        return
    with pytest.raises(QuotaExceededError) as caught:
        check_count(quotas, name, used)
    error = caught.value
    assert (error.quota, error.limit, error.used, error.resets_at) == (name, limit, used, None)


@pytest.mark.parametrize("name", NAMES)
def test_zero_is_no_limit(name: CountedQuota):
    check_count(Quotas(), name, 2**53)
