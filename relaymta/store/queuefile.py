r"""The queue file: one message that waits, append-only, the whole of its story.

    first line   64 octets, fixed: "relaymta-1 <head octets> <head crc> <content octets> <7 or 8> <crc>\n"
    head         opaque octets (the encoded envelope)
    content      as it goes over the wire, dots not stuffed
    lines        each "\n<crc> <line>\n": one a note, appended one by one

Checksums are CRC-32 in eight hexadecimal digits. The first line is written last, over a blank one, and before the
fsync, when the size of the content is known. Everything up to the end of the content was synced before the file got
its name. A line has an LF on both sides, so that neither a torn line before it nor zeros behind it can spoil it:

| what a crash leaves                    | what is read                            |
|----------------------------------------|-----------------------------------------|
| last line torn, or zeros at the end    | it is cut off, the rest stands          |
| lines that were never synced, lost     | the whole ones, in order                |
| first line, head or content not whole  | ValueError: the disk, or a hand         |
"""

from __future__ import annotations

import zlib

from attrs import frozen

FIRST = 64
_MAGIC = b"relaymta-1 "


@frozen(slots=True)
class Layout:
    """What the first line says: lengths in octets, and whether the content has octets above 127."""

    head: int
    head_crc: int
    content: int
    eightbit: bool

    @property
    def content_at(self) -> int:
        """Where the content starts."""
        return FIRST + self.head

    @property
    def lines_at(self) -> int:
        """Where the lines start."""
        return FIRST + self.head + self.content


def first_line(head: bytes, content: int, eightbit: bool) -> bytes:
    """The first line for a head and a content of `content` octets."""
    fields = b"%b%012d %08x %019d %d " % (_MAGIC, len(head), zlib.crc32(head), content, 8 if eightbit else 7)
    return b"%b%08x\n" % (fields, zlib.crc32(fields))


BLANK = b" " * (FIRST - 1) + b"\n"  # until the size of the content is known


def encode_line(line: bytes) -> bytes:
    """A line as it is appended. Raises ValueError for a line with LF in it."""
    if b"\n" in line:
        raise ValueError("a line of a story cannot hold LF")
    return b"\n%08x %b\n" % (zlib.crc32(line), line)


def read_first(octets: bytes, size: int) -> Layout:
    """Understand the first line of a file of `size` octets. Raises ValueError with what is wrong."""
    line = octets[:FIRST]
    if len(line) < FIRST or not line.startswith(_MAGIC):
        raise ValueError("not a queue file of this version")
    if line[-9:] != b"%08x\n" % zlib.crc32(line[:-9]):
        raise ValueError("the first line is damaged")
    head, head_crc, content, eightbit = line[len(_MAGIC) : -9].split()
    layout = Layout(int(head), int(head_crc, 16), int(content), eightbit == b"8")
    if layout.lines_at > size:
        raise ValueError(f"the file has {size} octets where {layout.lines_at} are due")
    return layout


def check_head(layout: Layout, head: bytes) -> None:
    """Raises ValueError when the head is not the one that was written."""
    if len(head) != layout.head or zlib.crc32(head) != layout.head_crc:
        raise ValueError("the head is damaged")


def read_lines(octets: bytes) -> tuple[bytes, ...]:
    """The whole lines in what follows the content."""
    return tuple(part[9:] for part in octets.split(b"\n") if part[:9] == b"%08x " % zlib.crc32(part[9:]))
