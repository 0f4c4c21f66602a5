"""The setup token: one secret, good until there is a user."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from allsource_core.engine import EventStore
from allsource_core.identity.setup_token import SETUP_TOKEN_FILE, SetupToken, listens_on_loopback


def test_without_one_nothing_matches(tmp_path: Path):
    setup = SetupToken(tmp_path / SETUP_TOKEN_FILE)
    assert not any(map(setup.matches, (None, "", "x", "0" * 64)))
    assert list(tmp_path.iterdir()) == []


def test_it_matches_itself_alone_until_it_is_discarded(tmp_path: Path):
    setup = SetupToken(tmp_path / SETUP_TOKEN_FILE)
    token = setup.issue()
    setup.write(token)
    assert setup.path.read_text() == f"{token}\n"
    assert setup.path.stat().st_mode & 0o777 == 0o600
    assert setup.matches(token)
    assert not any(map(setup.matches, (None, "", token[:-1], token + "0", token.upper() + " ", "\ud800")))
    setup.discard()
    assert not setup.matches(token)
    assert not setup.path.exists()
    setup.discard()


def test_the_next_start_makes_another_one(tmp_path: Path):
    first, second = SetupToken(tmp_path / SETUP_TOKEN_FILE), SetupToken(tmp_path / SETUP_TOKEN_FILE)
    old = first.issue()
    first.write(old)
    new = second.issue()
    second.write(new)
    assert new != old
    assert second.path.read_text() == f"{new}\n"
    assert not second.matches(old)


def test_no_link_is_followed_to_write_it(tmp_path: Path):
    (tmp_path / "other").write_text("theirs")
    setup = SetupToken(tmp_path / SETUP_TOKEN_FILE)
    setup.path.symlink_to(tmp_path / "other")
    setup.write(setup.issue())
    assert (tmp_path / "other").read_text() == "theirs"
    assert not setup.path.is_symlink()


def test_a_store_opens_beside_it(tmp_path: Path):
    with EventStore.open(tmp_path / "data"):
        setup = SetupToken(tmp_path / "data" / SETUP_TOKEN_FILE)
        setup.write(setup.issue())
    with EventStore.open(tmp_path / "data"):
        assert setup.path.exists()


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.8.9.10"], ["::1"], ["127.0.0.1", "::1"]])
def test_loopback(hosts: list[str]):
    assert listens_on_loopback(iter(hosts))


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["0.0.0.0"],
        ["::"],
        ["10.0.0.1"],
        ["fe80::1%eth0"],
        ["::ffff:10.0.0.1"],
        ["localhost"],
        ["127.0.0.1", "192.168.0.1"],
        ["::1", "::"],
        ["127.1"],
        ["0x7f000001"],
    ],
)
def test_what_is_or_may_be_reached_from_elsewhere(hosts: list[str]):
    assert not listens_on_loopback(hosts)


def test_the_addresses_of_sockets_are_what_is_judged():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listens_on_loopback([server.getsockname()[0]])
