"""The MIME structure is a stream of pieces that are the message, octet by octet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.mime import Between, Head, Kind, MimeError, Piece, media_type, structure, transfer_encoding
from tests.mail.test_downgrade import MULTIPART, messages


@given(messages, st.integers(1, 50))
def test_the_pieces_joined_are_the_message(octets: bytes, piece: int) -> None:
    """Every octet is in exactly one piece, whatever the split (RFC 2046 §5.1)."""
    chunks = [octets[at : at + piece] for at in range(0, len(octets), piece)]
    assert b"".join(event.octets for event in structure(chunks)) == octets


def test_the_line_end_before_a_delimiter_is_not_the_body_s() -> None:
    """RFC 2046 §5.1.1: the CRLF before a delimiter belongs to it."""
    events = list(structure([MULTIPART + b"pre\r\n--b\r\n\r\none\r\n\r\n--b \r\nA: b\r\n--b--\r\nepi"]))
    assert [event.octets for event in events if isinstance(event, Piece)] == [b"one\r\n"]
    assert [(event.octets, event.kind) for event in events if isinstance(event, Head)] == [
        (MULTIPART, Kind.MULTIPART),
        (b"\r\n", Kind.LEAF),
        (b"A: b\r\n", Kind.LEAF),
    ]
    assert [event.octets for event in events if isinstance(event, Between)] == [
        b"pre",
        b"\r\n--b\r\n",
        b"\r\n--b \r\n",
        b"--b--\r\n",
        b"epi",
    ]


@pytest.mark.parametrize(
    ("value", "media", "boundary"),
    [
        (b"multipart/mixed; boundary=abc", "multipart/mixed", "abc"),
        (b'Multipart/Mixed;charset=x;\r\n\tBOUNDARY="a;b=\\"c"', "multipart/mixed", 'a;b="c'),
        (b"(c) multipart (c) / (c(d)) mixed", None, None),
        (b"(c) multipart (c) / (c) mixed (c) ; (c) boundary (c) = (c) x (c)", "multipart/mixed", "x"),
        (b"multipart/mixed; boundary=a=b?c", "multipart/mixed", "a=b?c"),
        (b"text", None, None),
        (b"", None, None),
    ],
)
def test_content_types_are_read(value: bytes, media: str | None, boundary: str | None) -> None:
    """RFC 2045 §5.1, comments, folding and quotes included; what cannot be read is None."""
    found = media_type(b"Content-Type: " + value + b"\r\n\r\n")
    assert (found and found[0]) == media
    assert (found and found[1].get("boundary")) == boundary


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (b"\r\n", "7bit"),
        (b"Content-Transfer-Encoding: Quoted-Printable (really)\r\n\r\n", "quoted-printable"),
        (b"Content-Transfer-Encoding: \r\n (c) 8BIT\r\n\r\n", "8bit"),
        (b"Content-Transfer-Encoding:\r\n\r\n", "7bit"),
    ],
)
def test_encodings_are_read(header: bytes, encoding: str) -> None:
    """RFC 2045 §6.1: 7bit where nothing is said."""
    assert transfer_encoding(header) == encoding


def test_depth_and_number_are_bounded() -> None:
    """A message of nothing but structure is refused, and costs no memory."""
    with pytest.raises(MimeError, match="within each other"):
        list(structure([b"Content-Type: message/rfc822\r\n\r\n" * 100]))
    with pytest.raises(MimeError, match="many parts"):
        list(structure([MULTIPART + b"--b\r\n\r\n" * 20_000]))
