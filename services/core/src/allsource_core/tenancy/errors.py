"""What the tenancy domain raises.

TenancyError                    never raised itself
├── UnknownTenantError          no such tenant
├── TenantExistsError           some tenant has the id
├── ReservedTenantError         the id belongs to the store itself
├── DefaultTenantError          the tenant `default` can't be deleted or deactivated
├── InvalidTenantError          something that was given breaks a rule
├── DeletionPendingError        a deletion has begun, goes on by itself, and is not done yet
└── QuotaExceededError          the tenant may use no more of something
"""

from __future__ import annotations

__all__ = [
    "DefaultTenantError",
    "DeletionPendingError",
    "InvalidTenantError",
    "QuotaExceededError",
    "ReservedTenantError",
    "TenancyError",
    "TenantExistsError",
    "UnknownTenantError",
]


class TenancyError(Exception):
    """The root of what this package raises on purpose."""


class UnknownTenantError(TenancyError):
    """No such tenant."""


class TenantExistsError(TenancyError):
    """Some tenant has the id; perhaps one that is being deleted."""


class ReservedTenantError(TenancyError):
    """The id begins with ``_``: it belongs to the store itself."""


class DefaultTenantError(TenancyError):
    """The tenant `default` can't be deleted or deactivated."""


class InvalidTenantError(TenancyError):
    """Something that was given breaks a rule.

    Attributes:
        field: where it was given.
        message: what is wrong and what is allowed.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class DeletionPendingError(TenancyError):
    """A deletion has begun, goes on by itself, and is not done yet."""


class QuotaExceededError(TenancyError):
    """The tenant may use no more of something, or not as much more as was asked for. Nothing was counted.

    Attributes:
        quota: name of the quota, as in `Quotas`.
        limit: what the quota allows.
        used: of it already, with what is reserved.
        resets_at: when it begins anew by itself, in microseconds since the epoch; None where it does not.
    """

    def __init__(self, quota: str, limit: int, used: int, resets_at: int | None = None) -> None:
        super().__init__(f"{quota} is {limit}, of which {used} are used")
        self.quota = quota
        self.limit = limit
        self.used = used
        self.resets_at = resets_at
