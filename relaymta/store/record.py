"""Records of the journal: how they are framed, and how whole ones are found again among torn ones.

    record   mark (8 octets), segment number, kind, lengths of name, head and body, CRC-32; name, head, body
    batch    one record of kind BATCH that says what follows, then the records that were committed together

A batch starts on a block of BLOCK octets, so that nothing that was once synced is ever written again. Its first record
says where it starts and ends, up to where the batches before it were synced, the oldest segment that still matters,
and where segments before this one ended: the last one, and those in which a batch failed. The mark is drawn at random
each time a segment gets a number: a record of an older number never fits, and a message cannot smuggle in a forged
record that a search after damage would find.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any

from attrs import define, field, frozen

BLOCK = 4096  # octets; what a page cache writes at least
_PREFIX = Struct("<8sIBxHII")  # mark, segment number, kind, octets of name, head, body
_CRC = Struct("<I")
_BATCH = Struct("<QQQI")  # start, end, synced, floor
_END = Struct("<IQ")  # segment number, where it ended; as many as there are
PREFIX = _PREFIX.size
HEADER = _PREFIX.size + _CRC.size
ENDS_MAX = 16  # ends that a batch tells of; ours: a disk that fails more often is not worth another try
BATCH_HEADER = HEADER + _BATCH.size + ENDS_MAX * _END.size  # at most
BUFFERS = 2  # a record, at most: header, name and head in one, and the body
_crc32 = zlib.crc32
_CHUNK = 4 * 1024 * 1024  # octets read at once
_WINDOW = 8 * 1024 * 1024  # octets searched behind the last whole batch; ours, twice what a batch may hold


class Kind(IntEnum):
    """What a record says of the message that it names."""

    MESSAGE = 1  # accepted: the name is that of its queue file to be, head and body are the message
    LINE = 2  # one line of its story
    DONE = 3  # every recipient is final
    MOVED = 4  # it has become a queue file
    BATCH = 5  # no message: what follows was committed together


Entry = tuple[Kind, bytes, int, bytes, bytes, Any, int]
"""A record to be: kind, name, checksum of name, head and body, head, body, whose it is (not written), length."""


def entry(kind: Kind, name: bytes, head: bytes, body: bytes, owner: Any) -> Entry:
    """A record to be, its checksum begun; the segment's number is known only when it is committed."""
    crc = _crc32(body, _crc32(head, _crc32(name)))
    return kind, name, crc, head, body, owner, HEADER + len(name) + len(head) + len(body)


def settlement(kind: Kind, name: bytes) -> Entry:
    """A record to be that is a kind and a name, and that nobody waits for."""
    return kind, name, _crc32(name), b"", b"", None, HEADER + len(name)


