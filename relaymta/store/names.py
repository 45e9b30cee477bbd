"""The name of a queue file: it carries the schedule, so that a listing is the timeline.

    <queue id>,<due>,<w or h>,<lane>,<sender>

as in `06C9M2J8Q3W0,1764000000,w,smtp:example.org,news@example.net`: due in POSIX seconds, `w`aiting or `h`eld, lane
and sender percent-encoded (RFC 3986 §2.1) and cut to fit a name of 255 octets. A change of schedule is a rename.
"""

from __future__ import annotations

import sys
import zlib
from functools import lru_cache
from urllib.parse import quote, unquote

from relaymta.store.interfaces import Schedule, Ticket

LANE_MAX = 120  # octets in the name; ours: the longest domain names in use are far below
SENDER_MAX = 60
_SAFE = ":[]@=+!"


def encode(queue_id: str, schedule: Schedule) -> str:
    """The file name of a message under a schedule. Raises ValueError for an id that is not letters and digits."""
    if not (queue_id.isascii() and queue_id.isalnum()):
        raise ValueError(f"not a queue id: {queue_id!r}")
    return f"{queue_id},{max(0, int(schedule.due))},{_suffix(schedule.held, schedule.lane, schedule.sender)}"


def decode(name: str) -> Ticket | None:
    """What a name says, or None when it is not one of ours."""
    parts = name.split(",")
    if len(parts) != 5:
        return None
    queue_id, due, state, lane, sender = parts
    if state not in ("w", "h") or not (queue_id.isascii() and queue_id.isalnum() and due.isascii() and due.isdigit()):
        return None
    if due[0] == "0" and due != "0":  # a name has one spelling, or a rename could not find it again
        return None
    return Ticket(queue_id, Schedule(int(due), _text(lane), _text(sender), state == "h"))


def folder(queue_id: str, folders: int) -> str:
    """Which of the folders of new/ a message lies in: two hexadecimal digits (three above 256 folders)."""
    return f"{zlib.crc32(queue_id.encode()) % folders:02x}"


def _text(part: str) -> str:
    # Interned: a million tickets of fifty thousand lanes share their strings.
    return sys.intern(unquote(part) if "%" in part else part)


@lru_cache(maxsize=8192)
def _suffix(held: bool, lane: str, sender: str) -> str:
    return f"{'h' if held else 'w'},{_fit(lane, LANE_MAX)},{_fit(sender, SENDER_MAX)}"


@lru_cache(maxsize=8192)
def _fit(text: str, limit: int) -> str:
    text = text[:limit]
    while len(quoted := quote(text, _SAFE, errors="backslashreplace")) > limit:
        text = text[:-1]
    return quoted
