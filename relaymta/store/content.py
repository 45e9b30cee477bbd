"""The content of a stored message: octets still in memory, or a file read in pieces.

A file's content starts behind its head (store.queuefile); whoever reads it finds the file by its queue id each time,
for a change of schedule gives it another name.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress

from attrs import field, frozen

from relaymta.store.disk import Disk

CHUNK = 64 * 1024  # octets a read; ours: small enough to stay fair, large enough for the disk
HEADER_MAX = 128 * 1024  # octets of header section looked at; ours, above any header seen in the field


@frozen(slots=True)
class MemoryContent:
    """Content that the journal holds and memory still has."""

    octets: bytes

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def eightbit(self) -> bool:
        return not self.octets.isascii()

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.octets), CHUNK):
            yield self.octets[start : start + CHUNK]

    def header(self) -> bytes:
        return _header_of(self.octets)


@frozen(slots=True)
class FileContent:
    """Content of `size` octets in a queue file, from `offset` on. `opening` gives a file descriptor to read from."""

    _disk: Disk = field(repr=False)
    _opening: Callable[[], int] = field(repr=False)
    _offset: int
    size: int
    eightbit: bool

    def chunks(self) -> Iterator[bytes]:
        fd = self._opening()
        try:
            done = 0
            while done < self.size:
                piece = self._disk.pread(fd, min(CHUNK, self.size - done), self._offset + done)
                if not piece:
                    raise OSError(errno.EIO, "the queue file is shorter than its content")
                done += len(piece)
                yield piece
        finally:
            with suppress(OSError):  # what was read was read
                self._disk.close(fd)

    def header(self) -> bytes:
        pieces = []
        have = 0
        for piece in self.chunks():
            pieces.append(piece)
            have += len(piece)
            if have >= HEADER_MAX or b"\r\n\r\n" in piece:
                break
        return _header_of(b"".join(pieces))


def _header_of(octets: bytes) -> bytes:
    if octets.startswith(b"\r\n"):
        return octets[:2]
    end = octets.find(b"\r\n\r\n", 0, HEADER_MAX)  # RFC 5322 §2.1
    return octets[: end + 4] if end >= 0 else octets[:HEADER_MAX]
