"""Socket addresses as the operator writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.config import SocketAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:25", SocketAddress("0.0.0.0", 25)),
        ("[::]:25", SocketAddress("::", 25)),
        ("[2001:DB8::1]:587", SocketAddress("2001:db8::1", 587)),
        ("mail.example.org:25", SocketAddress("mail.example.org", 25)),
        ("unix:/run/x.sock", SocketAddress(path="/run/x.sock")),
    ],
)
def test_an_address_is_host_and_port_or_a_path(text: str, address: SocketAddress) -> None:
    """IPv6 stands in brackets, a UNIX socket behind "unix:"; each is shown as it is written."""
    assert SocketAddress.from_text(text) == address
    assert SocketAddress.from_text(str(address)) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0.0.0.0", '"0.0.0.0:25"'),
        ("::1", '"[::1]:25"'),
        ("fe80::1:25", '"[fe80::1]:25"'),
        ("[::1]", '"[::1]:25"'),
        ("2001:db8:0:0:0:0:0:1:587", '"[2001:db8::1]:587"'),
        ("1.2.3:25", "is not an IPv4 address"),
        ("1.2.3.400:25", "is not an IPv4 address"),
        ("[::g]:25", "is not an IPv6 address"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("host:smtp", "has no port"),
        ("a b:25", "is not an address"),
        ("unix:", "needs a path"),
        ("unix:/" + "x" * 107, "at most 107 octets"),
        ("", "has no port"),
    ],
)
def test_what_is_no_address_is_refused_with_what_was_meant(text: str, hint: str) -> None:
    """A missing port, bare IPv6 or a path beyond sun_path is told with how to write it."""
    with pytest.raises(ValueError) as caught:
        SocketAddress.from_text(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.5:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("h:1", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(text: str, loopback: bool) -> None:
    """127.0.0.0/8, ::1, localhost and UNIX sockets; not the wildcard."""
    assert SocketAddress.from_text(text).is_loopback is loopback


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever is written is an address or a ValueError, and an address reads as it is shown."""
    try:
        address = SocketAddress.from_text(text)
    except ValueError:
        return
    assert SocketAddress.from_text(str(address)) == address
