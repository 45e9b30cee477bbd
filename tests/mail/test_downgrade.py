"""8-bit content becomes 7-bit content that means the same."""

from __future__ import annotations

import email
import email.policy
import time
from collections.abc import Iterator
from email.message import Message

import pytest
from attrs import frozen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relaymta.mail.content import CHUNK, Content, MemoryContent
from relaymta.mail.downgrade import to_seven_bit
from relaymta.mail.message import count

ENCODINGS = st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n", b"content-transfer-encoding:\r\n 7bit\r\n"])
lines = st.lists(
    st.text(
        st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Zl", "Zp"))
        | st.sampled_from(list("=. \té-")),
        max_size=120,
    ),
    max_size=6,
)
texts = lines.map(lambda found: "".join(line + "\r\n" for line in found).encode())
blobs = st.binary(max_size=200).map(lambda octets: octets.translate(None, b"\n\0").replace(b"\r", b"\r\n"))


def leaf(media: bytes, encoding: bytes, body: bytes) -> bytes:
    """A part with its header."""
    return b"Content-Type: " + media + b"\r\n" + encoding + b"\r\n" + body


leaves = st.builds(leaf, st.just(b"text/plain; charset=utf-8"), ENCODINGS, texts) | st.builds(
    leaf, st.just(b"application/x-thing"), ENCODINGS, blobs
)


def joined(parts: list[bytes], number: int) -> bytes:
    """A multipart with its header."""
    boundary = b"=_%d" % number
    body = b"".join(b"\r\n--" + boundary + b"\r\n" + part for part in parts) + b"\r\n--" + boundary + b"--\r\n"
    return b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\r\n\r\n' + body


