"""xtext and the UTF-8 forms of ORCPT are read and written as RFC 3461 and RFC 6533 say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.mail.xtext import orcpt_decode, orcpt_encode, xtext_decode, xtext_encode

printable = st.text([chr(c) for c in range(32, 127)] + ["\t"], max_size=100)
wide = st.text(
    st.characters(min_codepoint=0xA0, exclude_categories=("Cs", "Zl", "Zp", "Cc"))
    | st.characters(min_codepoint=32, max_codepoint=126),
    min_size=1,
)


@given(printable)
def test_xtext_comes_back(text: str) -> None:
    """decode(encode(x)) == x, and the encoded form holds no space, "=" or control (RFC 3461 §4)."""
    octets = xtext_encode(text)
    assert xtext_decode(octets) == text
    assert all(33 <= octet <= 126 and octet != ord("=") for octet in octets)


@given(st.binary(max_size=40))
@example(b"QQ314159+0D+0ABcc:+20x@y")
@example(b"+C3+A9")
@example(b"+7F")
def test_no_octets_bring_a_control_character_in(octets: bytes) -> None:
    """What decodes is printable ASCII: an ENVID cannot smuggle a header field into a notice (RFC 3461 §4.4)."""
    try:
        text = xtext_decode(octets)
    except ValueError:
        return
    assert all(c == "\t" or " " <= c <= "~" for c in text)


@pytest.mark.parametrize("octets", [b"a b", b"a=b", b"a+", b"a+2", b"a+2G", b"\xe9", b"a\r\n"])
def test_broken_xtext_is_refused(octets: bytes) -> None:
    """RFC 3461 §4: "+" starts two hexadecimal digits; "=", space and 8-bit octets do not occur."""
    with pytest.raises(ValueError):
        xtext_decode(octets)


@pytest.mark.parametrize("text", ["é", "a\r\n", "\0", "\x7f"])
def test_what_xtext_cannot_hold_is_refused(text: str) -> None:
    """RFC 3461 §4.2: printable ASCII alone."""
    with pytest.raises(ValueError):
        xtext_encode(text)


@given(printable.filter(bool))
def test_an_ascii_orcpt_comes_back(address: str) -> None:
    """RFC 3461 §4.2."""
    assert orcpt_decode(orcpt_encode(f"rfc822;{address}")) == f"rfc822;{address}"


@given(wide, st.booleans())
@example("jörg+x=y\\z@example.org", True)
def test_a_utf8_orcpt_comes_back(address: str, utf8: bool) -> None:
    """Both forms decode to what they were made of; without SMTPUTF8 the form is ASCII (RFC 6533 §3)."""
    octets = orcpt_encode(f"utf-8;{address}", utf8=utf8)
    assert orcpt_decode(octets, utf8=utf8) == f"utf-8;{address}"
    assert utf8 or octets.isascii()
    assert not set(octets) & set(b" =+\r\n\t")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"bob@example.org",
        b";bob@example.org",
        b"rfc822;",
        b"rf c822;x",
        b"utf-8;a b",
        b"utf-8;\\x{D800}",
        b"utf-8;\\x{110000}",
        b"utf-8;\\x{0D}\\x{0A}",
        b"utf-8;\\x{2028}",
        b"utf-8;a\\b",
        b"utf-8;\xff",
        b"rfc822;\xc3\xa9",
        b"rfc822;+0D+0A",
    ],
)
def test_a_broken_orcpt_is_refused(octets: bytes) -> None:
    """RFC 3461 §4.2, RFC 6533 §3."""
    with pytest.raises(ValueError):
        orcpt_decode(octets, utf8=True)


def test_raw_utf8_needs_smtputf8() -> None:
    """utf-8-addr-unitext is for SMTPUTF8 transactions alone (RFC 6533 §3)."""
    octets = "utf-8;jörg@example.org".encode()
    assert orcpt_decode(octets, utf8=True) == "utf-8;jörg@example.org"
    with pytest.raises(ValueError):
        orcpt_decode(octets)


@pytest.mark.parametrize("orcpt", ["", "rfc822", "rfc822;", "utf-8;a\nb", "rfc822;é"])
def test_what_orcpt_cannot_hold_is_refused(orcpt: str) -> None:
    """A value that cannot be written is an error, never a broken parameter."""
    with pytest.raises(ValueError):
        orcpt_encode(orcpt)
