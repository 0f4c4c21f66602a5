"""Verification of what the manifest says, by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.limits import POSITION_MAX
from allsource_core.engine.manifest import Manifest, SegmentEntry
from allsource_core.engine.segment_format import SEGMENT_ROWS_MAX
from allsource_core.engine.verification_findings import Area, Finding, Reporter

__all__ = ["verify_manifest"]


def verify_manifest(manifest: Manifest, paths: StorePaths) -> Iterator[Finding]:
    """Whether the members of the manifest agree with each other."""
    reporter = Reporter(paths)
    for text in _faults(manifest):
        yield reporter.error(Area.MANIFEST, paths.manifest, text, "restore the store from a backup")


def _faults(manifest: Manifest) -> Iterator[str]:
    for entry in manifest.segments:
        yield from _faults_of_segment(entry, manifest)
    for before, behind in pairwise(manifest.segments):
        if behind.first_position <= before.last_position:
            place = f"at position {behind.first_position}, in or before segment {before.file}"
            yield f"segment {behind.file} begins {place}"
    files = Counter([entry.file for entry in manifest.segments] + [entry.file for entry in manifest.key_files])
    for file, count in files.items():
        if count > 1:
            yield f"it names file {file} {count} times"
        if not 0 < file < manifest.next_file:
            yield f"it names file {file}, but the next file gets number {manifest.next_file}"
    numbers = Counter(number for number, _ in manifest.tenants)
    names = Counter(tenant_id for _, tenant_id in manifest.tenants)
    for tenant, count in [*numbers.items(), *names.items()]:
        if count > 1:
            yield f"it names tenant {tenant!r} {count} times"
    if any(not 0 < number < manifest.next_tenant for number in numbers):
        yield f"a tenant has a number that is not below {manifest.next_tenant}, which the next one gets"
    for removal in manifest.removals:
        if not 0 < removal.position <= POSITION_MAX:
            yield f"a removal has position {removal.position}"
    if not 0 <= manifest.sealed_through <= POSITION_MAX:
        yield f"sealed_through is {manifest.sealed_through}"


def _faults_of_segment(entry: SegmentEntry, manifest: Manifest) -> Iterator[str]:
    if not 0 < entry.first_position <= entry.last_position <= manifest.sealed_through:
        yield (
            f"segment {entry.file} has positions {entry.first_position} to {entry.last_position}, "
            f"sealed_through is {manifest.sealed_through}"
        )
    width = entry.last_position - entry.first_position + 1
    if not 1 <= entry.rows <= min(width, SEGMENT_ROWS_MAX) or not 0 <= entry.events <= entry.rows:
        yield f"segment {entry.file} has {entry.rows} rows and {entry.events} events at {width} positions"
