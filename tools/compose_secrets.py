"""Write ``.env`` for docker-compose with fresh secrets, if there is none.

``make up`` runs this with the system's Python, before anything is installed: the standard library only. An ``.env``
that is there is never touched: the data in the volume was made with its secrets.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "write_env_file"]

_TEMPLATE = """\
# Secrets of the Compose deployment, made by `make up`. Keep this file to yourself, and keep it:
# the data in the volume belongs to it. docker-compose.yml says what each variable is for.
ALLSOURCE_AUTH__MASTER_KEY={master_key}
ALLSOURCE_GATEWAY__KEY={gateway_key}
ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME=admin
ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD={password}
ALLSOURCE_BOOTSTRAP_ADMIN_EMAIL=admin@example.com
# The one port that is published, on loopback.
ALLSOURCE_PUBLISHED_PORT=8081
"""


def write_env_file(path: Path) -> bool:
    """Write `path` with mode 0600, complete or not at all; False if it is there already.

    Raises:
        OSError: if its directory can't be written.
    """
    text = _TEMPLATE.format(
        master_key=secrets.token_urlsafe(48),
        gateway_key=secrets.token_urlsafe(48),
        password=secrets.token_urlsafe(18),
    )
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        os.link(draft, path)  # unlike a rename it fails if somebody else was first
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def main(arguments: Sequence[str]) -> int:
    """Args: the file to write; by default ``.env`` at the top of the repository."""
    path = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent / ".env"
    if write_env_file(path):
        print(f"wrote {path.name} with fresh secrets; the admin's password is in it")
    else:
        print(f"{path.name} is there already and stays as it is")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
