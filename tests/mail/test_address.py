"""Addresses are read once and rendered the same everywhere."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.mail.address import (
    LOCAL_MAX,
    Address,
    AddressError,
    parse_domain,
    parse_mailbox,
    parse_path,
    sender_path,
)
from tests.mail.strategies import domains, dot_strings, literals, local_parts


@given(local_parts.filter(lambda local: len(local.encode()) <= LOCAL_MAX), st.one_of(domains, literals))
@example("", "example.org")
@example('a"b\\c', "example.org")
@example("user@other", "[192.0.2.1]")
def test_what_is_rendered_is_read_back_equal(local: str, domain: str) -> None:
    """parse(render(x)) == x for dot-strings, quoted strings, UTF-8 and literals (RFC 5321 §4.1.2, RFC 6531 §3.3)."""
    address = Address(local, domain)
    assert parse_path(address.path(), utf8=True) == address
    assert parse_mailbox(str(address)) == address
    assert str(parse_mailbox(str(address))) == str(address)


@given(dot_strings.filter(lambda local: len(local) <= LOCAL_MAX), domains)
def test_spellings_of_one_mailbox_are_equal(local: str, domain: str) -> None:
    """Quotes and backslashes that need not be there and the case of a domain change nothing (RFC 5321 §4.1.2)."""
    plain = parse_mailbox(f"{local}@{domain}")
    quoted = parse_mailbox(f'"{local}"@{domain.upper()}')
    escaped = parse_mailbox('"' + "".join("\\" + c for c in local) + f'"@{domain}')
    assert plain == quoted == escaped
    assert hash(plain) == hash(quoted) == hash(escaped)
    assert plain.path() == quoted.path() == escaped.path()


@given(st.text(max_size=60))
@example("\udce9@example.org")
@example("a@[IPv6:fe80::1%eth0]")
@example('"a\r\nb"@example.org')
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    """No text raises anything else, and what is accepted holds no control character that could end a line."""
    try:
        address = parse_mailbox(text)
    except AddressError:
        return
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in str(address))
    assert parse_mailbox(str(address)) == address


@given(st.binary(max_size=80), st.booleans())
def test_any_octets_are_a_path_or_an_address_error(octets: bytes, utf8: bool) -> None:
    """A path from the wire raises AddressError or nothing."""
    for path in (octets, b"<" + octets + b">"):
        try:
            parse_path(path, utf8=utf8)
        except AddressError:
            pass


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        (b"<bob@Example.ORG>", "bob", "example.org"),
        (b'<"b\\ob"@example.org>', "bob", "example.org"),
        (b"<@one.example,@two.example:bob@example.org>", "bob", "example.org"),
        (b"<bob@[192.0.2.1]>", "bob", "[192.0.2.1]"),
        (b"<bob@[ipv6:2001:DB8:0:0::1]>", "bob", "[IPv6:2001:db8::1]"),
        (b"<Postmaster>", "postmaster", ""),
        (b'<"user@other"@example.org>', "user@other", "example.org"),
        (b"<other!bob%third@example.org>", "other!bob%third", "example.org"),
        ("<jörg@bücher.example>".encode(), "jörg", "xn--bcher-kva.example"),
        ("<bob@BÜCHER。example>".encode(), "bob", "xn--bcher-kva.example"),
    ],
)
def test_paths_that_are_allowed(path: bytes, local: str, domain: str) -> None:
    """RFC 5321 §4.1.2 and appendix C, §4.1.3, §4.1.1.3; RFC 6531 §3.3; RFC 5891."""
    address = parse_path(path, utf8=True)
    assert address is not None
    assert (address.local, address.domain) == (local, domain)


@pytest.mark.parametrize(
    "path",
    [
        b"bob@example.org",
        b"<bob@example.org",
        b"<bob>",
        b"<bob@>",
        b"<@example.org>",
        b"<.bob@example.org>",
        b"<bob.@example.org>",
        b"<b..ob@example.org>",
        b"<bob smith@example.org>",
        b'<"bob@example.org>',
        b"<bob@-example.org>",
        b"<bob@example-.org>",
        b"<bob@example..org>",
        b"<bob@exa_mple.org>",
        b"<bob@[192.0.2.256]>",
        b"<bob@[192.0.2.01]>",
        b"<bob@[2001:db8::1]>",
        b"<bob@[IPv6:fe80::1%eth0]>",
        b"<bob@[IPv6:2001:db8::1]x>",
        b"<bob@example.org>>",
        b"<<bob@example.org>>",
        b"<bob@example.org\r\nRCPT TO:<x@y>>",
        b'<"bob\r\n"@example.org>',
        b'<"bob\x00"@example.org>',
        b"<j\xf6rg@example.org>",
        b"<" + b"x" * 65 + b"@example.org>",
        b"<bob@" + b"x" * 64 + b".org>",
        b"<bob@" + b"xy." * 90 + b"org>",
    ],
)
def test_paths_that_are_not_allowed(path: bytes) -> None:
    """RFC 5321 §4.1.2 and §4.5.3.1."""
    with pytest.raises(AddressError):
        parse_path(path, utf8=True)


def test_the_null_path_is_none() -> None:
    """`<>` is the null reverse-path both ways (RFC 5321 §4.5.5)."""
    assert parse_path(b"<>") is None
    assert sender_path(None) == b"<>"
    assert sender_path(parse_path(b"<bob@example.org>")) == b"<bob@example.org>"


def test_utf8_needs_leave() -> None:
    """Without SMTPUTF8 a non-ASCII address is refused (RFC 6531 §3.3)."""
    with pytest.raises(AddressError, match="SMTPUTF8"):
        parse_path("<jörg@example.org>".encode())


def test_only_the_local_part_needs_smtputf8() -> None:
    """An IDN domain goes out as A-labels, which any server takes (RFC 5891 §4.4)."""
    assert not parse_mailbox("bob@bücher.example").internationalized
    assert parse_mailbox("jörg@example.org").internationalized
    assert parse_mailbox("bob@[192.0.2.1]").is_literal


@given(domains)
def test_a_domain_is_its_own_canonical_form(domain: str) -> None:
    """parse_domain is idempotent and ignores case (RFC 5321 §2.4)."""
    assert parse_domain(domain.upper()) == parse_domain(parse_domain(domain))
