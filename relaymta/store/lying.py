"""Where a message of an earlier life lies: a whole record in a segment of the journal, read when it is wanted.

The segment is not written to any more, and stays as long as one of its messages is neither done nor moved. Its record
was whole when the segment was searched (store.replay), maybe in the page cache alone: what the disk gives later is
looked at each time, so that nobody gets what lay there before.
"""

from __future__ import annotations

import errno
import os
import zlib

from attrs import frozen

from relaymta.store.disk import Disk


class RecordLost(OSError):
    """A record that was whole cannot be read any more."""


@frozen(slots=True)
class Lying:
    """The payload of a record: `at` is its offset in the file `path`; lengths of name, head and body in octets."""

    path: str
    at: int
    name: int
    head: int
    body: int
    crc: int

    def read(self, disk: Disk) -> tuple[bytes, bytes]:
        """Head and body. Raises RecordLost, or OSError for what may be over in a moment."""
        size = self.name + self.head + self.body
        fd = disk.open(self.path, os.O_RDONLY)
        try:
            octets = disk.pread(fd, size, self.at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise RecordLost(errno.EIO, error.strerror or "", self.path) from error
        finally:
            disk.close(fd)
        if len(octets) != size or zlib.crc32(octets) != self.crc:
            raise RecordLost(errno.EIO, "the record is not whole any more", self.path)
        return octets[self.name : self.name + self.head], octets[self.name + self.head :]
