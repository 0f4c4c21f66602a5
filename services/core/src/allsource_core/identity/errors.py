"""What the identity domain raises.

IdentityError                    never raised itself
├── InvalidCredentialsError      username or password is wrong
├── SignInQueueFullError         too many password hashes wait
├── SlowedDownError              too many failed sign-ins; `retry_after_seconds` says for how long
├── TenantInactiveError          the password is right, but the user's tenant was deactivated
├── RefreshRefusedError          the refresh token is not good, or not any more
├── UnknownSessionError          no such session
├── SessionsUnavailableError     sessions can't be stored at present
├── UnknownUserError             no such user
├── UnknownKeyError              no such API key
├── UsernameTakenError           somebody has the name
├── InvalidUserError             a field of a user has a value that is not allowed
└── IdentityRuleError            what was asked for would break a rule; `code` says which
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "IdentityError",
    "IdentityRuleError",
    "InvalidCredentialsError",
    "InvalidUserError",
    "RefreshRefusedError",
    "SessionsUnavailableError",
    "SignInQueueFullError",
    "SlowedDownError",
    "TenantInactiveError",
    "UnknownKeyError",
    "UnknownSessionError",
    "UnknownUserError",
    "UsernameTakenError",
]

RuleCode = Literal["last_admin", "admin_outside_default", "forbidden", "unauthorized", "not_found", "reserved_tenant"]


class IdentityError(Exception):
    """The root of what this package raises on purpose."""


class InvalidCredentialsError(IdentityError):
    """Username or password is wrong; which one is not told."""


class SignInQueueFullError(IdentityError):
    """Too many password hashes wait."""


class SlowedDownError(IdentityError):
    """Too many sign-ins failed. Nothing was checked.

    Attributes:
        retry_after_seconds: when the next attempt is looked at.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("too many sign-ins failed; try again later")
        self.retry_after_seconds = retry_after_seconds


class TenantInactiveError(IdentityError):
    """The password is right, but the user's tenant was deactivated."""


class RefreshRefusedError(IdentityError):
    """The refresh token is not good, or not any more; why is not told."""


class UnknownSessionError(IdentityError):
    """No such session, or it has ended."""


class SessionsUnavailableError(IdentityError):
    """Sessions can't be stored at present. The message is for the log: it may name files of the machine."""


class UnknownUserError(IdentityError):
    """No such user."""


class UnknownKeyError(IdentityError):
    """No such API key."""


class UsernameTakenError(IdentityError):
    """Somebody has the name."""


class InvalidUserError(IdentityError):
    """A field of a user has a value that is not allowed.

    Attributes:
        field: which one.
        message: what is wrong and what is allowed. It never quotes a password.
        code: whether it is a password that is too weak.
    """

    def __init__(
        self, field: str, message: str, code: Literal["invalid_body", "weak_password"] = "invalid_body"
    ) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.code = code


class IdentityRuleError(IdentityError):
    """What was asked for would break a rule.

    Attributes:
        code: which one.
    """

    def __init__(self, code: RuleCode, message: str) -> None:
        super().__init__(message)
        self.code = code
