"""Content, ids and outcomes: small values that everything else leans on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.content import CHUNK, HEADER_MAX, MemoryContent, header_of
from relaymta.mail.outcome import Fate
from relaymta.mail.queueid import LENGTH, IdMaker, is_queue_id


@given(st.binary(max_size=300), st.integers(0, 2))
def test_chunks_are_the_octets(octets: bytes, more: int) -> None:
    """Joined they are the content, each at most CHUNK long (RFC 5321 §2.3.1)."""
    content = MemoryContent(octets + b"x" * CHUNK * more)
    chunks = list(content.chunks())
    assert b"".join(chunks) == content.octets
    assert all(len(chunk) <= CHUNK for chunk in chunks)
    assert content.size == len(content.octets)
    assert content.eightbit is not content.octets.isascii()


@pytest.mark.parametrize(
    ("octets", "header"),
    [
        (b"A: b\r\n\r\nbody\r\n\r\n", b"A: b\r\n\r\n"),
        (b"\r\nbody\r\n\r\n", b"\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"", b""),
        (b"x" * (HEADER_MAX + 9), b"x" * HEADER_MAX),
    ],
)
def test_the_header_ends_at_the_empty_line(octets: bytes, header: bytes) -> None:
    """RFC 5322 §2.1: the first empty line ends the header section."""
    assert header_of(octets) == header == MemoryContent(octets).header()


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=30), st.integers(0, 31))
def test_ids_grow_whatever_the_clock_does(times: list[float], shard: int) -> None:
    """Ids of one maker are strictly increasing, also when the clock steps back, and differ from another shard's."""
    clock = iter(times)
    maker = IdMaker(lambda: next(clock), shard)
    ids = [maker.next() for _ in times]
    assert ids == sorted(set(ids))
    assert all(is_queue_id(made) and len(made) == LENGTH for made in ids)
    assert len({made[-1] for made in ids}) == 1


@pytest.mark.parametrize(
    "text", ["", "0123456789AB", "0123456789ABCD", "0123456789aBC", "0123456789A/.", "0123456789UI0"]
)
def test_what_is_no_id_is_seen(text: str) -> None:
    """Ids are file names: nothing else may be taken for one."""
    assert not is_queue_id(text)


def test_only_deferral_is_not_final() -> None:
    """Every other fate takes the recipient out of the queue."""
    assert [fate for fate in Fate if not fate.final] == [Fate.DEFERRED]
