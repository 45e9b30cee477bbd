"""Connections of named proxies: whose they are, before the greeting, at the door and in TLS."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from attrs import define, evolve, field
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from relaymta.smtp.handler import Handler, Peer
from relaymta.smtp.vestibule import HEADER_WITHIN
from tests.smtp.guests import House, NotingTransport, codes, house
from tests.smtp.proxyheaders import LOCAL, TLVS, binary, version1, version2

PROXY, CLIENT = "198.51.100.9", "192.0.2.1"
NAMED = (ip_network("198.51.100.9/32"), ip_network("2001:db8:9::/64"))
HEADERS = [version1, version2, lambda *ends: version2(*ends, more=TLVS)]
GREETING = b"220 relay.test ESMTP relaymta\r\n"


@define(eq=False)
class Line:
    """The far end of a connection: whoever its transport's protocol is at the moment."""

    transport: NotingTransport

    def read(self) -> bytes:
        """What was said since the last look."""
        octets: bytes = self.transport.value()
        self.transport.clear()
        return octets

    def say(self, octets: bytes) -> bytes:
        """Send in one segment; the answer."""
        if not self.transport.disconnecting:
            self.transport.protocol.dataReceived(octets)
        return self.read()

    def codes(self, octets: bytes) -> list[str]:
        """Send in one segment; the codes of the answers."""
        return codes(self.say(octets))

    def lose(self) -> None:
        """The connection is gone."""
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))


@define(eq=False)
class Porch:
    """A house whose proxies are NAMED, and everybody who was heard of."""

    guests: House
    peers: list[Peer] = field(factory=list)
    refused: list[str] = field(factory=list)

    def connect(self, client: str = PROXY) -> Line:
        """A new connection, of the proxy or of anybody else."""
        made: Any = UNIXAddress if not client else IPv6Address if ":" in client else IPv4Address
        peer = made(client) if not client else made("TCP", client, 1025)
        transport = NotingTransport(hostAddress=IPv4Address("TCP", "198.51.100.1", 25), peerAddress=peer)
        protocol = self.guests.factory.buildProtocol(peer)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return Line(transport)


def porch(**options: Any) -> Porch:
    """A porch whose settings differ from the standard in these."""
    made = Porch(house(proxy=NAMED, **options))
    factory = made.guests.factory
    before: Callable[[Peer], Handler] = factory.handler

    def handler(peer: Peer) -> Handler:
        made.peers.append(peer)
        return before(peer)

    factory.handler = handler
    factory.on_bad_header = lambda peer, reason: made.refused.append(reason)
    return made


