"""The ledger of a round: memory that generator, sink and conductor share; each slot has one writer.

Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

SLOTS = 16  # processes of one kind at most

# Columns of a slot, in doubles
COUNT, FIRST, LAST, WRONG, STRAY, CONNECTIONS, DEFERRED = range(7)
WIDTH = 8


def shared(octets: int) -> memoryview:
    """Zeroed memory that forked children see."""
    return memoryview(mmap.mmap(-1, max(octets, mmap.PAGESIZE)))


class Ledger:
    """Room for `capacity` letters: when each was accepted and arrived, and at how many recipients."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.round = shared(8).cast("Q")
        self.accepted = shared(8 * capacity).cast("d")
        self.arrived = shared(8 * capacity).cast("d")
        self.copies = shared(2 * capacity).cast("H")
        self.generators = shared(8 * WIDTH * SLOTS).cast("d")
        self.sinks = shared(8 * WIDTH * SLOTS).cast("d")
        self._trouble = shared(4096)

    def open_round(self) -> int:
        """Forget the last round and return the number of the new one."""
        for column in (self.accepted, self.arrived, self.copies, self.generators, self.sinks):
            column.cast("B")[:] = bytes(column.nbytes)
        self._trouble[:] = bytes(4096)
        self.round[0] += 1
        return int(self.round[0])

    def complain(self, what: str) -> None:
        """Leave a word for the conductor; the last one stands."""
        octets = what.encode(errors="replace")[:4095]
        self._trouble[: len(octets) + 1] = octets + b"\0"

    @property
    def trouble(self) -> str:
        """What a child complained of, or ""."""
        return bytes(self._trouble).partition(b"\0")[0].decode(errors="replace")

    @staticmethod
    def total(slots: Sequence[float], column: int) -> float:
        """A column added up over all processes."""
        return sum(slots[slot * WIDTH + column] for slot in range(SLOTS))

    @property
    def arrivals(self) -> int:
        """Recipients whose letter is with the sink."""
        return int(self.total(self.sinks, COUNT))

    @property
    def started(self) -> float:
        """When the first connection was begun."""
        times = [self.generators[slot * WIDTH + FIRST] for slot in range(SLOTS)]
        return min((time for time in times if time), default=0.0)

    @property
    def ended(self) -> float:
        """When the last letter was with the sink."""
        return max(self.sinks[slot * WIDTH + LAST] for slot in range(SLOTS))
