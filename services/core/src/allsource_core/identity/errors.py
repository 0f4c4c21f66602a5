"""What the identity domain raises.

IdentityError                    never raised itself
├── InvalidCredentialsError      username or password is wrong
└── SignInQueueFullError         too many sign-ins wait for their password check
"""

from __future__ import annotations

__all__ = ["IdentityError", "InvalidCredentialsError", "SignInQueueFullError"]


class IdentityError(Exception):
    """The root of what this package raises on purpose."""


class InvalidCredentialsError(IdentityError):
    """Username or password is wrong; which one is not told."""


class SignInQueueFullError(IdentityError):
    """Too many sign-ins wait for their password check."""
