"""How a store behaves."""

from __future__ import annotations

from typing import Literal

import msgspec

from allsource_core.engine.segment_format import SEGMENT_CONTENT_BYTES, SEGMENT_ROWS_MAX

__all__ = ["StoreOptions"]

_MEBIBYTE = 1024 * 1024


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a store behaves. The defaults are for a service that has a machine to itself.

    What it promises:

    Attributes:
        durability: ``fsync``: an append returns when it is on the disk. ``os``: when the operating system has it, so
            that a power failure may take the newest appends, but `kill -9` may not; reserved tenants (names that begin
            with ``_``) are synced all the same.
        reserve_bytes: with less free space than this, appends of tenants are refused; reserved tenants, removals,
            sealing and compaction go on, down to an eighth of it. 0: never.

    What it costs:

    Attributes:
        log_file_bytes_max: a log file that would pass this size is followed by a new one.
        memory_budget_bytes: of events in memory, as the log has them and what their tags take in indexes, beside about
            300 bytes an event: a third of it, 64 MiB, or `segment_rows_max` events, become a segment together.
        segment_rows_max: events of a segment, at most 262,144.
        pending_bytes_max: appends wait while more bytes than this wait for the disk.
        wait_seconds_max: how long an append waits for room before it is refused as overloaded.
        removal_seconds: how long a removal waits for others, so that segments are rewritten once for all of them.
        retention_seconds: between two looks for what retention removes.
        cache_bytes_max: of what is decoded of segments and kept: row groups, for reads of one entity, and whole ones,
            for reads in the order of positions.
        in_use_bytes_max: of decoded segments that reads in the order of positions hold between two steps, however many
            readers there are and however long they stall. Beyond it they are decoded again.
        maintenance: ``process``: sealing and compaction run in a child process; ``thread``: in a thread of this one,
            for programs that may not start others.
    """

    durability: Literal["fsync", "os"] = "fsync"
    reserve_bytes: int = 256 * _MEBIBYTE
    log_file_bytes_max: int = 64 * _MEBIBYTE
    memory_budget_bytes: int = 128 * _MEBIBYTE
    segment_rows_max: int = SEGMENT_ROWS_MAX
    pending_bytes_max: int = 128 * _MEBIBYTE
    wait_seconds_max: float = 10.0
    removal_seconds: float = 5.0
    retention_seconds: float = 600.0
    cache_bytes_max: int = 128 * _MEBIBYTE
    in_use_bytes_max: int = 1024 * _MEBIBYTE
    maintenance: Literal["process", "thread"] = "process"

    @property
    def freeze_bytes(self) -> int:
        """Events that hold more bytes than this become a segment, however few they are: the growing memtable and the
        two that may wait before it keep to the budget together. However large that is, a segment stays one that can
        be decoded at once.
        """
        return min(self.memory_budget_bytes // 3, SEGMENT_CONTENT_BYTES)

    @property
    def frozen_max(self) -> int:
        """Complete memtables that may wait for sealing before appends wait too, within the budget."""
        return max(2, self.memory_budget_bytes // max(self.freeze_bytes, 1) - 1)
