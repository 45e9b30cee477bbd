"""Queue ids: short, unique over restarts and workers, sortable by time; and session ids of the same make.

Ours: microseconds since 1970 in 11 digits of Crockford's base 32, then the shard in two more. Ids of one maker
grow strictly, also when the clock steps back.
"""

from __future__ import annotations

from collections.abc import Callable

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
LENGTH = 13
SHARDS = 1024


class IdMaker:
    """Makes ids for one shard (0 to SHARDS - 1) from `seconds`, a clock that returns POSIX time as float."""

    def __init__(self, seconds: Callable[[], float], shard: int = 0) -> None:
        self._seconds = seconds
        self._shard = _PAIRS[shard]
        self._last = 0

    def next(self) -> str:
        """A new id (str, LENGTH characters of 0-9A-Z)."""
        stamp = int(self._seconds() * 1_000_000)
        if stamp <= self._last:
            stamp = self._last + 1
        self._last = stamp
        p = _PAIRS
        return (
            _DIGITS[stamp >> 50]
            + p[stamp >> 40 & 1023]
            + p[stamp >> 30 & 1023]
            + p[stamp >> 20 & 1023]
            + p[stamp >> 10 & 1023]
            + p[stamp & 1023]
            + self._shard
        )


def is_queue_id(text: str) -> bool:
    """Whether `text` has the form of an id."""
    return len(text) == LENGTH and all(c in _DIGITS for c in text)


def made_at(queue_id: str) -> float:
    """POSIX time in seconds at which an id was made; ValueError if it is none."""
    if not is_queue_id(queue_id):
        raise ValueError(f"{queue_id!r} is not a queue id")
    stamp = 0
    for digit in queue_id[:-2]:
        stamp = stamp << 5 | _DIGITS.index(digit)
    return stamp / 1_000_000


def shard_of(queue_id: str) -> int:
    """The number of the shard whose worker made an id; -1 if it is none."""
    if not is_queue_id(queue_id):
        return -1
    return _DIGITS.index(queue_id[-2]) << 5 | _DIGITS.index(queue_id[-1])