def nested(parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Multiparts and messages of `parts`."""
    messages = parts.map(lambda part: b"Content-Type: message/rfc822\r\n\r\nMIME-Version: 1.0\r\nSubject: x\r\n" + part)
    multiparts = st.builds(joined, st.lists(parts, min_size=1, max_size=3), st.integers(0, 1 << 60))
    return messages | multiparts


entities = st.recursive(leaves, nested, max_leaves=5)
messages = entities.map(lambda entity: b"From: a@example.org\r\nMIME-Version: 1.0\r\n" + entity)


@frozen
class Crumbs:
    """Content that comes in pieces of `size` octets."""

    octets: bytes
    piece: int

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def eightbit(self) -> bool:
        return not self.octets.isascii()

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self.octets), self.piece):
            yield self.octets[at : at + self.piece]

    def header(self) -> bytes:
        return MemoryContent(self.octets).header()


def converted(content: Content) -> bytes:
    """The 7-bit octets, checked."""
    result = to_seven_bit(content)
    assert result is not None
    octets = b"".join(result.chunks())
    assert octets.isascii() and not result.eightbit
    assert result.size == len(octets)
    assert result.header() == MemoryContent(octets).header()
    return octets


def leaves_of(message: Message) -> list[tuple[str, bytes]]:
    """Type and decoded body of every leaf, as Python's email package sees them."""
    return [
        (part.get_content_type(), bytes(part.get_payload(decode=True) or b""))
        for part in message.walk()
        if not part.is_multipart()
    ]


@given(messages)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_result_is_seven_bit_and_means_the_same(octets: bytes) -> None:
    """Python's email package decodes the same leaves before and after (RFC 6152 §3, RFC 2045 §6)."""
    before = email.message_from_bytes(octets)
    result = converted(MemoryContent(octets))
    after = email.message_from_bytes(result)
    assert leaves_of(after) == leaves_of(before)
    assert all(len(line) <= 998 for line in result.split(b"\r\n"))
    if octets.isascii():
        assert result == octets


@given(messages, st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_split_of_the_stream_gives_the_same_result(octets: bytes, piece: int) -> None:
    """Where the chunks are cut decides nothing."""
    assert converted(Crumbs(octets, piece)) == converted(MemoryContent(octets))


@given(st.lists(leaves, min_size=2, max_size=4))
def test_seven_bit_parts_stay_as_they_are(parts: list[bytes]) -> None:
    """A part that is 7-bit and says so is copied octet by octet, beside others that are not."""
    plain = [part.replace(b"8bit", b"7bit") for part in parts if part.isascii()]
    rest = [part for part in parts if not part.isascii()]
    octets = b"MIME-Version: 1.0\r\n" + joined(plain + rest, 1)
    result = converted(MemoryContent(octets))
    for part in plain:
        assert b"\r\n--=_1\r\n" + part + b"\r\n--=_1" in result


def test_seven_bit_content_is_given_back() -> None:
    """What needs no change is not read."""
    content = MemoryContent(b"Subject: x\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain\r\n")
    assert to_seven_bit(content) is content


def test_text_without_mime_fields_is_declared_unknown() -> None:
    """RFC 1428 §3: MIME-Version, charset=unknown-8bit, and an encoding are added below the header."""
    octets = converted(MemoryContent(b"From: a@example.org\r\nSubject: x\r\n\r\nH\xe4llo\r\n"))
    assert octets == (
        b"From: a@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=unknown-8bit\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nH=E4llo\r\n"
    )


def test_a_message_in_a_digest_is_followed() -> None:
    """RFC 2046 §5.1.5: in a multipart/digest the default type is message/rfc822."""
    octets = converted(
        MemoryContent(
            b"MIME-Version: 1.0\r\nContent-Type: multipart/digest; boundary=b\r\n\r\n"
            b"--b\r\n\r\nSubject: one\r\n\r\n\xe9\r\n--b\r\n\r\nSubject: two\r\n\r\ne\r\n--b--\r\n"
        )
    )
    assert b"--b\r\n\r\nSubject: one\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit" in octets
    assert b"--b\r\n\r\nSubject: two\r\n\r\ne\r\n--b--\r\n" in octets


def test_composite_labels_promise_no_less_than_their_parts() -> None:
    """RFC 2045 §6.4: a multipart or message labelled 8bit or binary becomes 7bit, in its place in the header."""
    octets = converted(
        MemoryContent(
            b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: Binary (x)\r\n"
            b'Content-Type: multipart/mixed; (c; boundary="no") boundary="a b\\"c"\r\n\r\npre\xe4mble\r\n'
            b'--a b"c\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8BIT\r\n\r\n'
            b"Subject: x\r\n\r\n\xe9\r\n"
            b'--a b"c--  \r\n\xe9pilogue\r\n'
        )
    )
    assert octets.startswith(b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: 7bit\r\nContent-Type")
    assert b"message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n" in octets
    assert b"\r\npre?mble\r\n" in octets and octets.endswith(b"--  \r\n?pilogue\r\n")


@pytest.mark.parametrize(
    ("encoding", "body", "result"),
    [
        (b"quoted-printable", b"caf=C3=A9 \xe9=\r\n", b"caf=C3=A9 =E9=\r\n"),
        (b"base64", b"w6k\xa0=\r\n", b"w6k=\r\n"),
    ],
)
def test_raw_octets_within_an_encoding_are_mended(encoding: bytes, body: bytes, result: bytes) -> None:
    """What claims to be encoded and is not quite decodes as before (RFC 2045 §6.7, §6.8)."""
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n"
    assert converted(MemoryContent(head + body)) == head + result


def test_only_one_encoding_is_left() -> None:
    """A second Content-Transfer-Encoding must not contradict the first."""
    octets = converted(
        MemoryContent(
            b"Content-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\n\xe9\r\n"
        )
    )
    assert count(octets, b"content-transfer-encoding") == 1
    assert octets.startswith(b"Content-Transfer-Encoding: quoted-printable\r\nMIME-Version")


MULTIPART = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"


@pytest.mark.parametrize(
    "octets",
    [
        b"Subject: \xe9\r\n\r\n\xe9\r\n",
        MULTIPART + b"--b\r\nContent-Type: image/png; name=\xe9\r\n\r\nx\r\n--b--\r\n",
        MULTIPART + b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: \xe9\r\n\r\nx\r\n--b--\r\n",
        MULTIPART + b"--b\r\nContent-Type: message/partial; number=1\r\n\r\n\xe9\r\n--b--\r\n",
        MULTIPART + b"--b\r\nContent-Transfer-Encoding: x-uue\r\n\r\n\xe9\r\n--b--\r\n",
        b"Content-Type: multipart/mixed\r\n\r\n\xe9\r\n",
        b"MIME-Version: 1.0\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 100 + b"Subject: x\r\n\r\n\xe9\r\n",
        MULTIPART + b"--b\r\n\r\n" * 20_000 + b"\xe9\r\n--b--\r\n",
        MULTIPART + b"--b\r\nX: " + b"x" * 200_000 + b"\xe9\r\n",
    ],
)
def test_what_cannot_be_converted_is_none(octets: bytes) -> None:
    """Raw 8-bit headers, closed types, unknown encodings and endless structures go back to the sender (RFC 6152 §3)."""
    assert to_seven_bit(MemoryContent(octets)) is None


def test_a_longer_boundary_is_no_delimiter() -> None:
    """A line that begins like a delimiter belongs to the body (RFC 2046 §5.1.1)."""
    octets = converted(MemoryContent(MULTIPART + b"--b\r\n\r\n\xe9\r\n--bc\r\n --b\r\n--b\tx\r\n--b--\r\n"))
    assert octets.endswith(b"\r\n\r\n=E9\r\n--bc\r\n --b\r\n--b\tx\r\n--b--\r\n")


def test_an_outer_delimiter_ends_what_is_within() -> None:
    """RFC 2046 §5.1.2: a nested multipart that was never closed ends at the outer delimiter."""
    octets = converted(
        MemoryContent(
            MULTIPART + b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n\xe9\r\n"
            b"--b\r\n\r\n\xe9\r\n--c\r\n--b--\r\n"
        )
    )
    assert octets.count(b"=E9") == 2
    assert octets.endswith(b"\r\n\r\n=E9\r\n--c\r\n--b--\r\n")


@pytest.mark.parametrize("body", [b"\xe9\r", b"\xe9\n", b"\xe9\rx\r\n", b"\xe9\nx\r\n", b"a\0\xe9\r\n"])
def test_text_with_bare_line_ends_becomes_base64(body: bytes) -> None:
    """Quoted-printable lines could not show them, and they must not become line ends (RFC 2045 §6.7)."""
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
    for content in (MemoryContent(head + body), Crumbs(head + body, 1)):
        octets = converted(content)
        assert b"Content-Transfer-Encoding: base64\r\n" in octets
        assert email.message_from_bytes(octets).get_payload(decode=True) == body


@given(st.integers(0, 200), st.sampled_from([b"\xe9", b"x", b" ", b"=", b"."]), st.binary(max_size=3))
@example(75, b"x", b"\xe9")
def test_a_line_of_any_length_fits(length: int, octet: bytes, end: bytes) -> None:
    """RFC 2045 §6.7: encoded lines are at most 76 characters, here and at the edges of soft breaks."""
    body = octet * length + end.translate(None, b"\r\n\0") + b"\xe9\r\n"
    octets = converted(MemoryContent(b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n" + body))
    assert all(len(line) <= 76 for line in octets.partition(b"\r\n\r\n")[2].split(b"\r\n"))
    assert email.message_from_bytes(octets).get_payload(decode=True) == body


def test_a_line_without_end_is_not_waited_for() -> None:
    """Memory stays bounded and lines short where a text has no line end in a megabyte."""
    body = b"\xe9 = x" * 200_000
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=latin-1\r\n\r\n"
    octets = converted(MemoryContent(head + body))
    assert max(map(len, octets.split(b"\r\n"))) <= 76
    assert email.message_from_bytes(octets).get_payload(decode=True) == body


def test_a_large_result_goes_to_a_file_and_can_be_read_twice_at_once() -> None:
    """Above a megabyte the result is in a file without a name; two readers do not disturb each other."""
    content = MemoryContent(b"Subject: x\r\nContent-Type: application/x\r\n\r\n" + bytes(range(1, 256)) * 10_000)
    result = to_seven_bit(content)
    assert result is not None
    assert not isinstance(result, MemoryContent)
    pairs = list(zip(result.chunks(), result.chunks(), strict=True))
    assert all(one == other and len(one) <= CHUNK for one, other in pairs)
    octets = b"".join(one for one, _ in pairs)
    assert len(octets) == result.size
    assert octets.startswith(result.header())
    assert email.message_from_bytes(octets).get_payload(decode=True) == bytes(range(1, 256)) * 10_000


CRUMBS = [
    b"--b", b"--c", b"--b--", b"\r\n", b"\n--b", b"\xe9", b":", b"x", b"Content-Type: message/rfc822",
    b"Content-Type: multipart/x;", b" boundary=b", b"boundary=c",
]  # fmt: skip


@given(st.lists(st.sampled_from(CRUMBS), max_size=40), st.integers(1, 9))
def test_any_structure_is_followed_or_refused(crumbs: list[bytes], piece: int) -> None:
    """Whatever is sent, the result is 7-bit or None, and the same for every split."""
    octets = MULTIPART + b"".join(crumbs)
    result = to_seven_bit(MemoryContent(octets))
    again = to_seven_bit(Crumbs(octets, piece))
    assert (result is None) == (again is None)
    if result is not None and again is not None:
        assert b"".join(result.chunks()) == b"".join(again.chunks())
        assert b"".join(result.chunks()).isascii()


@pytest.mark.parametrize("bait", [b"\r\n--", b"\r\n--bb", b"(" * 50, b"\r\n--b\r\n\r", b"; a=b", b"\xe9\r\n", b" \\"])
def test_nothing_takes_long(bait: bytes) -> None:
    """Time grows with the size alone: a megabyte of anything takes less than seconds."""
    start = time.process_time()
    for octets in (
        MULTIPART + b"--b\r\n\r\n" + bait * (1_000_000 // len(bait)) + b"\xe9\r\n",
        b"Content-Type: text/plain" + bait * (100_000 // len(bait)) + b"\r\n\r\n\xe9\r\n",
    ):
        to_seven_bit(MemoryContent(octets))
    assert time.process_time() - start < 3
