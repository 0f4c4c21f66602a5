"""The prefix of all routes, and the codes that several of them can answer."""

from __future__ import annotations

from typing import Final

__all__ = [
    "API_PREFIX",
    "APPEND_PROBLEMS",
    "BATCH_PROBLEMS",
    "CHANGE_PROBLEMS",
    "INTERNAL_PREFIX",
    "READ_PROBLEMS",
    "REMOVAL_PROBLEMS",
    "REPLACE_PROBLEMS",
]

API_PREFIX: Final = "/api/v1"
INTERNAL_PREFIX: Final = "/internal/v1"

APPEND_PROBLEMS: Final = (
    "invalid_event",
    "version_conflict",
    "event_id_conflict",
    "read_only",
    "overloaded",
    "append_uncertain",
    "storage_damaged",
    "storage_mending",
)
BATCH_PROBLEMS: Final = (*APPEND_PROBLEMS, "condition_failed", "condition_too_broad")
READ_PROBLEMS: Final = ("not_yet", "rate_limited", "storage_damaged", "storage_mending")
CHANGE_PROBLEMS: Final = ("read_only", "append_uncertain")
REMOVAL_PROBLEMS: Final = (*CHANGE_PROBLEMS, "storage_damaged", "storage_mending")
REPLACE_PROBLEMS: Final = (*CHANGE_PROBLEMS, "precondition_failed")
