"""The PROXY header: both versions, any split, and everything that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.smtp.proxy import V1_MAX, V2_MAX, ProxyHeader, ProxyHeaderError, parse
from tests.smtp.proxyheaders import LOCAL, SIGNATURE, TLVS, binary, version1, version2

PORTS = st.integers(0, 65535)
FOUR = st.ip_addresses(v=4).map(str)
SIX = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(str)  # type: ignore[union-attr]
ENDS = st.tuples(FOUR, FOUR) | st.tuples(SIX, SIX)
REST = st.binary(max_size=40)


def verdict(octets: bytes) -> tuple[ProxyHeader, int] | None | str:
    """What comes of octets, an error being its class's name."""
    try:
        return parse(octets)
    except ProxyHeaderError:
        return "error"


@given(ends=ENDS, port=PORTS, local_port=PORTS, rest=REST)
def test_what_a_proxy_writes_is_read_again(ends: tuple[str, str], port: int, local_port: int, rest: bytes) -> None:
    """parse(render(x)) is x in both versions, with TLVs and with octets of the client behind it."""
    client, local = ends
    for header in (
        version1(client, port, local, local_port),
        version2(client, port, local, local_port),
        version2(client, port, local, local_port, TLVS),
    ):
        assert parse(header + rest) == (ProxyHeader(client, port, local), len(header))


@given(ends=ENDS, port=PORTS)
def test_every_beginning_of_a_header_asks_for_more(ends: tuple[str, str], port: int) -> None:
    """Wherever the stream is cut, nothing is decided before the last octet of the header."""
    for header in (version1(ends[0], port, ends[1]), version2(ends[0], port, ends[1], more=TLVS), LOCAL):
        assert all(parse(header[:end]) is None for end in range(len(header)))


@given(
    st.binary(max_size=200)
    | st.binary(max_size=150).map(lambda rest: b"PROXY " + rest)
    | st.text("TCP46 0123456789.:%\r\n", max_size=120).map(lambda rest: b"PROXY " + rest.encode())
    | st.binary(max_size=60).map(lambda rest: SIGNATURE + rest)
    | st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=260)).map(lambda parts: binary(*parts))
)
def test_garbage_is_an_error_or_waits_and_never_changes_its_mind(octets: bytes) -> None:
    """No octets raise anything else, and a verdict on the first of them holds for all that follow."""
    verdicts = [verdict(octets[:end]) for end in range(len(octets) + 1)]
    decided = [one for one in verdicts if one is not None]
    assert all(one == decided[0] for one in decided)
    assert verdicts == [None] * (len(verdicts) - len(decided)) + decided


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1025\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1025 25 \r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.1 1025 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1025 025\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1025 -1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 +1025 25\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.1 1025 25\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.1 1025 25\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1025 25\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.1 1025 25\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1025 25\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.1 1025 25\r\n",
        b"PROXY tcp4 192.0.2.1 198.51.100.1 1025 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1025 25\n",
        b"PROXY TCP4 192.0.2.1\n198.51.100.1 1025 25\r\n",
        b"PROXY TCP4 \xff.0.2.1 198.51.100.1 1025 25\r\n",
        b"PROXY \r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.1 1025 25\r\n",
        b"EHLO client.test\r\n",
    ],
)
def test_a_line_that_is_not_exactly_right_is_an_error(line: bytes) -> None:
    """One blank between fields, decimal ports, addresses of the family that is named, CRLF (§2.1)."""
    with pytest.raises(ProxyHeaderError):
        parse(line)


def test_a_line_without_end_is_an_error_in_time() -> None:
    """107 octets are the most that version 1 can need (§2.1)."""
    longest = b"PROXY UNKNOWN " + b"f" * (V1_MAX - 16) + b"\r\n"
    assert len(longest) == V1_MAX and parse(longest) == (ProxyHeader(), V1_MAX)
    assert parse(longest[:-2]) is None
    with pytest.raises(ProxyHeaderError):
        parse(longest[:-2] + b"ff")


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 192.0.2.1 anything at all\r\n",
        LOCAL,
        binary(0x20, 0x11, b"\x7f\0\0\x01" * 2 + bytes(4)),
        binary(0x20, 0xFF, b"whatever"),
        binary(0x21, 0x00, b""),
        binary(0x21, 0x00, b"tlvs"),
        binary(0x21, 0x10, b"\x7f\0\0\x01" * 2 + bytes(4)),
        binary(0x21, 0x31, b"/run/client.sock".ljust(108, b"\0") * 2),
    ],
)
def test_who_names_nobody_names_nobody(header: bytes) -> None:
    """LOCAL, UNKNOWN, UNSPEC and UNIX addresses are whole headers, and no client's (§2.1, §2.2)."""
    assert parse(header + b"rest") == (ProxyHeader(), len(header))


@pytest.mark.parametrize(
    "header",
    [
        binary(0x11, 0x11, bytes(12)),
        binary(0x31, 0x11, bytes(12)),
        binary(0x22, 0x11, bytes(12)),
        binary(0x21, 0x41, bytes(12)),
        binary(0x21, 0x12, bytes(12)),
        binary(0x21, 0x13, bytes(12)),
        binary(0x21, 0x11, bytes(11)),
        binary(0x21, 0x21, bytes(35)),
        binary(0x21, 0x31, bytes(215)),
        binary(0x20, 0x00, bytes(V2_MAX + 1)),
    ],
)
def test_a_binary_header_that_is_not_right_is_an_error(header: bytes) -> None:
    """Other versions, commands and families, datagrams, blocks too short for their addresses or too long (§2.2)."""
    with pytest.raises(ProxyHeaderError):
        parse(header)


def test_an_ipv4_client_in_ipv6_clothes_is_an_ipv4_client() -> None:
    """So that networks and limits fit it (RFC 4291 §2.5.5.2)."""
    for made in (version1, version2):
        found = parse(made("::ffff:192.0.2.1", 1025, "2001:db8::1"))
        assert found is not None and found[0] == ProxyHeader("192.0.2.1", 1025, "2001:db8::1")
