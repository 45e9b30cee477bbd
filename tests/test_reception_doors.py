"""Reception of clients for whom somebody else speaks, and of LMTP."""

from __future__ import annotations

from typing import Any

import pytest

from relaymta import events
from relaymta.mail.address import Address
from relaymta.mail.reply import Reply
from relaymta.reception import Arrival
from relaymta.smtp.commands import MailCommand, RcptCommand, XClient, XForward
from relaymta.smtp.handler import Peer
from relaymta.smtp.whose import introduced
from tests.test_reception import Porch

ELSEWHERE = Address("victim", "elsewhere.example")
OURS = Address("u", "ours.example")


def proxied(client: str, **facts: Any) -> Peer:
    """A session of `client` ("": of nobody) through the proxy at 127.0.0.8, which may relay itself."""
    known = bool(client)
    return Peer("s1", "mx", client or "127.0.0.8", 4711, "192.0.2.25", proxy="127.0.0.8", known=known, **facts)


def may_relay(peer: Peer) -> bool:
    """Whether a session of this peer may send to anywhere."""
    guest = Porch().reception.handler(peer)
    guest.connect()
    guest.helo("client.example.net", True)
    guest.mail(MailCommand(None))
    answer = guest.rcpt(RcptCommand(ELSEWHERE))
    assert answer is None or isinstance(answer, Reply)
    return answer is None


def test_trust_is_in_the_client_that_is_named() -> None:
    """A client of our networks is trusted through a proxy as without one, a stranger is not."""
    assert may_relay(proxied("127.0.0.2"))
    assert not may_relay(proxied("192.0.2.1"))


def test_the_speakers_own_address_is_never_trusted_for_others() -> None:
    """Where nobody is named, by PROXY or by XCLIENT, the address is the speaker's and worth nothing."""
    speaker = Peer("s1", "mx", "127.0.0.9", 4711, "192.0.2.25")
    assert may_relay(speaker)
    assert not may_relay(proxied(""))
    assert not may_relay(introduced(speaker, XClient(client=""), "s2"))
    assert not may_relay(introduced(speaker, XClient(name="friend.example"), "s2"))
    assert not may_relay(introduced(speaker, XClient("192.0.2.1"), "s2"))
    assert may_relay(introduced(speaker, XClient("127.0.0.2"), "s2"))
    assert not may_relay(introduced(proxied(""), XClient(name="friend.example"), "s2"))


def test_who_spoke_for_whom_is_told() -> None:
    """One event before the session's first, and none where nobody speaks for anybody."""
    porch = Porch()
    porch.guest()
    assert porch.of(events.ClientNamed) == []
    for peer in (proxied("192.0.2.1"), proxied(""), introduced(proxied(""), XClient("192.0.2.2", 9, name="n"), "s2")):
        porch.reception.handler(peer).connect()
    assert porch.of(events.ClientNamed) == [
        events.ClientNamed("s1", "mx", "127.0.0.8", "PROXY", "192.0.2.1", 4711, "", ""),
        events.ClientNamed("s1", "mx", "127.0.0.8", "PROXY", "", 4711, "", ""),
        events.ClientNamed("s2", "mx", "127.0.0.8", "XCLIENT", "192.0.2.2", 9, "n", ""),
    ]
    opened = [one.client for one in porch.of(events.SessionOpened)]
    assert opened == ["127.0.0.1", "192.0.2.1", "127.0.0.8", "192.0.2.2"]


def arrived(porch: Porch, peer: Peer) -> None:
    """A message of this peer, taken."""
    guest = porch.reception.handler(peer)
    guest.connect()
    peer.helo, peer.esmtp = "client.example.net", True
    guest.helo(peer.helo, True)
    guest.mail(MailCommand(None))
    guest.rcpt(RcptCommand(OURS))
    sink = guest.data()
    assert isinstance(sink, Arrival)
    sink.write(b"Subject: x\r\n\r\n")
    assert porch.reply(sink.finish()).positive


@pytest.mark.parametrize(
    ("said", "origin"),
    [
        (XForward("192.0.2.7", 99, "n", "helo.example", "ESMTP", "4AbC", "REMOTE"), ("192.0.2.7", 99, "helo.example")),
        (XForward("192.0.2.7"), ("192.0.2.7", 0, "")),
        (XForward(ident="4AbC", source="LOCAL"), ("192.0.2.1", 4711, "client.example.net")),
        (XForward(helo="helo.example", port=99), ("192.0.2.1", 4711, "client.example.net")),
    ],
)
def test_a_message_comes_from_where_xforward_says(said: XForward, origin: tuple[str, int, str]) -> None:
    """In the envelope, the Received field and the log, never mixed with what is known of the host that says so.

    How it came to us stays what it was.
    """
    porch = Porch()
    arrived(porch, Peer("s1", "mx", "192.0.2.1", 4711, "192.0.2.25", forwarded=said))
    envelope, content = porch.stored()
    assert (envelope.origin.client, envelope.origin.port, envelope.origin.helo) == origin
    assert envelope.origin.protocol == "ESMTP" and envelope.origin.session == "s1"
    assert content.startswith(f"Received: from {origin[2] or f'[{origin[0]}]'} ([{origin[0]}])".encode())
    assert porch.of(events.MessageAccepted)[0].client == origin[0]
    [told] = porch.of(events.OriginForwarded)
    assert (told.session, told.client, told.origin, told.ident) == ("s1", "192.0.2.1", said.client, said.ident)


def test_xforward_earns_nothing() -> None:
    """Where a message came from is no reason to relay it."""
    assert not may_relay(Peer("s1", "mx", "192.0.2.1", 4711, "192.0.2.25", forwarded=XForward("127.0.0.1")))


@pytest.mark.parametrize(("tls", "word"), [("", b"LMTP"), ("TLSv1.3 X 256", b"LMTPS")])
def test_received_says_lmtp(tls: str, word: bytes) -> None:
    """The "with" keyword of LMTP (RFC 3848 §1)."""
    porch = Porch()
    arrived(porch, Peer("s1", "lmtp", "192.0.2.1", 4711, "192.0.2.25", lmtp=True, tls=tls))
    assert b" with " + word + b" id " in porch.stored()[1]
