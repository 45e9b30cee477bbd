"""What the operator may set about waiting: when mail is tried again, when it is given up, how much one lane may take.

Looked at anew at every attempt, so that a reload reaches the mail that waits already.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from attrs import Attribute, field, frozen

from relaymta.config import Duration, Size

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def _not_negative(_: object, attribute: Attribute[Any], value: float) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} must not be negative")


def _at_least_one(_: object, attribute: Attribute[Any], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1")


def _delays(_: object, attribute: Attribute[Any], value: tuple[Duration, ...]) -> None:
    if not value:
        raise ValueError(f"{attribute.name}: at least one delay is needed")
    if min(value) < 1:
        raise ValueError(f"{attribute.name}: a delay must be at least one second")


@frozen(slots=True)
class Settings:
    """The [queue] table.

    `retry`: delays between attempts, the last one repeats. `expire`: given up after so long (time on hold and before a
    release not counted). `warn_after`: the sender is told of a delay after so long, 0 = never. `min_free`: below so
    much free space mail is refused with 452. `memory`: octets of messages kept in memory by this process for their
    first attempt; what comes beyond that waits on disk.
    """

    retry: tuple[Duration, ...] = field(
        default=(
            Duration(5 * MINUTE),
            Duration(15 * MINUTE),
            Duration(30 * MINUTE),
            Duration(HOUR),
            Duration(2 * HOUR),
            Duration(4 * HOUR),
        ),
        validator=_delays,
    )
    expire: Duration = field(default=Duration(5 * DAY), validator=_not_negative)
    warn_after: Duration = field(default=Duration(4 * HOUR), validator=_not_negative)
    min_free: Size = field(default=Size(100_000_000), validator=_not_negative)
    memory: Size = field(default=Size(32 * 1024 * 1024), validator=_not_negative)


@frozen(slots=True)
class LaneLimits:
    """What one lane may take: attempts at the same time, and messages in `per` seconds (0 = any number)."""

    concurrency: int = field(default=20, validator=_at_least_one)
    messages: int = field(default=0, validator=_not_negative)
    per: Duration = field(default=Duration(MINUTE), validator=_not_negative)

    @property
    def interval(self) -> float:
        """Seconds from one message to the next that keep to the rate; 0.0 without one."""
        return self.per / self.messages if self.messages else 0.0


# Lanes with nobody at the other end: of messages not yet routed, and of the two transports that keep nothing.
_PEERLESS = frozenset({"", "discard", "error"})
_UNLIMITED = LaneLimits()


@frozen(slots=True)
class LaneRule:
    """Other limits for the lanes whose name fits `lane`, a pattern with * and ? ("smtp:*.example.org")."""

    lane: str
    limits: LaneLimits


@frozen(slots=True)
class LaneSettings:
    """Limits of the way out: `attempts` at the same time in all, and for each lane its rule's or `limits`."""

    attempts: int = field(default=1000, validator=_at_least_one)
    limits: LaneLimits = field(factory=LaneLimits)
    rules: tuple[LaneRule, ...] = ()

    def of(self, lane: str) -> LaneLimits:
        """The limits of `lane`: the first rule that fits; there is no rate where nobody is at the other end."""
        if lane in _PEERLESS:
            return _UNLIMITED
        for rule in self.rules:
            if fnmatchcase(lane, rule.lane):
                return rule.limits
        return self.limits
