"""Where a message of an earlier life lies: a whole record in a segment of the journal, read when it is wanted.

Its checksum was looked at when the segment was searched (store.replay); the segment is not written to any more, and
stays as long as one of its messages is neither done nor moved.
"""

from __future__ import annotations

import errno
import os

from attrs import frozen

from relaymta.store.disk import Disk


@frozen(slots=True)
class Lying:
    """The payload of a record: `at` is its offset in the file `path`; lengths of name, head and body in octets."""

    path: str
    at: int
    name: int
    head: int
    body: int

    def read(self, disk: Disk) -> tuple[bytes, bytes]:
        """Head and body. Raises OSError."""
        size = self.head + self.body
        fd = disk.open(self.path, os.O_RDONLY)
        try:
            octets = disk.pread(fd, size, self.at + self.name)
        finally:
            disk.close(fd)
        if len(octets) != size:
            raise OSError(errno.EIO, "the segment became shorter", self.path)
        return octets[: self.head], octets[self.head :]
