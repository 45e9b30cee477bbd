"""Segments: the files of the journal, written full of zeros ahead and used again under a new number.

Overwriting blocks that exist lets a sync commit data and no metadata, which is four times as fast as appending. A
segment takes its number and its mark (store.record) by a rename that is synced before the first write, so that a
number is never given twice:

    000017-9f86d081884c7d65.log     number 17 and its mark, in use or free
    fresh-3                         being written with zeros

Free ones are used again oldest first, and only what is the oldest is given away: the records that settle the messages
of a segment lie in it or in later ones, and so never vanish before them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from attrs import define, field

from relaymta.store.disk import Disk, sync_folder, write_all

_ZEROS = bytes(1024 * 1024)
_MARK = 8
SPARES_MAX = 4  # free segments kept; ours: more than one round of a steady load frees


@define(slots=True, eq=False)
class Segment:
    """One segment in use. `position` is where the next batch goes, `synced` up to where it is on stable storage.

    `live` belongs to the spool: the messages of this segment that are neither done nor moved. One of an earlier life
    is not open (`fd` -1) and not written to; `fits`: it is of the size that is used now; `lost`: a message that was in
    it cannot be read any more.
    """

    number: int
    mark: bytes
    path: str
    fd: int
    position: int = 0
    synced: int = 0
    poisoned: bool = False
    fits: bool = True
    lost: bool = False
    live: dict[str, Any] = field(factory=dict)


def segment_name(number: int, mark: bytes) -> str:
    """The file name of a segment."""
    return f"{number:06d}-{mark.hex()}.log"


def parse_name(name: str) -> tuple[int, bytes] | None:
    """Number and mark of a segment by its file name, or None when it is none."""
    number, _, rest = name.partition("-")
    mark, _, kind = rest.partition(".")
    if kind != "log" or not (number.isascii() and number.isdigit()) or len(mark) != 2 * _MARK:
        return None
    try:
        return int(number), bytes.fromhex(mark)
    except ValueError:
        return None


class Segments:
    """The files in journal/: gives out numbered segments and takes free ones back. `draw(n)` gives random octets.

    `floor` is the number of the oldest segment in use. The journal takes from it on its thread and the spool gives to
    it on its own; a deque needs no lock for that.
    """

    def __init__(self, disk: Disk, folder: str, size: int, draw: Callable[[int], bytes]) -> None:
        self.size = size
        self.floor = 0
        self._disk = disk
        self._folder = folder
        self._draw = draw
        self._number = 0
        self._freshly = count(1)  # drawn from on both hands
        self._spares: deque[str] = deque()

    @property
    def spares(self) -> int:
        """How many are ready to be used."""
        return len(self._spares)

    def begin(self, number: int, spares: list[str]) -> None:
        """Start with the paths of free segments, oldest first; `number` is the highest that was ever given."""
        self._number = number
        self._spares.extend(spares)

    def take(self) -> Segment:
        """The next segment, its number on stable storage. Raises OSError; nothing is used up then."""
        path = self._spares.popleft() if self._spares else self._prewrite()
        number, mark = self._number + 1, self._draw(_MARK)
        named = f"{self._folder}/{segment_name(number, mark)}"
        try:
            self._disk.rename(path, named)
            path = named
            self._number = number
            sync_folder(self._disk, self._folder)
            fd = self._disk.open(named, os.O_WRONLY)
        except OSError:
            self._spares.appendleft(path)
            raise
        return Segment(number, mark, named, fd)

    def prepare(self) -> None:
        """Have one spare at hand. Raises OSError."""
        if not self._spares:
            self._spares.append(self._prewrite())

    def give(self, segment: Segment) -> str:
        """Take back the oldest segment in use, for it is free. Returns the path of a file to be removed, or ""."""
        if segment.poisoned or segment.lost:
            # the same pages are never synced again; it stays for the next open(), and every batch says why
            return ""
        if not segment.fits:
            return segment.path
        self._spares.append(segment.path)
        return self._spares.popleft() if len(self._spares) > SPARES_MAX else ""

    def _prewrite(self) -> str:
        path = f"{self._folder}/fresh-{next(self._freshly)}"
        fd = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            for start in range(0, self.size, len(_ZEROS)):
                write_all(self._disk, fd, _ZEROS[: self.size - start])
            self._disk.fsync(fd)
        except OSError:
            with suppress(OSError):  # removed when the spool is opened again
                self._disk.unlink(path)
            raise
        finally:
            self._disk.close(fd)
        return path
