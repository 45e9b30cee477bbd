"""What a host is that somebody has written."""

from __future__ import annotations

import pytest

from relaymta.config.hosts import is_address, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_what_stays_on_this_machine(host: str) -> None:
    """RFC 6761 §6.3: "localhost" is never anybody else."""
    assert is_loopback(host) and is_address(host) is (host != "localhost")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "::", "localhost.example", "mail.example", ""])
def test_what_may_leave_it(host: str) -> None:
    """Any other address, and any other name whatever it begins with."""
    assert not is_loopback(host) and is_address(host) is (":" in host or host[:1] == "1")
