"""A board of counts that all worker processes see: limits of the host, held without a message between them.

Shared memory, one column a worker. A worker writes its own column alone and reads all, so nothing is locked and
nothing is lost when one dies: its successor wipes the column. A key (a client's address, a lane) has a cell in each
of DEPTH rows, found by hashing, and its count is the least of its cells' sums: keys that share a cell in one row
seldom share it in all (the count-min sketch of Cormode and Muthukrishnan), and a collision can only make us stricter.
The hash has a key of each board's own, so that nobody can choose an address, or a domain, that is counted with another.

Taking writes first and looks afterwards, so that two workers that take the last place at one instant may both step
back, and never both go on.
"""

from __future__ import annotations

import mmap
import os
from hashlib import blake2b
from struct import Struct

from attrs import define, field

DEPTH = 3
WIDTH = 16384  # cells a row; ours: 10,000 clients at once collide in all three rows once in a few
_KEY = 16  # octets behind the cells
_PLACES = Struct(f"{DEPTH}I")


@define(eq=False)
class Board:
    """One worker's view. `column` is the one it writes; `columns` is how many there are."""

    _memory: mmap.mmap
    columns: int
    column: int
    _cells: memoryview = field(init=False)
    _hash: blake2b = field(init=False)  # with the key in it, to be copied: a third quicker than to begin anew
    _taken: dict[bytes, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self._cells = memoryview(self._memory)[:-_KEY].cast("I")
        self._hash = blake2b(digest_size=_PLACES.size, key=self._memory[-_KEY:])

    @staticmethod
    def make(columns: int) -> int:
        """Make the shared memory; the result is a file descriptor to inherit."""
        descriptor = os.memfd_create("relaymta-board")
        os.ftruncate(descriptor, _size(columns))
        os.pwrite(descriptor, os.urandom(_KEY), _size(columns) - _KEY)
        return descriptor

    @classmethod
    def attach(cls, descriptor: int, columns: int, column: int) -> Board:
        """See the memory behind `descriptor` as the worker of `column`, whose counts begin at nought."""
        board = cls(mmap.mmap(descriptor, _size(columns)), columns, column)
        board.wipe(column)
        return board

    @classmethod
    def alone(cls) -> Board:
        """A board for one process by itself."""
        memory = mmap.mmap(-1, _size(1))
        memory[-_KEY:] = os.urandom(_KEY)
        return cls(memory, 1, 0)

    def wipe(self, column: int) -> None:
        """Forget the counts of a worker that is gone."""
        start = column * DEPTH * WIDTH
        self._cells[start : start + DEPTH * WIDTH] = memoryview(bytes(DEPTH * WIDTH * 4)).cast("I")

    def take(self, key: bytes, limit: int) -> bool:
        """Count one more of `key`, unless that makes more than `limit` on the whole host."""
        cells = self._places(key)
        mine = self.column * DEPTH * WIDTH
        for cell in cells:
            self._cells[mine + cell] += 1
        self._taken[key] = self._taken.get(key, 0) + 1
        if self._sum(cells) <= limit:
            return True
        self.give(key)
        return False

    def give(self, key: bytes) -> None:
        """Count one less of `key`; KeyError when it was not taken here."""
        left = self._taken.pop(key) - 1
        if left:
            self._taken[key] = left
        mine = self.column * DEPTH * WIDTH
        for cell in self._places(key):
            self._cells[mine + cell] -= 1

    def count(self, key: bytes) -> int:
        """How many of `key` the whole host counts now (never too few, seldom too many)."""
        return self._sum(self._places(key))

    def _sum(self, cells: tuple[int, int, int]) -> int:
        view, stride = self._cells, DEPTH * WIDTH
        one, two, three = cells
        return min(sum(view[one::stride]), sum(view[two::stride]), sum(view[three::stride]))

    def _places(self, key: bytes) -> tuple[int, int, int]:
        # CRC with a seed for each row would not do: keys of one length that share a cell would share it in every row.
        hashed = self._hash.copy()
        hashed.update(key)
        first, second, third = _PLACES.unpack(hashed.digest())
        return first % WIDTH, WIDTH + second % WIDTH, 2 * WIDTH + third % WIDTH


def _size(columns: int) -> int:
    return columns * DEPTH * WIDTH * 4 + _KEY
