"""One integer for what is known of a waiting message: when it is due, and the numbers of its lane and its sender.

A million of these are kept, twice, so that their size counts: below 2**60 an int of Python takes 32 octets, above that
48. Nearly all fit, in the narrow form; what does not (many lanes or senders, a due time beyond 2106) has the wide one.

    narrow, from the lowest bit: 0, state 2, due 32, lane 16, sender 9
    wide:                        1, state 2, lane 24, sender 24, due
"""

from __future__ import annotations

_DUE_MAX, _LANE_MAX, _SENDER_MAX = 1 << 32, 1 << 16, 1 << 9
_WIDE_MASK = (1 << 24) - 1  # sixteen million different lanes or senders in one shard


def pack(due: int, lane: int, sender: int, state: int = 0) -> int:
    """POSIX seconds from 0, numbers below 2**24, a state from 0 to 3."""
    if due < _DUE_MAX and lane < _LANE_MAX and sender < _SENDER_MAX:
        return state << 1 | due << 3 | lane << 35 | sender << 51
    return 1 | state << 1 | lane << 3 | sender << 27 | due << 51


def state_of(packed: int) -> int:
    """The state."""
    return packed >> 1 & 3


def with_state(packed: int, state: int) -> int:
    """The same in another state."""
    return packed & ~6 | state << 1


def due_of(packed: int) -> int:
    """POSIX seconds."""
    return packed >> 51 if packed & 1 else packed >> 3 & _DUE_MAX - 1


def lane_of(packed: int) -> int:
    """The lane's number."""
    return packed >> 3 & _WIDE_MASK if packed & 1 else packed >> 35 & _LANE_MAX - 1


def sender_of(packed: int) -> int:
    """The sender's number."""
    return packed >> 27 & _WIDE_MASK if packed & 1 else packed >> 51