def aligned(offset: int) -> int:
    """The first offset from `offset` on where a batch may start."""
    return -(-offset // BLOCK) * BLOCK


@frozen(slots=True)
class Standing:
    """What a batch says of the journal.

    `synced`: offset in this segment up to which everything was synced; `floor`: the lowest segment number in use;
    `ends`: (number, offset) of earlier segments: what lies there or behind is void.
    """

    synced: int = 0
    floor: int = 0
    ends: tuple[tuple[int, int], ...] = ()


def frame(
    mark: bytes, number: int, start: int, standing: Standing, records: Sequence[Entry]
) -> tuple[list[bytes], int]:
    """A batch that starts at `start`: its buffers, and its length in octets."""
    pack, pack_crc, crc32 = _PREFIX.pack, _CRC.pack, _crc32
    buffers = [b""]
    total = HEADER + _BATCH.size + _END.size * len(standing.ends)
    for kind, name, crc, head, body, _owner, length in records:
        prefix = pack(mark, number, kind, len(name), len(head), len(body))
        buffers.append(b"%b%b%b%b" % (prefix, pack_crc(crc32(prefix, crc)), name, head))
        if body:
            buffers.append(body)
        total += length
    said = _BATCH.pack(start, start + total, standing.synced, standing.floor)
    said += b"".join(_END.pack(*end) for end in standing.ends)
    prefix = pack(mark, number, Kind.BATCH, 0, len(said), 0)
    buffers[0] = prefix + pack_crc(crc32(prefix, crc32(said))) + said
    return buffers, total


@frozen(slots=True)
class Found:
    """A whole record: `at` is the offset of its payload, which holds name, head and body; `crc` is the payload's."""

    kind: Kind
    name: bytes
    at: int
    head: int
    body: int
    crc: int


@define(slots=True)
class Reading:
    """What a segment holds, whole records in order; `damaged` are offsets where something was not whole."""

    records: list[Found]
    damaged: list[int]
    synced: int = 0
    floor: int = 0
    ends: dict[int, int] = field(factory=dict)
    end: int = 0

    def upto(self, end: int) -> list[Found]:
        """The records that lie before `end`."""
        return [found for found in self.records if found.at < end]

    def hear(self, standing: Standing) -> None:
        """Take what a batch says."""
        self.synced = max(self.synced, standing.synced)
        self.floor = max(self.floor, standing.floor)
        self.ends.update(standing.ends)


class Scan:
    """Reads a segment of `size` octets back by `read(size, offset)`, in large pieces, up to the end of its data.

    `known` is an offset up to which data is known to reach: damage does not end the search before it.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, mark: bytes, number: int, known: int) -> None:
        self._read = read
        self._size = size
        self._mark = mark
        self._number = number
        self._known = known
        self._data = b""
        self._base = 0

    def reading(self) -> Reading:
        """Everything that can be read."""
        reading = Reading([], [])
        offset = 0
        while (start := self._next(offset, reading)) is not None:
            batch = self._whole(start)
            if batch is None:
                reading.damaged.append(start)
                offset = start + 1
                continue
            offset = self._take(start, batch, reading)
            reading.end = offset
        return reading

    def _next(self, offset: int, reading: Reading) -> int | None:
        # Where the next mark stands: at once after a whole batch, else behind a damage, else nowhere.
        if self._at(offset, self._mark):
            return offset
        limit = min(self._size, max(self._known, reading.synced, reading.end + _WINDOW))
        found = self._search(offset, limit)
        if offset < self._known or found is not None:
            reading.damaged.append(offset)
        return found

    def _take(self, start: int, found: Found, reading: Reading) -> int:
        # One whole record; for a batch that is one, all of it in one go.
        if found.kind is not Kind.BATCH:
            reading.records.append(found)
            return found.at + len(found.name) + found.head + found.body
        said = self._data[found.at - self._base : found.at - self._base + found.head]
        begun, end, synced, floor = _BATCH.unpack_from(said)
        if begun != start:
            reading.damaged.append(start)
            return start + 1
        reading.hear(Standing(synced, floor, tuple(_END.iter_unpack(said[_BATCH.size :]))))
        offset = found.at + found.head
        for record in self._records(offset, end):
            reading.records.append(record)
            offset = record.at + len(record.name) + record.head + record.body
        return aligned(end) if offset == end else offset

    def _records(self, offset: int, end: int) -> Iterator[Found]:
        while offset < end:
            found = self._whole(offset)
            if found is None or found.kind is Kind.BATCH:
                return
            yield found
            offset = found.at + len(found.name) + found.head + found.body

    def _whole(self, offset: int) -> Found | None:
        # The record at `offset`, if it is one of this segment's and its checksum fits.
        if not self._have(offset, HEADER):
            return None
        at = offset - self._base
        mark, number, kind, name, head, body = _PREFIX.unpack_from(self._data, at)
        if mark != self._mark or number != self._number or not 1 <= kind <= Kind.BATCH:
            return None
        size = name + head + body
        if not self._have(offset, HEADER + size):
            return None
        at = offset - self._base
        (crc,) = _CRC.unpack_from(self._data, at + PREFIX)
        payload = memoryview(self._data)[at + HEADER : at + HEADER + size]
        inner = _crc32(payload)
        if _crc32(self._data[at : at + PREFIX], inner) != crc:
            return None
        return Found(Kind(kind), bytes(payload[:name]), offset + HEADER, head, body, inner)

    def _at(self, offset: int, octets: bytes) -> bool:
        if not self._have(offset, len(octets)):
            return False
        return self._data.startswith(octets, offset - self._base)

    def _search(self, offset: int, limit: int) -> int | None:
        while offset + len(self._mark) <= limit and self._have(offset, len(self._mark)):
            found = self._data.find(self._mark, offset - self._base, limit - self._base)
            if found >= 0:
                return self._base + found
            offset = self._base + len(self._data) - len(self._mark) + 1
        return None

    def _have(self, offset: int, size: int) -> bool:
        # Make `size` octets from `offset` on part of the data at hand.
        if self._base <= offset and offset + size <= self._base + len(self._data):
            return True
        if offset + size > self._size:
            return False
        data = self._read(min(max(size, _CHUNK), self._size - offset), offset)
        self._data, self._base = data, offset
        return len(data) >= size
