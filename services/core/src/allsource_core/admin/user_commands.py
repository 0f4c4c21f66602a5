"""``allsource-admin users`` and ``sessions``: who signs in to a stopped store. None of it needs the master key."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from allsource_core.admin.output import Output
from allsource_core.changes import Changes
from allsource_core.engine import EventStore, ForeignDirectoryError
from allsource_core.facts import Facts
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.rules import PasswordRules
from allsource_core.identity.session_file import SESSIONS_FILE
from allsource_core.identity.users import User, UserDirectory

__all__ = ["add_session_commands", "add_user_commands"]

_LENGTH_MIN: Final = 12
_LINE_BYTES_MAX: Final = 64 * 1024
"""Of what is read of standard input: more than any password may have."""


class _ListedUser(msgspec.Struct):
    id: str
    username: str
    role: str
    tenant_id: str
    active: bool


class _PasswordReset(msgspec.Struct):
    user_id: str
    username: str
    activated: bool


def add_user_commands(parser: argparse.ArgumentParser) -> None:
    """Put the commands under ``users``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    users = commands.add_parser("list", help="say who there is")
    users.set_defaults(run=_list)
    reset = commands.add_parser(
        "reset-password",
        help="give a user a new password, to be changed at the next sign-in",
        description="The new password is asked for twice on a terminal, else it is one line of standard input.",
    )
    reset.set_defaults(run=_reset_password)
    reset.add_argument("username", metavar="USERNAME")
    reset.add_argument(
        "--min-length",
        metavar="N",
        type=int,
        default=_LENGTH_MIN,
        help="of the password, in characters (%(default)s)",
    )
    reset.add_argument("--activate", action="store_true", help="activate the user too, if it was deactivated")
    for command in (users, reset):
        _add_common(command)


def add_session_commands(parser: argparse.ArgumentParser) -> None:
    """Put the commands under ``sessions``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    end_all = commands.add_parser("end-all", help="end every session of every user")
    end_all.set_defaults(run=_end_all)
    _add_common(end_all)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", metavar="DATA_DIR", type=Path, required=True, help="of a stopped store")
    command.add_argument("--json", action="store_true", help="one JSON object a line")


def _list(arguments: argparse.Namespace, output: Output) -> int:
    with _opened(arguments.data_dir) as store:
        for user in _users_of(store)[0].all():
            listed = _ListedUser(user.id, user.username, user.role.value, user.tenant_id, user.active)
            state = "active" if user.active else "inactive"
            text = "\t".join((listed.id, listed.username, listed.role, listed.tenant_id, state))
            output.result(text, "user", listed)
    return 0


def _reset_password(arguments: argparse.Namespace, output: Output) -> int:
    with _opened(arguments.data_dir) as store:
        users, facts = _users_of(store)
        user = users.named(arguments.username)
        if user is None:
            raise ValueError(f"there is no user {arguments.username!r}; `allsource-admin users list` says who there is")
        activates = not user.active
        if activates and not arguments.activate:
            raise ValueError(f"the user {user.username!r} is deactivated: nothing was done; --activate activates it")
        password = _new_password()
        PasswordRules(arguments.min_length).check(password, username=user.username)
        asyncio.run(_store_password(users, facts, user, password))
        done = _PasswordReset(user.id, user.username, activates)
    output.result(
        f"the user {done.username!r} ({done.user_id}) has the new password{', and is active' if activates else ''};"
        " it has to change it when it signs in. Its sessions have ended; its API keys are what they were",
        "password_reset",
        done,
    )
    return 0


async def _store_password(users: UserDirectory, facts: Facts, user: User, password: str) -> None:
    passwords = Passwords(1)
    try:
        password_hash = passwords.hash(password)
    finally:
        passwords.close()
    async with facts.changing:
        # One append: the user is not active with the password that it had.
        await users.change(user.id, active=True, password_hash=password_hash, must_change=True)


def _end_all(arguments: argparse.Namespace, output: Output) -> int:
    # Open, for its lock: the sessions of a running service would come back from its memory.
    with _opened(arguments.data_dir):
        path = arguments.data_dir / SESSIONS_FILE
        # The file itself comes last: what SQLite keeps beside it must not meet another one.
        for file in sorted(path.parent.glob(f"{path.name}*"), reverse=True):
            file.unlink()
        if path.parent.is_dir():
            _sync_directory(path.parent)
    output.done("every session has ended: all users sign in again. API keys are what they were")
    return 0


@contextmanager
def _opened(data_dir: Path) -> Iterator[EventStore]:
    """The store of a directory, where there is one: none is made.

    Raises:
        ForeignDirectoryError, StoreLockedError, CorruptionError, OSError: as `EventStore.open`.
    """
    if not (data_dir / "STORE").exists():
        raise ForeignDirectoryError(f"{data_dir.absolute()} is no store of AllSource")
    with EventStore.open(data_dir) as store:
        yield store


def _users_of(store: EventStore) -> tuple[UserDirectory, Facts]:
    facts = Facts(store)
    users = UserDirectory(facts, Changes())
    facts.fold()
    return users, facts


def _new_password() -> str:
    """What somebody types twice, or the first line of standard input. Raises ValueError, which quotes nothing of it."""
    if sys.stdin.isatty():
        password = getpass.getpass("new password: ")
        if getpass.getpass("the same again: ") != password:
            raise ValueError("the two passwords differ: nothing was done")
        line = os.fsencode(password)
    else:
        line = sys.stdin.buffer.readline(_LINE_BYTES_MAX).removesuffix(b"\n").removesuffix(b"\r")
    if not line:
        raise ValueError("there is no password on standard input: nothing was done")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("the password is not UTF-8: nothing was done") from None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
