"""A queue in which every sender waits in a line of its own, and the lines take turns.

Whoever sends a hundred thousand messages delays the one message of somebody else by one message. Pure, O(1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each sender; round robin between senders."""

    __slots__ = ("_lines", "_turns", "size")

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}
        self._turns: deque[str] = deque()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[T]:
        """Everything that waits, sender by sender."""
        for sender in self._turns:
            yield from self._lines[sender]

    def put(self, sender: str, thing: T) -> None:
        """Let `thing` wait at the end of its sender's line."""
        line = self._lines.get(sender)
        if line is None:
            self._lines[sender] = deque((thing,))
            self._turns.append(sender)
        else:
            line.append(thing)
        self.size += 1

    def take(self) -> T:
        """The first of the line whose turn it is. Raises IndexError where nothing waits."""
        sender = self._turns.popleft()
        line = self._lines[sender]
        thing = line.popleft()
        if line:
            self._turns.append(sender)
        else:
            del self._lines[sender]
        self.size -= 1
        return thing
