"""The framing of the journal: what was written is read, torn or not, and fast."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.store import record
from relaymta.store.record import BLOCK, Entry, Kind, Scan, Standing, aligned, entry, settlement

MARK, NUMBER = b"\x01markm\xffk", 7
KINDS = st.sampled_from([Kind.MESSAGE, Kind.LINE, Kind.DONE, Kind.MOVED])
RECORDS = st.builds(entry, KINDS, st.binary(max_size=20), st.binary(max_size=60), st.binary(max_size=6000), st.none())
BATCHES = st.lists(st.lists(RECORDS, max_size=4), max_size=5)


def written(batches: list[list[Entry]], size: int = 0, standing: Standing | None = None) -> tuple[bytearray, list[int]]:
    """A segment with these batches, and where each starts."""
    segment = bytearray()
    starts = []
    for batch in batches:
        start = len(segment)
        starts.append(start)
        said = standing or Standing(start, 3, ((6, 4096), (2, 0)))
        buffers, total = record.frame(MARK, NUMBER, start, said, batch)
        assert sum(map(len, buffers)) == total
        segment += b"".join(buffers)
        segment += bytes(aligned(len(segment)) - len(segment))
    return segment + bytes(max(0, size - len(segment))), starts


def scan(segment: bytes | bytearray, known: int = 0) -> record.Reading:
    """Read a segment back."""
    return Scan(lambda size, at: bytes(segment[at : at + size]), len(segment), MARK, NUMBER, known).reading()


def payloads(segment: bytes | bytearray, reading: record.Reading) -> list[tuple[Kind, bytes]]:
    """Kind and payload of the records that were found."""
    return [
        (found.kind, bytes(segment[found.at : found.at + len(found.name) + found.head + found.body]))
        for found in reading.records
    ]


def given_payloads(batches: list[list[Entry]]) -> list[tuple[Kind, bytes]]:
    """The same of those that were written."""
    return [(item[0], item[1] + item[3] + item[4]) for batch in batches for item in batch]


@given(BATCHES)
def test_what_was_written_is_read(batches: list[list[Entry]]) -> None:
    """All of it, in order, with what the batches say of the journal."""
    segment, starts = written(batches, 64 * 1024)
    reading = scan(segment)
    assert payloads(segment, reading) == given_payloads(batches)
    assert reading.damaged == []
    if batches:
        assert (reading.synced, reading.floor, reading.ends) == (starts[-1], 3, {6: 4096, 2: 0})
        assert aligned(reading.end) == reading.end


@given(BATCHES, st.data())
def test_whatever_blocks_are_lost_the_whole_records_are_read(batches: list[list[Entry]], data: st.DataObject) -> None:
    """A record is found if and only if every octet of it is there; and damage is told by its place."""
    segment, _ = written(batches)
    whole = [(found.at, found) for found in scan(segment).records]
    lost = data.draw(st.sets(st.integers(0, max(0, len(segment) // 512 - 1)), max_size=4))
    before = bytes(segment)
    for block in lost:
        segment[block * 512 : block * 512 + 512] = bytes(512)
    reading = scan(segment)
    expected = [
        found
        for at, found in whole
        if before[at - record.HEADER : at + len(found.name) + found.head + found.body]
        == segment[at - record.HEADER : at + len(found.name) + found.head + found.body]
    ]
    assert reading.records == expected
    if bytes(segment) == before:
        assert reading.damaged == []


@given(st.binary(max_size=3 * BLOCK), st.integers(0, 2 * BLOCK))
def test_any_octets_are_read_without_an_error(octets: bytes, known: int) -> None:
    """Nothing that lies in a segment can stop a start."""
    assert scan(octets, known).records == []


def test_records_of_another_segment_are_not_taken() -> None:
    """Neither by number nor by mark."""
    segment, _ = written([[settlement(Kind.DONE, b"A")]])
    for mark, number in ((MARK, NUMBER + 1), (MARK[::-1], NUMBER)):
        reading = Scan(lambda size, at: bytes(segment[at : at + size]), len(segment), mark, number, 0).reading()
        assert reading.records == []


def test_a_batch_that_lies_in_another_place_is_damage() -> None:
    """It says where it starts."""
    segment, _ = written([[settlement(Kind.DONE, b"A")]])
    moved = bytes(BLOCK) + bytes(segment)
    reading = scan(moved)
    assert BLOCK in reading.damaged and reading.synced == 0


def test_a_settlement_is_an_entry() -> None:
    """The short way to make one gives the same octets."""
    assert settlement(Kind.DONE, b"A") == entry(Kind.DONE, b"A", b"", b"", None)


def test_reading_stops_at_the_end_of_the_data_and_is_fast() -> None:
    """A few hundred megabytes a second, and no more of a segment than its data and a window behind it."""
    random = Random(1)
    batch = [entry(Kind.MESSAGE, b"A%d,1,w,," % n, bytes(300), random.randbytes(4096), None) for n in range(64)]
    segment, _ = written([batch] * 60)
    data = len(segment)
    segment += bytes(200 * 1024 * 1024 - data)
    octets = bytes(segment)
    read = 0

    def pread(size: int, at: int) -> bytes:
        nonlocal read
        read += size
        return octets[at : at + size]

    started = time.process_time()
    reading = Scan(pread, len(octets), MARK, NUMBER, 0).reading()
    spent = time.process_time() - started
    assert len(reading.records) == 64 * 60
    assert read < data + 24 * 1024 * 1024
    assert data / spent > 50e6  # measured 400e6 and more on a quiet machine


@pytest.mark.parametrize(("offset", "start"), [(0, 0), (1, BLOCK), (BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK)])
def test_batches_start_on_blocks(offset: int, start: int) -> None:
    """Nothing that was synced shares a block with what comes next."""
    assert aligned(offset) == start
