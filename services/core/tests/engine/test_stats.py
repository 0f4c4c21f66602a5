"""Figures of a store: what becomes a segment meanwhile counts once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions
from allsource_core.engine.memory import Memory


def test_what_becomes_a_segment_while_it_is_counted_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with EventStore.open(tmp_path, options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        store.append("acme", [NewEvent("a", "b", Raw(b"1")) for _ in range(3)])
        sealing = threading.Thread(target=store.seal)
        counting = threading.current_thread()
        tables = Memory.tables.fget

        def seal_before(memory: Memory) -> object:
            if threading.current_thread() is counting and sealing.ident is None:
                sealing.start()
                # It can't end before the figures are taken.
                sealing.join(0.5)
            return tables(memory)

        monkeypatch.setattr(Memory, "tables", property(seal_before))
        stats = store.stats()
        assert (stats.events, stats.segments, stats.sealed_through) in [(3, 0, 0), (3, 1, 3)]
        sealing.join()
        stats = store.stats()
        assert (stats.events, stats.segments, stats.sealed_through) == (3, 1, 3)
