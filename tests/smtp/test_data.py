"""Content on the wire: end of data, transparency, line ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.smtp.data import ChunkDecoder, Decoder, Encoder, Fault, crlf, fault_of, stuff

OCTETS = st.lists(st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"a", b"\0", b"\r\n.\r\n", b"\xff"])).map(b"".join)
LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a", b"a.", b"\xc3\xa4" * 40])).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)
CUTS = st.lists(st.integers(0, 400), max_size=12)

# All twelve of the published sequences: what stands for the end of data, and whether it is one.
SEQUENCES = [
    (b"\r\n.\r\n", True),
    (b"\n.\n", False),
    (b"\n.\r\n", False),
    (b"\r.\r", False),
    (b"\r.\r\n", False),
    (b"\r\n.\n", False),
    (b"\r\n.\r", False),
    (b"\n.\r", False),
    (b"\r\n.\r\r\n", False),
    (b"\r\n\0.\r\n", False),
    (b"\r\n.\0\r\n", False),
    (b"\r\r\n.\r\n", True),  # the true end, behind a bare CR
]


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """`octets` in pieces, cut at `places`."""
    edges = sorted({0, len(octets), *(place for place in places if place < len(octets))})
    return [octets[start:end] for start, end in pairwise(edges)]


def encode(pieces: list[bytes]) -> bytes:
    """What goes onto the wire."""
    encoder = Encoder()
    return b"".join(encoder.feed(piece) for piece in pieces) + encoder.finish()


def decode(pieces: list[bytes], normalize: bool = False) -> tuple[bytes, Decoder, bytes]:
    """Content, the decoder, and all that stood behind the end of data."""
    decoder, content, behind = Decoder(normalize=normalize), b"", b""
    for piece in pieces:
        if decoder.ended:
            behind += piece
            continue
        content += decoder.feed(piece)
    return content, decoder, decoder.rest + behind


def oracle(stream: bytes) -> tuple[bytes, bytes] | None:
    """Content and what is behind it, by RFC 5321 §4.5.2 line by line; None where data does not end."""
    lines = stream.split(b"\r\n")
    for number, line in enumerate(lines[:-1]):
        if line == b".":
            kept = [line.removeprefix(b".") for line in lines[:number]]
            return b"".join(line + b"\r\n" for line in kept), b"\r\n".join(lines[number + 1 :])
    return None


@pytest.mark.parametrize(("sequence", "ends"), SEQUENCES)
def test_only_crlf_dot_crlf_ends_the_data(sequence: bytes, ends: bool) -> None:
    """Of the twelve sequences in the field only CRLF.CRLF is an end of data (RFC 5321 §4.1.1.4, CVE-2023-51764)."""
    for normalize in (False, True):
        _, decoder, _ = decode([b"a" + sequence + b"MAIL FROM:<b@c.test>"], normalize)
        assert decoder.ended is ends


@pytest.mark.parametrize(("sequence", "ends"), SEQUENCES)
def test_only_crlf_dot_crlf_ends_the_data_octet_by_octet(sequence: bytes, ends: bool) -> None:
    """The same when each octet comes in a segment of its own."""
    stream = b"a" + sequence + b"QUIT\r\n"
    _, decoder, _ = decode([stream[i : i + 1] for i in range(len(stream))])
    assert decoder.ended is ends


@pytest.mark.parametrize("sequence", [sequence for sequence, _ in SEQUENCES[1:]])
def test_every_other_sequence_is_a_fault(sequence: bytes) -> None:
    """A message that holds one of the others is refused, so that no later hop can take it for an end."""
    _, decoder, _ = decode([b"a" + sequence + b"b\r\n.\r\n"])
    assert decoder.fault is not None


@given(stream=OCTETS, places=CUTS)
@example(stream=b".\r\n", places=[])
@example(stream=b".x\r\n..y\r\n.\r\nrest", places=[1, 2])
def test_decoder_equals_the_naive_oracle(stream: bytes, places: list[int]) -> None:
    """Wherever the stream is cut: same content, same end, same rest as reading line by line (RFC 5321 §4.5.2)."""
    content, decoder, behind = decode(cut(stream, places))
    expected = oracle(stream)
    assert decoder.ended is (expected is not None)
    if expected is not None:
        assert (content, behind) == expected
        assert (decoder.fault is None) is (fault_of(expected[0]) is None)


@given(stream=OCTETS, places=CUTS)
def test_a_fault_is_found_wherever_the_stream_is_cut(stream: bytes, places: list[int]) -> None:
    """Whether content is at fault does not depend on segments."""
    _, whole, _ = decode([stream + b"\r\n.\r\n"])
    _, pieces, _ = decode(cut(stream + b"\r\n.\r\n", places))
    assert (whole.fault is None) is (pieces.fault is None)


@given(content=LINES, places=CUTS, more=CUTS)
def test_decoder_undoes_encoder(content: bytes, places: list[int], more: list[int]) -> None:
    """What leaves our client enters our server unchanged, cut as you like on both sides."""
    wire = encode(cut(content, places))
    received, decoder, behind = decode(cut(wire + b"QUIT\r\n", more))
    assert decoder.ended and decoder.fault is None
    assert (received, behind) == (content, b"QUIT\r\n")


@given(octets=OCTETS.map(lambda octets: octets.replace(b"\0", b"")), places=CUTS, more=CUTS)
def test_nothing_our_client_sends_can_end_early(octets: bytes, places: list[int], more: list[int]) -> None:
    """Any octets at all, even bare CR and LF, reach the peer as one message of clean lines: no smuggling out."""
    received, decoder, behind = decode(cut(encode(cut(octets, places)), more))
    lines = crlf(octets)
    assert decoder.ended and decoder.fault is None and behind == b""
    assert received == (lines if not lines or lines.endswith(b"\r\n") else lines + b"\r\n")


@given(octets=OCTETS, places=CUTS)
def test_stuffing_whole_equals_stuffing_in_pieces(octets: bytes, places: list[int]) -> None:
    """`stuff` is the Encoder in one call."""
    assert stuff(octets) == encode(cut(octets, places))


def test_a_dot_at_a_chunk_edge_is_stuffed() -> None:
    """CRIT: a chunk that begins with "." behind one that ended a line was sent unstuffed: two messages of one."""
    prefix = b"x" * 16382 + b"\r\n"
    wire = encode([prefix, b".\r\nMAIL FROM:<ceo@victim.test>\r\n"])
    assert wire == prefix + b"..\r\nMAIL FROM:<ceo@victim.test>\r\n.\r\n"


@pytest.mark.parametrize("first", [b".\r\nhello\r\n", b".x\r\n", b"..\r\n"])
def test_the_first_line_is_stuffed(first: bytes) -> None:
    """CRIT: a dot at the very beginning of the content was never stuffed."""
    assert stuff(first) == b"." + first + b".\r\n"


def test_crlf_is_not_doubled() -> None:
    """CRIT: CRLF line ends became CR CR LF on the wire."""
    assert stuff(b"a\r\nb\r\n") == b"a\r\nb\r\n.\r\n"


def test_an_empty_message_is_a_dot_alone() -> None:
    """Empty content is `.CRLF` both ways."""
    assert stuff(b"") == b".\r\n"
    assert decode([b".\r\n"])[0] == b""


def test_a_missing_line_end_is_added() -> None:
    """The end of data needs a CRLF before its dot (RFC 5321 §4.1.1.4)."""
    assert stuff(b"a") == encode([b"a"]) == b"a\r\n.\r\n"


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"a\r\n", None),
        (b"", None),
        (b"a\n", Fault.BARE_LF),
        (b"a\r", Fault.BARE_CR),
        (b"a\rb\r\n", Fault.BARE_CR),
        (b"\r\r\n", Fault.BARE_CR),
        (b"a\n\r\n\rb", Fault.BARE_LF),
        (b"\0\r\n", Fault.NUL),
    ],
)
def test_faults(octets: bytes, fault: Fault | None) -> None:
    """Bare LF, bare CR and NUL are told apart (RFC 5321 §2.3.8)."""
    assert fault_of(octets) is fault


@given(stream=OCTETS, places=CUTS)
def test_normalized_content_has_clean_lines(stream: bytes, places: list[int]) -> None:
    """Normalising leaves no bare CR or LF, and ends where not normalising ends."""
    content, decoder, _ = decode(cut(stream, places), normalize=True)
    assert decoder.ended is (oracle(stream) is not None)
    assert fault_of(content) in (None, Fault.NUL)


def test_normalizing_turns_bare_newlines_into_crlf() -> None:
    """`bare_newlines = "normalize"`: a lone LF.LF becomes a line with a dot, which is content."""
    content, decoder, _ = decode([b"a\n.\nb\rc\r\n.\r\n"], normalize=True)
    assert content == b"a\r\n.\r\nb\r\nc\r\n" and decoder.fault is None


@given(content=LINES, places=CUTS)
def test_chunks_come_through_unchanged(content: bytes, places: list[int]) -> None:
    """BDAT content has no transparency: dots stay, cuts within CRLF do no harm (RFC 3030 §2)."""
    decoder = ChunkDecoder()
    received = b"".join(decoder.feed(piece) for piece in cut(content, places)) + decoder.finish()
    assert received == content and decoder.fault is None


@given(octets=OCTETS, places=CUTS)
def test_chunks_are_checked_as_data_is(octets: bytes, places: list[int]) -> None:
    """The same faults are found, and the last line gets its CRLF."""
    decoder = ChunkDecoder()
    received = b"".join(decoder.feed(piece) for piece in cut(octets, places)) + decoder.finish()
    assert (decoder.fault is None) is (fault_of(octets) is None)
    assert received == b"" or received.endswith(b"\r\n")
