"""Whom to ask: how servers are written, resolv.conf, and the memory of their health."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from relaymta.config import Duration
from relaymta.net.dns_servers import DnsSettings, Servers, nameservers, parse_server


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1:53", ("127.0.0.1", 53)),
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
        ("[::1]", ("::1", 53)),
        ("2001:DB8::1", ("2001:db8::1", 53)),
    ],
)
def test_servers_are_addresses_with_a_port(text: str, server: tuple[str, int]) -> None:
    """`dns.servers` takes IPv4 and IPv6 with or without a port."""
    assert parse_server(text) == server
    DnsSettings(servers=(text,))


@pytest.mark.parametrize(
    "text", ["", "ns.example.org", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1", "[::1]53"]
)
def test_other_servers_are_refused_with_a_sentence(text: str) -> None:
    """A name server is an IP address; what was written stands in the complaint."""
    with pytest.raises(ValueError, match="name server"):
        DnsSettings(servers=(text,))


def test_settings_without_sense_are_refused() -> None:
    """No try, no room and no memory are mistakes; so are more servers than half a minute can ask."""
    wrongs: list[dict[str, Any]] = [
        {"timeouts": ()},
        {"timeouts": (Duration(0.0),)},
        {"concurrency": 0},
        {"cache_entries": 0},
        {"servers": tuple(f"192.0.2.{number}" for number in range(5))},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError):
            DnsSettings(**wrong)


def test_resolv_conf_is_read_as_the_manual_says() -> None:
    """resolv.conf(5): `nameserver` lines in order; all else, and what is no address, is passed over."""
    text = b"# nameserver 192.0.2.9\nsearch a.test\nnameserver 192.0.2.1\n nameserver ::1\nnameserver\n"
    text += b"nameserver ns.test\n"
    assert nameservers(text) == [("192.0.2.1", 53), ("::1", 53)]


def test_a_changed_resolv_conf_is_noticed(tmp_path: Path) -> None:
    """Servers handed out by DHCP change while we run; the file is looked at again within half a minute."""
    clock, file = Clock(), tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    servers = Servers((), clock.seconds, file)
    assert [str(server) for server in servers.in_order()] == ["192.0.2.1:53"]
    file.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    os.utime(file, ns=(1, 1))
    clock.advance(31)
    assert [str(server) for server in servers.in_order()] == ["192.0.2.2:53", "192.0.2.3:53"]


def test_a_resolv_conf_that_is_gone_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    """Programs replace the file; what we knew is better than nothing."""
    clock, file = Clock(), tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    servers = Servers((), clock.seconds, file)
    file.unlink()
    clock.advance(31)
    assert [server.host for server in servers.in_order()] == ["192.0.2.1"]


def test_without_resolv_conf_the_local_server_is_asked(tmp_path: Path) -> None:
    """resolv.conf(5): the default is the local machine."""
    assert [str(server) for server in Servers((), Clock().seconds, tmp_path / "none").in_order()] == ["127.0.0.1:53"]


def test_a_silent_server_is_asked_last_for_a_while() -> None:
    """Stock Twisted pays a second for a dead server with every question; three silences send it to the end."""
    clock = Clock()
    servers = Servers(("192.0.2.1", "192.0.2.2"), clock.seconds)
    first, second = servers.in_order()
    for _ in range(2):
        servers.silent(first, refused=False)
        assert servers.in_order() == [first, second]  # one slow zone must not condemn its resolver
    servers.silent(first, refused=False)
    assert servers.in_order() == [second, first]
    clock.advance(5)
    assert servers.in_order() == [first, second]  # one question may try it
    assert servers.in_order() == [second, first]  # the others do not wait for that
    servers.answered(first)
    assert servers.in_order() == [first, second]


def test_a_refusing_server_is_asked_last_at_once() -> None:
    """ECONNREFUSED is no slow zone: nobody listens there."""
    clock = Clock()
    servers = Servers(("192.0.2.1", "192.0.2.2"), clock.seconds)
    first, second = servers.in_order()
    servers.silent(first, refused=True)
    assert servers.in_order() == [second, first]


def test_the_rest_of_a_dead_server_grows_to_a_minute() -> None:
    """It is tried again after 5, 10, 20 ... seconds, never later than a minute."""
    clock = Clock()
    servers = Servers(("192.0.2.1", "192.0.2.2"), clock.seconds)
    first = servers.in_order()[0]
    rests = []
    for _ in range(12):
        servers.silent(first, refused=True)
        rests.append(first.rests_until - clock.seconds())
    assert rests[:3] == [5.0, 10.0, 20.0]
    assert max(rests) == rests[-1] == 60.0


def test_when_all_servers_rest_they_are_asked_nevertheless() -> None:
    """A list of servers is never empty: resting is an order, not a ban."""
    servers = Servers(("192.0.2.1", "192.0.2.2"), Clock().seconds)
    for server in servers.in_order():
        servers.silent(server, refused=True)
    assert len(servers.in_order()) == 2