# Whose it is


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("ends", [(CLIENT, 1025, "203.0.113.25"), ("2001:db8::1", 1, "2001:db8::25")])
def test_the_client_is_who_the_proxy_says(header: Any, ends: tuple[str, int, str]) -> None:
    """Nothing is said before the header; then the session is the client's, as if it had come by itself."""
    made = porch()
    line = made.connect()
    assert line.read() == b"" and made.peers == []
    assert line.say(header(*ends)) == GREETING
    [peer] = made.peers
    assert (peer.client, peer.port, peer.local, peer.proxy, peer.known) == (*ends, PROXY, True)
    assert line.codes(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n") == ["250", "250 2.1.0"]


@pytest.mark.parametrize("header", [version1(CLIENT, 1025, PROXY), version2(CLIENT, 1025, PROXY, more=TLVS), LOCAL])
def test_any_split_of_the_header_gives_the_same_session(header: bytes) -> None:
    """Wherever the segments end, and with a command in the last of them."""
    stream = header + b"NOOP\r\n"
    whole = porch().connect().say(stream)
    assert whole == GREETING + b"250 2.0.0 ok\r\n"
    for size in range(1, len(stream)):
        line = porch().connect()
        assert b"".join(line.say(stream[at : at + size]) for at in range(0, len(stream), size)) == whole


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n", binary(0x21, 0x31, bytes(216))])
def test_a_proxy_that_names_nobody_is_greeted_and_not_known(header: bytes) -> None:
    """Its health checks get the greeting; the session is at its own address, marked as nobody's."""
    made = porch()
    assert made.connect().say(header) == GREETING
    [peer] = made.peers
    assert (peer.client, peer.proxy, peer.known) == (PROXY, PROXY, False)


def test_a_proxy_over_ipv6_is_a_proxy() -> None:
    """Networks of both families may be named."""
    made = porch()
    assert made.connect("2001:db8:9::7").say(version2(CLIENT, 1025, PROXY)) == GREETING
    assert made.peers[0].proxy == "2001:db8:9::7"


# Who is not believed


@pytest.mark.parametrize("stranger", ["198.51.100.10", "2001:db8::9", ""])
@pytest.mark.parametrize("header", [version1("127.0.0.1", 1, "127.0.0.1"), version2("127.0.0.1", 1, "127.0.0.1")])
def test_a_strangers_header_is_talk(stranger: str, header: bytes) -> None:
    """It is never read: the stranger is greeted as who it is, and its header is a bad command."""
    made = porch()
    line = made.connect(stranger)
    assert line.read() == GREETING
    said = line.codes(header)
    assert said and all(code.startswith("5") for code in said)
    assert [(peer.client, peer.proxy) for peer in made.peers] == [(stranger, "")]


def test_a_header_before_the_greeting_is_talk_too() -> None:
    """While the decision on a stranger is awaited, its header ends the session (RFC 5321 §3.1)."""
    line = porch(answers={"connect": Deferred()}).connect("198.51.100.10")
    assert line.codes(version1("127.0.0.1", 1, "127.0.0.1")) == ["554 5.5.1"]


def test_a_second_header_is_talk() -> None:
    """What the client sends through the proxy cannot name another client."""
    made = porch()
    line = made.connect()
    assert line.say(version1(CLIENT, 1025, PROXY) + version1("127.0.0.1", 1, PROXY))[:3] == b"220"
    assert [peer.client for peer in made.peers] == [CLIENT]


@pytest.mark.parametrize(
    "octets", [b"EHLO c.test\r\n", b"PROXY TCP4 x\r\n", binary(0x21, 0x11, b"short"), b"\x16\x03\x01"]
)
def test_without_a_header_a_proxy_is_closed_without_a_word(octets: bytes) -> None:
    """A proxy that is set up wrongly must not make its clients look like itself."""
    made = porch()
    line = made.connect()
    assert line.say(octets) == b"" and line.transport.disconnecting
    assert len(made.refused) == 1 and made.peers == []
    line.lose()
    assert len(made.guests.factory.door) == 0 and made.guests.clock.getDelayedCalls() == []
    assert len(made.refused) == 1


def test_the_header_is_awaited_for_seconds() -> None:
    """A connection that says nothing is closed without a word, and told of."""
    made = porch()
    line = made.connect()
    line.say(b"PROXY TCP4 ")
    made.guests.clock.advance(HEADER_WITHIN - 1)
    assert not line.transport.disconnecting
    made.guests.clock.advance(1)
    assert line.transport.disconnecting and line.read() == b"" and made.refused == ["no PROXY header in time"]


def test_a_look_at_our_health_is_no_event() -> None:
    """A proxy that connects and closes is not told of; one that breaks off within the header is."""
    made = porch()
    made.connect().lose()
    assert made.refused == []
    line = made.connect()
    line.say(b"PROXY TCP4 ")
    line.lose()
    assert made.refused == ["the PROXY header is cut short"]
    assert len(made.guests.factory.door) == 0 and made.guests.clock.getDelayedCalls() == []


# At the door


def test_limits_are_the_clients() -> None:
    """One client has its number of connections through the proxy, another has its own, and all are given back."""
    made = porch(limits={"connections_per_client": 2})
    lines = [made.connect() for _ in range(5)]
    said = [line.say(version1(CLIENT, 1025, PROXY))[:3] for line in lines]
    assert said == [b"220", b"220", b"421", b"421", b"421"]
    other = made.connect()
    assert other.say(version2("192.0.2.2", 1025, PROXY))[:3] == b"220"
    for line in (*lines, other):
        line.lose()
    assert len(made.guests.factory.door) == 0 and made.guests.factory.door._counts._counts == {}  # type: ignore[attr-defined]
    assert made.connect().say(version1(CLIENT, 1025, PROXY))[:3] == b"220"


def test_a_proxys_own_address_is_not_limited() -> None:
    """Any number of connections may wait for their header or be the proxy's own."""
    made = porch(limits={"connections_per_client": 1})
    assert all(made.connect().say(LOCAL)[:3] == b"220" for _ in range(5))


def test_connections_without_a_header_are_bounded() -> None:
    """They count among all connections of the listener; one too many gets 421."""
    made = porch(limits={"connections": 3})
    lines = [made.connect() for _ in range(3)]
    late = made.connect()
    assert codes(late.read()) == ["421 4.7.0"] and late.transport.disconnecting
    assert made.guests.notebook.turned_away == [421]
    assert lines[0].say(version1(CLIENT, 1025, PROXY))[:3] == b"220"
    lines[1].lose()
    assert made.connect().say(version1(CLIENT, 1025, PROXY))[:3] == b"220"


def test_a_drain_does_not_wait_for_headers() -> None:
    """Who has not said whose it is goes at once, and who says so meanwhile is told that we stop."""
    made = porch()
    waiting, session = made.connect(), made.connect()
    session.say(version1(CLIENT, 1025, PROXY))
    done: list[None] = []
    made.guests.factory.drain(30).addCallback(done.append)
    assert waiting.transport.disconnecting and waiting.read() == b""
    assert codes(session.read()) == ["421 4.3.2"]
    assert codes(made.connect().read()) == ["421 4.3.2"]
    waiting.lose()
    session.lose()
    assert done == [None]


def test_a_reload_may_name_other_proxies() -> None:
    """Who is a proxy is asked when a connection comes."""
    made = porch()
    made.guests.factory.configure(evolve(made.guests.settings, proxy=()))
    assert made.connect().read() == GREETING and made.peers[0].client == PROXY
