"""XCLIENT and XFORWARD in a session: for named hosts alone, from the greeting on, and never a gain for a stranger."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from relaymta.mail.reply import Reply
from relaymta.smtp.commands import XForward
from relaymta.smtp.handler import Handler, Peer
from tests.smtp.guests import House, Wire, codes, house
from tests.smtp.test_server import lose
from tests.smtp.test_session_properties import CUTS, cut, delayed, outcome, strict

PROXY, CLIENT = "192.0.2.1", "203.0.113.7"
NAMED = (ip_network("192.0.2.1/32"),)
ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"


def met(guests: House) -> list[Peer]:
    """Everybody for whom a handler is made from now on."""
    peers: list[Peer] = []
    before: Callable[[Peer], Handler] = guests.factory.handler

    def handler(peer: Peer) -> Handler:
        peers.append(peer)
        return before(peer)

    guests.factory.handler = handler
    return peers


def offers(wire: Wire) -> list[bytes]:
    """What EHLO offers of these two."""
    lines = wire.say(b"EHLO proxy.test\r\n").split(b"\r\n")
    return [line[4:] for line in lines if line[4:5] == b"X"]


def test_they_are_offered_to_named_hosts_alone() -> None:
    """With the names of the attributes, to each what it is named for."""
    client = b"XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
    forward = b"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
    assert offers(house().connect()) == []
    assert offers(house(xclient=NAMED).connect()) == [client]
    assert offers(house(xforward=NAMED).connect()) == [forward]
    both = house(xclient=NAMED, xforward=NAMED)
    assert offers(both.connect()) == [client, forward]
    assert offers(both.connect("192.0.2.2")) == offers(both.connect("2001:db8::1")) == []


@pytest.mark.parametrize("command", [b"XCLIENT ADDR=127.0.0.1 LOGIN=root", b"XFORWARD ADDR=127.0.0.1"])
def test_a_stranger_gains_nothing(command: bytes) -> None:
    """To anybody else they are commands that nobody knows, whatever they say, and five of them end the session."""
    guests = house(xclient=NAMED, xforward=NAMED)
    peers = met(guests)
    wire = guests.connect("192.0.2.2").hello()
    assert wire.codes(command + b"\r\n") == ["500 5.5.1"]
    assert wire.codes(ENVELOPE) == ["250 2.1.0", "250 2.1.5"]
    [peer] = peers
    assert (peer.client, peer.account, peer.forwarded, peer.helo) == ("192.0.2.2", "", None, "client.test")
    assert wire.codes((command + b"\r\n") * 5)[-1] == "421 4.7.0"


def test_xclient_begins_the_session_again() -> None:
    """220, another handler that is asked to greet, EHLO again; who is served is the client (XCLIENT_README)."""
    guests = house(xclient=NAMED)
    peers = met(guests)
    wire = guests.connect().hello()
    assert wire.say(b"XCLIENT ADDR=203.0.113.7 PORT=99 NAME=c.test HELO=c LOGIN=u DESTADDR=198.51.100.7\r\n") == (
        b"220 relay.test ESMTP relaymta\r\n"
    )
    assert wire.codes(ENVELOPE) == ["503 5.5.1", "503 5.5.1"]
    proxy, client = peers
    assert (client.client, client.port, client.name, client.account) == (CLIENT, 99, "c.test", "u")
    assert (client.local, client.proxy, client.helo, client.esmtp) == ("198.51.100.7", PROXY, "c", False)
    assert proxy.session != client.session and proxy.client == PROXY
    assert wire.protocol.peer is client
    wire.hello()
    assert (client.helo, client.esmtp, client.account) == ("client.test", True, "u")
    assert wire.codes(ENVELOPE + b"DATA\r\nx\r\n.\r\n")[-1] == "250 2.0.0"
    ends = [entry for entry in guests.notebook.log if entry[0] in ("connect", "closed")]
    assert ends == [("connect",), ("closed", f"goes on as {client.session}, by XCLIENT"), ("connect",)]


def test_xclient_may_be_pipelined() -> None:
    """What stands behind it is the client's, also while the greeting is being decided on."""
    whole = b"XCLIENT ADDR=203.0.113.7\r\nEHLO c.test\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n"
    assert house(xclient=NAMED).connect().hello().codes(whole)[0::5] == ["220", "250 2.0.0"]
    slow: Deferred[Any] = Deferred()
    guests = house(xclient=NAMED)
    wire = guests.connect().hello()
    guests.answers["connect"] = slow
    assert wire.say(whole) == b""
    slow.callback(None)
    assert codes(wire.read()) == ["220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]


def test_a_client_that_is_not_welcome_is_closed_as_at_the_greeting() -> None:
    """The refusal takes the place of the 220."""
    guests = house(xclient=NAMED)
    wire = guests.connect().hello()
    guests.answers["connect"] = Reply(554, "5.7.1", "no service for you")
    assert wire.codes(b"XCLIENT ADDR=203.0.113.7\r\nNOOP\r\n") == ["554 5.7.1"] and wire.transport.closing


def test_a_handler_that_cannot_be_made_ends_the_session() -> None:
    """An error of ours is 421, and told of."""
    guests = house(xclient=NAMED)
    wire = guests.connect().hello()
    guests.answers["handler"] = RuntimeError("no")
    assert wire.codes(b"XCLIENT ADDR=203.0.113.7\r\nNOOP\r\n") == ["421 4.3.0"] and wire.transport.closing
    assert guests.notebook.bugs == ["smtp.server connect"]


@pytest.mark.parametrize("command", [b"XCLIENT ADDR=203.0.113.7", b"XFORWARD ADDR=203.0.113.7"])
def test_not_in_a_transaction(command: bytes) -> None:
    """Between MAIL and the end of data they are 503, and nothing changes."""
    guests = house(xclient=NAMED, xforward=NAMED)
    wire = guests.connect().hello()
    for words in (b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@d.test>\r\n", b"BDAT 1\r\nx"):
        wire.say(words)
        assert wire.codes(command + b"\r\n") == ["503 5.5.1"]
    assert wire.codes(b"BDAT 0 LAST\r\n" + command + b"\r\n")[1][0] == "2"
    assert guests.notebook.names().count("connect") == (2 if command.startswith(b"XCLIENT") else 1)


def test_bad_syntax_is_501_and_changes_nothing() -> None:
    """The session goes on as it was."""
    guests = house(xclient=NAMED, xforward=NAMED)
    peers = met(guests)
    wire = guests.connect().hello()
    assert wire.codes(b"XCLIENT\r\nXCLIENT ADDR=x\r\nXFORWARD PORT=x\r\n") == ["501 5.5.4"] * 3
    assert wire.codes(ENVELOPE)[0] == "250 2.1.0" and len(peers) == 1


def test_what_may_be_said_is_the_speakers_right() -> None:
    """The client for whom it speaks need not be named; and no client becomes one who may speak by being spoken for."""
    guests = house(xclient=NAMED)
    wire = guests.connect().hello()
    wire.say(b"XCLIENT ADDR=203.0.113.7\r\n")
    assert offers(wire)[0].startswith(b"XCLIENT")
    assert wire.codes(b"XCLIENT ADDR=203.0.113.8\r\n") == ["220"]
    assert wire.protocol.peer.proxy == PROXY and wire.protocol.peer.client == "203.0.113.8"


def test_errors_go_on_over_xclient() -> None:
    """The limits of the session are not begun again."""
    guests = house(xclient=NAMED, limits={"errors": 3})
    wire = guests.connect().hello()
    wire.say(b"RCPT\r\nRCPT\r\nXCLIENT ADDR=203.0.113.7\r\n")
    assert wire.codes(b"RCPT\r\nNOOP\r\n")[-1] == "421 4.7.0"


def test_limits_at_the_door_are_the_clients() -> None:
    """The speaker has as many connections as it likes; each client that it names has its own number."""
    guests = house(xclient=NAMED, limits={"connections_per_client": 2})
    wires = [guests.connect().hello() for _ in range(4)]
    said = [wire.codes(b"XCLIENT ADDR=203.0.113.7\r\n")[0] for wire in wires]
    assert said == ["220", "220", "421 4.7.0", "421 4.7.0"]
    assert guests.connect(CLIENT).read()[:3] == b"421"
    assert guests.notebook.turned_away == [421, 421, 421]
    assert wires[0].codes(b"XCLIENT ADDR=203.0.113.8\r\n") == ["220"]
    assert guests.connect(CLIENT).read()[:3] == b"220"
    for wire in wires:
        lose(wire)
    counts: Any = guests.factory.door._counts
    assert set(counts._counts) == {b"door mx", b"door mx 203.0.113.7"}


def test_after_the_end_nothing_is_asked_of_anybody() -> None:
    """The handler before XCLIENT is closed once, the one after it once."""
    guests = house(xclient=NAMED)
    wire = guests.connect().hello()
    wire.say(b"XCLIENT ADDR=203.0.113.7\r\nQUIT\r\n")
    lose(wire)
    assert [entry[1] for entry in guests.notebook.log if entry[0] == "closed"] == ["goes on as S1, by XCLIENT", "quit"]


# XFORWARD


def test_xforward_is_of_one_message() -> None:
    """It holds until the end of the transaction, RSET or EHLO, and the session stays whose it was."""
    guests = house(xforward=NAMED)
    peers = met(guests)
    wire = guests.connect().hello()
    said = b"XFORWARD ADDR=203.0.113.7 PORT=99\r\nXFORWARD IDENT=4AbC SOURCE=REMOTE\r\n"
    assert wire.codes(said) == ["250 2.0.0", "250 2.0.0"]
    wire.say(b"MAIL FROM:<a@b.test>\r\n")
    [peer] = peers
    assert peer.forwarded == XForward(CLIENT, 99, ident="4AbC", source="REMOTE") and peer.client == PROXY
    for end in (b"RCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\n", b"RSET\r\n", b"EHLO again.test\r\n"):
        wire.say(end + b"MAIL FROM:<a@b.test>\r\n")
        assert peer.forwarded is None
        wire.say(b"RSET\r\n" + said + b"MAIL FROM:<a@b.test>\r\n")
        assert peer.forwarded is not None


def test_xforward_ends_with_a_chunk_that_is_too_large() -> None:
    """The refusal of a chunk ends the transaction, so that the next message was said to come from there too."""
    guests = house(xforward=NAMED, max_message_size=5)
    peers = met(guests)
    wire = guests.connect().hello()
    wire.say(b"XFORWARD ADDR=203.0.113.7\r\n" + ENVELOPE)
    assert wire.codes(b"BDAT 9\r\n1234567\r\n") == ["552 5.3.4"]
    wire.say(ENVELOPE)
    assert peers[0].forwarded is None


def test_rset_without_a_transaction_forgets_it_too() -> None:
    """What was said before RSET is about no later message."""
    guests = house(xforward=NAMED)
    peers = met(guests)
    guests.connect().hello().say(b"XFORWARD ADDR=203.0.113.7\r\nRSET\r\nMAIL FROM:<a@b.test>\r\n")
    assert peers[0].forwarded is None


def test_a_filter_may_forward_all_day() -> None:
    """XFORWARD before each message is no idling."""
    guests = house(xforward=NAMED, limits={"idle_commands": 3})
    wire = guests.connect().hello()
    for _ in range(10):
        answers = wire.codes(b"XFORWARD ADDR=203.0.113.7\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n")
        assert answers == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]
    assert len(guests.notebook.messages) == 10


# Any dialogue

WORDS = [
    b"EHLO x\r\n",
    b"XCLIENT ADDR=203.0.113.7\r\n",
    b"XCLIENT ADDR=203.0.113.7 LOGIN=u\r\n",
    b"XCLIENT LOGIN=[UNAVAILABLE]\r\n",
    b"XCLIENT ADDR\r\n",
    b"XFORWARD ADDR=203.0.113.8\r\n",
    b"XFORWARD IDENT=x\r\n",
    b"MAIL FROM:<a@b.test>\r\n",
    b"RCPT TO:<c@d.test>\r\n",
    b"RCPT TO:<later@d.test>\r\n",
    b"DATA\r\nhello\r\n.\r\n",
    b"BDAT 3\r\nab\r",
    b"BDAT 3 LAST\r\nx\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
]
DIALOGUE = st.lists(st.sampled_from(WORDS), max_size=25).map(lambda words: b"EHLO c.test\r\n" + b"".join(words))


@settings(max_examples=200, deadline=None)
@given(stream=DIALOGUE, places=CUTS)
def test_any_split_gives_the_same_dialogue(stream: bytes, places: list[int]) -> None:
    """Segments and late answers change nothing, and every handler but the last is closed once, in its turn."""
    whole = outcome(strict(xclient=NAMED, xforward=NAMED), [stream])
    assert outcome(strict(xclient=NAMED, xforward=NAMED), cut(stream, places)) == whole
    assert outcome(delayed(strict(xclient=NAMED, xforward=NAMED)), cut(stream, places)) == whole
    turns = [name for name, *_ in whole[1] if name in ("connect", "closed")]
    assert turns == ["connect", "closed"] * (len(turns) // 2) + ["connect"]
