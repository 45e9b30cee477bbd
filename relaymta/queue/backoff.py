"""When a deferred message is tried again, and when it is given up.

RFC 5321 §4.5.4.1 (at least 30 minutes in the long run, give up after 4 to 5 days). Pure: settings, times and
randomness are arguments, looked at anew for every attempt, so that a changed setting reaches what waits already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

from relaymta.queue.settings import Settings

SPREAD = 0.1  # part of a delay by which it may be shorter or longer; ours, so that a burst does not stay one


def delay(settings: Settings, attempts: int) -> float:
    """Seconds to wait after attempt number `attempts` (from 1), before jitter; the last delay repeats."""
    retry = settings.retry
    return retry[min(max(attempts, 1), len(retry)) - 1]


def next_attempt(settings: Settings, attempts: int, now: float, expires: float, random: Callable[[], float]) -> int:
    """POSIX time, in whole seconds, of the next attempt after `attempts` of them.

    Later than `now`, and not later than `expires`, so that a message is looked at again when its time is over; where
    it is over already (its notice could not be stored) the plain delay. `random` returns a float from 0.0 to 1.0.
    """
    jitter = 1 + SPREAD * (2 * random() - 1)
    due = now + delay(settings, attempts) * jitter
    return max(int(now) + 1, ceil(due if expires <= now else min(due, expires)))


def expires_at(settings: Settings, accepted_at: float, on_hold: float = 0.0) -> float:
    """POSIX time after which a message is given up; the seconds it was on hold are not counted."""
    return accepted_at + settings.expire + on_hold


def warns_at(settings: Settings, accepted_at: float, on_hold: float = 0.0) -> float:
    """POSIX time after which the sender is told of the delay; infinity where the operator wants none."""
    return accepted_at + settings.warn_after + on_hold if settings.warn_after else float("inf")


def timetable(settings: Settings) -> Iterator[float]:
    """Seconds since acceptance of every attempt of a message that is always deferred, before jitter."""
    at, attempts = 0.0, 0
    while at < settings.expire:
        yield at
        attempts += 1
        at += delay(settings, attempts)
