"""Where a segment is damaged whose checksum does not match: ``python -m allsource_core.engine.verification_places``.

Arrow ends the process over some damaged footers instead of raising. So what has not stood the test of its checksum is
read in a child, which prints what it finds as JSON; one that dies has found the footer.
"""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from allsource_core.engine.segment_format import SCHEMA

__all__ = ["UNREADABLE", "chunk_offset", "damaged_places", "footer_offset", "main"]

UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, OverflowError, IndexError, MemoryError)
"""What Arrow raises over damaged files."""
_LEAVES: Final = [name if name != "tags" else "tags.list.element" for name in SCHEMA.names]
_FOOTER_END: Final = struct.Struct("<I4s")
_SECONDS_MAX: Final = 600.0

Place = tuple[int, str]


def damaged_places(path: Path) -> list[Place]:
    """(offset, which part) of everything that can't be read in a file that is damaged somewhere; at least one.

    0.5 s for the child to start.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        child = subprocess.run(  # noqa: S603 - this module, and a path that is no option
            [sys.executable, "-m", "allsource_core.engine.verification_places", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            timeout=_SECONDS_MAX,
            check=True,
        )
        places = msgspec.json.decode(child.stdout, type=list[Place])
    except (subprocess.SubprocessError, msgspec.MsgspecError):
        return [(footer_offset(path), "the footer can't be read")]
    return places or [(footer_offset(path), "every page of it can be read, so its footer is damaged")]


def main(path: Path) -> int:
    """In the child: print the places."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write(msgspec.json.encode(_places(path)))
    return 0


def _places(path: Path) -> list[Place]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        # The footer has no checksum of its own, so what it says may be anything.
        chunks = [
            (group, name, chunk_offset(file.metadata.row_group(group).column(leaf)))
            for group in range(file.num_row_groups)
            for leaf, name in enumerate(_LEAVES)
        ]
    except UNREADABLE as error:
        return [(footer_offset(path), f"the footer can't be read: {_first_line(error)}")]
    found = []
    for group, name, offset in chunks:
        try:
            file.read_row_group(group, columns=[name], use_threads=False).validate(full=True)
        except UNREADABLE as error:
            found.append((offset, f"{name} of row group {group}: {_first_line(error)}"))
    return found


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def chunk_offset(chunk: Any) -> int:
    """Where a column of a row group begins."""
    return int(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)


def footer_offset(path: Path) -> int:
    """Where the footer begins by what the last eight bytes say; the place of these where that can't be."""
    place = path.stat().st_size - _FOOTER_END.size
    if place < 0:
        return 0
    with path.open("rb") as file:
        file.seek(place)
        length, magic = _FOOTER_END.unpack(file.read(_FOOTER_END.size))
    return int(place - length) if magic == b"PAR1" and length <= place else place


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
