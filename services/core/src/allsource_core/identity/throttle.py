"""Slowing down those who guess passwords.

Failed sign-ins are counted in three ways, and each count makes the next attempt wait, the longer the more it is. An
attempt that has to wait is refused before any password is looked at. Whether the account exists plays no part.

============================  =========  =======================  ================
counted by                    free       then a wait of           one is forgotten
============================  =========  =======================  ================
account and address           10         1 s, doubling to 15 min  every 15 min
address, whatever account     100        1 s, doubling to 60 s    every 60 s
account, whatever address     20         1 s, doubling to 5 s     every 60 s
============================  =========  =======================  ================

So one address guesses at one account 10 times, and then about 100 times a day; at all accounts together 100 times, and
then about 1,500 times a day. Addresses of IPv6 count by /64, the least that one customer is given.

Nobody is locked out by others: the count of an account never makes anybody wait longer than 5 s. Guessers could still
take every turn that there is in those 5 s; so whoever was told to wait for the sake of the account is promised the turn
at the end of that wait, and gets it whatever happened meanwhile.

An attempt counts as failed from its beginning, so that a thousand at once don't all pass. One that succeeds is taken
back, and with it the count of account and address; those of the account and of the address stay otherwise as they are,
for somebody else may be guessing, or the guesser have an account too.

It is also remembered where accounts have signed in from: whoever asks from there may be told what depends on whether
there is the account.

The counts are kept in memory, a fixed number of each, of which those that were looked at longest ago give way. An
attempt takes part in all three, so to push out the count of its own address one needs other addresses.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from allsource_core.identity.errors import SlowedDownError

__all__ = ["ACCOUNT_WAIT_SECONDS_MAX", "SignInThrottle", "network_of"]

ACCOUNT_WAIT_SECONDS_MAX: Final = 5.0
"""What others can make anybody wait, at most."""

_KEPT_MAX: Final = 65_536
"""More than there can be attempts in 5 s: a promise is not pushed out before it is due. A million names and addresses
leave 51 MiB behind (measured)."""


class _Rule(msgspec.Struct, frozen=True):
    """How one count makes wait; times in seconds.

    Attributes:
        free: attempts without a wait.
        wait_most: the first wait is 1 s, each one after it twice as long, up to this.
        forget: in which one failure is forgotten.
    """

    free: int
    wait_most: float
    forget: float


_PAIR: Final = _Rule(free=10, wait_most=900.0, forget=900.0)
_ADDRESS: Final = _Rule(free=100, wait_most=60.0, forget=60.0)
_ACCOUNT: Final = _Rule(free=20, wait_most=ACCOUNT_WAIT_SECONDS_MAX, forget=60.0)


class _Count(msgspec.Struct, gc=False):
    """Failures, as they were at a time.

    Attributes:
        failures: not whole where a part of one has been forgotten.
        at: when the last one was.
        promised: of account and address: when it gets its turn for certain; infinite without a promise.
    """

    failures: float = 0.0
    at: float = 0.0
    promised: float = math.inf


class _Counts:
    """The counts of one rule, by key; the number of them is bounded."""

    def __init__(self, rule: _Rule, kept_max: int) -> None:
        self._rule = rule
        self._kept_max = kept_max
        self._kept: OrderedDict[bytes, _Count] = OrderedDict()
        # More failures than make the longest wait would only be remembered for longer.
        self._most = rule.free + math.log2(rule.wait_most)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float) -> _Count:
        """The count of a key, made if it is not kept, as the one that was looked at last."""
        count = self._kept.get(key)
        if count is None:
            count = self._kept[key] = _Count(at=now)
            if len(self._kept) > self._kept_max:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return count

    def due(self, count: _Count) -> float:
        """When the next attempt is let through."""
        over = count.failures - self._rule.free
        return count.at + min(self._rule.wait_most, 2.0**over) if over > -1 else -math.inf

    def left(self, due: float, now: float) -> float:
        """How long it is until then: never longer than the longest wait, whatever sums of times are rounded to."""
        return min(due - now, self._rule.wait_most)

    def add(self, count: _Count, now: float) -> None:
        """Count a failure, and forget what is past."""
        left = max(0.0, count.failures - (now - count.at) / self._rule.forget)
        count.failures, count.at = min(left + 1.0, self._most), now

    def take_back(self, key: bytes) -> None:
        """One failure was none."""
        count = self._kept.get(key)
        if count is not None:
            count.failures = max(0.0, count.failures - 1.0)

    def forget(self, key: bytes) -> None:
        """Start anew."""
        self._kept.pop(key, None)


class SignInThrottle:
    """Who has to wait before the next sign-in. For one thread; about 10 µs an attempt.

    Args:
        clock: seconds that never go back.
        kept_max: counts of each of the three kinds that are kept; as many successes.
    """

    def __init__(self, clock: Callable[[], float], *, kept_max: int = _KEPT_MAX) -> None:
        self._clock = clock
        self._pairs = _Counts(_PAIR, kept_max)
        self._addresses = _Counts(_ADDRESS, kept_max)
        self._accounts = _Counts(_ACCOUNT, kept_max)
        self._kept_max = kept_max
        # Account and address, the one that succeeded longest ago first.
        self._succeeded: OrderedDict[bytes, None] = OrderedDict()
        # Names and addresses are kept as digests: short, and nothing to read in a dump of the memory.
        self._salt = secrets.token_bytes(16)

    def __len__(self) -> int:
        """How many counts and successes are kept."""
        return len(self._pairs) + len(self._addresses) + len(self._accounts) + len(self._succeeded)

    def admit(self, account: str, address: str) -> None:
        """Let an attempt to sign in through, and count it as a failed one.

        Args:
            account: the name that was given.
            address: of who asks.

        Raises:
            SlowedDownError: it has to wait. It is not counted.
        """
        now = self._clock()
        address_key, account_key, pair_key = self._keys(account, address)
        of_address = self._addresses.get(address_key, now)
        due = self._addresses.due(of_address)
        if due > now:
            raise SlowedDownError(self._addresses.left(due, now))
        pair = self._pairs.get(pair_key, now)
        due = self._pairs.due(pair)
        if due > now:
            raise SlowedDownError(self._pairs.left(due, now))
        of_account = self._accounts.get(account_key, now)
        due = min(self._accounts.due(of_account), pair.promised)
        if due > now:
            pair.promised = due
            raise SlowedDownError(self._accounts.left(due, now))
        pair.promised = math.inf
        self._addresses.add(of_address, now)
        self._pairs.add(pair, now)
        self._accounts.add(of_account, now)

    def succeeded(self, account: str, address: str) -> None:
        """An attempt that was let through had the right password."""
        address_key, account_key, pair_key = self._keys(account, address)
        self._pairs.forget(pair_key)
        self._addresses.take_back(address_key)
        self._accounts.take_back(account_key)
        self._succeeded[pair_key] = None
        self._succeeded.move_to_end(pair_key)
        if len(self._succeeded) > self._kept_max:
            self._succeeded.popitem(last=False)

    def has_succeeded(self, account: str, address: str) -> bool:
        """Whether somebody has signed in to the account from there since the start, as far as that is remembered."""
        return self._keys(account, address)[2] in self._succeeded

    def not_checked(self, account: str, address: str) -> None:
        """An attempt that was let through got no answer: no password was looked at, and it still has its turn."""
        now = self._clock()
        address_key, account_key, pair_key = self._keys(account, address)
        self._pairs.take_back(pair_key)
        self._pairs.get(pair_key, now).promised = now
        self._addresses.take_back(address_key)
        self._accounts.take_back(account_key)

    def _keys(self, account: str, address: str) -> tuple[bytes, bytes, bytes]:
        of_address = self._digest(network_of(address))
        of_account = self._digest(account)
        return of_address, of_account, of_address + of_account

    def _digest(self, text: str) -> bytes:
        encoded = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(encoded, digest_size=16, key=self._salt).digest()


def network_of(address: str) -> str:
    """What counts as one address: that of IPv4, a /64 of IPv6; what is neither, as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> 64:x}::"
