"""The store of answers, pure, and the answer made of A and AAAA."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.net.dns_answer import Answer, Security, State, both_families
from relaymta.net.dns_cache import Cache


def found(*records: Any, ttl: float = 60.0, security: Security = Security.INSECURE) -> Answer[Any]:
    """A yes."""
    return Answer(State.FOUND, records, ttl, security)


def test_an_answer_is_kept_for_its_ttl_and_no_longer() -> None:
    """RFC 2181 §8: the ttl is a limit."""
    cache = Cache(10, 100_000)
    answer = found("192.0.2.1", ttl=60)
    cache.put(("a.test", 1), answer, now=1000.0)
    assert cache.get(("a.test", 1), 1059.9) is answer
    assert cache.get(("a.test", 28), 1059.9) is None
    assert cache.get(("a.test", 1), 1060.0) is None
    assert len(cache) == 0 and cache.octets == 0


def test_an_answer_without_ttl_is_not_kept() -> None:
    """A ttl of 0 means "for this question alone", and takes away what was there."""
    cache = Cache(10, 100_000)
    cache.put(("a.test", 1), found("192.0.2.1"), now=0.0)
    cache.put(("a.test", 1), found("192.0.2.2", ttl=0), now=0.0)
    assert cache.get(("a.test", 1), 0.0) is None


def test_the_least_recently_used_goes_first() -> None:
    """The store of stock Twisted has no bound at all; ours drops what nobody asked for the longest."""
    cache = Cache(2, 100_000)
    for name in "ab":
        cache.put((name, 1), found(name), now=0.0)
    assert cache.get(("a", 1), 1.0)
    cache.put(("c", 1), found("c"), now=1.0)
    assert [name for name in "abc" if cache.get((name, 1), 1.0)] == ["a", "c"]


def test_large_answers_cannot_fill_the_memory() -> None:
    """The bound is on octets too: a zone with answers of 64 KiB pushes out others, and itself."""
    cache = Cache(1000, 100_000)
    for number in range(50):
        cache.put((f"big{number}", 16), found(b""), now=0.0, octets=30_000)
        assert cache.octets <= 100_000
    assert len(cache) == 3


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5), st.integers(0, 400))))
def test_the_bounds_hold_and_the_books_balance(puts: list[tuple[str, int, int]]) -> None:
    """Whatever is put in whatever order, entries and octets stay below their bounds and forgetting frees all."""
    cache = Cache(3, 2000)
    for now, (name, ttl, octets) in enumerate(puts):
        cache.put((name, 1), found(ttl=ttl), float(now), octets)
        cache.get((name, 1), now + 1.0)
        assert len(cache) <= 3 and 0 <= cache.octets <= 2000
    for name in "abcdef":
        cache.get((name, 1), 1e9)
    assert cache.octets == 0


NO = Answer[str](State.NODATA, (), 30.0, text="no such record")
NEVER = Answer[str](State.NXDOMAIN, (), 30.0, text="no such domain")
FAILED = Answer[str](State.FAILED, (), 20.0, Security.FAILED, text="SERVFAIL")
BOGUS = Answer[str](State.FAILED, (), 20.0, Security.BOGUS, text="bogus")
FOUR = found("192.0.2.1")
SIX = found("2001:db8::1")


@pytest.mark.parametrize(
    ("six", "four", "state"),
    [
        (SIX, FOUR, State.FOUND),
        (FAILED, FOUR, State.FOUND),  # the failure of AAAA must not lose A
        (SIX, FAILED, State.FOUND),
        (NO, FOUR, State.FOUND),
        (NEVER, FOUR, State.FOUND),  # a broken load balancer says NXDOMAIN to AAAA
        (NO, NO, State.NODATA),
        (NEVER, NEVER, State.NXDOMAIN),
        (NEVER, NO, State.NODATA),
        (NO, NEVER, State.NODATA),
        (FAILED, NEVER, State.NXDOMAIN),  # RFC 8020 §2
        (NEVER, FAILED, State.FAILED),  # that NXDOMAIN may be the load balancer's
        (FAILED, NO, State.FAILED),
        (NO, FAILED, State.FAILED),
        (FAILED, FAILED, State.FAILED),
    ],
)
def test_two_families_make_one_answer(six: Answer[str], four: Answer[str], state: State) -> None:
    """What one family has is found; a no needs both; what could not be asked is no no."""
    answer = both_families(six, four)
    assert answer.state is state
    if state in (State.FOUND, State.NODATA):
        assert answer.ttl == min(six.ttl, four.ttl)
    assert answer.records == six.records + four.records


def test_bogus_outweighs_failed() -> None:
    """When nothing was found, the validator's complaint is what is told."""
    assert both_families(FAILED, BOGUS) is BOGUS
    assert both_families(BOGUS, NO) is BOGUS


@pytest.mark.parametrize(
    ("six", "four", "secure"),
    [
        (Security.SECURE, Security.SECURE, True),
        (Security.SECURE, Security.INSECURE, False),
        (Security.INSECURE, Security.SECURE, False),
    ],
)
def test_addresses_are_secure_when_both_answers_are(six: Security, four: Security, secure: bool) -> None:
    """RFC 7672 §2.2.2: DANE needs secure address records."""
    answer = both_families(found("2001:db8::1", security=six), found("192.0.2.1", security=four))
    assert answer.secure is secure
