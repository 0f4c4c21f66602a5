"""What there is of a tenant in every package, for whoever deletes it. Like `app.py`, this sees all of them."""

from __future__ import annotations

from typing import Final

import structlog

from allsource_core.facts import Fact, Facts
from allsource_core.identity.api_keys import ApiKeyDirectory
from allsource_core.identity.sessions import SessionDirectory
from allsource_core.identity.users import UserDirectory
from allsource_core.tenancy.deletion import TenantContents
from allsource_core.tenancy.rate_limits import RateLimiter
from allsource_core.tenancy.usage import UsageLedger

__all__ = ["tenant_contents"]

_DRAIN_LOG_SECONDS: Final = 10.0


def tenant_contents(
    facts: Facts,
    users: UserDirectory,
    keys: ApiKeyDirectory,
    sessions: SessionDirectory,
    usage: UsageLedger,
    rates: RateLimiter,
) -> TenantContents:
    """Appends under way, sessions, names of people and keys, users with their keys wherever these work, keys, and
    counters.
    """

    async def drained(tenant_id: str) -> None:
        while not await usage.drained(tenant_id, _DRAIN_LOG_SECONDS):
            appends = usage.outstanding(tenant_id)
            structlog.get_logger().warning("tenant_deletion_delayed", tenant_id=tenant_id, appends_under_way=appends)

    async def end_sessions(tenant_id: str) -> None:
        for user in users.in_tenant(tenant_id):
            await sessions.end_all(user.id)

    def revocations_of_users(tenant_id: str) -> list[Fact]:
        return [fact for user in users.in_tenant(tenant_id) for fact in keys.revoke_all_of(user.id)]

    async def forget_usage(tenant_id: str) -> None:
        usage.forget(tenant_id)
        # In the file too, before the id may be used again.
        await usage.save()

    async def forget_rate(tenant_id: str) -> None:
        rates.forget(tenant_id)

    return TenantContents(
        drained=(drained,),
        ended=(end_sessions,),
        personal_events=(users.personal_events,),
        facts_of_removal=(keys.revoke_all_in, revocations_of_users, users.facts_of_removal),
        erased=(facts.erase_owed, sessions.erase),
        forgotten=(forget_usage, forget_rate),
    )
