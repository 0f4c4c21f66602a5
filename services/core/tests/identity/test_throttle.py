"""Slowing down: guessers wait longer and longer, and nobody is locked out by others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.identity.errors import SlowedDownError
from allsource_core.identity.throttle import ACCOUNT_WAIT_SECONDS_MAX, SignInThrottle

HOME = "192.0.2.7"


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> SignInThrottle:
    return SignInThrottle(clock)


def wait(throttle: SignInThrottle, account: str, address: str) -> float:
    """Try to sign in, and fail; how long one is told to wait instead, 0 if the attempt was let through."""
    try:
        throttle.admit(account, address)
    except SlowedDownError as error:
        return error.retry_after_seconds
    return 0.0


def fail(throttle: SignInThrottle, clock: Clock, account: str, address: str, times: int) -> list[float]:
    """Fail so often, as soon as each attempt is let through; how long each had to wait."""
    waits = []
    for _ in range(times):
        waits.append(wait(throttle, account, address))
        clock.now += waits[-1]
        assert not waits[-1] or wait(throttle, account, address) == 0.0
    return waits


def test_where_accounts_signed_in_from_is_remembered_and_no_more_of_it_than_is_kept(clock: Clock):
    throttle = SignInThrottle(clock, kept_max=2)
    for account, address in (("ann", HOME), ("bob", HOME), ("ann", HOME), ("eve", "2001:db8::1")):
        throttle.admit(account, address)
        assert not throttle.has_succeeded(account, "198.51.100.9")
        throttle.succeeded(account, address)
    throttle.admit("nobody", HOME)
    known = [("ann", HOME), ("bob", HOME), ("eve", "2001:db8::2"), ("eve", HOME), ("nobody", HOME)]
    assert [throttle.has_succeeded(*one) for one in known] == [True, False, True, False, False]


def test_typing_errors_cost_nothing_and_guessing_takes_longer_and_longer(throttle: SignInThrottle, clock: Clock):
    waits = fail(throttle, clock, "ann", HOME, 24)
    assert waits[:10] == [0.0] * 10
    assert waits[10:14] == pytest.approx([1, 2, 4, 8], rel=0.05)
    assert waits == sorted(waits)
    # In the end one guess each quarter of an hour.
    assert fail(throttle, clock, "ann", HOME, 3) == pytest.approx([900] * 3, rel=0.1)


def test_what_is_refused_is_not_counted(throttle: SignInThrottle, clock: Clock):
    fail(throttle, clock, "ann", HOME, 10)
    assert [wait(throttle, "ann", HOME) for _ in range(1000)] == pytest.approx([1.0] * 1000)
    clock.now += 1.0
    assert wait(throttle, "ann", HOME) == 0.0


def test_failures_are_forgotten_with_time(throttle: SignInThrottle, clock: Clock):
    fail(throttle, clock, "ann", HOME, 16)
    clock.now += 16 * 900
    assert fail(throttle, clock, "ann", HOME, 10) == [0.0] * 10


def test_success_begins_anew_for_account_and_address(throttle: SignInThrottle, clock: Clock):
    for _ in range(5):
        fail(throttle, clock, "ann", HOME, 9)
        throttle.admit("ann", HOME)
        throttle.succeeded("ann", HOME)
        # So that it is not the count of the account that makes wait.
        clock.now += 3600


def test_success_takes_back_nothing_but_itself_from_account_and_address(throttle: SignInThrottle, clock: Clock):
    for number in range(99):
        assert wait(throttle, f"user-{number}", HOME) == 0.0
    for _ in range(50):
        throttle.admit("mallory", HOME)
        throttle.succeeded("mallory", HOME)
    assert wait(throttle, "user-100", HOME) == 0.0
    assert wait(throttle, "mallory", HOME) == pytest.approx(1.0)


def test_success_never_makes_anybody_wait(throttle: SignInThrottle):
    for _ in range(1000):
        throttle.admit("ann", HOME)
        throttle.succeeded("ann", HOME)


def test_what_was_not_checked_does_not_count(throttle: SignInThrottle):
    for _ in range(1000):
        throttle.admit("ann", HOME)
        throttle.not_checked("ann", HOME)


def test_what_was_not_checked_keeps_the_turn_that_it_was_promised(throttle: SignInThrottle, clock: Clock):
    attackers = iter(f"10.0.{number >> 8}.{number & 255}" for number in range(1000))
    for _ in range(500):
        clock.now += wait(throttle, "ann", next(attackers))
    told = wait(throttle, "ann", HOME)
    assert told > 0
    clock.now += told
    for _ in range(3):
        # Others take every turn meanwhile.
        clock.now += 5
        wait(throttle, "ann", next(attackers))
        throttle.admit("ann", HOME)
        throttle.not_checked("ann", HOME)
        assert wait(throttle, "ann", next(attackers)) > 0
    throttle.admit("ann", HOME)
    assert wait(throttle, "ann", HOME) > 0


def test_attempts_at_once_count_from_their_beginning(throttle: SignInThrottle):
    assert [wait(throttle, "ann", HOME) for _ in range(1000)].count(0.0) == 10


def test_an_address_is_slowed_down_whatever_the_accounts(throttle: SignInThrottle, clock: Clock):
    assert [wait(throttle, f"user-{number}", HOME) for number in range(200)].count(0.0) == 100
    for number in range(200, 210):
        clock.now += wait(throttle, f"user-{number}", HOME)
        assert wait(throttle, f"user-{number}", HOME) == 0.0
    assert wait(throttle, "user-210", HOME) == pytest.approx(60, rel=0.1)
    assert wait(throttle, "user-210", "192.0.2.8") == 0.0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:DB8:1:2::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("", "unix", False),
    ],
)
def test_what_counts_as_one_address(throttle: SignInThrottle, clock: Clock, first: str, second: str, same: bool):
    fail(throttle, clock, "ann", first, 10)
    assert (wait(throttle, "ann", second) > 0) == same


def test_no_account_is_told_from_another(clock: Clock):
    """Whether an account exists is not asked: the same attempts at any two give the same waits."""
    waits = [fail(SignInThrottle(clock), clock, account, HOME, 20) for account in ("ann", "nobody", "", "\udcff" * 256)]
    assert all(other == pytest.approx(waits[0], rel=1e-3) for other in waits)


# --- others ---


def test_guessing_from_everywhere_is_slowed_down_a_little(throttle: SignInThrottle, clock: Clock):
    told = [wait(throttle, "ann", f"10.{number // 250}.{number % 250}.1") for number in range(1000)]
    assert told.count(0.0) == 20
    assert max(told) <= ACCOUNT_WAIT_SECONDS_MAX
    assert wait(throttle, "bob", "10.0.1.1") == 0.0


def test_whoever_is_told_to_wait_for_others_gets_the_turn_that_was_promised(throttle: SignInThrottle, clock: Clock):
    """An attacker with ten thousand addresses, each of which asks all the time and takes every turn."""
    attackers = iter(f"10.{number >> 8}.{number & 255}.1" for number in range(65_536))
    for _ in range(200):
        wait(throttle, "ann", next(attackers))
    told = wait(throttle, "ann", HOME)
    assert 0 < told <= ACCOUNT_WAIT_SECONDS_MAX
    begun = clock.now
    while clock.now < begun + told:
        for _ in range(50):
            wait(throttle, "ann", next(attackers))
        # Asking too early neither helps nor costs.
        assert wait(throttle, "ann", HOME) <= told
        clock.now += 0.1
    clock.now = max(clock.now, begun + told)
    for _ in range(50):
        wait(throttle, "ann", next(attackers))
    assert wait(throttle, "ann", HOME) == 0.0


PAUSES = st.sampled_from([0.0, 0.0, 0.0, 0.3, 1.0, 5.0, 60.0])
ATTEMPTS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 6), st.sampled_from([0.0, 0.0, 0.0, 0.3, 1.0, 5.0, 60.0]), st.booleans()
    ),
    max_size=300,
)


@given(attempts=ATTEMPTS)
def test_nothing_that_others_do_keeps_anybody_out_for_more_than_five_seconds(
    attempts: list[tuple[int, int, float, bool]],
):
    clock = Clock()
    throttle = SignInThrottle(clock)
    for account, address, pause, right in attempts:
        clock.now += pause
        if wait(throttle, f"user-{account}", f"10.0.0.{address}") == 0.0 and right:
            throttle.succeeded(f"user-{account}", f"10.0.0.{address}")
        told = wait(throttle, f"user-{account}", HOME)
        assert told <= ACCOUNT_WAIT_SECONDS_MAX
        if not told:
            throttle.succeeded(f"user-{account}", HOME)


# Below a power of two, sums are rounded that reach over it.
@pytest.mark.parametrize("shown", [1019.1, 1019.3, 1021.7, *(2.0**power - 0.7 for power in range(5, 30))])
@pytest.mark.parametrize("attempts_by", ["account", "address", "both"])
def test_nobody_is_told_a_longer_wait_than_there_is_whatever_the_clock_shows(shown: float, attempts_by: str):
    clock = Clock()
    most = {"account": ACCOUNT_WAIT_SECONDS_MAX, "address": 60.0, "both": 900.0}[attempts_by]

    def guess_until_it_takes_longest(throttle: SignInThrottle) -> float:
        for number in range(150):
            account = "ann" if attempts_by != "address" else f"user-{number}"
            address = HOME if attempts_by != "account" else f"10.0.{number}.1"
            clock.now += wait(throttle, account, address)
            wait(throttle, account, address)
        return wait(throttle, "ann", HOME)

    clock.now = 0.0
    guess_until_it_takes_longest(SignInThrottle(clock))
    clock.now = shown - clock.now
    assert 0.99 * most < guess_until_it_takes_longest(SignInThrottle(clock)) <= most


@given(pauses=st.lists(st.floats(0, 2000), max_size=200))
def test_no_more_guesses_pass_than_the_figures_say(pauses: list[float]):
    clock = Clock()
    throttle = SignInThrottle(clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        told = wait(throttle, "ann", HOME)
        assert told <= 900.0
        passed += told == 0.0
    # Those that are free, those that the doubling lets through, and one each quarter of an hour.
    assert passed <= 10 + 10 + (clock.now - 1000.0) / 900 * 1.1


def test_any_number_of_names_and_addresses_leaves_a_bounded_number_of_counts(clock: Clock):
    throttle = SignInThrottle(clock, kept_max=1000)
    for number in range(100_000):
        wait(throttle, f"user-{number}", f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle) == 3000


def test_whoever_goes_on_guessing_is_not_forgotten(clock: Clock):
    throttle = SignInThrottle(clock, kept_max=1000)
    fail(throttle, clock, "ann", HOME, 20)
    for number in range(5000):
        wait(throttle, f"user-{number}", f"10.0.{number >> 8}.{number & 255}")
        assert wait(throttle, "ann", HOME) > 60
