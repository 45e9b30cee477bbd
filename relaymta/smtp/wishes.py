"""What a client may wish for with MAIL where a listener lets it: a later release, and TLS all the way.

RFC 4865 (FUTURERELEASE, with erratum 2040), RFC 3339 §5.6 (dates), RFC 8689 §2 (REQUIRETLS). Grammar and limits; what
becomes of a wish is left to the queue and to delivery.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from attrs import field, frozen

from relaymta.mail.reply import Reply

HOLD_MAX = 999_999_999  # RFC 4865 §3: nine digits of seconds

_INTERVAL = re.compile(rb"[1-9][0-9]{0,8}")  # RFC 4865 §3, future-release-integer
_DATE = re.compile(
    rb"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    rb"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)  # RFC 3339 §5.6, date-time


class WishError(ValueError):
    """A wish that is malformed, or too much; `reply` says so to the client."""

    def __init__(self, text: str) -> None:
        self.reply = Reply(501, "5.5.4", text)
        super().__init__(text)


@frozen(slots=True)
class Wishes:
    """What is offered. `future_release` is how many seconds ahead at most, 0 for not at all; `seconds`: POSIX time."""

    requiretls: bool = False
    future_release: int = 0
    seconds: Callable[[], float] = time.time
    keywords: frozenset[bytes] = field(init=False)

    @keywords.default
    def _keywords(self) -> frozenset[bytes]:
        names = {b"REQUIRETLS"} if self.requiretls else set()
        return frozenset(names | {b"HOLDFOR", b"HOLDUNTIL"} if self.future_release else names)

    def announced(self, ehlo: bytes) -> bytes:
        """A positive reply to EHLO, with a line for each thing that is offered behind its first."""
        if not self.keywords:
            return ehlo
        first, _, rest = ehlo.partition(b"\r\n")
        lines = [b"250-" + first[4:]]
        if self.future_release:  # RFC 4865 §3: the longest interval, and the latest date
            latest = datetime.fromtimestamp(int(self.seconds()) + self.future_release, UTC)
            lines.append(f"250-FUTURERELEASE {self.future_release} {latest:%Y-%m-%dT%H:%M:%SZ}".encode())
        if self.requiretls:
            lines.append(b"250-REQUIRETLS")
        if not rest:
            lines[-1] = b"250 " + lines[-1][4:]
        return b"\r\n".join([*lines, rest])

    def release_at(self, hold_for: bytes | None, hold_until: bytes | None) -> float:
        """POSIX time before which the message is not to leave; 0.0 where nothing is wished. Raises WishError.

        What is malformed, over, or too far ahead is the client's error alike (RFC 4865 §4.2).
        """
        if hold_for is not None and hold_until is not None:
            raise WishError("HOLDFOR and HOLDUNTIL exclude each other")  # RFC 4865 §4.2
        if hold_for is not None:
            if not _INTERVAL.fullmatch(hold_for):
                raise WishError("malformed HOLDFOR parameter: seconds are wanted")
            ahead = float(hold_for)
        elif hold_until is not None:
            ahead = _posix(hold_until) - self.seconds()
            if ahead <= 0:
                raise WishError("the time of HOLDUNTIL is over")
        else:
            return 0.0
        if ahead > self.future_release:
            raise WishError(f"the time of release is too far ahead: {self.future_release} seconds at most")
        return self.seconds() + ahead


NO_WISHES = Wishes()


def requested(hold_for: bytes | None, hold_until: bytes | None) -> str:
    """A wish that was taken, as notices repeat it: "for;3600", "until;2027-01-31T08:00:00Z", "" (RFC 4865 §5.1.2)."""
    if hold_for is not None:
        return f"for;{hold_for.decode('ascii')}"
    return "" if hold_until is None else f"until;{hold_until.decode('ascii')}"


def _posix(text: bytes) -> float:
    found = _DATE.fullmatch(text)
    if found is not None:
        year, month, day, hour, minute, second = (int(found[n]) for n in range(1, 7))
        sign, hours, minutes = found[8] or b"+", int(found[9] or 0), int(found[10] or 0)
        if second <= 60 and hours <= 23 and minutes <= 59:
            away = timedelta(hours=hours, minutes=minutes)
            try:
                at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
                at += timedelta(seconds=second // 60)  # a leap second
                early = (at - away if sign == b"+" else at + away).timestamp()
                return early + float(b"0." + (found[7] or b"0"))  # RFC 4865 §4.2: never before the time
            except (ValueError, OverflowError):
                pass  # no such day
    raise WishError('malformed HOLDUNTIL parameter: write it as "2027-01-31T08:00:00Z"')
