"""The format of a queue file, and its content read in pieces."""

from __future__ import annotations

import errno
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.store import queuefile
from relaymta.store.content import CHUNK, HEADER_MAX, FileContent, MemoryContent
from tests.store.simdisk import SimDisk

LINES = st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=8)


@given(st.binary(max_size=200), st.integers(0, 10**15), st.booleans())
def test_the_first_line_is_of_fixed_width_and_says_all(head: bytes, size: int, eightbit: bool) -> None:
    """Lengths, the checksum of the head, and whether there are octets above 127."""
    line = queuefile.first_line(head, size, eightbit)
    assert len(line) == len(queuefile.BLANK) == queuefile.FIRST
    layout = queuefile.read_first(line + head, 2**60)
    assert (layout.head, layout.content, layout.eightbit) == (len(head), size, eightbit)
    queuefile.check_head(layout, head)
    assert layout.lines_at == queuefile.FIRST + len(head) + size
    with pytest.raises(ValueError, match="are due"):
        queuefile.read_first(line + head, layout.lines_at - 1)


@given(st.binary(max_size=50), st.integers(0, queuefile.FIRST - 1), st.integers(1, 255))
def test_any_damage_to_the_first_line_is_seen(head: bytes, at: int, flip: int) -> None:
    """No octet of it can change without notice."""
    line = bytearray(queuefile.first_line(head, 5, False))
    line[at] ^= flip
    with pytest.raises(ValueError):
        queuefile.read_first(bytes(line), 2**60)


def test_a_blank_first_line_is_no_first_line() -> None:
    """A file that was never committed cannot be mistaken for one that was."""
    with pytest.raises(ValueError):
        queuefile.read_first(queuefile.BLANK + b"head", 100)


def test_damage_to_the_head_is_seen() -> None:
    """By its checksum, and by its length."""
    layout = queuefile.read_first(queuefile.first_line(b"head", 0, False), 100)
    for head in (b"heat", b"hea"):
        with pytest.raises(ValueError):
            queuefile.check_head(layout, head)


@given(LINES)
def test_lines_are_read_as_they_were_written(lines: list[bytes]) -> None:
    """Empty ones, ones of zeros, ones that look like checksums."""
    assert queuefile.read_lines(b"".join(map(queuefile.encode_line, lines))) == tuple(lines)


@given(LINES, st.binary(max_size=40).filter(lambda line: b"\n" not in line), st.data(), LINES)
def test_a_torn_line_spoils_neither_those_before_nor_those_behind_it(
    before: list[bytes], torn: bytes, data: st.DataObject, behind: list[bytes]
) -> None:
    """Wherever it was cut, with zeros behind it or not."""
    whole = queuefile.encode_line(torn)
    cut = whole[: data.draw(st.integers(0, len(whole) - 2))] + bytes(data.draw(st.integers(0, 20)))
    written = b"".join(map(queuefile.encode_line, before)) + cut + b"".join(map(queuefile.encode_line, behind))
    assert queuefile.read_lines(written) == (*before, *behind)


def test_a_line_holds_no_line_end() -> None:
    """The queue encodes its lines without."""
    with pytest.raises(ValueError):
        queuefile.encode_line(b"a\nb")


def file_content(octets: bytes, claimed: int | None = None, disk: SimDisk | None = None) -> FileContent:
    """`octets` behind a head of 100 octets in a simulated file."""
    disk = disk or SimDisk()
    fd = disk.open("/file", 0o101)
    disk.pwritev(fd, [bytes(100), octets], 0)
    size = len(octets) if claimed is None else claimed
    return FileContent(disk, partial(disk.open, "/file", 0), 100, size, True)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_content_comes_in_pieces_of_bounded_size(size: int) -> None:
    """From memory and from a file alike, and nothing is left open."""
    octets = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    for content in (MemoryContent(octets), file_content(octets)):
        pieces = list(content.chunks())
        assert b"".join(pieces) == octets and content.size == size
        assert all(0 < len(piece) <= CHUNK for piece in pieces)
    assert MemoryContent(octets).eightbit is False and MemoryContent(b"\xff").eightbit is True


def test_a_reader_that_stops_closes_the_file() -> None:
    """A delivery may give up half way."""
    disk = SimDisk()
    content = file_content(bytes(3 * CHUNK), disk=disk)
    pieces = content.chunks()
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert len(disk._open) == 1  # the one that wrote it


@pytest.mark.parametrize(
    ("octets", "header"),
    [
        (b"Subject: a\r\n\r\nbody\r\n\r\n", b"Subject: a\r\n\r\n"),
        (b"\r\nbody", b"\r\n"),
        (b"Subject: a\r\n", b"Subject: a\r\n"),
        (b"", b""),
        (b"a" * (CHUNK - 2) + b"\r\n\r\nbody", b"a" * (CHUNK - 2) + b"\r\n\r\n"),
        (b"a" * 3 * HEADER_MAX, b"a" * HEADER_MAX),
    ],
)
def test_the_header_ends_with_its_empty_line(octets: bytes, header: bytes) -> None:
    """RFC 5322 §2.1, wherever the pieces are cut; bounded where there is none."""
    assert MemoryContent(octets).header() == file_content(octets).header() == header


def test_a_file_that_became_shorter_is_an_error_and_not_an_end() -> None:
    """Nothing is delivered as whole that is not."""
    with pytest.raises(OSError) as caught:
        list(file_content(b"octets", claimed=10).chunks())
    assert caught.value.errno == errno.EIO
