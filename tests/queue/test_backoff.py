"""Schedules of attempts: monotone, bounded, read anew."""

from __future__ import annotations

from functools import partial
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.config import Duration
from relaymta.queue.backoff import SPREAD, delay, expires_at, next_attempt, timetable, warns_at
from relaymta.queue.settings import LaneLimits, LaneRule, LaneSettings, Settings

NOW = 1_764_000_000.0
delays = st.lists(st.floats(1, 100_000).map(Duration), min_size=1, max_size=8).map(lambda found: tuple(sorted(found)))
chance = st.floats(0, 1)


@given(delays, st.integers(1, 200))
def test_delays_grow_and_the_last_one_repeats(retry: tuple[Duration, ...], attempts: int) -> None:
    """A later delay is never shorter, if the operator's list says so (RFC 5321 §4.5.4.1)."""
    settings = Settings(retry=retry)
    assert delay(settings, attempts) <= delay(settings, attempts + 1)
    assert delay(settings, attempts) == retry[min(attempts, len(retry)) - 1]


@given(delays, st.integers(1, 50), chance, st.floats(0, 1e6))
def test_next_attempt_is_later_than_now_and_within_the_lifetime(
    retry: tuple[Duration, ...], attempts: int, random: float, left: float
) -> None:
    """The next attempt lies after now, within the jitter of its delay, and not behind the end of the lifetime."""
    settings = Settings(retry=retry)
    due = next_attempt(settings, attempts, NOW, NOW + left, lambda: random)
    assert due > NOW
    plain = delay(settings, attempts)
    assert due <= NOW + plain * (1 + SPREAD) + 1
    if NOW + left > NOW:
        assert due <= NOW + left + 1
    if plain * (1 + SPREAD) < left:
        assert due >= NOW + plain * (1 - SPREAD) - 0.001


@given(delays, st.lists(chance, min_size=1, max_size=20), st.floats(10, 1e6))
def test_a_message_always_reaches_its_end(retry: tuple[Duration, ...], chances: list[float], expire: float) -> None:
    """A message that is always deferred comes to its expiry in a bounded number of attempts (maddy#678)."""
    settings = Settings(retry=retry, expire=Duration(expire))
    end = expires_at(settings, NOW)
    now, attempts = NOW, 0
    bound = expire / (retry[0] * (1 - SPREAD)) + 2
    while now < end and attempts < 500:
        attempts += 1
        now = next_attempt(settings, attempts, now, end, partial(chances.__getitem__, attempts % len(chances)))
    assert now >= end or attempts == 500
    assert attempts <= max(bound, 500)


def test_default_schedule_tries_for_five_days() -> None:
    """The default delays are 5 min, 15 min, 30 min, 1 h, 2 h, then 4 h, for five days (RFC 5321 §4.5.4.1)."""
    found = list(timetable(Settings()))
    minutes = [later - sooner for sooner, later in pairwise(found)]
    assert [m / 60 for m in minutes[:7]] == [5, 15, 30, 60, 120, 240, 240]
    assert found[-1] < 5 * 86400 <= found[-1] + 4 * 3600


@given(delays, st.floats(0, 1e6))
def test_timetable_is_ascending_and_ends_with_the_lifetime(retry: tuple[Duration, ...], expire: float) -> None:
    """What `explain` shows starts at once, ascends, and stays within the lifetime."""
    found = list(islice(timetable(Settings(retry=retry, expire=Duration(expire))), 1000))
    assert all(later > sooner for sooner, later in pairwise(found))
    assert all(at < expire for at in found)


def test_lifetime_stands_still_on_hold() -> None:
    """Time on hold counts neither towards the expiry nor towards the delay notice."""
    settings = Settings()
    assert expires_at(settings, NOW, 100.0) == expires_at(settings, NOW) + 100.0
    assert warns_at(settings, NOW, 100.0) == warns_at(settings, NOW) + 100.0


def test_no_delay_notice_where_none_is_wanted() -> None:
    """warn_after = 0 means that no delay is ever told."""
    assert warns_at(Settings(warn_after=Duration(0.0)), NOW) == float("inf")


@pytest.mark.parametrize("retry", [(), (0.5,), (60.0, 0.0)])
def test_a_schedule_that_would_spin_is_refused(retry: tuple[float, ...]) -> None:
    """An empty list, or a delay below a second, is a mistake in the configuration."""
    with pytest.raises(ValueError, match="retry"):
        Settings(retry=tuple(map(Duration, retry)))


def test_lane_limits_come_from_the_first_rule_that_fits() -> None:
    """A rule's pattern is compared with the lane's name, and the first one decides."""
    slow, slower = LaneLimits(2), LaneLimits(1, messages=100, per=Duration(60.0))
    settings = LaneSettings(rules=(LaneRule("smtp:*.example.org", slow), LaneRule("*", slower)))
    assert settings.of("smtp:mx.example.org") is slow
    assert settings.of("lmtp:unix:/run/lmtp") is slower
    assert slower.interval == 0.6
    assert LaneSettings().of("smtp:example.net").concurrency == 20


def test_there_is_no_rate_where_nobody_is_at_the_other_end() -> None:
    """A rate for all destinations does not slow bounces of error routes, nor messages that are yet to be routed."""
    settings = LaneSettings(limits=LaneLimits(2, messages=1))
    assert settings.of("smtp:example.net").messages == 1
    assert [settings.of(lane).messages for lane in ("", "error", "discard")] == [0, 0, 0]
